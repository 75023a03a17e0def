import type { Growing } from '../growing.js'
import type { PciDevice } from '../sysfs/devices.js'
import type { HostFacts } from '../sysfs/facts.js'
import type { IommuGroup } from '../sysfs/groups.js'
import type { MediatedDevice } from '../sysfs/mediated.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import { type Assessment, assessWithin } from './assessment.js'
import { judgeMediated } from './mediated.js'
import { isHotOnceBound, resetScope } from './reset.js'
import { assessUses, type HostUse } from './uses.js'
import { assessViability, type Viability } from './viability.js'

/** A group with what the kernel would say of it. */
export interface SurveyedGroup extends IommuGroup {
  readonly viable: boolean
  /** The members that keep it from being viable. */
  readonly blockers: Viability['members']
}

/** What names a device in an overview. */
type Named = Pick<
  PciDevice,
  | 'address'
  | 'group'
  | 'vendor'
  | 'device'
  | 'subsystemVendor'
  | 'subsystemDevice'
  | 'ids'
  | 'subsystemIds'
  | 'class'
  | 'revision'
  | 'names'
> &
  Pick<PciDevice, 'driver' | 'headerType'>

/** A device with its verdict; everything else about it is in the snapshot, and the whole assessment in `assess`. */
export interface SurveyedDevice extends Named {
  readonly verdict: Assessment['verdict']
  readonly reason: string
  readonly toBind: readonly string[]
  readonly resetScope: Assessment['reset']['scope']
  /** Where that would be another once all of its group that can be is bound to VFIO. */
  readonly resetOnceBound?: 'hot'
  /** What on the host would lose it or what has to come along; only where the snapshot has looked at uses. */
  readonly uses?: readonly HostUse[]
}

const NONE: readonly never[] = Object.freeze([])

/** A mediated device with its verdict. */
export interface SurveyedMediated extends MediatedDevice {
  readonly verdict: Assessment['verdict']
  readonly reason: string
}

/** A whole host, seen and judged. */
export interface Survey {
  readonly host: HostFacts
  readonly groups: readonly SurveyedGroup[]
  readonly devices: readonly SurveyedDevice[]
  /** Only where there are any. */
  readonly mediated?: readonly SurveyedMediated[]
}

/** Judges everything on a host in one go. */
export function survey(seen: Snapshot): Survey {
  const groups = seen.groups.map((group) => surveyGroup(seen, group))
  const devices = seen.devices.map((device) => surveyDevice(seen, device))
  const mediated = surveyMediated(seen)
  return { host: seen.host, groups, devices, ...(mediated.length > 0 && { mediated }) }
}

/** Judges one group of a snapshot, as {@link survey} does: for who handles one after the other and keeps none. */
export function surveyGroup(seen: Snapshot, group: IommuGroup): SurveyedGroup {
  const viability = assessViability(seen, group.group)
  const blockers = viability.viable ? NONE : viability.members.filter((member) => member.blocks)
  const surveyed: Growing<SurveyedGroup> = {
    group: group.group,
    type: group.type,
    noIommu: group.noIommu,
    members: group.members,
    others: group.others,
    reservedRegions: group.reservedRegions,
    viable: blockers.length === 0,
    blockers,
  }
  if (group.emulated) surveyed.emulated = true
  return surveyed
}

/** Judges one device of a snapshot, as {@link survey} does: for who handles one after the other and keeps none. */
export function surveyDevice(seen: Snapshot, device: PciDevice): SurveyedDevice {
  const viability = device.group === null ? null : assessViability(seen, device.group)
  const { verdict, reason, toBind } = assessWithin(seen, device, viability)
  const scope = resetScope(seen, device)
  const surveyed: Growing<SurveyedDevice> = {
    address: device.address,
    group: device.group,
    vendor: device.vendor,
    device: device.device,
    subsystemVendor: device.subsystemVendor,
    subsystemDevice: device.subsystemDevice,
    ids: device.ids,
    subsystemIds: device.subsystemIds,
    class: device.class,
    revision: device.revision,
    names: device.names,
    driver: device.driver,
    headerType: device.headerType,
    verdict,
    reason,
    toBind,
    resetScope: scope,
  }
  // For thousands of devices a spread of what is nearly always nothing is dear.
  if (verdict === 'bindable' && scope === 'none' && isHotOnceBound(seen, device)) {
    surveyed.resetOnceBound = 'hot'
  }
  if (seen.use.looked) surveyed.uses = usesOf(seen, device, toBind)
  return surveyed
}

/** Of a device and of what comes along with it. */
function usesOf(seen: Snapshot, { address }: PciDevice, toBind: readonly string[]): HostUse[] {
  const uses = assessUses(seen, address)
  for (const other of toBind) if (other !== address) uses.push(...assessUses(seen, other))
  return uses
}

/** Judges the mediated devices alone. */
export const surveyMediated = (seen: Snapshot): SurveyedMediated[] =>
  seen.mediated.map((device) => {
    const { verdict, reason } = judgeMediated(seen, device)
    return { ...device, verdict, reason }
  })
