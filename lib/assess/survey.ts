import type { PciDevice } from '../sysfs/devices.js'
import type { HostFacts } from '../sysfs/facts.js'
import type { IommuGroup } from '../sysfs/groups.js'
import type { MediatedDevice } from '../sysfs/mediated.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import { type Assessment, assessWithin } from './assessment.js'
import { judgeMediated } from './mediated.js'
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
}

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
  const viabilities = new Map(seen.groups.map(({ group }) => [group, assessViability(seen, group)]))
  const groups = seen.groups.map((group) => {
    const members = viabilities.get(group.group)?.members ?? []
    const blockers = members.filter((member) => member.blocks)
    return { ...group, viable: blockers.length === 0, blockers }
  })
  const devices = seen.devices.map((device) => {
    const viability = device.group === null ? null : (viabilities.get(device.group) ?? null)
    const { verdict, reason, toBind, reset } = assessWithin(seen, device, viability)
    return {
      address: device.address,
      group: device.group,
      vendor: device.vendor,
      device: device.device,
      subsystemVendor: device.subsystemVendor,
      subsystemDevice: device.subsystemDevice,
      class: device.class,
      revision: device.revision,
      names: device.names,
      driver: device.driver,
      headerType: device.headerType,
      verdict,
      reason,
      toBind,
      resetScope: reset.scope,
    }
  })
  const mediated = surveyMediated(seen)
  return { host: seen.host, groups, devices, ...(mediated.length > 0 && { mediated }) }
}

/** Judges the mediated devices alone. */
export const surveyMediated = (seen: Snapshot): SurveyedMediated[] =>
  seen.mediated.map((device) => {
    const { verdict, reason } = judgeMediated(seen, device)
    return { ...device, verdict, reason }
  })
