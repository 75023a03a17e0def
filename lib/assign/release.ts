import { VfioError } from '../errors.js'
import { parseAddress } from '../sysfs/address.js'
import { isVfioDriver } from '../sysfs/devices.js'
import { Host } from '../sysfs/host.js'
import { type ChangeOptions, Changes } from './changes.js'
import { revokeAll } from './grant.js'
import { bootId, Journal, type JournalRecord } from './journal.js'
import { chooseResets } from './resets.js'
import { type RestoreOptions, restore } from './restore.js'
import { settle } from './settle.js'

export interface ReleaseOptions extends ChangeOptions, RestoreOptions {
  readonly journal?: string | undefined
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
  const { records } = await new Journal(options.journal).read()
  const wanted = new Set<string>()
  if (addresses === 'all') for (const { id } of records) wanted.add(id)
  else {
    for (const address of addresses.map(parseAddress)) {
      const record = records.find(({ devices }) => devices.some((device) => device.address === address))
      if (!record) {
        throw new VfioError(
          'ERR_VFIO_NOT_ASSIGNED',
          `the journal knows of no assignment of ${address}: "vfio status" shows those that there are`,
        )
      }
      wanted.add(record.id)
    }
  }
  const reports: ReleaseReport[] = []
  for (const id of wanted) reports.push(await releaseRecord(id, options))
  return {
    released: reports.flatMap(({ released }) => released),
    warnings: reports.flatMap(({ warnings }) => warnings),
  }
}

/** Gives back one assignment. @internal */
export async function releaseRecord(id: string, options: ReleaseOptions): Promise<ReleaseReport> {
  const journal = new Journal(options.journal)
  const before = await find(journal, id)
  await using _lock = await journal.lock(before.devices.map(({ group }) => group))
  // Between reading and locking another program may have released it.
  const record = await find(journal, id)
  const released = record.devices.map(({ address }) => address)
  const changes = new Changes(record.sysfs, options)
  if (record.bootId !== bootId()) {
    await journal.remove(id)
    changes.done('removed the record of an earlier boot')
    return { released, warnings: [] }
  }
  refuseOpen(changes, record)
  const releasing: JournalRecord = { ...record, state: 'releasing', pid: process.pid }
  await journal.write(releasing)
  changes.done(`recorded ${id} as releasing`)
  const warnings = record.reset === 'before-and-after' ? await resetAll(changes, record) : []
  warnings.push(...(await revokeGrants(changes, released, options.journal)))
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
  addresses: readonly string[],
  journal: string | undefined,
): Promise<string[]> {
  try {
    const revoked = await revokeAll(addresses, journal === undefined ? {} : { journal })
    for (const { address } of revoked) changes.done(`revoked the grant of ${address}`)
    return []
  } catch (error) {
    return [`a grant was not revoked: ${(error as Error).message}`]
  }
}

async function find(journal: Journal, id: string): Promise<JournalRecord> {
  const { records } = await journal.read()
  const record = records.find((known) => known.id === id)
  if (record) return record
  throw new VfioError('ERR_VFIO_NOT_ASSIGNED', `the assignment of ${id} was released already`)
}

/** Unbinding a device that is open blocks in the kernel until it is closed. */
function refuseOpen(changes: Changes, { devices }: JournalRecord): void {
  for (const { address, group } of devices) {
    if (!isVfioDriver(changes.state(address).driver) || !changes.kernel.isOpen(group)) continue
    throw new VfioError(
      'ERR_VFIO_IN_USE',
      `group ${group} of ${address} is open in a program, and giving it back would hang: close it there ("vfio check ${address}" names the program)`,
    )
  }
}

/** What the next driver gets should not depend on what was done to the device; but it gets it in any case. */
async function resetAll(changes: Changes, record: JournalRecord): Promise<string[]> {
  const seen = new Host(record.sysfs === '/sys' ? {} : { sysfs: record.sysfs }).snapshot()
  const bound = record.devices
    .map(({ address }) => address)
    .filter((address) => seen.has(address) && isVfioDriver(seen.device(address).driver))
  const warnings: string[] = []
  for (const { address, kind } of chooseResets(seen, bound).resets) {
    try {
      await changes.reset(address, kind)
    } catch (error) {
      warnings.push(`${address} was not reset before it was given back: ${(error as Error).message}`)
    }
  }
  return warnings
}
