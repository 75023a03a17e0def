import { assess } from '../assess/assessment.js'
import { opensByIommufd } from '../assess/backends.js'
import { containerWarnings, guestWarnings } from '../assess/guest-fit.js'
import { lockedMemory, memoryBars } from '../assess/memlock.js'
import { isBridge } from '../assess/topology.js'
import { VfioError } from '../errors.js'
import { compareAddresses, isUuid, slotOf, splitAddress } from '../sysfs/address.js'
import type { PciDevice } from '../sysfs/devices.js'
import type { MediatedDevice } from '../sysfs/mediated.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import { printable } from '../text.js'

/** One function on its way into a guest. */
export interface ExportFunction {
  /** Of a mediated device the UUID. */
  readonly address: string
  /** Its function number in the guest, 0–7. */
  readonly function: number
}

/** What shares one slot of the guest: a single function, or those of one multifunction device. */
export interface ExportSlot {
  readonly functions: readonly ExportFunction[]
  /** What a hypervisor has to drive it as; only of a mediated device, which is not always one of PCI. */
  readonly model?: MdevModel
}

/** What hypervisors know mediated devices as (`device_api` of their types). */
export const MDEV_MODELS = ['vfio-pci', 'vfio-ccw', 'vfio-ap'] as const
export type MdevModel = (typeof MDEV_MODELS)[number]

/** Does it take a place on a bus of PCI in the guest? */
export const isOnPci = ({ model = 'vfio-pci' }: ExportSlot) => model === 'vfio-pci'

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
  const mediated = new Set<MediatedDevice>()
  for (const device of addresses.flatMap((address) => seen.named(address))) {
    if ('uuid' in device) {
      mediated.add(device)
      continue
    }
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
  return [
    ...[...slots.values()].map((members) => ({ functions: number(members) })),
    ...[...mediated].map(({ uuid, deviceApi }) => ({
      functions: [{ address: uuid, function: 0 }],
      // What nobody can drive has a blocker of its own.
      model: modelOf(deviceApi) ?? ('vfio-pci' as const),
    })),
    // What takes a place comes before what takes none.
  ].sort((a, b) => Number(!isOnPci(a)) - Number(!isOnPci(b)))
}

const modelOf = (api: string | null) => MDEV_MODELS.find((model) => model === api)

/** Why no hypervisor can drive a mediated device, a sentence each. */
function withoutModel(seen: Snapshot, addresses: readonly string[]): string[] {
  return addresses.filter(isUuid).flatMap((uuid) => {
    const { deviceApi, type } = seen.mediatedDevice(uuid)
    if (modelOf(deviceApi) !== undefined) return []
    const what = deviceApi === null ? 'does not tell' : `says "${printable(deviceApi)}"`
    return [
      `${uuid}: a hypervisor has to know how to drive it, and the device_api of its type ${printable(type ?? '')} ${what}, where ${MDEV_MODELS.join(', ')} are known`,
    ]
  })
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
  blockers.push(
    ...withoutModel(
      seen,
      all.map(({ address }) => address),
    ),
  )
  const notes = [...blockers]
  const toBind = new Set(
    assessments
      .filter((assessment) => !vital.includes(assessment))
      .flatMap((assessment) => assessment.toBind),
  )
  const addresses = slots.flatMap(({ functions }) => functions.map(({ address }) => address))
  const warnings = [
    ...containerWarnings(seen),
    ...addresses.filter((address) => !isUuid(address)).flatMap((address) => guestWarnings(seen, address)),
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
  const devices = slots
    .flatMap(({ functions }) => functions)
    .flatMap(({ address }) => (isUuid(address) ? [] : seen.device(address)))
  const { bytes, arithmetic } = lockedMemory({
    memory,
    iommufd,
    bars: memoryBars(devices),
    user: 'the same user',
  })
  return [`it needs a limit on locked memory of ${bytes} bytes: ${arithmetic}; root needs none`]
}
