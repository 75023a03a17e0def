import { VfioError } from '../errors.js'

import { type ChangeOptions, Changes } from './changes.js'
import { bootId, Journal, type JournalRecord, programName } from './journal.js'
import type { Plan, Step } from './plan.js'
import { type ReleaseOptions, releaseRecord } from './release.js'
import { restore } from './restore.js'
import { settle } from './settle.js'

export interface AssignOptions extends ChangeOptions {
  /** Aborts between two changes; everything is put back then. */
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
 * Carries out a plan as one transaction: a record goes to the journal before the first change, and when a step fails all
 * earlier ones are undone.
 * @throws VfioError the code of the plan's first blocker; `ERR_VFIO_LOCKED`, `ERR_VFIO_IN_USE`, `ERR_VFIO_HOST_CHANGED`
 * before anything is changed; {@link AssignError} afterwards
 */
export async function assign(plan: Plan, options: AssignOptions = {}): Promise<Assignment> {
  refuseBlocked(plan)
  options.signal?.throwIfAborted()
  const journal = new Journal(options.journal)
  const changes = new Changes(plan.paths.sysfs, options)
  await using _lock = await journal.lock([...plan.devices, ...plan.grabbed].map(({ group }) => group))
  await refuseAssigned(plan, journal)
  refuseChanged(plan)
  const record = plan.toBind.length > 0 ? newRecord(plan) : null
  let current: Step | null = null
  try {
    if (record) await writeRecord(journal, changes, record)
    for (const step of plan.steps) {
      options.signal?.throwIfAborted()
      current = step
      await perform(changes, step)
    }
    current = null
    const assigned: JournalRecord | null = record && { ...record, state: 'assigned' }
    if (assigned) await writeRecord(journal, changes, assigned)
    return new LiveAssignment(plan, assigned, options)
  } catch (error) {
    const failures = record ? await restore(changes, record) : []
    if (record) await settle(journal, changes, record, failures)
    if (options.signal?.aborted && failures.length === 0) throw options.signal.reason
    throw new AssignError(error, current, failures)
  }
}

async function writeRecord(journal: Journal, changes: Changes, record: JournalRecord): Promise<void> {
  await journal.write(record)
  changes.done(`recorded ${record.id} as ${record.state}`)
}

async function perform(changes: Changes, step: Step): Promise<void> {
  if (step.action === 'load') await changes.load(step.path, step.value)
  else if (step.action === 'reset') {
    if (step.address !== null) await changes.reset(step.address, step.value === 'hot' ? 'hot' : 'function')
  } else {
    await changes.write(step.path, step.value)
    if (step.address !== null && step.expectDriver !== undefined)
      changes.expectDriver(step.address, step.expectDriver)
  }
}

function refuseBlocked({ blockers }: Plan): void {
  const [first] = blockers
  if (!first) return
  throw new VfioError(first.code, blockers.map(({ reason }) => reason).join('; '))
}

/** A device belongs to one assignment: its former state is known to that record alone. */
async function refuseAssigned(plan: Plan, journal: Journal): Promise<void> {
  const { records } = await journal.read()
  for (const record of records) {
    if (record.bootId !== bootId()) continue
    const ours = record.devices.find(({ address }) => plan.toBind.includes(address))
    if (!ours) continue
    throw new VfioError(
      'ERR_VFIO_IN_USE',
      record.state === 'assigned'
        ? `${ours.address} is assigned already, by ${record.program} (pid ${record.pid}) since ${record.since}: "vfio release ${ours.address}" gives it back`
        : `an assignment of ${ours.address} was left half done by ${record.program} (pid ${record.pid}): "vfio recover" puts it in order`,
    )
  }
}

/** Does exactly what was planned, or nothing. */
function refuseChanged(plan: Plan): void {
  const changes = new Changes(plan.paths.sysfs, {})
  for (const { address, driver, override } of plan.basis) {
    const now = changes.state(address)
    if (now.driver === driver && now.override === override) continue
    throw new VfioError(
      'ERR_VFIO_HOST_CHANGED',
      `${address} is no longer as it was when the plan was made (driver ${driver ?? 'none'}, now ${now.driver ?? 'none'}): plan again`,
    )
  }
}

function newRecord(plan: Plan): JournalRecord {
  const devices = [...plan.devices.filter(({ address }) => plan.toBind.includes(address)), ...plan.grabbed]
  return {
    version: 1,
    id: devices[0]?.address ?? '',
    state: 'assigning',
    bootId: bootId(),
    pid: process.pid,
    program: programName(),
    since: new Date().toISOString(),
    reset: plan.reset,
    sysfs: plan.paths.sysfs,
    devices,
    ids: plan.ids,
    failures: [],
  }
}

class LiveAssignment implements Assignment {
  readonly devices: JournalRecord['devices']
  readonly record: JournalRecord | null
  readonly #options: AssignOptions
  #released = false

  constructor(plan: Plan, record: JournalRecord | null, options: AssignOptions) {
    this.devices = plan.devices
    this.record = record
    this.#options = options
  }

  async release(options: ReleaseOptions = {}): Promise<void> {
    if (this.#released || this.record === null) return
    await releaseRecord(this.record.id, { ...this.#options, ...options })
    this.#released = true
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.release()
  }
}
