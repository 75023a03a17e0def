import type { PciDevice } from '../sysfs/devices.js'
import type { Hypervisor } from '../sysfs/platform.js'
import type { Snapshot } from '../sysfs/snapshot.js'

/** Devices that only hypervisors make: QEMU's own subsystem id, and what the others call their own. */
const VIRTUAL_DEVICES: readonly [(device: PciDevice) => boolean, Hypervisor][] = [
  [({ subsystemVendor, subsystemDevice }) => subsystemVendor === 0x1af4 && subsystemDevice === 0x1100, 'kvm'],
  [({ vendor, class: code }) => vendor === 0x1b36 && code >>> 16 === 0x06, 'kvm'],
  [({ vendor, device }) => vendor === 0x15ad && (device === 0x0740 || device === 0x0405), 'vmware'],
  [({ vendor }) => vendor === 0x80ee, 'virtualbox'],
  [({ vendor, device }) => vendor === 0x1414 && device === 0x5353, 'hyper-v'],
  [({ vendor }) => vendor === 0x5853, 'xen'],
]

/** What this is a virtual machine of: where no other tree tells, by its devices. */
export function hypervisorOf({ host, devices }: Pick<Snapshot, 'host' | 'devices'>): Hypervisor | null {
  const known = host.platform.hypervisor
  if (known !== null && known !== 'other') return known
  return VIRTUAL_DEVICES.find(([is]) => devices.some(is))?.[1] ?? known
}
