import { resolve } from 'node:path'
import { VfioError } from '../errors.js'
import { Records } from '../records.js'
import { isAddress, isUuid } from '../sysfs/address.js'
import { type FormerState, isFormerState } from './former.js'
import type { GroupLock } from './group-lock.js'
import { bootId, type Program, thisProgram } from './program.js'

/** A step that changes attributes of a device only while it runs. */
export interface UnfinishedCommon extends Program {
  readonly version: 1
  /** Of the device, or the UUID of a mediated one; it names the record. */
  readonly address: string
  readonly group: number | null
  /** Of the boot in which it was begun: after a reboot the attributes are the kernel's own again. */
  readonly bootId: string
  /** Of the file that its group was locked in. */
  readonly lock?: string | undefined
  /** ISO 8601. */
  readonly since: string
  readonly sysfs: string
}

/** A reset by one method, which is the device's only one meanwhile. */
export interface UnfinishedReset extends UnfinishedCommon {
  readonly step: 'reset-method'
  /** What `reset_method` had before. */
  readonly methods: string
}

/** A change of the number of virtual functions, which no driver is to take meanwhile. */
export interface UnfinishedVfs extends UnfinishedCommon {
  readonly step: 'vfs'
  readonly from: number
  readonly to: number
  /** What `sriov_drivers_autoprobe` had before; `null` where there is none. */
  readonly autoprobe: string | null
}

/** A device that is removed so that the kernel finds it anew. */
export interface UnfinishedRescan extends UnfinishedCommon {
  readonly step: 'rescan'
  readonly former: FormerState
}

/** The making of a mediated device, or its end. */
export interface UnfinishedMdev extends UnfinishedCommon {
  readonly step: 'mdev-create' | 'mdev-remove'
}

/** What is needed to put a device in order after a crash within one step, written before its first change. */
export type UnfinishedStep = UnfinishedReset | UnfinishedVfs | UnfinishedRescan | UnfinishedMdev

/** Steps that are being made, or that a crash ended, beside the journal. @param directory default `/run/vfio` */
export const unfinishedIn = (directory: string | undefined): Records<UnfinishedStep> =>
  new Records(directory, { prefix: 'step-', parse, keyOf: ({ address }) => address })

/** The fields that all records of steps have. */
export const begun = (
  sysfs: string,
  { address, group }: { readonly address: string; readonly group: number | null },
  lock: GroupLock,
): UnfinishedCommon => ({
  version: 1,
  address,
  group,
  bootId: bootId(),
  ...thisProgram(),
  lock: lock.place,
  since: new Date().toISOString(),
  sysfs: resolve(sysfs),
})

/**
 * A step that a crash ended has to be recovered first: only its record knows how the device was before.
 * @throws VfioError `ERR_VFIO_IN_USE`, `ERR_VFIO_BAD_JOURNAL`
 */
export function refuseUnfinished(records: Records<UnfinishedStep>, address: string): void {
  const left = records.find(address)
  if (left === null || left.bootId !== bootId()) return
  throw new VfioError(
    'ERR_VFIO_IN_USE',
    `${STEPS[left.step]} of ${address} is half done, by ${left.program} (pid ${left.pid}): where that has ended, "vfio recover" puts it in order`,
  )
}

const STEPS = {
  'reset-method': 'a reset',
  vfs: 'a change of the virtual functions',
  rescan: 'a rescan',
  'mdev-create': 'the creation',
  'mdev-remove': 'the removal',
} as const

/** Names of the kernel's methods, in its order. */
const METHODS = /^[a-z_]{1,40}(?: [a-z_]{1,40}){0,20}$/

/** Checks every field: a record decides what is written to sysfs. */
function parse(text: string): UnfinishedStep {
  const value: unknown = JSON.parse(text)
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new Error('the record is not an object')
  }
  const record = value as Record<string, unknown>
  const check = (holds: boolean, what: string) => {
    if (!holds) throw new Error(`${what} is missing or wrong`)
  }
  const isText = (item: unknown): item is string => typeof item === 'string' && item.length < 4096
  const isCount = (item: unknown) => Number.isSafeInteger(item) && Number(item) >= 0
  check(record.version === 1, 'its version')
  const isMdev = record.step === 'mdev-create' || record.step === 'mdev-remove'
  check(isText(record.address) && (isMdev ? isUuid : isAddress)(record.address), 'its address')
  check(record.group === null || isCount(record.group), 'its group')
  for (const name of ['bootId', 'program', 'since', 'sysfs']) check(isText(record[name]), name)
  check(isText(record.sysfs) && record.sysfs.startsWith('/') && !record.sysfs.includes('\0'), 'sysfs')
  check(isCount(record.pid), 'its pid')
  check(record.started === undefined || isCount(record.started), 'the start of its program')
  for (const name of ['pidNamespace', 'lock']) check(record[name] === undefined || isText(record[name]), name)
  if (record.step === 'reset-method') {
    check(isText(record.methods) && METHODS.test(record.methods), 'its methods')
  } else if (record.step === 'rescan') {
    check(isFormerState(record.former), 'its former state')
  } else if (!isMdev) {
    check(record.step === 'vfs', 'its step')
    for (const name of ['from', 'to']) check(isCount(record[name]) && Number(record[name]) <= 0xffff, name)
    check(record.autoprobe === null || /^[01YyNn]$/.test(String(record.autoprobe)), 'autoprobe')
  }
  return value as UnfinishedStep
}
