import {
  type AssignmentStatus,
  type JournalStatus,
  type ManagedRun,
  status as statusOfJournal,
} from '../index.js'
import { NOT_READY } from './exit.js'
import { type Declare, journal, json, run } from './options.js'
import { answer, colour, note, wrap } from './output.js'
import { badRecord, NOTHING_ASSIGNED } from './words.js'

interface StatusOptions {
  readonly journal?: string
  readonly json?: boolean
}

/** `vfio status`: what is assigned by whom, and what is half done. Exit status 1 where something wants `recover`, or a look. */
export const status: Declare = (vfio) => {
  vfio
    .command('status')
    .description('what is assigned by whom, and what is half done')
    .addOption(journal())
    .addOption(json())
    .action(run(act))
}

async function act({ journal, json = false }: StatusOptions): Promise<number> {
  const found = await statusOfJournal({ journal })
  const wantsRecover =
    found.assignments.some(
      ({ state, alive, abandoned }) =>
        state === 'broken' || abandoned === true || (state !== 'assigned' && alive !== true),
    ) || (found.unfinished ?? []).some(({ alive }) => alive !== true)
  answer(found, json, render)
  for (const record of found.bad) note(badRecord(record))
  return wantsRecover || found.bad.length > 0 ? NOT_READY : 0
}

function render({ assignments, unfinished = [], bad }: JournalStatus): string {
  if (assignments.length + unfinished.length + bad.length === 0) return NOTHING_ASSIGNED
  const lines: string[] = []
  for (const record of assignments) {
    const { devices, state, program, pid, alive, since, stale, deviations, failures, run, abandoned } = record
    const names = devices.map(({ address, driver }) => `${address} (${driver})`).join(', ')
    lines.push(`${names}  ${state === 'assigned' ? colour.good(state) : colour.bad(state)}`)
    lines.push(byWhom({ program, pid, alive, since }))
    if (run) lines.push(wrap(forWhat(run, abandoned === true), 2))
    for (const line of [...deviations, ...failures]) lines.push(wrap(line, 4, '  ! '))
    if (stale) lines.push(STALE)
  }
  for (const { address, step, program, pid, alive, since, stale } of unfinished) {
    lines.push(`${address}  ${colour.bad(`${STEPS[step]}, half done`)}`)
    lines.push(byWhom({ program, pid, alive, since }), ...(stale ? [STALE] : []))
  }
  return lines.map((line) => `${line}\n`).join('')
}

/** Who gives it back by itself, and whether that still can be. */
function forWhat({ command, leader }: ManagedRun, isLeft: boolean): string {
  const what = `for ${command}${leader ? ` (pid ${leader.pid})` : ''}`
  return isLeft
    ? `${what}, and left by it: "vfio recover" gives it back`
    : `${what}, and given back when that ends`
}

const STEPS = {
  'reset-method': 'a reset by one method',
  vfs: 'a change of its virtual functions',
  rescan: 'a removal, after which it is to be found anew',
  'mdev-create': 'the creation of a mediated device',
  'mdev-remove': 'the removal of a mediated device',
} as const

const STALE = wrap('from before the last boot, which undid it: "vfio recover" removes the record', 2)

function byWhom({
  program,
  pid,
  alive,
  since,
}: Pick<AssignmentStatus, 'program' | 'pid' | 'alive' | 'since'>): string {
  const how = alive === null ? ' (not to be seen from here)' : alive ? '' : ' (ended)'
  return wrap(`by ${program}, pid ${pid}${how}, since ${since}`, 2)
}
