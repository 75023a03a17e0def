import { closeSync, constants, openSync } from 'node:fs'
import { VfioError, VfioSystemError } from '../errors.js'
import type { PciDevice } from '../sysfs/devices.js'
import type { MediatedDevice } from '../sysfs/mediated.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import type { PassedDescriptor } from './environment.js'

/** What a command opens devices through. */
export type LaunchBackend = 'iommufd' | 'group'

/** What a command can have: a function, or a mediated device. */
export type Launched = PciDevice | MediatedDevice

const nameOf = (device: Launched) => ('uuid' in device ? device.uuid : device.address)

/** The first descriptor that a command gets beside its input and output (`SD_LISTEN_FDS_START`). */
const FIRST = 3

/**
 * Through what a command is to open devices that are bound now: as asked, else by iommufd where each has a node of its own.
 * @throws VfioError `ERR_VFIO_BAD_NODE` where it is asked for iommufd and there is none
 */
export function chooseBackend(
  seen: Snapshot,
  devices: readonly Launched[],
  asked: LaunchBackend | 'auto',
): LaunchBackend {
  if (asked === 'group') return 'group'
  const missing = devices.find((device) => nodeOf(seen, device) === null)
  const hasIommu = seen.host.nodes.iommu !== null
  const isNoIommu = devices.some(({ group }) => group !== null && seen.group(group).noIommu)
  if (asked === 'auto') return missing === undefined && hasIommu && !isNoIommu ? 'iommufd' : 'group'
  if (hasIommu && missing === undefined) return 'iommufd'
  const what = hasIommu ? `${missing && nameOf(missing)} has no node of its own` : 'there is no /dev/iommu'
  throw new VfioError(
    'ERR_VFIO_BAD_NODE',
    `${what}, so iommufd cannot open it here (CONFIG_IOMMUFD, CONFIG_VFIO_DEVICE_CDEV, module iommufd): let it be opened by its group`,
  )
}

const nodeOf = ({ host }: Snapshot, { vfioDevice }: Launched) =>
  host.nodes.devices.find(({ path }) => vfioDevice !== null && path.endsWith(`/vfio/devices/${vfioDevice}`))
    ?.path ?? null

/** Open nodes on their way to a command: it uses them, nobody here does. */
export class OpenNodes {
  readonly #numbers: number[] = []
  readonly passed: PassedDescriptor[] = []

  /** @throws VfioSystemError, with nothing left open */
  constructor(seen: Snapshot, devices: readonly Launched[]) {
    try {
      this.#open('iommufd', 'iommufd', seen.host.nodes.iommu?.path ?? '/dev/iommu')
      for (const device of devices) {
        const name = `vfio-${nameOf(device).replaceAll(':', '_')}`
        this.#open('cdev', name, nodeOf(seen, device) ?? '')
      }
    } catch (error) {
      this.close()
      throw error
    }
  }

  /** By the numbers that they have here. */
  get numbers(): readonly number[] {
    return this.#numbers
  }

  /** Whoever has a node open keeps its device from being released. */
  close(): void {
    for (const number of this.#numbers.splice(0)) closeSync(number)
  }

  #open(request: string, name: string, path: string): void {
    try {
      this.#numbers.push(openSync(path, constants.O_RDWR))
    } catch (error) {
      const { errno } = error as NodeJS.ErrnoException
      if (typeof errno !== 'number') throw error
      throw new VfioSystemError({ errno: -errno, syscall: 'open', request, path }, { cause: error })
    }
    this.passed.push({ name, fd: FIRST + this.passed.length })
  }
}
