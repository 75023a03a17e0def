import { type ChildProcess, spawn } from 'node:child_process'
import { EventEmitter, once } from 'node:events'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'

/** What kubelet.go tells: of a registration, a list, an answer, or an end. */
export interface GoEvent {
  readonly event: 'listening' | 'registered' | 'options' | 'devices' | 'answer' | 'ended' | 'unreachable'
  readonly resource?: string
  readonly id?: string
  readonly value?: unknown
  readonly error?: string
  /** Of gRPC, by name. */
  readonly code?: string
}

/** A call that kubelet.go makes. */
export interface GoCall {
  readonly call: 'allocate' | 'preferred' | 'start' | 'info'
  readonly resource?: string
  readonly devices?: readonly string[]
  readonly must?: readonly string[]
  readonly size?: number
  readonly socket?: string
}

/** The program of kubelet.go: what it hears, in order, and what it is asked to call. */
export class GoKubelet {
  readonly directory: string
  readonly #program: string
  readonly #events: GoEvent[] = []
  readonly #changes = new EventEmitter()
  #child: ChildProcess | null = null
  #calls = 0

  /** @param root in place of `/var/lib/kubelet` */
  constructor(program: string, root: string) {
    this.#program = program
    this.directory = join(root, 'device-plugins')
    mkdirSync(this.directory, { recursive: true })
  }

  /** @param authority the name that it calls plugins by; `path`: that of the socket, as the kubelet does up to 1.25 */
  async start(authority: 'localhost' | 'path' = 'localhost'): Promise<void> {
    const args = [this.directory, authority === 'path' ? '' : authority]
    const child = spawn(this.#program, args, { stdio: ['pipe', 'pipe', 'inherit'] })
    createInterface({ input: child.stdout }).on('line', (line) => {
      this.#events.push(JSON.parse(line) as GoEvent)
      this.#changes.emit('change')
    })
    this.#child = child
    await this.next('listening')
  }

  /** As it ends when it is killed: its socket stays. */
  async stop(): Promise<void> {
    const child = this.#child
    if (child === null) return
    this.#child = null
    const ended = once(child, 'close')
    child.kill('SIGKILL')
    await ended
    this.#events.length = 0
  }

  /** The next event of this kind that fits; it, and what came before it of this kind, is not given again. */
  async next(kind: GoEvent['event'], fits: (event: GoEvent) => boolean = () => true): Promise<GoEvent> {
    for (;;) {
      const at = this.#events.findIndex((event) => event.event === kind && fits(event))
      const found = this.#events[at]
      if (found !== undefined) {
        const rest = this.#events.filter((event, index) => index > at || event.event !== kind)
        this.#events.splice(0, this.#events.length, ...rest)
        return found
      }
      await once(this.#changes, 'change')
    }
  }

  /** The next list that is as wanted: the health of each device by its id. */
  async untilHealth(wanted: Readonly<Record<string, boolean>>): Promise<readonly unknown[]> {
    const text = JSON.stringify(Object.entries(wanted).sort())
    const { value } = await this.next('devices', (event) => {
      const devices = event.value as readonly { readonly ID: string; readonly health: string }[]
      return JSON.stringify(devices.map(({ ID, health }) => [ID, health === 'Healthy']).sort()) === text
    })
    return value as readonly unknown[]
  }

  async ask(call: GoCall): Promise<GoEvent> {
    const id = String(this.#calls++)
    this.#child?.stdin?.write(`${JSON.stringify({ ...call, id })}\n`)
    return this.next('answer', (event) => event.id === id)
  }
}
