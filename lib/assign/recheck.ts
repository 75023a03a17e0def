import type { Changes } from '../change/changes.js'
import type { FormerState } from '../change/former.js'
import { VfioError } from '../errors.js'
import { isAddress } from '../sysfs/address.js'
import type { HostPaths } from '../sysfs/facts.js'
import { exists, listNames } from '../sysfs/files.js'
import { Host, hostOf } from '../sysfs/host.js'
import { identityOf, type Plan, planAssignment } from './plan.js'
import type { Step } from './steps.js'

/**
 * Compares a plan with the host as it is now, under the lock: a plan is carried out as it is or not at all.
 * @throws VfioError `ERR_VFIO_HOST_CHANGED` with what is different, or the code of what blocks now
 */
export async function refuseChanged(plan: Plan, changes: Changes): Promise<void> {
  const overrides = await refuseMoved(plan, changes)
  refuseNewcomers(plan)
  refuseJudgedAnew(plan, overrides)
}

const changed = (what: string) => new VfioError('ERR_VFIO_HOST_CHANGED', `${what}: plan again`)

/** Reads attributes that wait for the device lock, so this comes before the look at everything else. */
async function refuseMoved(plan: Plan, changes: Changes): Promise<ReadonlyMap<string, string | null>> {
  const what = (state: FormerState) =>
    `driver ${state.driver ?? 'none'}, override ${state.override ?? 'none'}`
  for (const { address, driver, override } of plan.basis) {
    if (!exists(changes.device(address)))
      throw changed(`${address} is gone from the host since the plan was made`)
    const now = await changes.state(address)
    if (now.driver === driver && now.override === override) continue
    throw changed(
      `${address} is no longer as it was when the plan was made (${what({ driver, override })}; now ${what(now)})`,
    )
  }
  return new Map(plan.basis.map(({ address, override }) => [address, override]))
}

function refuseNewcomers(plan: Plan): void {
  const known = new Set(plan.basis.map(({ address }) => address))
  for (const group of new Set(plan.devices.map((device) => device.group))) {
    if (group === null) continue
    const names = listNames(`${plan.paths.sysfs}/kernel/iommu_groups/${group}/devices`)
    const other = names.find((name) => isAddress(name) && !known.has(name))
    if (other !== undefined) throw changed(`${other} has come to group ${group} since the plan was made`)
  }
}

/** Everything else that a plan depends on: uses, ids, resets, drivers. */
function refuseJudgedAnew(plan: Plan, overrides: ReadonlyMap<string, string | null>): void {
  const { addresses, options } = plan
  const seen = hostFor(plan.paths).look({
    again: true,
    ...(options.ids ? { overrides: null } : { around: addresses, overrides }),
  })
  for (const { address, ids } of plan.basis) {
    const found = identityOf(seen, address) ?? 'nothing'
    if (found !== ids) throw changed(`${address} was ${ids} when the plan was made, and is ${found} now`)
  }
  const again = planAssignment(seen, addresses, options)
  const [blocker] = again.blockers
  if (blocker) {
    throw new VfioError(
      blocker.code,
      `since the plan was made this has come up: ${again.blockers.map(({ reason }) => reason).join('; ')}`,
    )
  }
  const grabbed = new Set(plan.grabbed.map(({ address }) => address))
  const other = again.grabbed.find(({ address }) => !grabbed.has(address))
  if (other) throw changed(`${other.address} would be taken along by its ids since the plan was made`)
  // A driver that was loaded meanwhile needs no loading any more, and loading it again does nothing.
  const text = ({ action, path, value }: Step) => `${action} ${value} ${path}`
  const isLoad = ({ action }: Step) => action === 'load'
  const planned = new Set(plan.steps.map(text))
  const wanted = new Set(again.steps.map(text))
  const missing = again.steps.find((step) => !planned.has(text(step)))
  const needless = plan.steps.find((step) => !isLoad(step) && !wanted.has(text(step)))
  const different = missing ?? needless
  if (!different) return
  const how = missing ? 'would be needed now as well' : 'would not be done any more'
  throw changed(`the host has changed since the plan was made: ${text(different)} ${how} (${different.why})`)
}

/** The host that a plan is for. */
export const hostFor = (paths: HostPaths): Host => hostOf(paths) ?? new Host(placesOf(paths))

/** The trees that a plan was made from. */
function placesOf({ sysfs, dev, proc, run, modules }: HostPaths) {
  return {
    sysfs,
    // Names decide nothing.
    pciIds: '/dev/null',
    ...(dev !== null && { dev }),
    ...(proc !== null && { proc }),
    ...(run !== null && { run }),
    ...(modules !== null && { modules }),
  }
}
