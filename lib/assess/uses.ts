import type { PciDevice } from '../sysfs/devices.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import { isBridge, Topology } from './topology.js'
import { displayUses } from './uses-display.js'
import { Network } from './uses-network.js'
import { nodeUses, vfioUses } from './uses-open.js'
import { Storage } from './uses-storage.js'
import { printable, several } from './uses-text.js'

/** Something on this host that would lose a device. */
export interface HostUse {
  readonly address: string
  readonly kind: 'mount' | 'swap' | 'holder' | 'network' | 'display' | 'vfio' | 'other'
  /** One sentence: the device, the chain from it, and the consequence. */
  readonly what: string
  /** `blocks`: taking the device away does harm. `warns`: to be known. */
  readonly severity: 'blocks' | 'warns'
  /** The host itself runs on it: no sentence offers to take it. */
  readonly vital?: true
  /** The driver lets the device go only when it is closed, and its unbinding waits for that without end: nothing can be forced. */
  readonly hangs?: true
}

/** A use before it is tied to an address. @internal */
export type Finding = Omit<HostUse, 'address'>

const indexes = new WeakMap<Snapshot, { storage: Storage; network: Network }>()

/** What others rest on, worked out once for a snapshot. */
function indexOf(seen: Snapshot): { storage: Storage; network: Network } {
  const known = indexes.get(seen)
  if (known) return known
  const index = { storage: new Storage(seen.use), network: new Network(seen.use) }
  indexes.set(seen, index)
  return index
}

/**
 * What on this host would lose the device at an address. An empty answer says that nothing was seen, not that nothing
 * is there: the kernel publishes no users of its own without a block device, and no process of another PID namespace.
 * @throws VfioError `ERR_VFIO_BAD_ADDRESS`, `ERR_VFIO_NO_DEVICE`
 */
export function assessUses(seen: Snapshot, address: string): HostUse[] {
  const device = seen.device(address)
  const { storage, network } = indexOf(seen)
  const findings = [
    ...storage.usesOf(device.address),
    ...network.usesOf(device.address),
    ...displayUses(seen, device),
    ...nodeUses(seen.use, device),
    ...vfioUses(seen.use, device),
    ...dependentUses(seen, device),
  ]
  const unseen = findings.some(({ severity }) => severity === 'blocks')
    ? []
    : unseenUses(seen, storage, device)
  return [...findings, ...unseen].map(({ what, ...rest }) => ({
    address: device.address,
    ...rest,
    what: printable(what),
  }))
}

/** Other functions and virtual devices that go with this one. */
function dependentUses(seen: Snapshot, device: PciDevice): Finding[] {
  const { address, sriov } = device
  const below = functionsBelow(seen, device)
  const vfs = sriov?.role === 'pf' ? sriov.vfs : []
  const virtual = seen.use.virtualDevices
    .filter(({ functions }) => functions.at(-1) === address)
    .map(({ name }) => name)
  const sentences: readonly [names: readonly string[], sentence: string][] = [
    [below, `there hangs on it: ${several(below)}`],
    [vfs, `there are virtual functions of it: ${several(vfs)}`],
    [virtual, `there are virtual devices on it: ${several(virtual)}`],
  ]
  return sentences
    .filter(([names]) => names.length > 0)
    .map(([, what]) => ({ kind: 'other', what, severity: 'blocks' }))
}

function functionsBelow(seen: Snapshot, device: PciDevice): string[] {
  const below = Object.keys(seen.use.behind).filter(
    (name) => name !== device.address && seen.use.behind[name]?.includes(device.address),
  )
  if (!isBridge(device)) return below
  const topology = Topology.of(seen)
  topology.everyBelow(topology.directlyBelow(device), ({ address }) => {
    below.push(address)
    return true
  })
  return [...new Set(below)]
}

/** Without privilege the files that others have open do not show. */
function unseenUses({ use }: Snapshot, storage: Storage, { address }: PciDevice): Finding[] {
  if (use.processes.complete !== false) return []
  const nodes = [
    ...storage.disksOf(address),
    ...use.nodes.filter(({ functions }) => functions.includes(address)),
  ]
  if (nodes.length === 0) return []
  const names = several(nodes.map(({ node }) => `/dev/${node}`))
  return [{ kind: 'other', what: `who has ${names} open could not be seen: root sees it`, severity: 'warns' }]
}
