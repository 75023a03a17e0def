import type { PciDevice } from '../sysfs/devices.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import { onceFor } from './once.js'

/** The bridges that a function hangs on, the nearest first. @internal */
export function* bridgesAbove(seen: Snapshot, device: PciDevice): Generator<PciDevice> {
  const visited = new Set<string>()
  for (let at = device.parent; at !== null && seen.has(at) && !visited.has(at); ) {
    visited.add(at)
    const bridge = seen.device(at)
    yield bridge
    at = bridge.parent
  }
}

/**
 * Why a function cannot be reached, and what brings it back: one sentence, `null` where nothing says so. Config space of
 * ones is what a processor reads where nothing answers (`PCI_ERROR_RESPONSE`); vendor and class in sysfs are remembered
 * from the time when it did.
 */
export function whyUnreachable(seen: Snapshot, device: PciDevice): string | null {
  // Nearly always, and for thousands of devices.
  if (!isAnySilent(seen, null)) return null
  const { address } = device
  const silent = [device, ...bridgesAbove(seen, device)].filter(({ answers }) => answers === false)
  // The uppermost is the one to be brought back: what is below it cannot answer.
  const top = silent.at(-1)
  if (top === undefined) return null
  const state = top.powerState === 'D3cold' ? ', and it sleeps in D3cold' : ''
  const what =
    top.address === address
      ? `${address} does not answer: its config space reads as all ones${state}`
      : `${address} cannot be reached: the bridge ${top.address} above it does not answer, its config space reads as all ones${state}`
  return `${what}; ${silenceCure(top)}`
}

const isAnySilent = onceFor((seen: Snapshot, _all: null): boolean =>
  seen.devices.some(({ answers }) => answers === false),
)

/** What is to be brought back on a host, and what comes back with it: the functions below, and virtual functions. */
export function findSilent(seen: Snapshot): {
  readonly silent: readonly PciDevice[]
  readonly below: readonly string[]
} {
  const isSilent = ({ answers }: PciDevice) => answers === false
  const goesWith = (device: PciDevice) =>
    [...bridgesAbove(seen, device)].some(isSilent) ||
    (device.sriov?.role === 'vf' && seen.has(device.sriov.pf) && isSilent(seen.device(device.sriov.pf)))
  const below = seen.devices.filter(goesWith)
  const silent = seen.devices.filter((device) => isSilent(device) && !goesWith(device))
  return { silent, below: below.map(({ address }) => address) }
}

/** What wakes a function is tried first, then what finds it anew; power alone brings back what lost its firmware. @internal */
export function silenceCure({ address, parent, sriov, powerState }: PciDevice): string {
  const wake = `wake it with "echo on > /sys/bus/pci/devices/${address}/power/control" (and keep vfio-pci from putting it to sleep with its parameter disable_idle_d3=1)`
  if (sriov?.role === 'vf') {
    return `look first at its physical function ${sriov.pf}, and make the virtual functions anew there`
  }
  const above =
    parent === null ? '' : `, after a reset of the bus below ${parent} if that alone does not help`
  const again = `remove it and let the kernel find it anew ("vfio rescan ${address}")${above}; if it stays silent, switch the host off and on, since a reboot leaves the power on`
  return powerState?.startsWith('D3') ? `${wake}, else ${again}` : `${again}`
}
