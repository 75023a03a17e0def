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
import { type Journal, type JournalRecord, journalIn, type ManagedRun, refuseBad } from './journal.js'
import type { Plan, PlannedDevice } from './plan.js'
import { hostFor, refuseChanged } from './recheck.js'
import { type ReleaseOptions, releaseRecord } from './release.js'
import { restore } from './restore.js'
import { refuseRuns } from './runs.js'
import { settle } from './settle.js'
import type { Step } from './steps.js'

export interface AssignOptions extends ChangeOptions {
  /**
   * Aborts between two changes, after at most 5 s for the one that the kernel is at; everything is put back then.
   */
  readonly signal?: AbortSignal | undefined
  /** Directory of the journal; default `/run/vfio`. */
  readonly journal?: string | undefined
  /** @internal Who gives it back by itself: then all its devices have a record, also those that are bound already. */
  readonly run?: ManagedRun | undefined
}

/** Devices that were assigned, until they are released. */
export interface Assignment {
  readonly devices: JournalRecord['devices']
  /** The journal's record; `null` where nothing had to be changed. */
  readonly record: JournalRecord | null
  /** @internal Records of assignments that were there before, and are marked as a run's. */
  readonly held: readonly string[]
  /** Gives everything back. Does nothing the second time. */
  release(options?: ReleaseOptions): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

/** A failed assignment: the cause, and whether everything was undone. */
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
 * Carries out a plan as one transaction: it locks the groups, judges the host once more, writes a record to the journal before
 * the first change, and when a step fails undoes all earlier ones.
 * @throws VfioError the code of the plan's first blocker; `ERR_VFIO_LOCKED`, `ERR_VFIO_IN_USE`, `ERR_VFIO_HOST_CHANGED`,
 * `ERR_VFIO_BAD_JOURNAL` before anything is changed; {@link AssignError} afterwards
 */
export async function assign(plan: Plan, options: AssignOptions = {}): Promise<Assignment> {
  refuseBlocked(plan)
  options.signal?.throwIfAborted()
  const journal = journalIn(options.journal)
  using lock = lockGroups(plan.paths.sysfs, [...plan.devices, ...plan.grabbed].map(lockOf))
  const held = refuseAssigned(plan, journal)
  const unfinished = unfinishedIn(options.journal)
  for (const { address } of [...plan.devices, ...plan.grabbed]) refuseUnfinished(unfinished, address)
  using changes = new Changes(plan.paths.sysfs, options, lock, options.signal)
  await refuseChanged(plan, changes)
  const kept = options.run === undefined ? [] : held
  const record = await new Transaction(plan, journal, changes, lock, options, kept).run()
  return new LiveAssignment(plan, record, kept, { ...options, journal: journal.directory })
}

/** One plan being carried out, completely or not at all. */
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
  readonly #run: ManagedRun | undefined
  readonly #held: readonly JournalRecord[]

  constructor(
    plan: Plan,
    journal: Journal,
    changes: Changes,
    lock: GroupLock,
    options: AssignOptions,
    held: readonly JournalRecord[],
  ) {
    this.#plan = plan
    this.#journal = journal
    this.#changes = changes
    this.#signal = options.signal
    this.#lock = lock
    this.#run = options.run
    this.#held = held
    this.#record = newRecord(plan, lock, options.run, held)
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

  /** Nothing is changed before this record, so that there is nothing to undo where it cannot be written. */
  async #begin(): Promise<void> {
    try {
      for (const record of this.#held) {
        if (this.#run) await this.#journal.write({ ...record, run: { ...this.#run, keeps: true } })
      }
      await this.#note({})
    } catch (error) {
      for (const record of this.#held) await this.#journal.write(record).catch(() => {})
      // It may be there all the same, where only fsync(2) failed.
      if (this.#record) await this.#journal.remove(this.#record.id).catch(() => {})
      throw error
    }
  }

  /** Writes the record, with these changes. */
  async #note(news: Partial<JournalRecord>): Promise<void> {
    if (this.#record === null) return
    this.#record = { ...this.#record, ...news }
    await this.#journal.write(this.#record)
    this.#changes.done(`recorded ${this.#record.id} as ${this.#record.state}`)
  }

  /**
   * Devices that had no group have one now that they are bound. It may have other members, which could not be seen before.
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
      const group = seen.named(address)[0]?.group ?? null
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
        // It opens the group, so the number and the members of the group have to be known.
        await this.#noteGroups()
        return this.#changes.reset(step.address, step.value, this.#bound(), step.iommufd ?? false)
    }
  }

  /** The host with all that is bound: under the lock it stays so. */
  #bound(): Snapshot {
    const around = this.#plan.devices.map(({ address }) => address)
    this.#after ??= hostFor(this.#plan.paths).look({ brief: true, around, overrides: NONE, again: true })
    return this.#after
  }

  /** The plan derives the name of a driver from that of its module; the real one is known once it is loaded. */
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

  /** The kernel does not list added ids: each is recorded before it is added, and forgotten where others had added it. */
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
    const failures = this.#record === null ? [] : await restore(this.#changes, this.#record)
    try {
      for (const record of this.#held) await this.#journal.write(record)
      if (this.#record === null) return failures
      await settle(this.#journal, this.#changes, this.#record, failures)
    } catch (error) {
      // The error that made the assignment fail comes first.
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

/**
 * A device belongs to one assignment: only its record knows the former state. Answers with the records of those that stay
 * bound as they are.
 */
function refuseAssigned(plan: Plan, journal: Journal): readonly JournalRecord[] {
  const { records, bad } = journal.read()
  refuseRuns(records, plan.devices)
  const wanted = new Set([...plan.toBind, ...plan.grabbed.map(({ address }) => address)])
  refuseBad(
    journal,
    bad,
    plan.basis.filter(({ address }) => wanted.has(address)),
  )
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
  const planned = new Set(plan.devices.map(({ address }) => address))
  const isHeld = (record: JournalRecord) => record.devices.some(({ address }) => planned.has(address))
  return records.filter((record) => record.bootId === bootId() && isHeld(record))
}

/** `null` where there is nothing to undo. */
function newRecord(
  plan: Plan,
  lock: GroupLock,
  run: ManagedRun | undefined,
  held: readonly JournalRecord[],
): JournalRecord | null {
  const others = new Set(held.flatMap((record) => record.devices.map(({ address }) => address)))
  const isOurs = ({ address }: PlannedDevice) =>
    run === undefined ? plan.toBind.includes(address) : !others.has(address)
  const devices = [...plan.devices.filter(isOurs), ...plan.grabbed]
  if (run === undefined ? plan.toBind.length === 0 : devices.length === 0) return null
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
    ...(run && { run }),
  }
}

class LiveAssignment implements Assignment {
  readonly devices: JournalRecord['devices']
  readonly record: JournalRecord | null
  readonly held: readonly string[]
  readonly #options: AssignOptions
  #released = false

  constructor(
    plan: Plan,
    record: JournalRecord | null,
    held: readonly JournalRecord[],
    options: AssignOptions,
  ) {
    // With the groups and the names of drivers that they have by now.
    const now = new Map(record?.devices.map((device) => [device.address, device]))
    this.devices = plan.devices.map((device) => now.get(device.address) ?? device)
    this.record = record
    this.held = held.map(({ id }) => id)
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
