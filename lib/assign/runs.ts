import { type ChangeOptions, Changes } from '../change/changes.js'
import { lockGroupsWithin, lockOf } from '../change/group-lock.js'
import { bootId, isAlive, isThisProgram } from '../change/program.js'
import { VfioError } from '../errors.js'
import { revokeAll } from '../grant/grant.js'
import { type JournalRecord, journalIn, type ManagedRun } from './journal.js'

/** What was begun for a command, and is not that of this program. */
type Run = JournalRecord & { readonly run: ManagedRun }

const isRun = (record: JournalRecord): record is Run =>
  record.run !== undefined && record.bootId === bootId() && !isThisProgram(record.run)

/** Has the program ended that was to give it back? `null` where that cannot be seen from here. */
export function isAbandoned(record: JournalRecord): boolean | null {
  if (!isRun(record)) return false
  const alive = isAlive(record.run)
  return alive === null ? null : !alive
}

/** As a person names it. */
const nameOf = ({ command, pid }: ManagedRun) => `"vfio run" (pid ${pid}, for ${command})`

/**
 * What a run has, or has left, is nobody else's: a group is opened once, whichever of its devices is wanted.
 * @throws VfioError `ERR_VFIO_IN_USE`
 */
export function refuseRuns(
  records: readonly JournalRecord[],
  devices: readonly { readonly address: string; readonly group: number | null }[],
): void {
  for (const record of records) {
    if (!isRun(record)) continue
    const isHeld = ({ address, group }: (typeof devices)[number]) =>
      record.devices.some((one) => one.address === address || (group !== null && one.group === group))
    const held = devices.find(isHeld)
    if (held === undefined) continue
    throw new VfioError(
      'ERR_VFIO_IN_USE',
      isAbandoned(record) === true
        ? `${held.address} was left by ${nameOf(record.run)}, which has ended: "vfio recover" gives it back`
        : `${held.address} is with ${nameOf(record.run)} since ${record.run.leader === undefined ? 'a moment' : record.since}: it comes back when that ends`,
    )
  }
}

/** @throws VfioError `ERR_VFIO_IN_USE` where a program that still runs is to give it back */
export function refuseTaken(record: JournalRecord): void {
  if (!isRun(record) || isAbandoned(record) === true) return
  const { leader, command, pid } = record.run
  const how = leader ? `end that ("kill ${leader.pid}"), or "kill ${pid}"` : `"kill ${pid}" ends it`
  throw new VfioError(
    'ERR_VFIO_IN_USE',
    `${record.id} is with "vfio run" (pid ${pid}), which gives it back when ${command} ends: ${how}`,
  )
}

/** How long another program may be at the same record, in milliseconds. */
const BRIEF = 5000

/** Writes something new into records, as far as they are still there. */
export async function note(
  directory: string | undefined,
  ids: readonly string[],
  news: (record: JournalRecord) => JournalRecord,
): Promise<void> {
  const journal = journalIn(directory)
  for (const known of journal.read().records.filter(({ id }) => ids.includes(id))) {
    using _lock = await lockGroupsWithin(BRIEF, known.sysfs, known.devices.map(lockOf))
    const record = journal.find(known.id)
    if (record !== null && record.since === known.since) await journal.write(news(record))
  }
}

/** Takes back what a run added to an assignment that stays: its groups are the caller's to lock. */
export async function leaveKept(
  { run, ...record }: JournalRecord,
  changes: Changes,
  directory: string | undefined,
): Promise<void> {
  await revokeAll(run?.granted ?? [], { journal: directory, sysfs: record.sysfs })
  await journalIn(directory).write(record)
  changes.done(`left ${record.id} assigned, as it was before`)
}

/** The same for the run of this program. */
export async function endKept(
  directory: string | undefined,
  ids: readonly string[],
  options: ChangeOptions,
): Promise<void> {
  const journal = journalIn(directory)
  for (const known of journal.read().records.filter(({ id }) => ids.includes(id))) {
    using lock = await lockGroupsWithin(BRIEF, known.sysfs, known.devices.map(lockOf))
    const record = journal.find(known.id)
    if (!record?.run || !isThisProgram(record.run)) continue
    using changes = new Changes(record.sysfs, options, lock)
    await leaveKept(record, changes, directory)
  }
}
