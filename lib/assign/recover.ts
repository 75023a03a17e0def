import { setTimeout } from 'node:timers/promises'
import { Changes } from '../change/changes.js'
import { type GroupLock, GroupLocked, lockGroups, lockOf } from '../change/group-lock.js'
import { bootId, isAlive } from '../change/program.js'
import { VfioError } from '../errors.js'
import type { BadRecord } from '../records.js'
import { linkName } from '../sysfs/files.js'
import { type JournalRecord, journalIn } from './journal.js'
import { type ReleaseOptions, revokeGrants } from './release.js'
import { restore } from './restore.js'
import { settle } from './settle.js'

/** An assignment as the journal knows it, and as the host has it. */
export interface AssignmentStatus extends JournalRecord {
  /** The program that made it still runs; `null` where that cannot be seen from here. */
  readonly alive: boolean | null
  /** Written before the last boot, which undid everything that it speaks of. */
  readonly stale: boolean
  /** Devices that are not bound as the record says, a sentence each. */
  readonly deviations: readonly string[]
}

/** What the journal has: assignments, and files in their place that are none. */
export interface JournalStatus {
  readonly assignments: readonly AssignmentStatus[]
  readonly bad: readonly BadRecord[]
}

/** What is assigned by whom, and what was left half done. */
export async function status(
  options: { readonly journal?: string | undefined } = {},
): Promise<JournalStatus> {
  const { records, bad } = journalIn(options.journal).read()
  const boot = bootId()
  const assignments = records.map((record) => ({
    ...record,
    alive: record.bootId === boot && isAlive(record),
    stale: record.bootId !== boot,
    deviations: record.state === 'assigned' && record.bootId === boot ? deviations(record) : [],
  }))
  return { assignments, bad }
}

function deviations({ devices, sysfs }: JournalRecord): string[] {
  return devices.flatMap(({ address, driver }) => {
    const now = linkName(`${sysfs}/bus/pci/devices/${address}/driver`)
    return now === driver
      ? []
      : [
          `${address} should be bound to ${driver}, and ${now === null ? 'has no driver' : `is bound to ${now}`}`,
        ]
  })
}

/** What a recovery did. */
export interface RecoveryReport {
  /** Devices whose half-done assignment or release was undone: the host has them back. */
  readonly recovered: readonly string[]
  /** Devices of records from before the last boot, which are gone now. */
  readonly stale: readonly string[]
  /** Records that another program works on at this moment, or that still wait for the kernel: a warning tells which. */
  readonly busy: readonly string[]
  readonly bad: readonly BadRecord[]
  /** What did not go as it should and kept nothing from being given back. */
  readonly warnings: readonly string[]
}

/**
 * Puts in order what a crash left half done: such devices go back to the host as they were. What is assigned stays.
 * @throws VfioError `ERR_VFIO_NOT_RESTORED` with all that could not be put back
 */
export async function recover(options: ReleaseOptions = {}): Promise<RecoveryReport> {
  const journal = journalIn(options.journal)
  const { records, bad } = journal.read()
  const recovered: string[] = []
  const stale: string[] = []
  const busy: string[] = []
  const failures: string[] = []
  const warnings: string[] = []
  for (const known of records) {
    options.signal?.throwIfAborted()
    const { id } = known
    const lock = await lockOr(known)
    if (lock instanceof VfioError) {
      if (known.state === 'assigned') continue
      if (lock.code !== 'ERR_VFIO_LOCKED') failures.push(lock.message)
      else {
        busy.push(id)
        warnings.push(`${id} is left alone: ${lock.message}`)
      }
      continue
    }
    using _held = lock
    // Read again under the lock: its program may have ended in good order meanwhile.
    const record = journal.read().records.find((one) => one.id === id)
    if (!record || (record.state === 'assigned' && record.bootId === bootId())) continue
    using changes = new Changes(record.sysfs, options, lock)
    if (record.bootId !== bootId()) {
      await journal.remove(id)
      changes.done('removed the record of an earlier boot')
      stale.push(...record.devices.map(({ address }) => address))
      continue
    }
    if (record.lock !== undefined && record.lock !== lock.place && isAlive(record) !== false) {
      busy.push(id)
      warnings.push(
        `${id} is left alone: ${record.program} (pid ${record.pid}) locks its groups in another sysfs, and may still be at it: run "vfio recover" where it ran`,
      )
      continue
    }
    warnings.push(...(await revokeGrants(changes, record, options.journal)))
    const left = await restore(changes, record, options)
    await settle(journal, changes, record, left)
    failures.push(...left)
    if (left.length === 0) recovered.push(...record.devices.map(({ address }) => address))
  }
  journal.sweep()
  if (failures.length > 0) {
    throw new VfioError(
      'ERR_VFIO_NOT_RESTORED',
      `not everything could be given back: ${failures.join('; ')} ("vfio recover --rescan" lets the kernel find a device anew)`,
    )
  }
  return { recovered, stale, busy, bad, warnings }
}

/** How long what an ended program left in the kernel may take to end too, in milliseconds: no event tells of it. */
const ENDING = 1000

async function lockOr({ sysfs, devices }: JournalRecord): Promise<GroupLock | VfioError> {
  for (const began = performance.now(); ; ) {
    try {
      return lockGroups(sysfs, devices.map(lockOf))
    } catch (error) {
      if (!(error instanceof VfioError)) throw error
      const isEnding = error instanceof GroupLocked && error.isLeft && performance.now() - began < ENDING
      if (!isEnding) return error
    }
    await setTimeout(20)
  }
}
