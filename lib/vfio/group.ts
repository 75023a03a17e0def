import type { NativeDevice, NativeGroup } from '../native/binding.js'
import { binding } from '../native/load.js'
import { call, translate } from '../native/translate.js'
import { parseAddress } from '../sysfs/address.js'
import { badArgument, checkInteger, checkOptions, checkPath, show } from './arguments.js'
import { VfioContainer } from './container.js'
import type { ContainerHandle } from './container-handle.js'
import { VfioDevice } from './device.js'
import { DeviceHandle } from './device-handle.js'
import { type Dependent, Handle, VfioObject, watched } from './handle.js'
import { checkVfToken } from './vf-token.js'

/** `struct vfio_group_status`. */
export interface GroupStatus {
  /** No host driver stands in the way. Before Linux 5.18 asked of the drivers, since then of the DMA owner. */
  readonly viable: boolean
  readonly containerSet: boolean
  /** As the kernel gave them. */
  readonly flags: number
}

export interface OpenDeviceOptions {
  /** Aborts the wait: the promise rejects at once, and a device that comes back later is closed again. */
  readonly signal?: AbortSignal | undefined
  /** The UUID that the driver of the physical function was given; virtual functions of vfio-pci ask for it. */
  readonly vfToken?: string | undefined
}

const FLAG_VIABLE = 1 << 0
const FLAG_CONTAINER_SET = 1 << 1
const LARGEST_GROUP = 0x7fffffff

/** An open `/dev/vfio/N`: the devices that the IOMMU cannot tell apart. Opens once on the whole host. */
export class VfioGroup extends VfioObject {
  /** @internal */
  readonly handle: GroupHandle
  #container: VfioContainer | null = null

  /** @internal */
  constructor(handle: GroupHandle) {
    super()
    this.handle = watched(this, handle)
  }

  /** The container that it is in, and which stays open as long as the group is held. */
  get container(): VfioContainer | null {
    return this.handle.membership ? this.#container : null
  }

  /**
   * Opens a group by its number, or by the path of its file (`{ path: '/dev/vfio/noiommu-3' }`).
   * @throws VfioSystemError `ENOENT` where none of its devices is bound to a vfio driver, `EBUSY` where it is open already,
   * `EACCES` without permission.
   */
  static open(group: number | { readonly path: string }): VfioGroup {
    const path =
      typeof group === 'object' && group !== null
        ? checkPath(group.path)
        : `/dev/vfio/${checkInteger(group, LARGEST_GROUP, 'group')}`
    return opened(
      call(() => binding().Group.open(path)),
      path,
    )
  }

  /**
   * Whether the group is viable and has a container (`VFIO_GROUP_GET_STATUS`). While one of its devices is being opened the
   * kernel makes this thread wait.
   */
  status(): GroupStatus {
    let flags: number
    try {
      flags = binding().groupStatus(this.handle.native.id)
    } catch (error) {
      throw translate(error)
    }
    return { viable: (flags & FLAG_VIABLE) !== 0, containerSet: (flags & FLAG_CONTAINER_SET) !== 0, flags }
  }

  /**
   * Joins a container (`VFIO_GROUP_SET_CONTAINER`).
   * @throws VfioSystemError `EPERM` where the group is not viable, `EINVAL` where it has a container already.
   */
  setContainer(container: VfioContainer): void {
    if (!(container instanceof VfioContainer)) {
      throw badArgument(`container must be a VfioContainer, not ${show(container)}`)
    }
    const native = container.handle.native
    this.ask((group) => group.setContainer(native))
    this.adopt(container)
  }

  /** @internal It is in a container already. */
  adopt(container: VfioContainer): void {
    this.handle.membership = new Membership(this.handle, container.handle)
    this.#container = container
  }

  /**
   * Leaves its container (`VFIO_GROUP_UNSET_CONTAINER`). With the last group all that is mapped there and the choice of the IOMMU go.
   * @throws VfioSystemError `EINVAL` where it has none, `EBUSY` while one of its devices is open.
   */
  unsetContainer(): void {
    this.ask((native) => native.unsetContainer())
    this.handle.membership?.left()
  }

  /**
   * Opens a device of the group (`VFIO_GROUP_GET_DEVICE_FD`). The group needs a container, and that an IOMMU.
   * Opening resets the device, which runs on a thread of its own: see `VfioDevice.reset()` for what ends when.
   * @throws VfioSystemError `ENODEV` where it is not in the group or not bound to vfio, `EINVAL` without container or IOMMU.
   */
  async openDevice(address: string, options: OpenDeviceOptions = {}): Promise<VfioDevice> {
    const name = parseAddress(address)
    const { signal, vfToken } = checkOptions(options)
    if (vfToken !== undefined) checkVfToken(vfToken, 'options.vfToken')
    const request = vfToken === undefined ? name : `${name} vf_token=${vfToken}`
    const group = this.handle
    const handle = await group.run(
      async () => {
        const device = new DeviceHandle(
          await this.handle.native.openDevice(request, name),
          `device ${name}`,
          group,
        )
        // Closed meanwhile, so that nobody else would close it.
        if (group.closed) void device.release()
        return device
      },
      { signal, subject: name, discard: (device) => void device.release() },
      this.openDevice,
    )
    return new VfioDevice(handle, name, this)
  }
}

// Outside of the class, which keeps its name in the bundle only if it does not name itself.
const opened = (native: NativeGroup, path: string) =>
  new VfioGroup(new GroupHandle(native, `group ${path}`, null))

/** What another thread left to this one. */
export function acceptedGroup(native: NativeGroup, name: string, container: VfioContainer): VfioGroup {
  const group = new VfioGroup(new GroupHandle(native, name, null))
  group.adopt(container)
  return group
}

export const acceptedDevice = (native: NativeDevice, name: string, address: string, group: VfioGroup) =>
  new VfioDevice(new DeviceHandle(native, name, group.handle), address, group)

class GroupHandle extends Handle<NativeGroup> {
  membership: Membership | null = null
  /** The kernel would not let it go while it was open. */
  #stuck: Membership | null = null

  protected override beforeClose(): void {
    const { membership } = this
    if (membership?.end() === false) this.#stuck = membership
  }

  protected override afterClose(): void {
    this.#stuck?.settle()
  }

  protected override beforeSurrender(): void {
    this.membership?.forget()
  }
}

/** A group in a container, which closes the group's devices before itself. */
class Membership implements Dependent {
  readonly #group: GroupHandle
  readonly #container: ContainerHandle

  constructor(group: GroupHandle, container: ContainerHandle) {
    this.#group = group
    this.#container = container
    container.dependents.add(this)
    container.limits = null
  }

  async release(): Promise<void> {
    do {
      await this.#group.idle()
      await Promise.all(Array.from(this.#group.dependents, (device) => device.release()))
    } while (this.#group.busy)
    if (!this.end()) await this.#closeToo().release()
  }

  releaseNow(): void {
    for (const device of this.#group.dependents) device.releaseNow()
    if (this.#group.busy) void this.release()
    else if (!this.end()) this.#closeToo().releaseNow()
  }

  /** Open it would be in a container that nobody has. */
  #closeToo(): GroupHandle {
    const { name } = this.#group
    process.emitWarning(
      `${name} cannot leave its container while a device of it is held elsewhere, and is closed with the container`,
      'VfioWarning',
    )
    return this.#group
  }

  /**
   * Leaves the container, unless that has happened; false where the kernel refuses, because somebody else holds a device
   * (KVM, another process, a call that runs).
   */
  end(): boolean {
    if (this.#group.membership !== this) return true
    // The kernel would let this thread wait for it; closing the descriptors settles that.
    if (this.#group.busy) {
      this.forget()
      return false
    }
    try {
      this.#group.raw.unsetContainer()
      this.left()
      return true
    } catch {
      this.forget()
      return false
    }
  }

  /** The group was closed: was that enough? */
  settle(): void {
    if (!this.#container.closed && !this.#container.hasIommu()) this.#container.emptied()
  }

  /** The kernel has let it go. */
  left(): void {
    this.forget()
    if (this.#container.dependents.size === 0) this.#container.emptied()
  }

  forget(): void {
    this.#container.dependents.delete(this)
    this.#container.limits = null
    this.#group.membership = null
  }
}
