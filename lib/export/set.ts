import { assess } from '../assess/assessment.js'
import { opensByIommufd } from '../assess/backends.js'
import { containerWarnings, guestWarnings } from '../assess/guest-fit.js'
import { lockedMemory, memoryBars } from '../assess/memlock.js'
import { isBridge } from '../assess/topology.js'
import { VfioError } from '../errors.js'
import { compareAddresses, slotOf, splitAddress } from '../sysfs/address.js'
import type { PciDevice } from '../sysfs/devices.js'
import type { Snapshot } from '../sysfs/snapshot.js'

/** One function on its way into a guest. */
export interface ExportFunction {
  readonly address: string
  /** Its function number in the guest, 0–7. */
  readonly function: number
}

/** What shares one slot of the guest: a single function, or those of one multifunction device. */
export interface ExportSlot {
  readonly functions: readonly ExportFunction[]
}

/**
 * Sorts devices into the slots of a guest: functions of one device of the host stay together, each virtual function is
 * a device of its own. With `apart` every function is, for guests that know no multifunction devices.
 * @throws VfioError `ERR_VFIO_BAD_ADDRESS`, `ERR_VFIO_NO_DEVICE`; `ERR_VFIO_BAD_ARGUMENT` for none, and for bridges
 */
export function exportSlots(
  seen: Snapshot,
  addresses: readonly string[],
  { apart = false }: { apart?: boolean } = {},
): ExportSlot[] {
  if (addresses.length === 0) {
    throw new VfioError('ERR_VFIO_BAD_ARGUMENT', 'no device is named: give at least one PCI address')
  }
  const devices = new Map<string, PciDevice>()
  for (const device of addresses.flatMap((address) => seen.devicesAt(address))) {
    if (isBridge(device)) {
      throw new VfioError(
        'ERR_VFIO_BAD_ARGUMENT',
        `${device.address} is a bridge: it stays with the host, and VFIO takes only what is below it`,
      )
    }
    devices.set(device.address, device)
  }
  const slots = new Map<string, PciDevice[]>()
  for (const address of [...devices.keys()].sort(compareAddresses)) {
    const device = devices.get(address)
    if (!device) continue
    // The numbers of virtual functions are routing ids: they say nothing of what belongs together.
    const key = apart || device.sriov?.role === 'vf' ? address : slotOf(address)
    slots.set(key, [...(slots.get(key) ?? []), device])
  }
  return [...slots.values()].map((members) => ({ functions: number(members) }))
}

/** A slot needs a function 0: where the host's own stays behind, the first of the others takes its place. */
function number(members: readonly PciDevice[]): ExportFunction[] {
  return members.map(({ address }, index) => ({
    address,
    function: index === 0 ? 0 : (splitAddress(address)?.function ?? index),
  }))
}

/** What would keep a guest with these devices from starting, a sentence each. */
export interface Obstacles {
  /** What has to happen before, `blockers` included. */
  readonly notes: readonly string[]
  /** Why no guest can have these devices, whatever is bound. */
  readonly blockers: readonly string[]
}

/**
 * What would keep a guest from starting: devices that cannot be opened, or not yet.
 * @param binds the hypervisor binds them itself
 */
export function obstacles(seen: Snapshot, slots: readonly ExportSlot[], binds = false): Obstacles {
  const all = slots.flatMap(({ functions }) => functions).map(({ address }) => assess(seen, address))
  const assessments = all.filter(({ verdict }) => verdict !== 'ready')
  const blocked = assessments.filter(({ verdict }) => verdict === 'blocked')
  const blockers = blocked.map(({ reason }) => reason)
  const unprotected = all.filter(({ noIommu }) => noIommu).map(({ address }) => address)
  // `vfio_noiommu_ops` has no mapping calls, which every hypervisor needs.
  if (unprotected.length > 0) {
    blockers.push(
      `${unprotected.join(', ')}: in the no-IOMMU mode VFIO gives no device to a VM, so this will not start`,
    )
  }
  // Where it would take what the host runs on, the reason says so, and no command is offered.
  const vital = assessments.filter(({ uses }) => uses.some((use) => use.vital))
  blockers.push(...vital.map(({ reason }) => reason).filter((reason) => !blockers.includes(reason)))
  const notes = [...blockers]
  const toBind = new Set(
    assessments
      .filter((assessment) => !vital.includes(assessment))
      .flatMap((assessment) => assessment.toBind),
  )
  const addresses = slots.flatMap(({ functions }) => functions.map(({ address }) => address))
  const warnings = [
    ...containerWarnings(seen),
    ...addresses.flatMap((address) => guestWarnings(seen, address)),
  ]
  if (toBind.size > 0 && !binds) {
    notes.push(`not bound to VFIO yet: run "vfio bind ${[...toBind].join(' ')}" before the guest starts`)
  }
  return { notes: [...notes, ...warnings], blockers }
}

/** Whether to open through `/dev/iommu`: as was asked for, else where the kernel has nothing else. */
export const byIommufd = ({ host }: Snapshot, asked: boolean | undefined): boolean =>
  asked ?? opensByIommufd(host)

/** What is wrong with that, a sentence. */
export function iommufdNotes(seen: Snapshot, iommufd: boolean): string[] {
  const { host } = seen
  const isAll = opensByIommufd(host)
  if (iommufd && host.modules.iommufd === 'missing')
    return ['this kernel has no iommufd, so devices are not opened by /dev/iommu here: leave that out']
  // It may stand in for containers (CONFIG_IOMMUFD_VFIO_CONTAINER).
  return !iommufd && isAll && host.nodes.container === null
    ? ['this kernel opens devices by /dev/iommu alone: ask for iommufd']
    : []
}

/** What the process that opens devices is charged for, a sentence; none without the guest's memory. */
export function memoryNotes(
  seen: Snapshot,
  slots: readonly ExportSlot[],
  {
    memory,
    iommufd = false,
  }: { readonly memory?: number | undefined; readonly iommufd?: boolean | undefined },
): string[] {
  if (memory === undefined) return []
  const devices = slots.flatMap(({ functions }) => functions).map(({ address }) => seen.device(address))
  const { bytes, arithmetic } = lockedMemory({
    memory,
    iommufd,
    bars: memoryBars(devices),
    user: 'the same user',
  })
  return [`it needs a limit on locked memory of ${bytes} bytes: ${arithmetic}; root needs none`]
}
