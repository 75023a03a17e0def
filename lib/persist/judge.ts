import { assessUses, type HostUse } from '../assess/uses.js'
import { type Blocker, type PlannedDevice, planAssignment } from '../assign/plan.js'
import { isByOwnDriver, isWithVfio, type PciDevice } from '../sysfs/devices.js'
import type { Snapshot } from '../sysfs/snapshot.js'

/** Kinds of use that `--force` may name; what VFIO itself has open is never in the way of the next boot. */
const FORCEABLE = [
  'mount',
  'swap',
  'holder',
  'network',
  'display',
  'other',
] as const satisfies readonly HostUse['kind'][]

export interface PersistJudgement {
  /** What would be bound. */
  readonly devices: readonly PlannedDevice[]
  readonly blockers: readonly Blocker[]
  readonly warnings: readonly string[]
}

interface JudgeOptions {
  readonly force: readonly HostUse['kind'][]
  /** Take every device of the groups along. */
  readonly group: boolean
  /** Devices without an IOMMU too. */
  readonly noIommu: boolean
  /** Other devices that would be bound along, since they have the same ids. */
  readonly grabbed: readonly { readonly device: PciDevice; readonly ids: string }[]
}

/**
 * Judges devices that are to be bound at every boot as an assignment of them would be, and by what the host does with
 * them now: at the next boot it would have to do without.
 */
export function judgePersistence(
  seen: Snapshot,
  addresses: readonly string[],
  { force, group, noIommu, grabbed }: JudgeOptions,
): PersistJudgement {
  // Uses are judged here, since nothing is taken from anybody before the next boot.
  const plan = planAssignment(seen, addresses, { force: FORCEABLE, group, noIommu, reset: 'none' })
  const blockers = plan.blockers.filter(({ code }) => code !== 'ERR_VFIO_IN_USE')
  for (const { address } of plan.devices) {
    const device = seen.has(address) ? seen.device(address) : null
    if (device && isByOwnDriver(device))
      blockers.push({ address, code: 'ERR_VFIO_NOT_VIABLE', reason: howOwnLasts(device) })
  }
  const warnings: string[] = []
  const judge = (use: HostUse, what: string, way: string) => {
    if (use.kind === 'vfio') return
    // What is with VFIO now, the host does without already.
    if (use.severity === 'warns' || isWithVfio(seen.device(use.address))) warnings.push(what)
    else if (force.includes(use.kind))
      warnings.push(`${what}${use.unknown ? '' : `: ${LOSS[use.kind]}`}, as --force ${use.kind} accepts`)
    else {
      const reason = use.unknown
        ? `${what}; ${way}, or accept the risk with --force ${use.kind}`
        : `${what}: ${LOSS[use.kind]}; ${way}${use.vital ? '' : `, or accept that with --force ${use.kind}`}`
      blockers.push({ address: use.address, code: 'ERR_VFIO_IN_USE', reason })
    }
  }
  for (const use of plan.uses) judge(use, `${use.address}: ${use.what}`, `leave ${use.address} out`)
  for (const { device, ids } of grabbed) {
    const too = `${device.address} has the same ids (${ids}) and will be bound to vfio-pci too${device.driver === null || isWithVfio(device) ? '' : `, away from ${device.driver}`}`
    const apart = 'use --by address to tell them apart'
    const blocking = isWithVfio(device)
      ? []
      : assessUses(seen, device.address).filter(
          ({ kind, severity }) => severity === 'blocks' && kind !== 'vfio',
        )
    for (const use of blocking) judge(use, `${too}, and ${use.what}`, apart)
    if (blocking.length === 0) warnings.push(`${too}: ${apart}`)
  }
  return { devices: plan.devices, blockers, warnings }
}

/** Why what its own driver gives to VFIO is bound by nobody at boot, and what to do. */
export const howOwnLasts = ({ address, driver, vgpuType }: PciDevice) =>
  `${address} is with VFIO through its own driver ${driver}, and bound to vfio-pci at boot it would be that no more: let a service of the host make it again as it was made${vgpuType === null ? '' : ` (${vgpuType} into nvidia/current_vgpu_type of its directory)`}`

/** What the next boot would be without. */
const LOSS: Readonly<Record<HostUse['kind'], string>> = {
  mount: 'the next boot would not have that file system, and does not come up where it needs it',
  swap: 'the next boot would not have that swap space',
  holder: 'the next boot would be without it, and does not come up where it needs it',
  network: 'after the next boot the host cannot be reached that way',
  display: 'the next boot would show nothing on that screen',
  other: 'the next boot would be without it',
  vfio: '',
}
