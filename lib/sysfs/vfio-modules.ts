import { listNames } from './files.js'

/** What the kernel tells of a module that it has in memory. */
export interface LoadedModule {
  /** The PCI drivers that it registered, by the names that `driver_override` takes. */
  readonly drivers: readonly string[]
  /** Its parameters, as far as they show in sysfs. */
  readonly parameters: readonly string[]
}

const PCI = 'pci:'

/** The modules around VFIO that are loaded or built in, by name with `_`. */
export function readVfioModules(sysfs: string): Readonly<Record<string, LoadedModule>> {
  const names = listNames(`${sysfs}/module`).filter((name) => name.includes('vfio') || name === 'iommufd')
  return Object.fromEntries(
    names.sort().map((name) => {
      const drivers = listNames(`${sysfs}/module/${name}/drivers`).filter((driver) => driver.startsWith(PCI))
      const parameters = listNames(`${sysfs}/module/${name}/parameters`).sort()
      return [name, { drivers: drivers.map((driver) => driver.slice(PCI.length)).sort(), parameters }]
    }),
  )
}
