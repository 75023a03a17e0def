import { type FormerState, isDriverName, isFormerState } from '../change/former.js'
import type { Program } from '../change/program.js'
import { VfioError } from '../errors.js'
import { type BadRecord, Records } from '../records.js'
import { isAddress, isUuid } from '../sysfs/address.js'
import { isVfioDriver } from '../sysfs/devices.js'
import type { PlannedDevice, ResetPolicy } from './plan.js'

/** The state of an assignment. Everything but `assigned` is half done. */
export type RecordState = 'assigning' | 'assigned' | 'releasing' | 'broken'

/** A program that has devices for as long as a command runs: what it made goes with it. */
export interface ManagedRun extends Program {
  /** The name of what it runs. */
  readonly command: string
  /** The process that it has started, which leads a group of its own. */
  readonly leader?: Program | undefined
  /** The assignment was there before, and stays: only what the run added to it goes. */
  readonly keeps?: boolean | undefined
  /** Devices whose nodes it has granted. */
  readonly granted?: readonly string[] | undefined
}

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
  /** Who gives it back by itself. */
  readonly run?: ManagedRun | undefined
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
  check(record.version === 1, 'its version')
  check(isAddressText(record.id), 'its id')
  check(STATES.includes(record.state), 'its state')
  check(RESETS.includes(record.reset), 'its reset policy')
  for (const name of ['bootId', 'program', 'since', 'sysfs']) check(isShort(record[name]), name)
  check(isShort(record.sysfs) && record.sysfs.startsWith('/') && !record.sysfs.includes('\0'), 'sysfs')
  check(Number.isSafeInteger(record.pid), 'its pid')
  check(record.started === undefined || Number.isSafeInteger(record.started), 'the start of its program')
  for (const name of ['pidNamespace', 'lock'])
    check(record[name] === undefined || isShort(record[name]), name)
  check(
    Array.isArray(record.ids) && record.ids.every((id) => /^[0-9a-f]{4} [0-9a-f]{4}$/.test(String(id))),
    'ids',
  )
  check(
    Array.isArray(record.failures) && record.failures.every((item) => typeof item === 'string'),
    'its failures',
  )
  check(Array.isArray(record.devices) && record.devices.length > 0, 'its devices')
  if (record.run !== undefined) checkRun(fields(record.run, 'its run'), check)
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

function checkRun(run: Record<string, unknown>, check: (holds: boolean, what: string) => void): void {
  checkProgram(run, check)
  check(isShort(run.command), 'its command')
  check(run.keeps === undefined || typeof run.keeps === 'boolean', 'whether it stays')
  check(
    run.granted === undefined || (Array.isArray(run.granted) && run.granted.every(isAddressText)),
    'grants',
  )
  if (run.leader !== undefined) checkProgram(fields(run.leader, 'its process'), check)
}

function checkProgram(program: Record<string, unknown>, check: (holds: boolean, what: string) => void): void {
  check(isShort(program.program), 'the name of its program')
  check(Number.isSafeInteger(program.pid) && Number(program.pid) > 0, 'the pid of its program')
  check(program.started === undefined || Number.isSafeInteger(program.started), 'the start of its program')
  check(program.pidNamespace === undefined || isShort(program.pidNamespace), 'its namespace')
}

const isShort = (item: unknown): item is string => typeof item === 'string' && item.length < 4096

function fields(value: unknown, what: string): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new Error(`${what} is not an object`)
  return value as Record<string, unknown>
}

const isAddressText = (value: unknown) => typeof value === 'string' && (isAddress(value) || isUuid(value))

/** Is a former state what a device has now? */
export const isAsBefore = (now: FormerState, former: FormerState) =>
  now.driver === former.driver && now.override === former.override
