import { existsSync } from 'node:fs'
import { release } from 'node:os'
import type { Suite } from 'mocha'
import { assess, type Backend, Host, type OpenedDevice, openDevice } from 'vfio'
import { load, put } from './binding.js'

/** A way to open a device and to map its memory that this kernel has. */
export interface Mode {
  readonly name: string
  readonly backend: Backend
  /** Mappings go through `vfio_iommu_type1`, whose limits and figures others do not have. */
  readonly isType1: boolean
}

load(['vfio-pci', 'vfio_iommu_type1'])
const hasType1 = existsSync('/sys/module/vfio_iommu_type1')
const hasIommufd = existsSync('/dev/iommu')

/** The way by groups: their container is type1's, or where the kernel has none provided by iommufd, which answers otherwise. */
export const byContainer: Mode = hasType1
  ? { name: 'container', backend: 'group', isType1: true }
  : { name: 'the container of iommufd', backend: 'group', isType1: false }

/** What tests that open a device run over. The kernel whose container is provided by iommufd is else the one that has both. */
export const modes: readonly Mode[] = [
  byContainer,
  ...(hasIommufd && hasType1 ? [{ name: 'iommufd', backend: 'iommufd', isType1: false } as const] : []),
]

export interface Way extends Mode {
  /** Binds all of a device's group that has to be, and opens it. */
  open(address: string, vfToken?: string): Promise<OpenedDevice>
}

/** The same tests over every way that this kernel has. */
export function overModes(title: string, tests: (this: Suite, way: Way) => void): void {
  for (const mode of modes) {
    describe(`${title} by ${mode.name} on ${release()}`, function () {
      const open = (address: string, vfToken?: string) => {
        const { toBind } = assess(new Host().snapshot({ around: [address] }), address)
        for (const one of toBind) put(one, 'vfio-pci')
        return openDevice(address, { backend: mode.backend, vfToken })
      }
      tests.call(this, { ...mode, open })
    })
  }
}
