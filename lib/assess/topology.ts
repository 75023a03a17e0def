import { busOf } from '../sysfs/address.js'
import { childBus, type PciDevice } from '../sysfs/devices.js'
import type { IommuUnit } from '../sysfs/facts.js'
import type { Snapshot } from '../sysfs/snapshot.js'

const NOTHING: readonly PciDevice[] = Object.freeze([])

/** Which functions share a bus, and what hangs below which bridge: the kernel's view of the PCI tree. */
export class Topology {
  static readonly #known = new WeakMap<Snapshot, Topology>()

  /** The topology of a snapshot, worked out once. */
  static of(seen: Snapshot): Topology {
    const topology = Topology.#known.get(seen) ?? new Topology(seen)
    Topology.#known.set(seen, topology)
    return topology
  }

  readonly #seen: Snapshot
  readonly #byBus = new Map<string, PciDevice[]>()
  readonly #makers = new Set<string>()

  private constructor(seen: Snapshot) {
    this.#seen = seen
    for (const device of seen.devices) {
      if (device.madeBy !== null) this.#makers.add(device.madeBy)
      const bus = busOf(device.address)
      const neighbours = this.#byBus.get(bus)
      if (neighbours) neighbours.push(device)
      else this.#byBus.set(bus, [device])
    }
  }

  /** All functions on the bus of this one, itself included. */
  onSameBus(device: PciDevice): readonly PciDevice[] {
    return this.#byBus.get(busOf(device.address)) ?? NOTHING
  }

  /** Does the driver of this function make root buses of its own? */
  isMaker(address: string): boolean {
    return this.#makers.has(address)
  }

  /** The functions directly below a bridge. */
  directlyBelow(bridge: PciDevice): readonly PciDevice[] {
    // A bridge that the firmware never numbered has secondary bus 0.
    if (!bridge.secondaryBus) return NOTHING
    return this.#byBus.get(childBus(bridge.address, bridge.secondaryBus)) ?? NOTHING
  }

  /**
   * The bridge whose secondary bus this function is on (`bus->self`): `null` on a root bus, and on the bus that the
   * kernel makes up for VFs whose routing id lies beyond their bridge's bus.
   */
  bridgeOf(device: PciDevice): PciDevice | null {
    const { parent } = device
    if (parent === null || !this.#seen.has(parent)) return null
    const bridge = this.#seen.device(parent)
    const isOther =
      bridge.secondaryBus !== null && childBus(bridge.address, bridge.secondaryBus) !== busOf(device.address)
    return isOther ? null : bridge
  }

  /** Calls back for these functions and all below them, each once, until the answer is `false`. */
  everyBelow(devices: readonly PciDevice[], visit: (device: PciDevice) => boolean): boolean {
    const walked = new Set([devices])
    const isBus = devices[0] === undefined || this.onSameBus(devices[0]) === devices
    const given = isBus ? null : new Set(devices)
    const walk = (level: readonly PciDevice[]): boolean => {
      for (const device of level) {
        if (level !== devices && given?.has(device)) continue
        if (!visit(device)) return false
        const below = this.directlyBelow(device)
        // A tree that contradicts itself must not send the walk round in circles.
        if (below.length === 0 || walked.has(below)) continue
        walked.add(below)
        if (!walk(below)) return false
      }
      return true
    }
    return walk(devices)
  }
}

/** PCI-to-PCI, CardBus and semi-transparent bridges, for trees without a header to tell. */
const BRIDGE_CLASSES = new Set([0x0604, 0x0607, 0x0609])

/** Bridges of either kind: they stay with the host, and a reset of them is one of all that is below. */
export const isBridge = ({ headerType, class: code }: PciDevice) =>
  headerType === 'bridge' ||
  headerType === 'cardbus' ||
  (headerType === 'unknown' && BRIDGE_CLASSES.has(code >>> 8))

/** The IOMMU that a function is: it stays with the host, which has all others behind it. */
export function iommuIn({ host }: Pick<Snapshot, 'host'>, { address }: PciDevice): IommuUnit | null {
  const { units } = host.iommu
  // Without a function of its own for thousands of devices.
  for (let at = 0; at < units.length; at++) if (units[at]?.address === address) return units[at] ?? null
  return null
}
