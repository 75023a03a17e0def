import { isVfioDriver, type PciDevice } from '../sysfs/devices.js'
import { isKernelSince } from '../sysfs/kernel.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import { hasDeviceSpecificReset, lacksBusReset, lacksFlr, lacksPmReset } from './quirks.js'
import { isBridge, Topology } from './topology.js'

/** A function that a hot reset would hit; `group` is `null` where it is in none. */
export interface AffectedFunction {
  readonly address: string
  readonly group: number | null
}

/** How a device can be brought back to a known state through VFIO, as the host stands. */
export interface ResetCapability {
  /** Predicts `VFIO_DEVICE_FLAGS_RESET`: `methods` are those that would work, in the kernel's order. */
  readonly function: {
    readonly supported: boolean
    readonly methods: readonly string[]
    readonly reason: string
  }
  /** Predicts `VFIO_DEVICE_PCI_HOT_RESET` by the owner of this device's group, who has the device open. */
  readonly hot: {
    readonly supported: boolean
    readonly affected: readonly AffectedFunction[]
    readonly blockers: readonly { readonly address: string; readonly reason: string }[]
    readonly reason: string
  }
  /** The smallest reset there is. */
  readonly scope: 'function' | 'hot' | 'none'
}

/**
 * Judges how a device can be reset (`drivers/pci/pci.c`, `drivers/vfio/pci/vfio_pci_core.c`).
 * @throws VfioError `ERR_VFIO_BAD_ADDRESS`, `ERR_VFIO_NO_DEVICE`
 */
export function assessReset(seen: Snapshot, address: string): ResetCapability {
  const device = seen.device(address)
  const topology = Topology.of(seen)
  const ofFunction = assessFunctionReset(seen, topology, device)
  const hot = assessHotReset(topology, device)
  return {
    function: ofFunction,
    hot,
    scope: ofFunction.supported ? 'function' : hot.supported ? 'hot' : 'none',
  }
}

/** What people call the kernel's names of `reset_method`. */
const METHOD_NAMES: Record<string, string> = {
  device_specific: 'a reset of its own kind',
  acpi: 'the ACPI method _RST',
  flr: 'PCIe function-level reset',
  af_flr: 'function-level reset of the Advanced Features capability',
  pm: 'the way through D3hot',
  bus: 'a reset of the bus that it has for itself',
  cxl_bus: 'a reset of its CXL bus',
}

function assessFunctionReset(
  seen: Snapshot,
  topology: Topology,
  device: PciDevice,
): ResetCapability['function'] {
  const { address } = device
  const none = (reason: string) => ({ supported: false, methods: [], reason })
  if (!device.resettable) return none(`${address} has no way to be reset by itself: the kernel found none`)
  const obstacles: string[] = []
  const works = (method: string) => {
    const obstacle = obstacleTo(method, seen, topology, device)
    if (obstacle) obstacles.push(`${method} does not work: ${obstacle}`)
    return !obstacle
  }
  const published = device.resetMethods ?? methodsBefore515(device)
  const methods = published.filter(works)
  const [first] = methods
  if (first !== undefined) {
    const how = METHOD_NAMES[first] ?? first
    return { supported: true, methods, reason: `${address} can be reset by itself: ${how} (${first})` }
  }
  if (device.resetMethods === null && !device.capabilities.complete) {
    return {
      supported: true,
      methods: [],
      reason: `${address} can be reset by itself, at a guess: the kernel offers it, but how is readable only by root`,
    }
  }
  return none(`${address} cannot be reset by itself: ${obstacles.join('; ')}`)
}

/** What kernels before 5.15 try, in their order; the config space has to tell what they do not publish. */
function methodsBefore515(device: PciDevice): string[] {
  const { pcie, af, pm } = device.capabilities
  const methods: string[] = []
  if (hasDeviceSpecificReset(device)) methods.push('device_specific')
  if (pcie?.flr && !lacksFlr(device)) methods.push('flr')
  if (af?.flr && af.transactionsPending && !lacksFlr(device)) methods.push('af_flr')
  if (pm) methods.push('pm')
  methods.push('bus')
  return methods
}

/** Why a method that is listed would fail now; `null` where nothing speaks against it. */
function obstacleTo(method: string, seen: Snapshot, topology: Topology, device: PciDevice): string | null {
  if (method === 'pm') {
    if (lacksPmReset(device)) return 'the kernel knows that leaving D3hot resets nothing here'
    return device.capabilities.pm?.noSoftReset ? 'the device keeps its state through D3hot (NoSoftRst)' : null
  }
  return method === 'bus' ? obstacleToBusReset(seen, topology, device) : null
}

/** `pci_reset_bus_function`: through a hot-plug slot, or through a bridge with nothing else below it. */
function obstacleToBusReset(seen: Snapshot, topology: Topology, device: PciDevice): string | null {
  if (isBridge(device)) return 'it is a bridge'
  if (lacksBusReset(device)) return 'the kernel knows that a bus reset breaks it'
  const bridge = topology.bridgeOf(device)
  if (!bridge) return 'it is on a root bus, which cannot be reset'
  if (bridge.capabilities.cxlResetMasked) return `the CXL port ${bridge.address} masks bus resets`
  const neighbours = topology.onSameBus(device).filter((other) => other !== device)
  if (hasSlotReset(device) && isAloneInSlot(seen, device, neighbours)) return null
  const [neighbour] = neighbours
  return neighbour ? `it shares its bus with ${addresses(neighbours)}` : null
}

/** Hot-plug drivers that implement `reset_slot`: a reset that does not look like an unplug to them. */
const SLOT_RESETTERS = new Set(['pciehp', 'pnv_php', 's390_pci_hpc'])

const hasSlotReset = (device: PciDevice) =>
  device.slot?.driver != null && SLOT_RESETTERS.has(device.slot.driver)

const inSlotOf = (device: PciDevice) => (other: PciDevice) =>
  device.slot !== null && other.slot?.name === device.slot.name

function isAloneInSlot(seen: Snapshot, device: PciDevice, neighbours: readonly PciDevice[]): boolean {
  // Since 5.15 the kernel asks the function, before it counted what is in the slot.
  if (isKernelSince(seen.host.kernel, 5, 15)) {
    return device.sriov?.role === 'vf' || !(device.multifunction || !device.address.endsWith('.0'))
  }
  return !neighbours.some(inSlotOf(device))
}

function assessHotReset(topology: Topology, device: PciDevice): ResetCapability['hot'] {
  const { address } = device
  const none = (reason: string, affected: readonly AffectedFunction[] = []) => ({
    supported: false,
    affected,
    blockers: [],
    reason,
  })
  const bridge = topology.bridgeOf(device)
  if (!bridge) {
    return none(
      device.parent === null
        ? `${address} is on a root bus, which cannot be reset: there is no hot reset`
        : `${address} is a virtual function on a bus of its own, which cannot be reset: there is no hot reset`,
    )
  }
  const bus = topology.onSameBus(device)
  // The kernel takes the slot where it can, which spares what else is on the bus.
  const slot = hasSlotReset(device) ? bus.filter(inSlotOf(device)) : []
  const bySlot = slot.length > 0 && !findUnresettable(topology, bridge, slot)
  const hit = bySlot ? slot : bus
  const unresettable = bySlot ? null : findUnresettable(topology, bridge, bus)
  if (unresettable) {
    return none(
      `there is no hot reset of ${address}: the kernel knows that a bus reset breaks ${unresettable.address}`,
    )
  }
  const affected: AffectedFunction[] = []
  const blockers: { address: string; reason: string }[] = []
  topology.everyBelow(hit, (other) => {
    affected.push({ address: other.address, group: other.group })
    const reason = whyNotOurs(device, other)
    if (reason) blockers.push({ address: other.address, reason })
    return true
  })
  const how = bySlot ? `its slot ${device.slot?.name}` : `the bus below ${bridge.address}`
  const scope = affected.length > 1 ? ` together with ${addresses(affected, address)}` : ''
  if (blockers.length > 0) {
    return {
      supported: false,
      affected,
      blockers,
      reason: `a hot reset of ${address} goes through ${how}, where VFIO does not own everything: ${blockers.map((blocker) => blocker.reason).join('; ')}`,
    }
  }
  return { supported: true, affected, blockers, reason: `${address} can be reset${scope} through ${how}` }
}

/** `pci_bus_resettable`, `pci_slot_resettable`: one function that must not see a bus reset forbids it for all. */
function findUnresettable(
  topology: Topology,
  bridge: PciDevice,
  devices: readonly PciDevice[],
): PciDevice | null {
  if (lacksBusReset(bridge)) return bridge
  let found: PciDevice | null = null
  topology.everyBelow(devices, (device) => {
    if (lacksBusReset(device)) found = device
    return found === null
  })
  return found
}

/** Stricter than viability: every function that is hit must be bound to VFIO and in this one group. */
function whyNotOurs(device: PciDevice, other: PciDevice): string | null {
  const { address, driver, group } = other
  if (isBridge(other)) return `${address} is a bridge, which VFIO cannot own`
  if (group === null) return `${address} is in no IOMMU group`
  // The owner asks with the device open, so it is bound by then.
  if (other !== device && !isVfioDriver(driver)) {
    return `${address} is ${driver === null ? 'not bound to a driver' : `bound to ${driver}`}: bind it to vfio-pci too`
  }
  if (group !== device.group) return `${address} is in group ${group}, which its owner has to bring along`
  return null
}

/** Names a few, and counts the rest. */
function addresses(devices: readonly { readonly address: string }[], except?: string): string {
  const names = devices.map((device) => device.address).filter((name) => name !== except)
  return names.length > 4 ? `${names.slice(0, 3).join(', ')} and ${names.length - 3} more` : names.join(', ')
}
