import { type ChangeOptions, Changes } from '../change/changes.js'
import { lockGroups, lockOf } from '../change/group-lock.js'
import { bootId, thisProgram } from '../change/program.js'
import { VfioError, type VfioErrorCode } from '../errors.js'
import { revokeAll } from '../grant/grant.js'
import { expandAddress } from '../sysfs/address.js'
import { isWithVfio } from '../sysfs/devices.js'
import { Host } from '../sysfs/host.js'
import { type Journal, type JournalRecord, journalIn } from './journal.js'
import { chooseResets } from './resets.js'
import { type RestoreOptions, restore } from './restore.js'
import { refuseTaken } from './runs.js'
import { settle } from './settle.js'

export interface ReleaseOptions extends ChangeOptions, RestoreOptions {
  readonly journal?: string | undefined
  /** Aborts between two assignments: each is given back as a whole. */
  readonly signal?: AbortSignal | undefined
}

/** What a release did. */
export interface ReleaseReport {
  readonly released: readonly string[]
  /** What did not go as it should and kept nothing from being given back. */
  readonly warnings: readonly string[]
}

/**
 * Gives back the assignments that hold these devices, each as a whole.
 * @throws VfioError `ERR_VFIO_NOT_ASSIGNED` where the journal knows of none; `ERR_VFIO_IN_USE` where a program has a
 * device open; `ERR_VFIO_NOT_RESTORED` with all that could not be put back
 */
export async function release(
  addresses: readonly string[] | 'all',
  options: ReleaseOptions = {},
): Promise<ReleaseReport> {
  const { records, bad } = journalIn(options.journal).read()
  const wanted = new Set<JournalRecord>()
  if (addresses === 'all') for (const record of records) wanted.add(record)
  else {
    const assigned = () => records.flatMap(({ devices }) => devices.map(({ address }) => address))
    for (const address of addresses.flatMap((text) => expandAddress(text, assigned))) {
      // An earlier boot may have left one of the same device.
      const holding = records.filter(({ devices }) => devices.some((device) => device.address === address))
      if (holding.length === 0) {
        throw new VfioError(
          'ERR_VFIO_NOT_ASSIGNED',
          `the journal knows of no assignment of ${address}: "vfio status" shows those that there are`,
        )
      }
      for (const record of holding) wanted.add(record)
    }
  }
  const reports: ReleaseReport[] = []
  const errors: unknown[] = []
  for (const record of wanted) {
    if (options.signal?.aborted) {
      errors.push(options.signal.reason)
      break
    }
    try {
      reports.push(await releaseRecord(record, options))
    } catch (error) {
      // One that cannot be given back does not keep the others.
      errors.push(error)
    }
  }
  if (errors.length > 0) throw together(errors)
  const foreign = bad.map(({ path, reason }) => `${path} is not a record of vfio (${reason}): look at it`)
  return {
    released: reports.flatMap(({ released }) => released),
    warnings: [...reports.flatMap(({ warnings }) => warnings), ...(addresses === 'all' ? foreign : [])],
  }
}

function together(errors: readonly unknown[]): unknown {
  const [first] = errors
  if (errors.length === 1 || !(first instanceof VfioError)) return first
  const messages = errors.map((error) => (error instanceof Error ? error.message : String(error)))
  return new VfioError(first.code as VfioErrorCode, messages.join('; '), { cause: first })
}

/** Gives back one assignment. @internal */
export async function releaseRecord(
  known: Pick<JournalRecord, 'id' | 'since' | 'devices' | 'sysfs'>,
  options: ReleaseOptions,
): Promise<ReleaseReport> {
  const { id } = known
  const journal = journalIn(options.journal)
  using lock = lockGroups(known.sysfs, known.devices.map(lockOf))
  // Meanwhile another program may have released it, or even assigned it anew.
  const record = find(journal, known)
  const released = record.devices.map(({ address }) => address)
  using changes = new Changes(record.sysfs, options, lock)
  if (record.bootId !== bootId()) {
    await journal.remove(id)
    changes.done('removed the record of an earlier boot')
    return { released, warnings: [] }
  }
  refuseTaken(record)
  await refuseOpen(changes, record)
  const releasing: JournalRecord = {
    ...record,
    state: 'releasing',
    ...thisProgram(),
    lock: lock.place,
  }
  await journal.write(releasing)
  changes.done(`recorded ${id} as releasing`)
  const warnings = record.reset === 'before-and-after' ? await resetAll(changes, record) : []
  warnings.push(...(await revokeGrants(changes, record, options.journal)))
  const failures = await restore(changes, record, options)
  await settle(journal, changes, releasing, failures)
  if (failures.length > 0) {
    throw new VfioError(
      'ERR_VFIO_NOT_RESTORED',
      `not everything could be given back: ${failures.join('; ')} ("vfio release --rescan" lets the kernel find a device anew)`,
    )
  }
  return { released, warnings }
}

/** A node outlives a release where another device of its group stays bound: it goes back to whom it belonged. */
export async function revokeGrants(
  changes: Changes,
  { devices, sysfs }: Pick<JournalRecord, 'devices' | 'sysfs'>,
  journal: string | undefined,
): Promise<string[]> {
  const warnings: string[] = []
  for (const { address } of devices) {
    try {
      const revoked = await revokeAll([address], { journal, sysfs })
      if (revoked.length > 0) changes.done(`revoked the grant of ${address}`)
    } catch (error) {
      warnings.push(`the grant of ${address} was not revoked: ${(error as Error).message}`)
    }
  }
  return warnings
}

function find(journal: Journal, { id, since }: Pick<JournalRecord, 'id' | 'since'>): JournalRecord {
  const { records } = journal.read()
  const record = records.find((known) => known.id === id && known.since === since)
  if (record) return record
  throw new VfioError('ERR_VFIO_NOT_ASSIGNED', `the assignment of ${id} was released already`)
}

/** Unbinding a device that is open blocks in the kernel until it is closed. */
async function refuseOpen(changes: Changes, { devices }: JournalRecord): Promise<void> {
  for (const device of devices) {
    const { address } = device
    if (changes.isWithVfio(address)) changes.refuseOpen(device)
    // Somebody else may be unbinding it this very moment: then this waits, and not for ever.
    await changes.state(address)
  }
}

/** What the next driver gets should not depend on what was done to the device; but it gets it in any case. */
async function resetAll(changes: Changes, record: JournalRecord): Promise<string[]> {
  const around = record.devices.map(({ address }) => address)
  const seen = new Host(record.sysfs === '/sys' ? {} : { sysfs: record.sysfs }).snapshot({
    brief: true,
    around,
  })
  const bound = around.filter((address) => seen.has(address) && isWithVfio(seen.device(address)))
  const warnings: string[] = []
  for (const { address, kind } of chooseResets(seen, bound).resets) {
    try {
      await changes.reset(address, kind, seen)
    } catch (error) {
      warnings.push(`${address} was not reset before it was given back: ${(error as Error).message}`)
    }
  }
  return warnings
}
