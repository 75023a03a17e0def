import { busOf } from '../sysfs/address.js'
import { isWithVfio, type PciDevice } from '../sysfs/devices.js'
import { isKernelSince } from '../sysfs/kernel.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import { whyUnreachable } from './answering.js'
import { hasDeviceSpecificReset, lacksBusReset, lacksFlr, lacksPmReset } from './quirks.js'
import { isBridge, Topology } from './topology.js'
import { unseenSentence } from './unseen.js'

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
    /** Only of a mediated device: it may have one, which is known when it is opened. */
    readonly unknown?: true
  }
  /** Predicts `VFIO_DEVICE_PCI_HOT_RESET` by the owner of this device's group, who has the device open. */
  readonly hot: {
    readonly supported: boolean
    readonly affected: readonly AffectedFunction[]
    readonly blockers: readonly { readonly address: string; readonly reason: string }[]
    readonly reason: string
  }
  /** The smallest reset that is possible. */
  readonly scope: 'function' | 'hot' | 'none'
}

/**
 * Judges how a device can be reset (`drivers/pci/pci.c`, `drivers/vfio/pci/vfio_pci_core.c`).
 * @throws VfioError `ERR_VFIO_BAD_ADDRESS`, `ERR_VFIO_NO_DEVICE`
 */
export function assessReset(seen: Snapshot, address: string): ResetCapability {
  const device = seen.device(address)
  const topology = Topology.of(seen)
  if (isBridge(device)) return forBridge(address)
  const unseen = unseenSentence(`who shares the resets of ${address}`, seen.unseen)
  if (unseen !== null) return without(unseen)
  const ofFunction = assessFunctionReset(seen, topology, device)
  const hot = assessHotReset(seen, topology, device)
  return {
    function: ofFunction,
    hot,
    scope: ofFunction.supported ? 'function' : hot.supported ? 'hot' : 'none',
  }
}

/** The scope alone, for an overview of many: what is not needed for it is not worked out. @internal */
export function resetScope(seen: Snapshot, device: PciDevice): ResetCapability['scope'] {
  if (isBridge(device) || seen.unseen.length > 0) return 'none'
  const topology = Topology.of(seen)
  if (resetsAlone(seen, topology, device)) return 'function'
  return assessHotReset(seen, topology, device).supported ? 'hot' : 'none'
}

const NONE: readonly never[] = Object.freeze([])

function forBridge(address: string): ResetCapability {
  return without(
    `${address} is a bridge, and VFIO opens no bridges: it is reset only as part of what is above it`,
  )
}

function without(reason: string): ResetCapability {
  return {
    function: { supported: false, methods: NONE, reason },
    hot: { supported: false, affected: NONE, blockers: NONE, reason },
    scope: 'none',
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

/** What {@link assessFunctionReset} says, without a sentence: the first method that works decides. */
function resetsAlone(seen: Snapshot, topology: Topology, device: PciDevice): boolean {
  if (!device.resettable || whyUnreachable(seen, device)) return false
  const published = device.resetMethods ?? methodsBefore515(device)
  if (published.some((method) => obstacleTo(method, seen, topology, device) === null)) return true
  return device.resetMethods === null && !device.capabilities.complete
}

function assessFunctionReset(
  seen: Snapshot,
  topology: Topology,
  device: PciDevice,
): ResetCapability['function'] {
  const { address } = device
  const none = (reason: string) => ({ supported: false, methods: NONE, reason })
  const unreachable = whyUnreachable(seen, device)
  if (unreachable) return none(`no reset of ${address} is promised: ${unreachable}`)
  if (!device.resettable) return none(`${address} has no way to be reset by itself: the kernel found none`)
  if (device.resetMethods?.length === 0) {
    return none(
      `${address} cannot be reset by itself: all its reset methods were switched off in reset_method, where writing "default" brings them back`,
    )
  }
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
      methods: NONE,
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

/** Why a listed method would fail now; `null` where it should work. */
function obstacleTo(method: string, seen: Snapshot, topology: Topology, device: PciDevice): string | null {
  if (method === 'pm') {
    if (lacksPmReset(device)) return 'the kernel knows that leaving D3hot resets nothing here'
    return device.capabilities.pm?.noSoftReset ? 'the device keeps its state through D3hot (NoSoftRst)' : null
  }
  if (method === 'bus' && isKernelSince(seen.host.kernel, 6, 10)) {
    const bridge = topology.bridgeOf(device)
    // Since 7.0 a port whose link is one of PCIe alone counts as any other.
    const isCxl = !isKernelSince(seen.host.kernel, 7, 0) || bridge?.capabilities.cxlLink === true
    if (bridge?.capabilities.cxlResetMasked && isCxl) return `the CXL port ${bridge.address} masks bus resets`
  }
  // `cxl_bus` is the same reset with the mask lifted meanwhile; before 6.10 the kernel knew of neither.
  return method === 'bus' || method === 'cxl_bus' ? obstacleToBusReset(seen, topology, device) : null
}

/** `pci_reset_bus_function`: through a hot-plug slot, or through a bridge with nothing else below it. */
function obstacleToBusReset(seen: Snapshot, topology: Topology, device: PciDevice): string | null {
  if (lacksBusReset(device)) return 'the kernel knows that a bus reset breaks it'
  const bridge = topology.bridgeOf(device)
  const bySlot = hasSlotReset(seen, device) && (hasOwnSlot(seen) || !isOneOfSeveral(device))
  if (!bridge) return bySlot ? null : 'it is on a root bus, which cannot be reset'
  if (whyUnreachable(seen, bridge)) return `the bridge ${bridge.address} does not answer`
  const neighbours = topology.onSameBus(device)
  if (!bySlot && neighbours.length > 1) return `it shares its bus with ${addresses(neighbours, device)}`
  return deadLink(seen, bridge, neighbours)
}

/** `pci_dev.multifunction`: the header of function 0 says it, and being another function proves it. */
const isOneOfSeveral = (device: PciDevice) =>
  device.sriov?.role !== 'vf' && (device.multifunction || !device.address.endsWith('.0'))

/** `pci_slot.per_func_slot`: since 7.0 each function of Linux on Z has a slot of its own. */
const hasOwnSlot = ({ host }: Snapshot) =>
  host.platform.architecture === 's390' && isKernelSince(host.kernel, 7, 0)

/** Hot-plug drivers that implement `reset_slot`: a reset that does not look like an unplug to them. */
const SLOT_RESETTERS = new Set(['pciehp', 'pnv_php', 's390_pci_hpc'])

/**
 * Linux on Z has its one hot-plug driver built in and without parameters, so there is nothing in /sys/module that the
 * `module` link of a slot could point at.
 */
const hasSlotReset = ({ host }: Snapshot, { slot }: PciDevice) => {
  if (slot === null) return false
  const driver = slot.driver ?? (host.platform.architecture === 's390' ? 's390_pci_hpc' : null)
  return driver !== null && SLOT_RESETTERS.has(driver)
}

/** Ports with a link below them (`pcie_downstream_port`). */
const DOWNSTREAM = new Set(['root-port', 'downstream-port', 'pci-to-pcie-bridge'])

/**
 * `pci_bridge_wait_for_secondary_bus`: after the reset the kernel waits for the link of a port to come up, and gives up
 * with ENOTTY, where the port reports its link (DLLLARC) and is not one for 2.5 or 5 GT/s at most (codes 1 and 2; any
 * other code, 0 too, counts as faster). A link that is down before the reset is down after it. How long it waits is up
 * to the functions directly below: not at all where none has power management.
 */
function deadLink(seen: Snapshot, bridge: PciDevice, below: readonly PciDevice[]): string | null {
  const { pcie } = bridge.capabilities
  if (!below.some((device) => device.capabilities.pm)) return null
  if (!pcie || !DOWNSTREAM.has(pcie.type) || pcie.linkActive !== false) return null
  if (pcie.maxLinkSpeed === 1 || pcie.maxLinkSpeed === 2) return null
  const because = `the port ${bridge.address} reports its link as down, and the kernel waits in vain for it to come up after a reset`
  return isKernelSince(seen.host.kernel, 6, 3)
    ? because
    : `${because} (a guess: kernels of this series wait for it since their updates of 2023)`
}

/** One affected function: why it blocks every owner, or every owner but that of its own group. */
interface Hit {
  readonly device: PciDevice
  readonly unowned: Blocker | null
  readonly foreign: Blocker
}

type Blocker = ResetCapability['hot']['blockers'][number]

/** What a reset of one bus or slot affects: the same for all functions on it, so computed once. */
interface Reach {
  readonly how: string
  readonly hits: readonly Hit[]
  readonly byDevice: ReadonlyMap<PciDevice, Hit>
  readonly affected: readonly AffectedFunction[]
  /** How many affected functions do not block, for the owner of each group. */
  readonly owned: ReadonlyMap<number | null, number>
  /** A function that must not see a bus reset, which forbids it for all. */
  readonly unresettable: PciDevice | null
  /** Why the kernel would refuse or fail the reset although it lists what it affects. */
  readonly failure: string | null
}

const reaches = new WeakMap<Topology, Map<string, Reach>>()

function reachOf(seen: Snapshot, topology: Topology, device: PciDevice, bridge: PciDevice | null): Reach {
  const known = reaches.get(topology) ?? new Map<string, Reach>()
  reaches.set(topology, known)
  const key = hasSlotReset(seen, device)
    ? `slot ${device.slot?.name}`
    : `${bridge?.address} ${busOf(device.address)}`
  const reach = known.get(key) ?? workOutReach(seen, topology, device, bridge)
  known.set(key, reach)
  return reach
}

function workOutReach(
  seen: Snapshot,
  topology: Topology,
  device: PciDevice,
  bridge: PciDevice | null,
): Reach {
  const bus = topology.onSameBus(device)
  const { slot } = device
  const bySlot = hasSlotReset(seen, device)
  // The kernel takes the slot where it can, which spares what else is on the bus.
  const hit = bySlot ? bus.filter((other) => other.slot?.name === slot?.name) : bus
  const hits: Hit[] = []
  topology.everyBelow(hit, (other) => {
    hits.push(hitOf(other))
    return true
  })
  const owned = new Map<number | null, number>()
  for (const { device: other, unowned } of hits) {
    if (!unowned) owned.set(other.group, (owned.get(other.group) ?? 0) + 1)
  }
  return {
    how: bySlot ? `its slot ${slot?.name}` : `the bus below ${bridge?.address}`,
    hits,
    byDevice: new Map(hits.map((hit) => [hit.device, hit])),
    affected: Object.freeze(hits.map(({ device: { address, group } }) => Object.freeze({ address, group }))),
    owned,
    unresettable: findUnresettable(topology, bridge, hit),
    failure:
      (bridge && (whyUnreachable(seen, bridge) ?? deadLink(seen, bridge, bus))) ?? mixesVirtual(seen, hits),
  }
}

/** `pci_bus_resettable`, `pci_slot_resettable`: one function that must not see a bus reset forbids it for all. */
function findUnresettable(
  topology: Topology,
  bridge: PciDevice | null,
  devices: readonly PciDevice[],
): PciDevice | null {
  if (bridge && lacksBusReset(bridge)) return bridge
  let found: PciDevice | null = null
  topology.everyBelow(devices, (device) => {
    if (lacksBusReset(device)) found = device
    return found === null
  })
  return found
}

/** Since 5.15 each virtual function is a reset set of its own, so no reset may reach it together with others. */
function mixesVirtual(seen: Snapshot, hits: readonly Hit[]): string | null {
  const virtual = hits.find(({ device }) => device.sriov?.role === 'vf')
  if (!virtual || hits.length === 1 || !isKernelSince(seen.host.kernel, 5, 15)) return null
  return `it would hit the virtual function ${virtual.device.address}, which VFIO resets only by itself`
}

/** Stricter than viability: every affected function must be bound to VFIO and in this one group. */
function hitOf(device: PciDevice): Hit {
  const { address, driver, group } = device
  const blocker = (reason: string): Blocker => Object.freeze({ address, reason })
  const foreign = blocker(`${address} is in group ${group}, which its owner has to bring along`)
  let unowned: Blocker | null = null
  if (isBridge(device)) unowned = blocker(`${address} is a bridge, which VFIO cannot own`)
  else if (group === null) unowned = blocker(`${address} is in no IOMMU group`)
  else if (driver === null) unowned = blocker(`${address} is not bound to a driver: bind it to vfio-pci too`)
  else if (!isWithVfio(device)) {
    unowned = blocker(`${address} is bound to ${driver}: bind it to vfio-pci too`)
  }
  return { device, unowned, foreign }
}

/** Why one function keeps the owner of another from resetting both; who asks has its own device open, so bound. */
function blockerFor(device: PciDevice, hit: Hit): Blocker | null {
  if (hit.device === device) return device.group === null ? hit.unowned : null
  return hit.unowned ?? (hit.device.group === device.group ? null : hit.foreign)
}

function assessHotReset(seen: Snapshot, topology: Topology, device: PciDevice): ResetCapability['hot'] {
  const { address, group } = device
  const none = (reason: string, affected: readonly AffectedFunction[] = NONE) => ({
    supported: false,
    affected,
    blockers: NONE,
    reason,
  })
  const unreachable = whyUnreachable(seen, device)
  if (unreachable)
    return none(`no hot reset of ${address} is promised: VFIO has to open it first, and ${unreachable}`)
  const bridge = topology.bridgeOf(device)
  if (!bridge && !hasSlotReset(seen, device)) {
    return none(
      device.parent === null
        ? `${address} is on a root bus, which cannot be reset: there is no hot reset`
        : `${address} is a virtual function on a bus of its own, which cannot be reset: there is no hot reset`,
    )
  }
  const reach = reachOf(seen, topology, device, bridge)
  const { how, affected, hits } = reach
  if (reach.unresettable) {
    return none(
      `there is no hot reset of ${address}: the kernel knows that a bus reset breaks ${reach.unresettable.address}`,
    )
  }
  const isOwned = reach.byDevice.get(device)?.unowned === null
  const free = (reach.owned.get(group) ?? 0) + (isOwned || group === null ? 0 : 1)
  const blocked = hits.length - free
  if (blocked === 0 && !reach.failure) {
    const scope = affected.length > 1 ? ` together with ${addresses(affected, device)}` : ''
    // Without the privilege to read the capabilities of the bridge the state of its link is not known.
    const guess =
      bridge?.capabilities.complete === false ? ', at a guess: only root can read whether its link is up' : ''
    return {
      supported: true,
      affected,
      blockers: NONE,
      reason: `${address} can be reset${scope} through ${how}${guess}`,
    }
  }
  const reason = reach.failure
    ? `a hot reset of ${address} would go through ${how} and fail: ${reach.failure}`
    : `a hot reset of ${address} goes through ${how}, where VFIO does not own everything: ${someBlockers(device, hits, blocked)}`
  return {
    supported: false,
    affected,
    // Computed on demand: on a bus of 256 functions each has 255, and an overview needs none of them.
    get blockers() {
      return hits.flatMap((hit) => blockerFor(device, hit) ?? [])
    },
    reason,
  }
}

/** Would a hot reset work once all that it hits is bound to VFIO? Only where that is of one group, since one owner asks. @internal */
export function isHotOnceBound(seen: Snapshot, device: PciDevice): boolean {
  if (seen.unseen.length > 0) return false
  const topology = Topology.of(seen)
  const bridge = topology.bridgeOf(device)
  if (device.group === null || whyUnreachable(seen, device)) return false
  if (!bridge && !hasSlotReset(seen, device)) return false
  const { hits, unresettable, failure } = reachOf(seen, topology, device, bridge)
  if (unresettable || failure) return false
  return hits.every(({ device: hit }) => hit.group === device.group && !isBridge(hit))
}

const MANY = 4

/** The reasons of a few blockers, and a count of the rest. */
function someBlockers(device: PciDevice, hits: readonly Hit[], count: number): string {
  const wanted = count > MANY ? MANY - 1 : count
  const reasons: string[] = []
  for (const hit of hits) {
    if (reasons.length === wanted) break
    const blocker = blockerFor(device, hit)
    if (blocker) reasons.push(blocker.reason)
  }
  if (count > wanted) reasons.push(`and ${count - wanted} more`)
  return reasons.join('; ')
}

/** Names a few of these that are not the one excepted, and counts the rest. */
function addresses(
  devices: readonly { readonly address: string }[],
  except: { readonly address: string },
): string {
  const some = devices.slice(0, MANY + 1).filter(({ address }) => address !== except.address)
  const names = some.map(({ address }) => address)
  const count = devices.length - 1
  return count > MANY
    ? `${names.slice(0, MANY - 1).join(', ')} and ${count - MANY + 1} more`
    : names.join(', ')
}
