import type { PciDevice } from '../sysfs/devices.js'
import type { HostFacts } from '../sysfs/facts.js'
import type { IommuGroup } from '../sysfs/groups.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import { type Assessment, assessWithin } from './assessment.js'
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
}

/** A whole host, seen and judged. */
export interface Survey {
  readonly host: HostFacts
  readonly groups: readonly SurveyedGroup[]
  readonly devices: readonly SurveyedDevice[]
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
      resetScope: reset.scope,
    }
  })
  return { host: seen.host, groups, devices }
}
