import { refusalOf } from '../assess/refusals.js'
import { assessUses } from '../assess/uses.js'
import { type ChangeOptions, Changes } from '../change/changes.js'
import { type GroupLock, lockGroupsWithin, lockOf } from '../change/group-lock.js'
import { begun, refuseUnfinished, type UnfinishedMdev, unfinishedIn } from '../change/unfinished.js'
import { VfioError, VfioSystemError } from '../errors.js'
import { directoryOf } from '../sysfs/address.js'
import { exists, linkName } from '../sysfs/files.js'
import { hostOf, NONE } from '../sysfs/host.js'
import type { MediatedDevice } from '../sysfs/mediated.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import { type MdevOptions, planMdev } from './plan.js'

export interface CreateMdevOptions extends MdevOptions, ChangeOptions {
  /** Directory of the journal; default `/run/vfio`. */
  readonly journal?: string | undefined
}

export interface RemoveMdevOptions extends ChangeOptions {
  /** Directory of the journal; default `/run/vfio`. */
  readonly journal?: string | undefined
}

/** A mediated device as it was made. */
export interface CreatedMdev {
  readonly uuid: string
  readonly type: string
  readonly parent: string
  /** Its IOMMU group; `null` where it is in none. */
  readonly group: number | null
  /** The driver that has it; `null` where none does yet: "vfio bind" gives it to VFIO then. */
  readonly driver: string | null
}

export interface RemovedMdev {
  readonly uuid: string
  readonly type: string | null
  readonly parent: string | null
}

/** How long others may take who change the same parent, in milliseconds. */
const BRIEF = 5000

/**
 * Makes a mediated device, recorded so that `recover` takes away what a crash left before this could tell of it.
 * @throws VfioError as {@link planMdev}; `ERR_VFIO_NO_MDEV` without room for it, `ERR_VFIO_IN_USE` where there is one of that
 * UUID: before anything is changed; `ERR_VFIO_LOCKED`; `ERR_VFIO_BAD_JOURNAL`; `ERR_VFIO_TIMEOUT`
 * @throws VfioSystemError where the kernel refuses
 */
export async function createMdev(
  seen: Snapshot,
  type: string,
  parent: string,
  options: CreateMdevOptions = {},
): Promise<CreatedMdev> {
  const plan = planMdev(seen, type, parent, options)
  const [blocker] = plan.blockers
  if (blocker) throw new VfioError(blocker.code, plan.blockers.map(({ reason }) => reason).join('; '))
  const { sysfs } = seen.host.paths
  const { uuid } = plan
  const records = unfinishedIn(options.journal)
  using lock = await lockAll(seen, { uuid, parent: plan.parent, function: plan.function, group: null })
  refuseUnfinished(records, uuid)
  const directory = directoryOf(sysfs, uuid)
  if (exists(directory)) {
    throw new VfioError(
      'ERR_VFIO_HOST_CHANGED',
      `a mediated device ${uuid} was made just now by somebody else`,
    )
  }
  using changes = new Changes(sysfs, options, lock)
  await records.write(stepOf(sysfs, uuid, null, lock, 'mdev-create'))
  changes.done(`recorded the creation of ${uuid}`)
  try {
    await changes.write(plan.path, uuid)
  } catch (error) {
    // What the kernel has not answered may still come to be, or has: then recover has to know of it.
    if (error instanceof VfioSystemError || !(isLate(error) || exists(directory))) await records.remove(uuid)
    throw error
  }
  if (!exists(directory)) {
    await records.remove(uuid)
    throw new VfioError(
      'ERR_VFIO_NO_MDEV',
      `the kernel took the UUID, and yet there is no mediated device ${uuid}: the kernel's log says why ${plan.parent} made none`,
    )
  }
  const created = { uuid, type: plan.type, parent: plan.parent, ...placeOf(directory) }
  await records.remove(uuid)
  changes.done('removed the record')
  return created
}

/**
 * Ends a mediated device for good. One that is open is refused, since the kernel would wait for its last close.
 * @throws VfioError `ERR_VFIO_BAD_ADDRESS`, `ERR_VFIO_NO_DEVICE`; `ERR_VFIO_IN_USE` where it is open or that cannot be
 * told; `ERR_VFIO_LOCKED`; `ERR_VFIO_BAD_JOURNAL`; `ERR_VFIO_TIMEOUT`
 * @throws VfioSystemError where the kernel refuses
 */
export async function removeMdev(
  seen: Snapshot,
  uuid: string,
  options: RemoveMdevOptions = {},
): Promise<RemovedMdev> {
  const device = seen.mediatedDevice(uuid)
  const name = device.uuid
  refuseUsed(seen, device)
  const { sysfs } = seen.host.paths
  const records = unfinishedIn(options.journal)
  using lock = await lockAll(seen, device)
  refuseUnfinished(records, name)
  using changes = new Changes(sysfs, options, lock)
  if (!exists(directoryOf(sysfs, name))) {
    throw new VfioError('ERR_VFIO_HOST_CHANGED', `${name} was removed just now by somebody else`)
  }
  // Since the look somebody may have opened it; whoever looks again sees those who have no group to ask by.
  const again = hostOf(seen.host.paths)?.look({ around: [name], overrides: NONE, again: true })
  if (again) refuseUsed(again, again.mediatedDevice(name))
  changes.refuseOpen({ address: name, group: device.group })
  await records.write(stepOf(sysfs, name, device.group, lock, 'mdev-remove'))
  changes.done(`recorded the removal of ${name}`)
  try {
    await changes.write(`${changes.device(name)}/remove`, '1')
  } catch (error) {
    if (!isLate(error)) await records.remove(name)
    throw error
  }
  await records.remove(name)
  changes.done('removed the record')
  return { uuid: name, type: device.type, parent: device.parent }
}

function refuseUsed(seen: Snapshot, { uuid, driver }: MediatedDevice): void {
  // Nothing is forced here: what is not known stays in the way.
  const reasons = assessUses(seen, uuid).flatMap((use) =>
    use.unknown ? use.what : (refusalOf(use, driver) ?? []),
  )
  if (reasons.length > 0) throw new VfioError('ERR_VFIO_IN_USE', reasons.join('; '))
}

const isLate = (error: unknown) => error instanceof VfioError && error.code === 'ERR_VFIO_TIMEOUT'

/**
 * Puts in order what a crash has left: a device that nobody was told of is taken away again, unless somebody has it open by
 * now. One that was to be removed stays where it is still there: what it holds would be lost.
 * @throws VfioError `ERR_VFIO_IN_USE`
 */
export async function putMdevInOrder(
  changes: Changes,
  { address, step, group }: Pick<UnfinishedMdev, 'address' | 'step' | 'group'>,
): Promise<void> {
  if (step !== 'mdev-create' || !exists(changes.device(address))) return
  changes.refuseOpen({ address, group })
  await changes.write(`${changes.device(address)}/remove`, '1')
}

const stepOf = (
  sysfs: string,
  uuid: string,
  group: number | null,
  lock: GroupLock,
  step: UnfinishedMdev['step'],
): UnfinishedMdev => ({ ...begun(sysfs, { address: uuid, group }, lock), step })

/** Keeps others from this device, and from what it is a part of: that must not be taken away meanwhile. */
function lockAll(
  seen: Snapshot,
  { uuid, parent, function: carrier, group }: Pick<MediatedDevice, 'uuid' | 'parent' | 'function' | 'group'>,
): Promise<GroupLock> {
  const subjects = [
    uuid,
    ...(group === null ? [] : [group]),
    ...(parent === null ? [] : [`parent ${parent}`]),
    ...(carrier !== null && seen.has(carrier) ? [lockOf(seen.device(carrier))] : []),
  ]
  return lockGroupsWithin(BRIEF, seen.host.paths.sysfs, subjects)
}

function placeOf(directory: string): Pick<CreatedMdev, 'group' | 'driver'> {
  const group = linkName(`${directory}/iommu_group`)
  return {
    group: group !== null && /^\d{1,9}$/.test(group) ? Number(group) : null,
    driver: linkName(`${directory}/driver`),
  }
}
