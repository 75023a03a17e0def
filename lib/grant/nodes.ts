import { constants } from 'node:fs'
import { chmod, chown, type FileHandle, open } from 'node:fs/promises'
import { VfioError } from '../errors.js'
import { fileError } from '../records.js'
import { directoryOf } from '../sysfs/address.js'
import { deviceNumber } from '../sysfs/device-number.js'
import type { PciDevice } from '../sysfs/devices.js'
import { isWithVfio } from '../sysfs/devices.js'
import { readText } from '../sysfs/files.js'
import type { MediatedDevice } from '../sysfs/mediated.js'
import type { Snapshot } from '../sysfs/snapshot.js'

/** `O_PATH`: a descriptor of the node itself, which neither opens its device nor may be another node later. */
const O_PATH = 0o10000000

/** To whom a node belongs. `mode` are its permission bits. */
export interface Ownership {
  readonly uid: number
  readonly gid: number
  readonly mode: number
}

/** A character device, by the number of its device: the same path may be another one's later. */
export interface NodeState extends Ownership {
  readonly rdev: number
}

/** A node, and the device that the kernel has behind that name. */
export interface KnownNode {
  readonly path: string
  /** `major:minor`; `null` where the kernel has no such device: then whatever is there is a left-over. */
  readonly number: string | null
}

/**
 * The nodes through which a device is opened: that of its group, its own where the kernel has such, and `/dev/iommu`.
 * @param dev in place of `/dev`
 * @throws VfioError `ERR_VFIO_NO_GROUP`; `ERR_VFIO_BAD_NODE` where it is not bound to VFIO, and so has none
 */
export function nodesOf(seen: Snapshot, device: PciDevice | MediatedDevice, dev: string): KnownNode[] {
  const { group, vfioDevice } = device
  const address = 'uuid' in device ? device.uuid : device.address
  if (group === null) throw new VfioError('ERR_VFIO_NO_GROUP', `${address} is in no IOMMU group`)
  if (!isWithVfio(device)) {
    throw new VfioError(
      'ERR_VFIO_BAD_NODE',
      `${address} has no node to be opened by, since it is not bound to VFIO: run "vfio bind ${address}" first`,
    )
  }
  const prefix = seen.group(group).noIommu ? 'noiommu-' : ''
  const { sysfs } = seen.host.paths
  const known = (node: string, directory: string): KnownNode => ({
    path: `${dev}/${node}`,
    number: readText(`${sysfs}/${directory}/dev`),
  })
  const own =
    vfioDevice !== null && /^(?:noiommu-)?vfio\d+$/.test(vfioDevice)
      ? [known(`vfio/devices/${vfioDevice}`, `${directoryOf('.', address)}/vfio-dev/${vfioDevice}`)]
      : []
  const name = `${prefix}${group}`
  return [known(`vfio/${name}`, `class/vfio/${name}`), ...own, known('iommu', 'class/misc/iommu')]
}

/** A node that is held by descriptor while it is looked at and changed. */
export class DeviceNode {
  readonly #handle: FileHandle
  readonly path: string
  readonly state: NodeState

  private constructor(handle: FileHandle, path: string, state: NodeState) {
    this.#handle = handle
    this.path = path
    this.state = state
  }

  /**
   * @param number the device that it has to be; without it any
   * @returns `null` where there is nothing of that name
   * @throws VfioError `ERR_VFIO_BAD_NODE` where it is something else than a character device, or another one
   */
  static async open(path: string, number?: string | null): Promise<DeviceNode | null> {
    let handle: FileHandle
    try {
      handle = await open(path, O_PATH | constants.O_NOFOLLOW)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
      throw fileError(error, path)
    }
    try {
      const facts = await handle.stat()
      if (!facts.isCharacterDevice()) {
        const what = facts.isSymbolicLink() ? 'a symbolic link' : 'no character device'
        throw new VfioError('ERR_VFIO_BAD_NODE', `${path} is ${what}, and is left alone`)
      }
      if (number !== undefined && number !== deviceNumber(facts.rdev)) {
        throw new VfioError(
          'ERR_VFIO_BAD_NODE',
          `${path} is a left-over of another device (${deviceNumber(facts.rdev)}; the kernel has ${number ?? 'none of that name'}), and is left alone: remove it`,
        )
      }
      const { uid, gid, mode, rdev } = facts
      return new DeviceNode(handle, path, { uid, gid, mode: mode & 0o7777, rdev })
    } catch (error) {
      await handle.close()
      throw error
    }
  }

  /** Ownership first: `chown(2)` takes bits of the mode away. */
  async give({ uid, gid, mode }: Ownership): Promise<void> {
    const itself = `/proc/self/fd/${this.#handle.fd}`
    try {
      await chown(itself, uid, gid)
      await chmod(itself, mode)
    } catch (error) {
      throw fileError(error, this.path)
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#handle.close()
  }
}
