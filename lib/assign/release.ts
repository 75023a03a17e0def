import { opensByIommufd } from '../assess/backends.js'
import { type ChangeOptions, Changes } from '../change/changes.js'
import { type GroupLock, lockGroups, lockOf } from '../change/group-lock.js'
import { bootId, isAlive, thisProgram } from '../change/program.js'
import type { UnfinishedStep } from '../change/unfinished.js'
import { together, VfioError } from '../errors.js'
import { revokeAll } from '../grant/grant.js'
import type { BadRecord } from '../records.js'
import { expandName } from '../sysfs/address.js'
import { isWithVfio } from '../sysfs/devices.js'
import { Host } from '../sysfs/host.js'
import { type Journal, type JournalRecord, journalIn } from './journal.js'
import { chooseResets } from './resets.js'
import { type RestoreOptions, restore } from './restore.js'
import { refuseTaken } from './runs.js'
import { settle } from './settle.js'

export interface ReleaseOptions extends ChangeOptions, RestoreOptions {
  readonly journal?: string | undefined
  /** Aborts between two assignments: each is given back completely. */
  readonly signal?: AbortSignal | undefined
}

/** What a release did. */
export interface ReleaseReport {
  readonly released: readonly string[]
  /** What failed without keeping a device from being given back. */
  readonly warnings: readonly string[]
  /** Devices whose grants stay, since they could not be revoked: a warning tells why. Only where there are any. */
  readonly granted?: readonly string[]
  /** Asked for all: files in the place of records that are none, and may speak of more. Only where there are any. */
  readonly bad?: readonly BadRecord[]
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
  const isAll = addresses === 'all'
  if (isAll) for (const record of records) wanted.add(record)
  else {
    const assigned = () => records.flatMap(({ devices }) => devices.map(({ address }) => address))
    for (const address of addresses.flatMap((text) => expandName(text, assigned))) {
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
      // A failure of one does not stop the others.
      errors.push(error)
    }
  }
  // An error has no report: its warnings go with it.
  const told = reports.flatMap(({ warnings }) => warnings)
  if (errors.length > 0) throw together([...errors, ...told.map((warning) => new Error(warning))])
  const foreign = bad.map(({ path, reason }) => `${path} is not a record of vfio (${reason}): look at it`)
  return {
    released: reports.flatMap(({ released }) => released),
    ...stillGranted(reports.flatMap(({ granted = [] }) => granted)),
    ...(isAll && bad.length > 0 && { bad }),
    warnings: [...told, ...(isAll ? foreign : [])],
  }
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
  // It may know more groups by now.
  lock.add(record.devices.map(lockOf))
  refuseElsewhere(record, lock)
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
  const warnings: string[] = []
  try {
    await journal.write(releasing)
    changes.done(`recorded ${id} as releasing`)
  } catch (error) {
    // A full file system keeps no device from its host: the record that is there says all that a second release takes.
    warnings.push(`the record of ${id} was not marked as releasing: ${(error as Error).message}`)
  }
  warnings.push(...(record.reset === 'before-and-after' ? await resetAll(changes, record) : []))
  const grants = await revokeGrants(changes, record, options.journal)
  warnings.push(...grants.warnings)
  const failures = await restore(changes, record, options)
  await settle(journal, changes, releasing, failures)
  if (failures.length > 0) {
    throw new VfioError(
      'ERR_VFIO_NOT_RESTORED',
      `not everything could be given back: ${failures.join('; ')} ("vfio release --rescan" lets the kernel find a device anew)`,
    )
  }
  return { released, warnings, ...stillGranted(grants.left) }
}

/** Is a program perhaps at it, behind a lock that is not seen from here? */
export const isElsewhere = (record: JournalRecord | UnfinishedStep, lock: GroupLock): boolean =>
  record.lock !== undefined &&
  record.lock !== lock.place &&
  record.bootId === bootId() &&
  isAlive(record) !== false

function refuseElsewhere(record: JournalRecord, lock: GroupLock): void {
  if (record.state === 'assigned' || record.state === 'broken' || !isElsewhere(record, lock)) return
  throw new VfioError(
    'ERR_VFIO_LOCKED',
    `${record.program} (pid ${record.pid}) locks the groups of ${record.id} in another sysfs, and may still be at it: release it where that ran`,
  )
}

/** The part of a report that says so. */
export const stillGranted = (granted: readonly string[]) => (granted.length > 0 ? { granted } : {})

/**
 * A node outlives a release where another device of its group stays bound, and `/dev/iommu` always does: it goes back to whom it
 * belonged. `left` are the devices for which that failed.
 */
export async function revokeGrants(
  changes: Changes,
  { devices, sysfs }: Pick<JournalRecord, 'devices' | 'sysfs'>,
  journal: string | undefined,
): Promise<{ readonly left: readonly string[]; readonly warnings: readonly string[] }> {
  const left: string[] = []
  const warnings: string[] = []
  for (const { address } of devices) {
    try {
      const revoked = await revokeAll([address], { journal, sysfs })
      if (revoked.length > 0) changes.done(`revoked the grant of ${address}`)
    } catch (error) {
      left.push(address)
      warnings.push(
        `the grant of ${address} stays, so whom its nodes were given to may open them still: ${(error as Error).message} ("vfio revoke ${address}" tries again)`,
      )
    }
  }
  return { left, warnings }
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

/** The next driver should find the device in a known state; a reset that fails is a warning. */
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
      const { group } = seen.device(address)
      const isUnprotected = group !== null && seen.group(group).noIommu
      await changes.reset(address, kind, seen, opensByIommufd(seen.host) && !isUnprotected)
    } catch (error) {
      warnings.push(`${address} was not reset before it was given back: ${(error as Error).message}`)
    }
  }
  return warnings
}
