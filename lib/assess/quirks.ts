import type { PciDevice } from '../sysfs/devices.js'

/** The kernel's own exceptions (`drivers/pci/quirks.c`, `drivers/vfio/pci/vfio_pci.c`, Linux 7.3), by vendor. */
const NO_FLR: Record<number, readonly number[]> = {
  4130: [0x1487, 0x148c, 0x149c, 0x7901, 0x1502, 0x17f0],
  32902: [0x1502, 0x1503],
  5315: [0x0616, 0x7925],
}

/** SolidRun's SNET, in its first revision alone. */
const isFirstSnet = ({ vendor, device, revision }: PciDevice) =>
  vendor === 0xd063 && device === 0x1000 && revision === 1

const NO_BUS_RESET: Record<number, readonly number[]> = {
  4318: [0x22ce, 0x22d0],
  5772: [0x0030, 0x0032, 0x0033, 0x0034, 0x003c, 0x003e],
  6013: [0xa100],
  4172: [0xb005],
  6945: [0x1164],
}

/** Qualcomm's WCN6855, WCN7850 and SDX62/65, exceptions of 7.3 and of older kernels by their updates. */
const NO_BUS_RESET_LATELY: Record<number, readonly number[]> = { 6091: [0x1103, 0x1107, 0x0308] }

const NO_PM_RESET: Record<number, readonly number[]> = {
  5555: [0xcb84, 0xcf6c, 0xcf70, 0xcf80],
}

/** `pci_dev_reset_methods`: needed only before 5.15, where the kernel does not publish its methods. */
const DEVICE_SPECIFIC: Record<number, readonly number[] | 'all'> = {
  32902: [0x10ed, 0x0156, 0x0166],
  5197: [0xa804],
  5157: 'all',
}

/** Intel QuickAssist and DSA/IAX, which vfio-pci refuses unless `disable_denylist` is set. */
const DENYLIST: Record<number, readonly number[]> = {
  32902: [0x0435, 0x0443, 0x19e2, 0x19e3, 0x37c8, 0x37c9, 0x0b25, 0x0cfe],
}

/** Chipsets 5500, 5520 and X58 of these revisions: the kernel leaves their interrupt remapping off (`intel_remapping_check`). */
const REMAPPING_BROKEN = [0x3403, 0x3405, 0x3406]

export const hasBrokenRemapping = ({ vendor, device, revision }: PciDevice) =>
  vendor === 0x8086 &&
  REMAPPING_BROKEN.includes(device) &&
  (revision <= 0x13 || (device === 0x3405 && revision === 0x22))

const isIn = (table: Record<number, readonly number[] | 'all'>, { vendor, device }: PciDevice) => {
  const devices = table[vendor]
  return devices === 'all' || (devices?.includes(device) ?? false)
}

/** Needed only before 5.15, like the device-specific ones: some came later, and to those kernels by their updates. */
export const lacksFlr = (device: PciDevice) => isIn(NO_FLR, device) || isFirstSnet(device)

/** NVIDIA's 2340–237f are a range in the kernel too. */
export const lacksBusReset = (device: PciDevice) =>
  isIn(NO_BUS_RESET, device) ||
  (device.vendor === 0x10de && (device.device & 0xffc0) === 0x2340) ||
  // Whatever its release: a kernel without this exception lists the method of a card that is alone on its bus, as these are.
  (isIn(NO_BUS_RESET_LATELY, device) && device.resetMethods !== null && !device.resetMethods.includes('bus'))

/** On a root bus the kernel lets even a doubtful power-state reset stand: there is nothing better. */
export const lacksPmReset = (device: PciDevice) =>
  device.parent !== null &&
  (isIn(NO_PM_RESET, device) || (device.vendor === 0x1002 && device.class >>> 8 === 0x0300))

export const hasDeviceSpecificReset = (device: PciDevice) => isIn(DEVICE_SPECIFIC, device)

export const isDenylisted = (device: PciDevice) => isIn(DENYLIST, device)
