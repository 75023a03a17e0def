import { type FormerState, isDriverName, isFormerState } from '../change/former.js'
import type { Program } from '../change/program.js'
import { VfioError } from '../errors.js'
import { type BadRecord, Records } from '../records.js'
import { isAddress, isUuid } from '../sysfs/address.js'
import { isVfioDriver } from '../sysfs/devices.js'
import type { PlannedDevice, ResetPolicy } from './plan.js'

/** The state of an assignment. Everything but `assigned` is half done. */
export type RecordState = 'assigning' | 'assigned' | 'releasing' | 'broken'

/** What is needed to give devices back, written before the first change. */
export interface JournalRecord extends Program {
  readonly version: 1
  /** The first device's address names the record. */
  readonly id: string
  readonly state: RecordState
  /** Of the boot in which it was written: a reboot undoes all that it speaks of. */
  readonly bootId: string
  /** Identifies the file whose bytes are the locks: with another one the lock says nothing about its program. */
  readonly lock?: string | undefined
  /** When it was begun, ISO 8601. */
  readonly since: string
  readonly reset: ResetPolicy
  readonly sysfs: string
  readonly devices: readonly PlannedDevice[]
  readonly ids: readonly string[]
  /** Of a broken one: what could not be undone. */
  readonly failures: readonly string[]
}

export type Journal = Records<JournalRecord>

/** The journal: what is assigned, and what is half done. @param directory default `/run/vfio` */
export const journalIn = (directory: string | undefined): Journal =>
  new Records(directory, { prefix: 'assignment-', parse: parseRecord, keyOf: ({ id }) => id })

/**
 * A record that cannot be read may be all that tells how a device was: the one that has its name, and any where the device
 * looks as an assignment leaves it, since a record speaks of several.
 * @throws VfioError `ERR_VFIO_BAD_JOURNAL`
 */
export function refuseBad(
  journal: Journal,
  bad: readonly BadRecord[],
  devices: readonly (FormerState & { readonly address: string })[],
): void {
  for (const { address, driver, override } of devices) {
    const isMarked = isVfioDriver(driver) || isVfioDriver(override)
    const found = bad.find(({ path }) => isMarked || path === journal.path(address))
    if (!found) continue
    throw new VfioError(
      'ERR_VFIO_BAD_JOURNAL',
      `${found.path} is not a record of vfio (${found.reason}), and may be all that tells how ${address} was: look at it and remove it`,
    )
  }
}

const STATES: readonly unknown[] = ['assigning', 'assigned', 'releasing', 'broken'] satisfies RecordState[]
const RESETS: readonly unknown[] = ['none', 'before', 'before-and-after'] satisfies ResetPolicy[]

/** Checks every field: a record decides what is written to sysfs. */
function parseRecord(text: string): JournalRecord {
  const value: unknown = JSON.parse(text)
  const record = fields(value, 'the record')
  const check = (holds: boolean, what: string) => {
    if (!holds) throw new Error(`${what} is missing or wrong`)
  }
  const isText = (item: unknown): item is string => typeof item === 'string' && item.length < 4096
  check(record.version === 1, 'its version')
  check(isAddressText(record.id), 'its id')
  check(STATES.includes(record.state), 'its state')
  check(RESETS.includes(record.reset), 'its reset policy')
  for (const name of ['bootId', 'program', 'since', 'sysfs']) check(isText(record[name]), name)
  check(isText(record.sysfs) && record.sysfs.startsWith('/') && !record.sysfs.includes('\0'), 'sysfs')
  check(Number.isSafeInteger(record.pid), 'its pid')
  check(record.started === undefined || Number.isSafeInteger(record.started), 'the start of its program')
  for (const name of ['pidNamespace', 'lock']) check(record[name] === undefined || isText(record[name]), name)
  check(
    Array.isArray(record.ids) && record.ids.every((id) => /^[0-9a-f]{4} [0-9a-f]{4}$/.test(String(id))),
    'ids',
  )
  check(
    Array.isArray(record.failures) && record.failures.every((item) => typeof item === 'string'),
    'its failures',
  )
  check(Array.isArray(record.devices) && record.devices.length > 0, 'its devices')
  for (const item of record.devices as unknown[]) {
    const device = fields(item, 'a device')
    const former = fields(device.former, 'a former state')
    check(isAddressText(device.address), 'the address of a device')
    check(
      device.group === null || (Number.isSafeInteger(device.group) && Number(device.group) >= 0),
      'the group of a device',
    )
    check(isDriverName(device.driver), 'the driver of a device')
    check(isFormerState(former), 'the former state of a device')
  }
  const addresses = (record.devices as PlannedDevice[]).map(({ address }) => address)
  check(addresses.includes(String(record.id)), 'the device that it is named by')
  return value as JournalRecord
}

function fields(value: unknown, what: string): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new Error(`${what} is not an object`)
  return value as Record<string, unknown>
}

const isAddressText = (value: unknown) => typeof value === 'string' && (isAddress(value) || isUuid(value))

/** Is a former state what a device has now? */
export const isAsBefore = (now: FormerState, former: FormerState) =>
  now.driver === former.driver && now.override === former.override
