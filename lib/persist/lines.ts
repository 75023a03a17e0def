import type { PciDevice } from '../sysfs/devices.js'
import type { ModuleOption } from './module-options.js'

/** A device that boot is to bind, and to which driver. */
export interface PersistDevice {
  readonly device: PciDevice
  /** The driver's name, as `driver_override` takes it. */
  readonly driver: string
  /** The module that brings it, as `modprobe` takes it. */
  readonly module: string
}

const hex = (value: number) => value.toString(16).padStart(4, '0')

/** `vendor:device:subvendor:subdevice`, as narrow as the device allows. */
export function idOf({ vendor, device, subsystemVendor, subsystemDevice }: PciDevice): string {
  const ids = subsystemVendor === 0 ? [vendor, device] : [vendor, device, subsystemVendor, subsystemDevice]
  return ids.map(hex).join(':')
}

/** Without repetition: one id stands for all devices that have it. */
export const idsOf = (devices: readonly PciDevice[]) => [...new Set(devices.map(idOf))]

/**
 * The override is there before the VFIO driver is, and that before the host driver: in this order, whoever asks first. The
 * ids are compared, since a card more or less may give the address to another device. A shell alone: an initramfs has
 * few programs.
 */
export function installLine(module: string, devices: readonly PersistDevice[], modprobe: string): string {
  const list = devices.map(({ device }) => device.address).join(' ')
  const known = devices.map(
    ({ device }) => `${device.address}=0x${hex(device.vendor)}:0x${hex(device.device)}`,
  )
  const set = `echo ${devices[0]?.driver} >$d/driver_override`
  const one = `d=/sys/bus/pci/devices/$a; read v <$d/vendor && read i <$d/device && case $a=$v:$i in ${known.join('|')}) ${set};; esac`
  return `install ${module} for a in ${list}; do ${one}; done 2>/dev/null; ${modprobe} --ignore-install ${module} $CMDLINE_OPTS`
}

export function udevRules({ device, driver, module }: PersistDevice): string[] {
  const { address } = device
  const ids = `ATTR{vendor}=="0x${hex(device.vendor)}", ATTR{device}=="0x${hex(device.device)}"`
  const match = `ACTION=="add", SUBSYSTEM=="pci", ${ids}, KERNEL=="${address}"`
  return [
    `${match}, ATTR{driver_override}="${driver}", RUN{builtin}+="kmod load ${module}"`,
    // For when the driver is there already; a device that has one may be in use and is left alone.
    `${match}, DRIVER=="", ATTR{[subsystem/pci]drivers_probe}="${address}"`,
  ]
}

/** The names that are usual for modules in such lines. */
const optionName = (module: string) => (module === 'vfio_pci' ? 'vfio-pci' : module)

export const optionLine = ({ module, name, value }: ModuleOption) =>
  `options ${optionName(module)} ${name}=${value}`

/** The same on the kernel command line, which is all that a built-in module reads. */
export const optionParameter = ({ module, name, value }: ModuleOption) =>
  `${optionName(module)}.${name}=${value}`
