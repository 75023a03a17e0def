import { resolve } from 'node:path'
import { assess } from '../assess/assessment.js'
import { moduleOf } from '../assess/driver-names.js'
import { NO_IOMMU_RISK } from '../assess/no-iommu.js'
import { type ChangeOptions, Changes } from '../change/changes.js'
import { type GroupLock, lockGroups, lockOf } from '../change/group-lock.js'
import { bootId, thisProgram } from '../change/program.js'
import { refuseUnfinished, unfinishedIn } from '../change/unfinished.js'
import { VfioError } from '../errors.js'
import { isVfioDriver } from '../sysfs/devices.js'
import { listNames } from '../sysfs/files.js'
import { NONE } from '../sysfs/host.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import { type Journal, type JournalRecord, journalIn } from './journal.js'
import type { Plan, PlannedDevice } from './plan.js'
import { hostFor, refuseChanged } from './recheck.js'
import { type ReleaseOptions, releaseRecord } from './release.js'
import { restore } from './restore.js'
import { settle } from './settle.js'
import type { Step } from './steps.js'

export interface AssignOptions extends ChangeOptions {
  /**
   * Aborts between two changes, after at most 5 s for the one that the kernel is at; everything is put back then.
   */
  readonly signal?: AbortSignal | undefined
  /** Directory of the journal; default `/run/vfio`. */
  readonly journal?: string | undefined
}

/** Devices that were assigned, until they are released. */
export interface Assignment {
  readonly devices: JournalRecord['devices']
  /** The journal's record; `null` where nothing had to be changed. */
  readonly record: JournalRecord | null
  /** Gives everything back. Does nothing the second time. */
  release(options?: ReleaseOptions): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

/** An assignment that failed: why, and whether the host is as it was. */
export class AssignError extends VfioError {
  /** What could not be undone, a sentence each; empty where the host is as it was. */
  readonly failures: readonly string[]
  /** The step that failed. */
  readonly step: Step | null

  constructor(cause: unknown, step: Step | null, failures: readonly string[]) {
    const { code, message } = asVfioError(cause)
    const rest =
      failures.length === 0
        ? 'everything was put back'
        : `this could not be undone: ${failures.join('; ')} ("vfio recover" tries again)`
    super(code as ConstructorParameters<typeof VfioError>[0], `${message}; ${rest}`, { cause })
    this.step = step
    this.failures = failures
  }
}

function asVfioError(error: unknown): { code: string; message: string } {
  if (error instanceof VfioError) return error
  return { code: 'ERR_VFIO_NOT_BOUND', message: error instanceof Error ? error.message : String(error) }
}

/**
 * Carries out a plan as one transaction: under a lock on its groups the host is looked at once more, a record goes to the journal before the first change, and when a step fails all
 * earlier ones are undone.
 * @throws VfioError the code of the plan's first blocker; `ERR_VFIO_LOCKED`, `ERR_VFIO_IN_USE`, `ERR_VFIO_HOST_CHANGED`,
 * `ERR_VFIO_BAD_JOURNAL` before anything is changed; {@link AssignError} afterwards
 */
export async function assign(plan: Plan, options: AssignOptions = {}): Promise<Assignment> {
  refuseBlocked(plan)
  options.signal?.throwIfAborted()
  const journal = journalIn(options.journal)
  using lock = lockGroups(plan.paths.sysfs, [...plan.devices, ...plan.grabbed].map(lockOf))
  refuseAssigned(plan, journal)
  const unfinished = unfinishedIn(options.journal)
  for (const { address } of [...plan.devices, ...plan.grabbed]) refuseUnfinished(unfinished, address)
  using changes = new Changes(plan.paths.sysfs, options, lock, options.signal)
  await refuseChanged(plan, changes)
  const record = await new Transaction(plan, journal, changes, lock, options).run()
  return new LiveAssignment(plan, record, { ...options, journal: journal.directory })
}

/** One plan being carried out: all of it, or nothing. */
class Transaction {
  readonly #plan: Plan
  readonly #journal: Journal
  readonly #changes: Changes
  readonly #signal: AbortSignal | undefined
  /** `null` where nothing has to be bound: then there is nothing to undo. */
  #record: JournalRecord | null
  #step: Step | null = null
  readonly #lock: GroupLock
  #after: Snapshot | null = null
  /** Real names of drivers that the plan calls otherwise. */
  readonly #names = new Map<string, string>()

  constructor(plan: Plan, journal: Journal, changes: Changes, lock: GroupLock, options: AssignOptions) {
    this.#plan = plan
    this.#journal = journal
    this.#changes = changes
    this.#signal = options.signal
    this.#lock = lock
    this.#record = plan.toBind.length > 0 ? newRecord(plan, lock) : null
  }

  async run(): Promise<JournalRecord | null> {
    await this.#begin()
    try {
      for (const step of this.#plan.steps) {
        this.#signal?.throwIfAborted()
        this.#step = step
        await this.#perform(step)
        this.#step = null
      }
      await this.#noteGroups()
      await this.#note({ state: 'assigned' })
      return this.#record
    } catch (error) {
      this.#changes.finish()
      const failures = await this.#undo()
      if (this.#signal?.aborted && error === this.#signal.reason && failures.length === 0) throw error
      throw new AssignError(error, this.#step, failures)
    }
  }

  /** Nothing is changed before it: what keeps it from being written is all that there is to tell. */
  async #begin(): Promise<void> {
    try {
      await this.#note({})
    } catch (error) {
      // It may be there all the same, where only the disk did not answer.
      if (this.#record) await this.#journal.remove(this.#record.id).catch(() => {})
      throw error
    }
  }

  /** Writes the record, as it is or with something new. */
  async #note(news: Partial<JournalRecord>): Promise<void> {
    if (this.#record === null) return
    this.#record = { ...this.#record, ...news }
    await this.#journal.write(this.#record)
    this.#changes.done(`recorded ${this.#record.id} as ${this.#record.state}`)
  }

  /**
   * Devices that had no group have one now that they are bound. Others may be in it, whom nobody could see before.
   * @throws VfioError `ERR_VFIO_NOT_VIABLE`
   */
  async #noteGroups(): Promise<void> {
    const record = this.#record
    const fresh = record?.devices.filter(({ group }) => group === null) ?? []
    if (record === null || fresh.length === 0) return
    const around = fresh.map(({ address }) => address)
    const seen = hostFor(this.#plan.paths).look({ around, overrides: NONE })
    for (const address of around) {
      const { verdict, reason, noIommu } = assess(seen, address)
      if (noIommu && !this.#plan.options.noIommu)
        throw new VfioError(
          'ERR_VFIO_NOT_VIABLE',
          `${address} was bound without an IOMMU, since the no-IOMMU mode is on and no IOMMU covers it: ${NO_IOMMU_RISK}; to take it all the same, say so with --noiommu`,
        )
      if (verdict === 'ready') continue
      const { group } = seen.device(address)
      throw new VfioError(
        'ERR_VFIO_NOT_VIABLE',
        group === null
          ? `${address} is in no group even with VFIO: no IOMMU covers it`
          : `${address} came into group ${group} when it was bound, which cannot be given away as it is: ${reason}`,
      )
    }
    this.#lock.add(around.flatMap((address) => this.#changes.group(address) ?? []))
    const devices = record.devices.map((device) => ({
      ...device,
      group: this.#changes.group(device.address) ?? device.group,
    }))
    await this.#note({ devices })
  }

  async #perform(step: Step): Promise<void> {
    const { path, value } = step
    switch (step.kind) {
      case 'load':
        await this.#changes.load(path, value)
        return this.#learnName(value)
      case 'override':
        return this.#changes.write(path, this.#named(value))
      case 'unbind':
        this.#refuseOpen(step.address)
        await this.#changes.write(path, value)
        return this.#changes.expectDriver(step.address, step.expectDriver)
      case 'bind':
        await this.#changes.write(path, value)
        return this.#changes.expectDriver(step.address, this.#named(step.expectDriver))
      case 'add-id':
        return this.#addId(path, value)
      case 'reset':
        // It opens the group: what that holds has to be known by then.
        await this.#noteGroups()
        return this.#changes.reset(step.address, step.value, this.#bound())
    }
  }

  /** The host with all that is bound: under the lock it stays so. */
  #bound(): Snapshot {
    const around = this.#plan.devices.map(({ address }) => address)
    this.#after ??= hostFor(this.#plan.paths).look({ brief: true, around, overrides: NONE, again: true })
    return this.#after
  }

  /** A driver's name is known once it is there: that of the plan was derived from its module's. */
  async #learnName(planned: string): Promise<void> {
    const directory = `${this.#plan.paths.sysfs}/module/${moduleOf(planned)}/drivers`
    const names = listNames(directory).flatMap((name) => (name.startsWith('pci:') ? name.slice(4) : []))
    const name = names.find(isVfioDriver) ?? names[0]
    if (name === undefined || names.includes(planned)) return
    this.#names.set(planned, name)
    const rename = (device: PlannedDevice) => ({ ...device, driver: this.#named(device.driver) })
    if (this.#record) await this.#note({ devices: this.#record.devices.map(rename) })
  }

  #named(driver: string): string {
    return this.#names.get(driver) ?? driver
  }

  /** Since the plan was made somebody may have opened it. */
  #refuseOpen(address: string): void {
    const device = this.#plan.devices.find((planned) => planned.address === address)
    if (device && this.#changes.isWithVfio(address)) this.#changes.refuseOpen(device)
  }

  /** An id cannot be asked for afterwards: it is noted before it is added, and forgotten where others had added it. */
  async #addId(path: string, id: string): Promise<void> {
    const before = this.#record?.ids ?? []
    await this.#note({ ids: [...before, id] })
    try {
      await this.#changes.write(path, id)
    } catch (error) {
      if ((error as { code?: unknown }).code === 'EEXIST') await this.#note({ ids: before })
      throw error
    }
  }

  /** Puts back what was done; answers with what could not be. */
  async #undo(): Promise<readonly string[]> {
    if (this.#record === null) return []
    const failures = await restore(this.#changes, this.#record)
    try {
      await settle(this.#journal, this.#changes, this.#record, failures)
    } catch (error) {
      // What made the assignment fail is what has to be told first.
      failures.push(error instanceof Error ? error.message : String(error))
    }
    return failures
  }
}

function refuseBlocked({ blockers }: Plan): void {
  const [first] = blockers
  if (!first) return
  throw new VfioError(first.code, blockers.map(({ reason }) => reason).join('; '))
}

/** A device belongs to one assignment: its former state is known to that record alone. */
function refuseAssigned(plan: Plan, journal: Journal): void {
  const { records, bad } = journal.read()
  const [first] = plan.toBind
  const foreign = bad.find(({ path }) => first !== undefined && path === journal.path(first))
  if (foreign) {
    throw new VfioError(
      'ERR_VFIO_BAD_JOURNAL',
      `${foreign.path} is not a record of vfio (${foreign.reason}), and may be all that tells how ${first} was: look at it and remove it`,
    )
  }
  const wanted = new Set([...plan.toBind, ...plan.grabbed.map(({ address }) => address)])
  for (const record of records) {
    if (record.bootId !== bootId()) continue
    const ours = record.devices.find(({ address }) => wanted.has(address))
    if (!ours) continue
    throw new VfioError(
      'ERR_VFIO_IN_USE',
      record.state === 'assigned'
        ? `${ours.address} is assigned already, by ${record.program} (pid ${record.pid}) since ${record.since}: "vfio release ${ours.address}" gives it back`
        : `an assignment of ${ours.address} was left half done by ${record.program} (pid ${record.pid}): "vfio recover" puts it in order`,
    )
  }
}

function newRecord(plan: Plan, lock: GroupLock): JournalRecord {
  const devices = [...plan.devices.filter(({ address }) => plan.toBind.includes(address)), ...plan.grabbed]
  return {
    version: 1,
    id: devices[0]?.address ?? '',
    state: 'assigning',
    bootId: bootId(),
    ...thisProgram(),
    lock: lock.place,
    since: new Date().toISOString(),
    reset: plan.reset,
    sysfs: resolve(plan.paths.sysfs),
    devices,
    ids: [],
    failures: [],
  }
}

class LiveAssignment implements Assignment {
  readonly devices: JournalRecord['devices']
  readonly record: JournalRecord | null
  readonly #options: AssignOptions
  #released = false

  constructor(plan: Plan, record: JournalRecord | null, options: AssignOptions) {
    // With the groups and the names of drivers that they have by now.
    const now = new Map(record?.devices.map((device) => [device.address, device]))
    this.devices = plan.devices.map((device) => now.get(device.address) ?? device)
    this.record = record
    this.#options = options
  }

  async release(options: ReleaseOptions = {}): Promise<void> {
    if (this.#released || this.record === null) return
    await releaseRecord(this.record, { ...this.#options, ...options })
    this.#released = true
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.release()
  }
}
