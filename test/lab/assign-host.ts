import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { lstatSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { Host, type PciDevice, type Snapshot } from 'vfio'
import type { Task } from './assign-program.js'
import { driverOf, inUse, load, meetIommu, put } from './binding.js'

const PROGRAM = fileURLToPath(new URL('assign-program.js', import.meta.url))
const DEVICES = '/sys/bus/pci/devices'

const used = inUse()
meetIommu(used)

/** What an assignment could change for good: drivers, overrides, nodes with their owners, the journal. */
export function hostState(): Record<string, string> {
  const state: Record<string, string> = {}
  for (const address of readdirSync(DEVICES)) {
    const override = readFileSync(`${DEVICES}/${address}/driver_override`, 'utf8').trim()
    state[address] = `${driverOf(address)} ${override}`
  }
  for (const directory of ['/dev/vfio', '/dev/vfio/devices', '/run/vfio']) {
    for (const name of ['.', ...namesIn(directory)]) {
      // It may go while this looks.
      const entry = lstatSync(join(directory, name), { throwIfNoEntry: false })
      if (entry) state[join(directory, name)] = `${entry.uid}:${entry.gid} ${entry.mode.toString(8)}`
    }
  }
  return state
}

function namesIn(directory: string): string[] {
  try {
    return readdirSync(directory)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw error
  }
}

const movable = (seen: Snapshot): PciDevice[] =>
  seen.devices.filter(({ headerType, address }) => headerType === 'normal' && !used.has(address))

/** Takes the drivers off everything that can be spared, or gives each device the driver that the host has for it. */
export function place(where: 'none' | 'host'): void {
  const devices = movable(new Host().snapshot({ brief: true }))
  if (where === 'host') load(new Set(devices.flatMap(({ modules }) => modules)))
  for (const { address } of devices) put(address, where)
}

/** Endpoints of groups in which nothing is that this guest lives on. */
export function spare(seen: Snapshot): { devices: string[]; groups: string[][] } {
  const free = seen.groups.filter(({ members }) => members.every((address) => !used.has(address)))
  const groups = free
    .map(({ members }) => members.filter((address) => seen.device(address).headerType === 'normal'))
    .filter((members) => members.length > 0)
  return { devices: groups.flat(), groups }
}

/** The command line, as a person runs it. */
export function vfio(...args: readonly string[]): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, ['dist/cli/main.js', ...args], { encoding: 'utf8' })
}

/** A program that was started ahead of its task: starting takes seconds where the processor is emulated. */
export class Program {
  readonly #child = spawn(process.execPath, [PROGRAM], { stdio: ['pipe', 'pipe', 'inherit'] })
  readonly #lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]()
  readonly ended = once(this.#child, 'close')
  /** Its end alone: what it has started may live on, with its standard output. */
  readonly exited = once(this.#child, 'exit')

  get pid(): number {
    return this.#child.pid ?? 0
  }

  async line(): Promise<string> {
    const { value, done } = await this.#lines.next()
    return done ? '' : value
  }

  async give(task: Task): Promise<void> {
    const ready = await this.line()
    if (ready !== 'ready') throw new Error(ready)
    this.#child.stdin.write(`${JSON.stringify(task)}\n`)
  }

  async end(): Promise<void> {
    this.#child.kill('SIGKILL')
    await this.ended
  }
}

/** The processes of a name. */
export const named = (name: string) =>
  readdirSync('/proc').filter((pid) => {
    try {
      return /^\d+$/.test(pid) && readFileSync(`/proc/${pid}/comm`, 'utf8') === `${name}\n`
    } catch {
      return false
    }
  })

/** What programs that ended have left in the kernel. */
export const left = () => named('vfio-write')
