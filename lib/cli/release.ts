import { type RecoveryReport, type ReleaseOptions, recover, release, status, VfioError } from '../index.js'
import { colour, note, print, toJson, wrap } from './output.js'
import { NOT_READY } from './status.js'

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
  const report = await release(options.all ? 'all' : addresses, releaseOptions(options))
  for (const warning of report.warnings) note(`vfio: ${warning}`)
  if (options.json) print(toJson(report))
  else if (report.released.length === 0) print('Nothing is assigned.\n')
  else for (const address of report.released) print(`${address} was given back\n`)
  return 0
}

/** `vfio status`: what is assigned by whom, and what is half done. Exit status 1 where something wants `recover`. */
export async function showStatus({ journal, json = false }: GiveBackOptions): Promise<number> {
  const found = await status({ journal })
  const isUnfinished = found.assignments.some(
    ({ state, alive }) => state === 'broken' || (state !== 'assigned' && !alive),
  )
  if (json) print(toJson(found))
  else if (found.assignments.length + found.bad.length === 0) print('Nothing is assigned.\n')
  for (const { devices, state, program, pid, alive, since, stale, deviations, failures } of json
    ? []
    : found.assignments) {
    const names = devices.map(({ address, driver }) => `${address} (${driver})`).join(', ')
    const state_ = state === 'assigned' ? colour.good(state) : colour.bad(state)
    print(`${names}  ${state_}\n`)
    print(`${wrap(`by ${program}, pid ${pid}${alive ? '' : ' (ended)'}, since ${since}`, 2)}\n`)
    for (const line of [...deviations, ...failures]) print(`${wrap(line, 4, '  ! ')}\n`)
    if (stale)
      print(`${wrap('from before the last boot, which undid it: "vfio recover" removes the record', 2)}\n`)
  }
  for (const { path, reason } of found.bad)
    note(`vfio: ${path} is not a record of vfio (${reason}): look at it and remove it`)
  return isUnfinished ? NOT_READY : 0
}

/** `vfio recover`: puts in order what a crash left half done. */
export async function putInOrder(options: GiveBackOptions): Promise<number> {
  const report = await recover(releaseOptions(options))
  print(options.json ? toJson(report) : renderRecovery(report))
  for (const { path, reason } of report.bad)
    note(`vfio: ${path} is not a record of vfio (${reason}): look at it and remove it`)
  return report.bad.length > 0 ? NOT_READY : 0
}

function renderRecovery({ recovered, stale, busy }: RecoveryReport): string {
  const lines = [
    ...recovered.map((address) => `${address} was given back as it was before`),
    ...stale.map((address) => `${address}: removed a record from before the last boot`),
    ...busy.map((address) => `${address}: left alone, since a program works on it at this moment`),
  ]
  return `${lines.join('\n') || 'Nothing was left half done.'}\n`
}
