import type { Snapshot } from '../sysfs/snapshot.js'

/** A driver by the name that `driver_override` takes, and whether that is certain. */
export interface DriverName {
  readonly name: string
  /** The kernel or its source says so. What is only derived from the module's name may be wrong. */
  readonly known: boolean
}

/**
 * Drivers are named like their modules, which have `_` for each `-` (`KBUILD_MODNAME`), unless their source says
 * otherwise; of the kernel's own these do (`drivers/vfio/pci/vfio_pci.c`, `drivers/vfio/pci/xe/main.c`).
 */
const NAMED_BY_HAND: Readonly<Record<string, string>> = { vfio_pci: 'vfio-pci', xe_vfio_pci: 'xe-vfio-pci' }

export const moduleOf = (driver: string) => driver.replaceAll('-', '_')

/** The driver that a module brings. `driver_override` is compared with the driver's name, an alias names the module. */
export function driverOfModule({ host }: Snapshot, module: string): DriverName {
  const key = moduleOf(module)
  const [registered] = host.vfioModules[key]?.drivers ?? []
  // What is built in may have no directory of its own.
  const name = registered ?? host.drivers.find((driver) => moduleOf(driver) === key)
  const byHand = Object.hasOwn(NAMED_BY_HAND, key) ? NAMED_BY_HAND[key] : undefined
  return { name: name ?? byHand ?? key, known: (name ?? byHand) !== undefined }
}
