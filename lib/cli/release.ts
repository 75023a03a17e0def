import {
  type JournalStatus,
  type RecoveryReport,
  type ReleaseOptions,
  recover,
  release,
  status,
  VfioError,
} from '../index.js'
import { answer, colour, note, wrap } from './output.js'
import { stoppable } from './signals.js'
import { NOT_READY } from './status.js'

const NOTHING_ASSIGNED = 'Nothing is assigned.\n'

export interface GiveBackOptions {
  readonly all?: boolean
  readonly rescan?: boolean
  readonly timeout?: number
  readonly journal?: string
  readonly json?: boolean
}

const releaseOptions = ({ rescan, timeout, journal }: GiveBackOptions): ReleaseOptions => ({
  rescan,
  journal,
  deadline: timeout === undefined ? undefined : timeout * 1000,
})

/** `vfio release`: gives devices back to the host, as they were. */
export async function giveBack(addresses: readonly string[], options: GiveBackOptions): Promise<number> {
  if ((options.all === true) === addresses.length > 0) {
    throw new VfioError('ERR_VFIO_BAD_ARGUMENT', 'name the devices to release, or give --all, and not both')
  }
  return await stoppable('finishing what is being given back', async (signal) => {
    const report = await release(options.all ? 'all' : addresses, { ...releaseOptions(options), signal })
    for (const warning of report.warnings) note(`vfio: ${warning}`)
    answer(
      report,
      options.json,
      ({ released }) => released.map((address) => `${address} was given back\n`).join('') || NOTHING_ASSIGNED,
    )
    return 0
  })
}

/** `vfio status`: what is assigned by whom, and what is half done. Exit status 1 where something wants `recover`. */
export async function showStatus({ journal, json = false }: GiveBackOptions): Promise<number> {
  const found = await status({ journal })
  const isUnfinished = found.assignments.some(
    ({ state, alive }) => state === 'broken' || (state !== 'assigned' && alive !== true),
  )
  answer(found, json, renderStatus)
  for (const { path, reason } of found.bad)
    note(`vfio: ${path} is not a record of vfio (${reason}): look at it and remove it`)
  return isUnfinished ? NOT_READY : 0
}

function renderStatus({ assignments, bad }: JournalStatus): string {
  if (assignments.length + bad.length === 0) return NOTHING_ASSIGNED
  const lines: string[] = []
  for (const { devices, state, program, pid, alive, since, stale, deviations, failures } of assignments) {
    const names = devices.map(({ address, driver }) => `${address} (${driver})`).join(', ')
    lines.push(`${names}  ${state === 'assigned' ? colour.good(state) : colour.bad(state)}`)
    const how = alive === null ? ' (not to be seen from here)' : alive ? '' : ' (ended)'
    lines.push(wrap(`by ${program}, pid ${pid}${how}, since ${since}`, 2))
    for (const line of [...deviations, ...failures]) lines.push(wrap(line, 4, '  ! '))
    if (stale)
      lines.push(wrap('from before the last boot, which undid it: "vfio recover" removes the record', 2))
  }
  return lines.map((line) => `${line}\n`).join('')
}

/** `vfio recover`: puts in order what a crash left half done. */
export async function putInOrder(options: GiveBackOptions): Promise<number> {
  return await stoppable('finishing what is being put in order', async (signal) => {
    const report = await recover({ ...releaseOptions(options), signal })
    answer(report, options.json, renderRecovery)
    for (const warning of report.warnings) note(`vfio: ${warning}`)
    for (const { path, reason } of report.bad)
      note(`vfio: ${path} is not a record of vfio (${reason}): look at it and remove it`)
    return report.bad.length + report.busy.length > 0 ? NOT_READY : 0
  })
}

function renderRecovery({ recovered, stale, busy }: RecoveryReport): string {
  const lines = [
    ...recovered.map((address) => `${address} was given back as it was before`),
    ...stale.map((address) => `${address}: removed a record from before the last boot`),
    ...busy.map((address) => `${address}: left alone, since a program works on it at this moment`),
  ]
  return `${lines.join('\n') || 'Nothing was left half done.'}\n`
}
