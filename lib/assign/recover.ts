import { Changes } from '../change/changes.js'
import { type GroupLock, lockGroupsWithin, lockOf } from '../change/group-lock.js'
import { endGroup } from '../change/process-group.js'
import { bootId, isAlive } from '../change/program.js'
import { type UnfinishedStep, unfinishedIn } from '../change/unfinished.js'
import { VfioError } from '../errors.js'
import { putMdevInOrder } from '../mdev/make.js'
import type { BadRecord, Records } from '../records.js'
import { directoryOf, expandName } from '../sysfs/address.js'
import { exists, linkName } from '../sysfs/files.js'
import { putVfsInOrder } from '../vfs/set.js'
import { type Journal, type JournalRecord, journalIn } from './journal.js'
import { isElsewhere, type ReleaseOptions, revokeGrants, stillGranted } from './release.js'
import { putBack } from './rescan.js'
import { putMethodsBack } from './reset-method.js'
import { restore } from './restore.js'
import { isAbandoned, leaveKept } from './runs.js'
import { settle } from './settle.js'

/** An assignment by its record, compared with the host. */
export interface AssignmentStatus extends JournalRecord {
  /** The program that made it still runs; `null` where that cannot be seen from here. */
  readonly alive: boolean | null
  /** Written before the last boot, which undid everything that it speaks of. */
  readonly stale: boolean
  /** Devices that are not bound as the record says, a sentence each. */
  readonly deviations: readonly string[]
  /** Only of what belongs to a run: that has ended and left it; `null` where it cannot be seen from here. */
  readonly abandoned?: boolean | null
}

/** A step as its record knows it. */
export type UnfinishedStatus = UnfinishedStep & Pick<AssignmentStatus, 'alive' | 'stale'>

/** What the journal has: assignments, and files in their place that are none. */
export interface JournalStatus {
  readonly assignments: readonly AssignmentStatus[]
  /** Resets by a method and changes of virtual functions that are being made, or that a crash ended; only where there are any. */
  readonly unfinished?: readonly UnfinishedStatus[]
  readonly bad: readonly BadRecord[]
}

/** What is assigned by whom, and what was left half done. */
export async function status(
  options: { readonly journal?: string | undefined } = {},
): Promise<JournalStatus> {
  const { records, bad } = journalIn(options.journal).read()
  const steps = unfinishedIn(options.journal).read()
  const boot = bootId()
  const ofProgram = (record: JournalRecord | UnfinishedStep) => ({
    alive: record.bootId === boot && isAlive(record),
    stale: record.bootId !== boot,
  })
  const unfinished = steps.records.map((record) => ({ ...record, ...ofProgram(record) }))
  const assignments = records.map((record) => ({
    ...record,
    ...ofProgram(record),
    ...(record.run && { abandoned: isAbandoned(record) }),
    deviations: record.state === 'assigned' && record.bootId === boot ? deviations(record) : [],
  }))
  return {
    assignments,
    ...(unfinished.length > 0 && { unfinished }),
    bad: [...bad, ...steps.bad],
  }
}

function deviations({ devices, sysfs }: JournalRecord): string[] {
  return devices.flatMap(({ address, driver }) => {
    const now = linkName(`${directoryOf(sysfs, address)}/driver`)
    return now === driver
      ? []
      : [
          `${address} should be bound to ${driver}, and ${now === null ? 'has no driver' : `is bound to ${now}`}`,
        ]
  })
}

/** What a recovery did. */
export interface RecoveryReport {
  /** Devices whose half-done assignment or release was undone, so that the host has them back, or whose step was put in order. */
  readonly recovered: readonly string[]
  /** Devices of records from before the last boot, which are gone now. */
  readonly stale: readonly string[]
  /** Records that another program works on at this moment, or that still wait for the kernel: a warning tells which. */
  readonly busy: readonly string[]
  readonly bad: readonly BadRecord[]
  /** What did not go as it should and kept nothing from being given back. */
  readonly warnings: readonly string[]
  /** Devices whose grants stay, since they could not be revoked: a warning tells why. Only where there are any. */
  readonly granted?: readonly string[]
}

export interface RecoverOptions extends ReleaseOptions {
  /** Only what has to do with these addresses. */
  readonly only?: readonly string[] | undefined
  /** Ends what a `vfio run` that has ended has left running, before its devices are taken back. */
  readonly kill?: boolean | undefined
  /** How long another program that is at the same may take, in milliseconds; default: it is left alone. */
  readonly patience?: number | undefined
}

/**
 * Puts in order what a crash left half done: such devices go back to the host as they were. What is assigned stays, unless it was assigned for a command whose `vfio run`
 * has ended.
 * @throws VfioError `ERR_VFIO_NOT_RESTORED` with all that could not be put back
 */
export async function recover(options: RecoverOptions = {}): Promise<RecoveryReport> {
  const journal = journalIn(options.journal)
  const steps = unfinishedIn(options.journal)
  const assignments = journal.read()
  const unfinished = steps.read()
  const report = new Report([...assignments.bad, ...unfinished.bad])
  const known = [
    ...assignments.records.flatMap(({ devices }) => devices.map(({ address }) => address)),
    ...unfinished.records.map(({ address }) => address),
  ]
  const wanted = options.only?.flatMap((text) => expandName(text, () => known))
  const isWanted = ({ devices }: JournalRecord) =>
    wanted === undefined || devices.some(({ address }) => wanted.includes(address))
  for (const known of assignments.records.filter(isWanted)) {
    options.signal?.throwIfAborted()
    await report.attempt(() => recoverAssignment(journal, known, report, options))
  }
  for (const known of unfinished.records) {
    if (wanted !== undefined && !wanted.includes(known.address)) continue
    options.signal?.throwIfAborted()
    await report.attempt(() => finishStep(steps, known, report, options))
  }
  await report.attempt(async () => journal.sweep())
  await report.attempt(async () => steps.sweep())
  return report.done()
}

/** What a recovery has done so far. */
class Report {
  readonly recovered: string[] = []
  readonly stale: string[] = []
  readonly busy: string[] = []
  readonly granted: string[] = []
  readonly warnings: string[] = []
  readonly failures: string[] = []
  readonly #bad: readonly BadRecord[]

  constructor(bad: readonly BadRecord[]) {
    this.#bad = bad
  }

  /** Another program has it locked, or the lock cannot be asked for. */
  isLocked(id: string, error: VfioError): void {
    if (error.code !== 'ERR_VFIO_LOCKED') this.failures.push(error.message)
    else this.#leave(id, error.message)
  }

  /** Is somebody else perhaps at it, behind a lock that is not seen from here? */
  isElsewhere(id: string, record: JournalRecord | UnfinishedStep, lock: GroupLock): boolean {
    if (!isElsewhere(record, lock)) return false
    this.#leave(
      id,
      `${record.program} (pid ${record.pid}) locks its groups in another sysfs, and may still be at it: run "vfio recover" where it ran`,
    )
    return true
  }

  /** A program in another namespace of processes may still have it. */
  isHidden({ id, run }: JournalRecord): void {
    this.#leave(
      id,
      `"vfio run" (pid ${run?.pid}) is not to be seen from here, and may still have it: run "vfio recover" where it ran`,
    )
  }

  /** A failure of one record does not stop the others. */
  async attempt(work: () => Promise<void>): Promise<void> {
    try {
      await work()
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error)
      if (!this.failures.includes(message)) this.failures.push(message)
    }
  }

  #leave(id: string, why: string): void {
    this.busy.push(id)
    this.warnings.push(`${id} is left alone: ${why}`)
  }

  done(): RecoveryReport {
    if (this.failures.length > 0) {
      throw new VfioError(
        'ERR_VFIO_NOT_RESTORED',
        `not everything could be given back: ${[...this.failures, ...this.warnings].join('; ')} ("vfio recover --rescan" lets the kernel find a device anew)`,
      )
    }
    const { recovered, stale, busy, warnings } = this
    return { recovered, stale, busy, bad: this.#bad, warnings, ...stillGranted(this.granted) }
  }
}

async function recoverAssignment(
  journal: Journal,
  known: JournalRecord,
  report: Report,
  options: RecoverOptions,
): Promise<void> {
  const { id } = known
  if (options.kill && known.run?.leader && isAbandoned(known) === true) await endGroup(known.run.leader)
  const lock = await lockOr(known.sysfs, known.devices, options.patience)
  if (lock instanceof VfioError) {
    if (known.state !== 'assigned' || isAbandoned(known) === true) report.isLocked(id, lock)
    return
  }
  using _held = lock
  // Read again under the lock: its program may have ended in good order meanwhile.
  const record = journal.read().records.find((one) => one.id === id)
  if (!record) return
  const abandoned = isAbandoned(record)
  if (record.state === 'assigned' && record.bootId === bootId() && abandoned !== true) {
    // A run that cannot be seen may be there still.
    if (abandoned === null) report.isHidden(record)
    return
  }
  try {
    // It may be another assignment by now, or know more groups.
    lock.add(record.devices.map(lockOf))
  } catch (error) {
    if (!(error instanceof VfioError)) throw error
    report.isLocked(id, error)
    return
  }
  const addresses = record.devices.map(({ address }) => address)
  using changes = new Changes(record.sysfs, options, lock)
  if (record.bootId !== bootId()) {
    await journal.remove(id)
    changes.done('removed the record of an earlier boot')
    report.stale.push(...addresses)
    return
  }
  if (report.isElsewhere(id, record, lock)) return
  const open = abandoned ? stillOpen(changes, record) : []
  if (open.length > 0) {
    report.failures.push(...open)
    return
  }
  if (record.run?.keeps && record.state === 'assigned') {
    await leaveKept(record, changes, options.journal)
    report.recovered.push(...addresses)
    return
  }
  const grants = await revokeGrants(changes, record, options.journal)
  report.warnings.push(...grants.warnings)
  report.granted.push(...grants.left)
  const onGone = (address: string) =>
    report.warnings.push(`${address} is gone from the host, and there is nothing to give back`)
  const left = await restore(changes, record, abandoned ? { ...options, onGone } : options)
  await settle(journal, changes, record, left)
  report.failures.push(...left)
  if (left.length === 0) report.recovered.push(...addresses)
}

/** What a run has started may have outlived it, and nothing can be taken from that: who it is, a sentence each. */
function stillOpen(changes: Changes, { devices, run }: JournalRecord): string[] {
  const leader = run?.leader && isAlive(run.leader) ? run.leader : null
  return devices.flatMap((device) => {
    if (!changes.isWithVfio(device.address)) return []
    try {
      changes.refuseOpen(device)
      return []
    } catch (error) {
      if ((error as VfioError).code !== 'ERR_VFIO_IN_USE') throw error
      const how = leader
        ? `${run?.command} (pid ${leader.pid}) has outlived its "vfio run": "vfio recover --kill" ends it`
        : 'end that, and then "vfio recover"'
      return [`${(error as Error).message.replace(/; close it there first$/, '')}; ${how}`]
    }
  })
}

/** Recovers a device whose step a crash has ended. */
async function finishStep(
  steps: Records<UnfinishedStep>,
  known: UnfinishedStep,
  report: Report,
  options: ReleaseOptions,
): Promise<void> {
  const { address } = known
  const lock = await lockOr(known.sysfs, [known])
  if (lock instanceof VfioError) {
    report.isLocked(address, lock)
    return
  }
  using _held = lock
  const step = steps.read().records.find((one) => one.address === address)
  if (!step) return
  using changes = new Changes(step.sysfs, options, lock)
  if (step.bootId !== bootId()) {
    await steps.remove(address)
    changes.done('removed the record of an earlier boot')
    report.stale.push(address)
    return
  }
  if (report.isElsewhere(address, step, lock)) return
  if (step.step === 'vfs') await putVfsInOrder(changes, step)
  else if (step.step === 'rescan') await putBack(changes, step)
  else if (step.step !== 'reset-method') await putMdevInOrder(changes, step)
  else if (exists(changes.device(address))) await putMethodsBack(changes, step)
  await steps.remove(address)
  changes.done('removed the record')
  report.recovered.push(address)
}

/** How long the last call of an ended program may take to return, in milliseconds: no event tells of it. */
const ENDING = 1000

async function lockOr(
  sysfs: string,
  devices: readonly { readonly address: string; readonly group: number | null }[],
  patience?: number,
): Promise<GroupLock | VfioError> {
  const isBrief = ({ isLeft }: { readonly isLeft: boolean }) => isLeft || patience !== undefined
  try {
    return await lockGroupsWithin(patience ?? ENDING, sysfs, devices.map(lockOf), isBrief)
  } catch (error) {
    if (error instanceof VfioError) return error
    throw error
  }
}
