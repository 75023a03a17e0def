import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, constants, openSync, writeSync } from 'node:fs'
import { createInterface } from 'node:readline'

const PORT = '/dev/virtio-ports/lab.monitor'

/** What QEMU tells by itself (QMP), such as `DEVICE_DELETED`. */
export interface MonitorEvent {
  readonly event: string
  readonly data?: Readonly<Record<string, unknown>>
}

/** What `query-pci` says of a device. */
interface PciDevice {
  readonly bus: number
  readonly slot: number
  readonly function: number
  readonly qdev_id: string
  readonly pci_bridge?: { readonly devices?: readonly PciDevice[] }
}

interface Answer {
  readonly id: string
  readonly return?: unknown
  readonly error?: { readonly class: string; readonly desc: string }
}

/** QEMU's own monitor, which a guest booted with `--monitor` has at hand: from outside the machine, on its devices. */
export class Monitor implements AsyncDisposable {
  readonly #port: number
  /** Reads the port, because a read that waits in our own process could not be ended. */
  readonly #reader: ChildProcess
  readonly #answers = new Map<string, (answer: Answer) => void>()
  readonly #listeners = new Set<(event: MonitorEvent) => void>()
  #asked = 0

  private constructor() {
    this.#port = openSync(PORT, constants.O_RDWR)
    this.#reader = spawn('cat', { stdio: [this.#port, 'pipe', 'inherit'] })
    if (!this.#reader.stdout) throw new Error('cat has no output')
    createInterface({ input: this.#reader.stdout }).on('line', (line) => this.#take(line))
  }

  /** The port opens once at a time: close it. */
  static async open(): Promise<Monitor> {
    const monitor = new Monitor()
    const { error } = await monitor.#ask('qmp_capabilities', {})
    // Taken once: whoever opened the port before has asked already.
    if (error && error.class !== 'CommandNotFound') throw new Error(error.desc)
    return monitor
  }

  /** One command of QMP, and what it returns. */
  async execute(command: string, parameters: Readonly<Record<string, unknown>> = {}): Promise<unknown> {
    const { error, return: value } = await this.#ask(command, parameters)
    if (error) throw new Error(`${command}: ${error.desc}`)
    return value
  }

  /** A command as a person would type it (HMP), and what it prints: nothing, mostly, unless it failed. */
  async human(line: string): Promise<string> {
    return String(await this.execute('human-monitor-command', { 'command-line': line }))
  }

  /** The first event of this name from now on that fits. Ask for it before causing it. */
  event(
    name: string,
    fits: (data: Readonly<Record<string, unknown>>) => boolean = () => true,
  ): Promise<MonitorEvent> {
    return new Promise((resolve) => {
      const listener = (event: MonitorEvent) => {
        if (event.event !== name || !fits(event.data ?? {})) return
        this.#listeners.delete(listener)
        resolve(event)
      }
      this.#listeners.add(listener)
    })
  }

  /** The addresses of all devices by the names that they have in the topology. */
  async addresses(): Promise<Map<string, string>> {
    const found = new Map<string, string>()
    const walk = (devices: readonly PciDevice[]) => {
      for (const { bus, slot, function: nr, qdev_id, pci_bridge } of devices) {
        const hex = (value: number) => value.toString(16).padStart(2, '0')
        found.set(qdev_id, `0000:${hex(bus)}:${hex(slot)}.${nr}`)
        walk(pci_bridge?.devices ?? [])
      }
    }
    const buses = (await this.execute('query-pci')) as readonly { devices: readonly PciDevice[] }[]
    for (const { devices } of buses) walk(devices)
    return found
  }

  /** Takes a device of the topology out of the machine, as far as its guest lets it go. */
  async remove(id: string): Promise<void> {
    const gone = this.event('DEVICE_DELETED', ({ device }) => device === id)
    await this.execute('device_del', { id })
    await gone
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const ended = once(this.#reader, 'close')
    this.#reader.kill('SIGKILL')
    await ended
    closeSync(this.#port)
  }

  #ask(command: string, parameters: Readonly<Record<string, unknown>>): Promise<Answer> {
    // Never an id of whoever opened the port before.
    const id = `${process.pid}.${this.#asked++}`
    const answer = new Promise<Answer>((resolve) => this.#answers.set(id, resolve))
    writeSync(this.#port, `${JSON.stringify({ execute: command, arguments: parameters, id })}\n`)
    return answer
  }

  #take(line: string): void {
    const message = JSON.parse(line) as MonitorEvent | Answer
    if ('event' in message) {
      for (const listener of this.#listeners) listener(message)
    } else {
      this.#answers.get(message.id)?.(message)
      this.#answers.delete(message.id)
    }
  }
}
