import { type Assignment, type AssignOptions, assign } from '../assign/assign.js'
import { type JournalRecord, journalIn, type ManagedRun } from '../assign/journal.js'
import type { Plan, PlannedDevice } from '../assign/plan.js'
import { hostFor } from '../assign/recheck.js'
import { endKept, note, refuseRuns } from '../assign/runs.js'
import { thisProgram } from '../change/program.js'
import { VfioError } from '../errors.js'
import { exportCloudHypervisor } from '../export/cloud-hypervisor.js'
import { exportQemu } from '../export/qemu.js'
import { findAccount } from '../grant/accounts.js'
import { grant } from '../grant/grant.js'
import { grantsIn } from '../grant/records.js'
import { keepAlive } from '../native/alive.js'
import type { NativeUser } from '../native/binding.js'
import { checkPolls } from '../native/runtime.js'
import { isUuid } from '../sysfs/address.js'
import { NONE } from '../sysfs/host.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import { type Watch, watchDevices } from '../sysfs/watch.js'
import { CommandProcess, type Ending } from './command.js'
import { type Environment, environmentOf, type PassedDescriptor, textsOf } from './environment.js'
import type { RunEvent } from './events.js'
import { Guard } from './guard.js'
import { memlockFor } from './memory.js'
import { chooseBackend, type LaunchBackend, OpenNodes } from './nodes.js'
import { findProgram } from './program.js'
import { Stdio, type StdioChoice } from './stdio.js'
import { Terminal } from './terminal.js'
import { fillIn, opensByPath } from './words.js'

export interface LaunchOptions extends AssignOptions {
  /**
   * A program and its arguments. The words `{qemu}`, `{cloud-hypervisor}` and `{addresses}` become the arguments for the
   * devices; a `qemu-system-*` without any of them gets its own at the end.
   */
  readonly command: readonly string[]
  /** Whom it runs as, by name or uid: with all groups of that user, no capability, and no way to new privileges. */
  readonly user?: string | number | undefined
  /** What it maps for devices, as the memory of a guest, in bytes: sets its limit on locked memory. */
  readonly memory?: number | undefined
  /** By `iommufd` it gets open descriptors, by `group` it opens nodes itself; default: iommufd where each device has a node. */
  readonly backend?: LaunchBackend | 'auto' | undefined
  /** Further properties of QEMU's device `vfio-pci`, for each of them. */
  readonly properties?: Readonly<Record<string, string>> | undefined
  /** What QEMU's arguments are for; default `q35`. */
  readonly machine?: string | undefined
  /** Default: that of this process. */
  readonly environment?: Environment | undefined
  /** Its standard input, output and error: this process's own (`inherit`), none (`ignore`), or a descriptor. */
  readonly stdio?: readonly [StdioChoice, StdioChoice, StdioChoice] | undefined
  /** It gets the foreground of the terminal where this process has that, and stops and goes on with it; default false. */
  readonly foreground?: boolean | undefined
  /** How long it may take to end after SIGTERM until it is killed, in milliseconds; default 10,000. */
  readonly grace?: number | undefined
  /** Called with each thing that happens, in order. */
  readonly onEvent?: ((event: RunEvent) => void) | undefined
}

/** A command that has devices for as long as it runs. */
export interface Run extends AsyncDisposable {
  /** Of the command, which leads a process group of its own. */
  readonly pid: number
  readonly devices: readonly PlannedDevice[]
  readonly backend: LaunchBackend
  /** What it got beside its input and output, by its own numbers. */
  readonly descriptors: readonly PassedDescriptor[]
  /** How it ended; its devices may not be back yet. */
  readonly exited: Promise<Ending>
  /**
   * When the host has everything back, which begins when the command ends.
   * @throws VfioError what could not be given back, `ERR_VFIO_IN_USE` where a program has it open still; "vfio recover" does
   * the rest then
   */
  readonly released: Promise<void>
  /** Sends it a signal, default SIGTERM: whether it was there to get it. */
  kill(signal?: NodeJS.Signals | number): boolean
  /** Ends it, SIGTERM first, and waits until the host has everything back. */
  [Symbol.asyncDispose](): Promise<void>
}

/**
 * Carries out a plan, runs a command that the devices are for, and gives everything back when that ends: also when this
 * process dies, by a guard beside it (`vfio-guard`).
 * @throws VfioError as `assign` does; `ERR_VFIO_IN_USE` where another run has a device, or a dead one has left it (`recover`);
 * `ERR_VFIO_NO_ACCOUNT`, `ERR_VFIO_BAD_NODE`, `ERR_VFIO_BAD_ARGUMENT`; everything was put back then
 * @throws VfioSystemError of request `command` where it cannot be started: `ENOENT` where there is no such program
 */
export async function launch(plan: Plan, options: LaunchOptions): Promise<Run> {
  return await keepAlive(new Launch(plan, options).start())
}

/** One launch on its way. */
class Launch {
  readonly #plan: Plan
  readonly #options: LaunchOptions
  readonly #environment: Environment
  readonly #journal: string
  readonly #asked: readonly string[]
  #assignment: Assignment | null = null

  constructor(plan: Plan, options: LaunchOptions) {
    this.#plan = plan
    this.#options = options
    this.#environment = options.environment ?? process.env
    const journal = journalIn(options.journal)
    this.#journal = journal.directory
    const planned = new Set(plan.devices.map(({ address }) => address))
    this.#asked = plan.addresses.filter((address) => planned.has(address))
    refuseRuns(journal.read().records, plan.devices)
  }

  async start(): Promise<Run> {
    const { user, signal } = this.#options
    const [name = ''] = this.#options.command
    // First all that can be wrong before anything has changed.
    checkPolls('events of devices', 'bind them, and start the command by other means')
    this.#fill(this.#look(), 'group', [])
    const file = findProgram(name, this.#environment.PATH)
    const account = user === undefined ? null : await findAccount(user)
    signal?.throwIfAborted()
    const guard = new Guard(
      this.#plan.devices.map(({ address }) => address),
      this.#journal,
    )
    let terminal: Terminal | null = null
    let watch: Watch | null = null
    let prepared: CommandProcess | null = null
    try {
      const run = { ...thisProgram(), command: name.slice(0, 1000) }
      this.#assignment = await assign(this.#plan, { ...this.#options, run })
      this.#tell({ event: 'bound', devices: this.#assignment.devices })
      terminal = this.#options.foreground ? Terminal.open() : null
      const { command, backend, descriptors } = await this.#prepare(file, account, terminal)
      prepared = command
      const leader = command.program
      await note(this.#journal, this.#records, (record) => withLeader(record, leader))
      signal?.throwIfAborted()
      watch = watchDevices(
        this.#plan.devices.map(({ address }) => address).filter((name) => !isUuid(name)),
        (event) => this.#tell({ event: 'device', ...event }),
      ).unref()
      await command.begin()
      this.#tell({ event: 'started', pid: command.pid, command: name, backend })
      return new LiveRun({
        command,
        backend,
        descriptors,
        guard,
        watch,
        terminal,
        leader,
        devices: this.#assignment.devices,
        grace: this.#options.grace,
        giveBack: () => this.#giveBack(),
        leave: (reason) => this.#leave(reason),
        tell: (event) => this.#tell(event),
      })
    } catch (error) {
      watch?.close()
      await prepared?.abandon()
      terminal?.close()
      await this.#undo(error)
      await guard.dismiss()
      throw error
    }
  }

  get #records(): readonly string[] {
    const { record, held } = this.#assignment ?? { record: null, held: [] }
    return [...(record ? [record.id] : []), ...held]
  }

  /** What a listener throws is the program's own matter: what is being done goes on. */
  #tell(event: RunEvent): void {
    try {
      this.#options.onEvent?.(event)
    } catch (error) {
      queueMicrotask(() => {
        throw error
      })
    }
  }

  /** The host as it is now. */
  #look(): Snapshot {
    const around = this.#plan.devices.map(({ address }) => address)
    return hostFor(this.#plan.paths).look({ around, overrides: NONE })
  }

  /** The command with what its words stand for. */
  #fill(seen: Snapshot, backend: LaunchBackend, descriptors: readonly PassedDescriptor[]): readonly string[] {
    const { command, machine, properties, memory } = this.#options
    const asked = this.#asked
    const [iommufd, ...devices] = descriptors.map(({ fd }) => fd)
    const passed =
      iommufd === undefined
        ? undefined
        : { iommufd, devices: Object.fromEntries(asked.map((address, i) => [address, devices[i] ?? -1])) }
    const options = { iommufd: backend === 'iommufd', memory }
    return fillIn(command, {
      qemu: () => exportQemu(seen, asked, { ...options, machine, properties, descriptors: passed }).arguments,
      cloudHypervisor: () => exportCloudHypervisor(seen, asked, options).arguments,
      addresses: asked,
    })
  }

  /** Opens or grants what the command is to open devices by, and makes its process. */
  async #prepare(file: string, account: NativeUser | null, terminal: Terminal | null) {
    const seen = this.#look()
    const devices = this.#asked.flatMap((name) => seen.named(name))
    const backend = chooseBackend(seen, devices, this.#backend)
    const byPath = backend === 'group' || opensByPath(this.#options.command)
    if (account && byPath) await this.#grant(seen, account)
    const { memory } = this.#options
    const memlock = memory === undefined ? null : memlockFor(seen, devices, memory, backend === 'iommufd')
    using stdio = new Stdio(this.#options.stdio)
    const nodes = byPath ? null : new OpenNodes(seen, devices)
    try {
      const descriptors = nodes?.passed ?? []
      const command = CommandProcess.prepare(
        {
          file,
          arguments: this.#fill(seen, backend, descriptors),
          environment: textsOf(environmentOf(this.#environment, this.#asked, descriptors, account)),
          listen: descriptors.length > 0,
          descriptors: [...stdio.numbers, ...(nodes?.numbers ?? [])],
          memlock,
          user: account,
        },
        terminal,
      )
      return { command, backend, descriptors }
    } finally {
      nodes?.close()
    }
  }

  /** What opens nodes by path gets no descriptors, unless it is asked for. */
  get #backend(): LaunchBackend | 'auto' {
    const { backend = 'auto', command } = this.#options
    return backend === 'auto' && opensByPath(command) ? 'group' : backend
  }

  async #grant(seen: Snapshot, { uid }: NativeUser): Promise<void> {
    const journal = this.#journal
    const before = new Set(
      grantsIn(journal)
        .read()
        .records.map(({ address }) => address),
    )
    const granted = this.#asked.filter((address) => !before.has(address))
    await note(journal, this.#records, (record) => withGrants(record, granted))
    for (const address of this.#asked) {
      await grant(seen, address, { user: uid, journal, dev: this.#plan.paths.dev ?? '/dev' })
    }
  }

  /** Gives everything back. @throws VfioError what could not be */
  async #giveBack(): Promise<void> {
    const assignment = this.#assignment
    if (assignment === null) return
    const { deadline, onChange, kernel } = this.#options
    const gone: string[] = []
    await endKept(this.#journal, assignment.held, { deadline, onChange, kernel })
    await assignment.release({ signal: undefined, onGone: (address) => gone.push(address) })
    this.#tell({
      event: 'released',
      devices: assignment.devices.map(({ address }) => address).filter((address) => !gone.includes(address)),
      gone,
    })
  }

  /** What could not be given back is for a recovery, though this program goes on. */
  async #leave(reason: string): Promise<void> {
    const { record } = this.#assignment ?? {}
    if (!record) return
    await note(this.#journal, [record.id], (now) =>
      now.state === 'assigned' ? { ...now, state: 'broken', failures: [reason] } : now,
    ).catch(() => {})
  }

  /** What failed first is what has to be told; what is left is the journal's. */
  async #undo(cause: unknown): Promise<void> {
    try {
      await this.#giveBack()
    } catch (error) {
      const [first, then = ''] = [cause, error].map(messageOf)
      await this.#leave(then)
      throw new VfioError(
        'ERR_VFIO_NOT_RESTORED',
        `${first}; and what was taken could not be given back: ${then}`,
        {
          cause,
        },
      )
    }
  }
}

const messageOf = (error: unknown) => (error instanceof Error ? error.message : String(error))

const changed = (record: JournalRecord, news: Partial<ManagedRun>): JournalRecord =>
  record.run ? { ...record, run: { ...record.run, ...news } } : record

const withLeader = (record: JournalRecord, leader: ManagedRun['leader']) => changed(record, { leader })
const withGrants = (record: JournalRecord, granted: readonly string[]) => changed(record, { granted })

interface Parts {
  readonly command: CommandProcess
  readonly backend: LaunchBackend
  readonly descriptors: readonly PassedDescriptor[]
  readonly guard: Guard
  readonly watch: Watch
  readonly terminal: Terminal | null
  readonly leader: NonNullable<ManagedRun['leader']>
  readonly devices: readonly PlannedDevice[]
  readonly grace: number | undefined
  readonly giveBack: () => Promise<void>
  readonly leave: (reason: string) => Promise<void>
  readonly tell: (event: RunEvent) => void
}

class LiveRun implements Run {
  readonly pid: number
  readonly devices: readonly PlannedDevice[]
  readonly backend: LaunchBackend
  readonly descriptors: readonly PassedDescriptor[]
  readonly exited: Promise<Ending>
  readonly released: Promise<void>
  readonly #parts: Parts

  constructor(parts: Parts) {
    this.#parts = parts
    this.pid = parts.command.pid
    this.devices = parts.devices
    this.backend = parts.backend
    this.descriptors = parts.descriptors
    this.exited = parts.command.end()
    this.released = keepAlive(this.#release())
    // Who does not ask is told by the events.
    for (const promise of [this.exited, this.released]) promise.catch(() => {})
  }

  kill(signal: NodeJS.Signals | number = 'SIGTERM'): boolean {
    return this.#parts.command.signal(signal)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.kill('SIGTERM')
    // What is stopped hears nothing else.
    this.#parts.command.goOn()
    const timer = setTimeout(() => this.kill('SIGKILL'), this.#parts.grace ?? GRACE)
    try {
      await this.exited
    } finally {
      clearTimeout(timer)
    }
    await this.released
  }

  async #release(): Promise<void> {
    const { command, guard, watch, terminal, leader, grace, giveBack, leave, tell } = this.#parts
    try {
      const ending = await this.exited
      // What comes now is our own doing.
      watch.close()
      tell({ event: 'ended', ...ending })
      const left = await command.endGroup(leader, grace)
      if (left.length > 0) {
        throw new VfioError(
          'ERR_VFIO_IN_USE',
          `${left.join(', ')} of the command's process group cannot be ended, and may have a device open: "vfio recover" gives it back when that has ended`,
        )
      }
      await giveBack()
    } catch (error) {
      await leave(messageOf(error))
      tell({ event: 'failed', message: messageOf(error) })
      throw error
    } finally {
      watch.close()
      await command.abandon()
      terminal?.close()
      await guard.dismiss()
    }
  }
}

const GRACE = 10_000
