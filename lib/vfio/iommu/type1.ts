import { constants } from 'node:os'
import type { SystemFailure } from '../../errors.js'
import { answerIn, scratch } from '../../native/answer.js'
import type { NativeContainer, NativeDevice, NativeGroup } from '../../native/binding.js'
import { binding } from '../../native/load.js'
import { type CallSite, call, callSite, translate } from '../../native/translate.js'
import { parseName } from '../../sysfs/address.js'
import {
  badArgument,
  checkIndex,
  checkInteger,
  checkOptions,
  checkPath,
  checkVfToken,
  namesOf,
  show,
} from '../arguments.js'
import { type IommuCapability, type IovaRange, iommuCapabilities } from '../capabilities.js'
import { describe } from '../descriptor.js'
import { VfioDevice } from '../device/device.js'
import { DeviceHandle, GroupFile } from '../device/handle.js'
import { type Dependent, Handle, VfioObject, watched } from '../handle.js'
import { DmaSpace, Mappings, type SpaceBackend } from './space.js'

/** Extensions that `checkExtension()` knows by name (`VFIO_*_IOMMU` and others in `uapi/linux/vfio.h`). */
export const EXTENSIONS = {
  type1: 1,
  'spapr-tce': 2,
  type1v2: 3,
  'dma-cc': 4,
  eeh: 5,
  'type1-nesting': 6,
  'spapr-tce-v2': 7,
  noiommu: 8,
  'unmap-all': 9,
  'update-vaddr': 10,
} as const
export type ExtensionName = keyof typeof EXTENSIONS
const EXTENSION_NAMES = namesOf(EXTENSIONS)

/** IOMMU types that `setIommu()` knows by name. `type1v2` is the one to use; `noiommu` protects nothing. */
export const IOMMU_TYPES = { type1: 1, type1v2: 3, noiommu: 8 } as const
export type IommuTypeName = keyof typeof IOMMU_TYPES
const IOMMU_TYPE_NAMES = namesOf(IOMMU_TYPES)

/** What an IOMMU can map (`struct vfio_iommu_type1_info`). */
export interface IommuInfo {
  /** Page sizes in bytes, each a power of two, smallest first. Empty where the kernel does not say. */
  readonly pageSizes: readonly bigint[]
  /** The I/O virtual addresses that may be mapped; `end` is the last one. `null` where the kernel does not say (before 5.4). */
  readonly iovaRanges: readonly IovaRange[] | null
  /**
   * How many more mappings the container takes; 2^32 - 1 where iommufd provides it, which has no limit of its own. `null`
   * where the kernel does not say (before 5.10).
   */
  readonly dmaAvailable: number | null
  /** Dirty page logging. `null` where there is none. */
  readonly migration: MigrationInfo | null
  /** The whole chain, as the kernel gave it. */
  readonly capabilities: readonly IommuCapability[]
}

export interface MigrationInfo {
  /** Page sizes in bytes that dirty pages can be logged in, smallest first. */
  readonly pageSizes: readonly bigint[]
  /** The largest dirty bitmap that one call takes, in bytes. */
  readonly maxDirtyBitmapSize: bigint
}

const UNMAP_ALL = 1 << 1
const DIRTY_START = 1 << 0
const DIRTY_STOP = 1 << 1
const FLAG_PAGE_SIZES = 1 << 0
const FLAG_CAPABILITIES = 1 << 1

/** An open `/dev/vfio/vfio`: an IOMMU context that groups join and that maps memory for their devices. */
export class VfioContainer extends VfioObject {
  /** @internal */
  readonly handle: ContainerHandle

  /** The memory that its devices may use. */
  readonly dma: DmaSpace

  /** @internal */
  constructor(handle: ContainerHandle) {
    super()
    this.handle = watched(this, handle)
    this.dma = new DmaSpace(type1(this))
  }

  /**
   * Opens a container.
   * @throws VfioSystemError `ENOENT` where VFIO is not loaded, `EACCES` without permission.
   */
  static open(path = '/dev/vfio/vfio'): VfioContainer {
    const checked = checkPath(path)
    return openedContainer(
      call(() => binding().Container.open(checked)),
      checked,
    )
  }

  /**
   * One that somebody else has opened, by its descriptor, which is duplicated and stays the caller's. What is mapped there already is not
   * known here: an address of the caller's choice may be taken.
   * @throws VfioError `ERR_VFIO_BAD_ARGUMENT` where it is no container
   */
  static fromDescriptor(fd: number): VfioContainer {
    describe(fd, ['container'])
    return openedContainer(
      call(() => binding().Container.fromDescriptor(fd)),
      `descriptor ${fd}`,
    )
  }

  /**
   * The number of its descriptor, for other code of this process and for programs that it starts: see {@link VfioDevice.descriptor}.
   */
  descriptor(): number {
    return this.ask((native) => native.number())
  }

  /** The version of the kernel's interface: 0 since there is one (`VFIO_GET_API_VERSION`). */
  apiVersion(): number {
    return this.ask((native) => native.apiVersion())
  }

  /** Whether the kernel has an extension or IOMMU type, by name or number (`VFIO_CHECK_EXTENSION`). */
  checkExtension(extension: ExtensionName | number): boolean {
    const index = checkIndex(extension, EXTENSION_NAMES, 'extension')
    return this.ask((native) => native.checkExtension(index)) > 0
  }

  /**
   * Chooses the IOMMU type; the container must have a group (`VFIO_SET_IOMMU`).
   * @throws VfioSystemError `EINVAL` without a group or the second time, `ENODEV` for an unknown type, `EPERM` where the
   * platform cannot isolate interrupts. Where iommufd provides the container: `ENODEV` without a group, `EINVAL` for an unknown
   * type, and any time is as good as the first.
   */
  setIommu(type: IommuTypeName | number): void {
    const index = checkIndex(type, IOMMU_TYPE_NAMES, 'type')
    this.ask((native) => native.setIommu(index))
    this.learnLimits()
  }

  /** @internal Asks what can be mapped, which is then known before anything is allocated for it. */
  learnLimits(): void {
    try {
      this.handle.mappings.limits = null
      void this.dma.limits
    } catch {
      // Asked again by whoever needs it, who gets the error.
    }
  }

  /**
   * What the IOMMU can map (`VFIO_IOMMU_GET_INFO`).
   * @throws VfioSystemError `EINVAL` before `setIommu()`; `ENODEV` where iommufd provides the container and it has no group.
   */
  iommuInfo(): IommuInfo {
    const { pageSizes, capabilities } = this.asked()
    const migration = named(capabilities, 'migration')
    return {
      pageSizes: bitsOf(pageSizes),
      iovaRanges: named(capabilities, 'iova-ranges')?.ranges ?? null,
      dmaAvailable: named(capabilities, 'dma-available')?.available ?? null,
      migration: migration
        ? { pageSizes: bitsOf(migration.pageSizes), maxDirtyBitmapSize: migration.maxDirtyBitmapSize }
        : null,
      capabilities,
    }
  }

  /** @internal The same as the kernel gave it: `pageSizes` has a bit for each, and is 0 where it does not say. */
  asked(): { readonly pageSizes: bigint; readonly capabilities: readonly IommuCapability[] } {
    const answer = answerIn(this.ask((native) => native.iommuInfo(scratch)))
    const flags = answer.u32(4)
    return {
      pageSizes: flags & FLAG_PAGE_SIZES ? answer.u64(8) : 0n,
      capabilities: flags & FLAG_CAPABILITIES ? iommuCapabilities(answer, answer.u32(16)) : [],
    }
  }
}

const named = <N extends IommuCapability['name']>(capabilities: readonly IommuCapability[], name: N) =>
  capabilities.find((entry): entry is Extract<IommuCapability, { name: N }> => entry.name === name)

/** An open container with what it maps, apart from the object that the program holds. */
export class ContainerHandle extends Handle<NativeContainer> {
  readonly mappings = new Mappings()
  /** iommufd provides it (CONFIG_IOMMUFD_VFIO_CONTAINER, or the file is /dev/iommu); `null` until its answers have told. */
  byIommufd: boolean | null = null

  /** Whether it has an IOMMU: where it has none, nothing is mapped. One that iommufd provides never loses it. */
  hasIommu(): boolean {
    try {
      this.raw.iommuInfo(scratch)
      return true
    } catch (error) {
      return (error as Partial<SystemFailure>).errno !== constants.errno.EINVAL
    }
  }

  // The kernel has unmapped everything with the container.
  protected override afterClose(): void {
    this.mappings.clear()
  }
}

/** The calls of a container, which stays open as long as they are held. */
function type1(container: VfioContainer): SpaceBackend {
  const { handle } = container
  // As they are in the kernel: MAY_READ and MAY_WRITE are its flags.
  return {
    handle,
    mappings: handle.mappings,
    mapNow: (memory, offset, length, iova, access) =>
      binding().containerMapDma(handle.native.id, memory, offset, length, iova, access),
    map: (memory, offset, length, iova, access) => handle.raw.mapDma(memory, offset, length, iova, access),
    unmapNow: (iova, size) => binding().containerUnmapDma(handle.native.id, iova, size, 0),
    unmap: (iova, size) => handle.raw.unmapDma(iova, size, 0),
    unmapAll: () =>
      container.checkExtension('unmap-all') ? () => handle.raw.unmapDma(0n, 0n, UNMAP_ALL) : null,
    askLimits() {
      const { pageSizes, capabilities } = container.asked()
      const available = named(capabilities, 'dma-available')?.available
      // type1 logs writes since it tells of the other; and iommufd has no limit to tell of.
      handle.byIommufd = available === 2 ** 32 - 1 && named(capabilities, 'migration') === undefined
      return {
        ranges: named(capabilities, 'iova-ranges')?.ranges ?? null,
        page: pageSizes === 0n ? null : pageSizes & -pageSizes,
      }
    },
    explainLimits() {
      const info = container.iommuInfo()
      return {
        ranges: info.iovaRanges,
        page: info.pageSizes[0] ?? null,
        choosing: 'setIommu()',
        full: `the container takes no more mappings (${info.dmaAvailable ?? 0} left): unmap some, map larger pieces, or raise vfio_iommu_type1.dma_entry_limit before it is opened`,
        locked: 'VmLck',
        charged: 'each container is charged for itself',
      }
    },
    startDirty: () => handle.native.logDirtyPages(DIRTY_START),
    stopDirty: () => handle.native.logDirtyPages(DIRTY_STOP),
    dirtyBitmap: (iova, size, page) => handle.native.dirtyBitmap(iova, size, page),
    unmapDirty: (iova, size, page) => handle.native.unmapDirty(iova, size, page),
    dirtyPage: () => container.iommuInfo().migration?.pageSizes[0] ?? null,
  }
}

// Outside of the class, which keeps its name in the bundle only if it does not name itself.
const openedContainer = (native: NativeContainer, path: string) =>
  new VfioContainer(new ContainerHandle(native, `container ${path}`, null))

/** What another thread left to this one. */
export const acceptedContainer = (native: NativeContainer, name: string) =>
  new VfioContainer(new ContainerHandle(native, name, null))

/** The powers of two in a bitmap, smallest first. */
function bitsOf(bitmap: bigint): bigint[] {
  const sizes: bigint[] = []
  for (let rest = bitmap; rest !== 0n; rest &= rest - 1n) sizes.push(rest & -rest)
  return sizes
}

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
    return openedGroup(
      call(() => binding().Group.open(path)),
      path,
    )
  }

  /**
   * One that somebody else has opened, by its descriptor, which is duplicated and stays the caller's. `container` is `null` where it
   * joined one elsewhere, and it stays there when this object closes.
   * @throws VfioError `ERR_VFIO_BAD_ARGUMENT` where it is no group
   */
  static fromDescriptor(fd: number): VfioGroup {
    describe(fd, ['group'])
    return openedGroup(
      call(() => binding().Group.fromDescriptor(fd)),
      `descriptor ${fd}`,
    )
  }

  /**
   * The number of its descriptor, for other code of this process and for programs that it starts: see {@link VfioDevice.descriptor}.
   */
  descriptor(): number {
    return this.ask((native) => native.number())
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
   * @throws VfioSystemError `EPERM` where the group is not viable, `EINVAL` where it has a container already. One that iommufd
   * provides takes any group, and refuses its devices.
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
   * Where iommufd provides the container they stay, and so do devices that are open: they close with the container.
   * @throws VfioSystemError `EINVAL` where it has none, `EBUSY` while one of its devices is open.
   */
  unsetContainer(): void {
    this.ask((native) => native.unsetContainer())
    this.handle.membership?.left()
  }

  /**
   * Opens a device of the group by its address, a mediated one by its UUID (`VFIO_GROUP_GET_DEVICE_FD`). The group needs a container, and that an IOMMU.
   * Opening resets the device, which runs on a thread of its own: see `VfioDevice.reset()` for what ends when.
   * @throws VfioSystemError `ENODEV` where it is not in the group or not bound to vfio, `EINVAL` without container or IOMMU,
   * `EPERM` where iommufd provides the container and the group is not viable.
   */
  async openDevice(address: string, options: OpenDeviceOptions = {}): Promise<VfioDevice> {
    return openInGroup(this, address, options, callSite(this.openDevice))
  }
}

/** The same where the program asked for it by another call. */
export async function openInGroup(
  group: VfioGroup,
  address: string,
  options: OpenDeviceOptions,
  site: CallSite,
): Promise<VfioDevice> {
  const name = parseName(address)
  const { signal, vfToken } = checkOptions(options)
  if (vfToken !== undefined) checkVfToken(vfToken, 'options.vfToken')
  const request = vfToken === undefined ? name : `${name} vf_token=${vfToken}`
  const parent = group.handle
  const handle = await parent.run(
    async () => {
      const device = new DeviceHandle(
        // By the object that the program holds, which is not collected meanwhile.
        await group.handle.native.openDevice(request, name),
        `device ${name}`,
        parent,
      )
      // Closed meanwhile, so that nobody else would close it.
      if (parent.closed) void device.release()
      return device
    },
    { signal, subject: name, discard: (device) => void device.release() },
    site,
  )
  const { container } = group
  // Where iommufd provides the container each device reserves addresses of its own.
  if (container?.handle.byIommufd) container.learnLimits()
  return new VfioDevice(handle, name, group)
}

// Outside of the class, which keeps its name in the bundle only if it does not name itself.
const openedGroup = (native: NativeGroup, path: string) =>
  new VfioGroup(new GroupHandle(native, `group ${path}`, null))

/** What another thread left to this one. */
export function acceptedGroup(native: NativeGroup, name: string, container: VfioContainer): VfioGroup {
  const group = new VfioGroup(new GroupHandle(native, name, null))
  group.adopt(container)
  return group
}

export const acceptedDevice = (native: NativeDevice, name: string, address: string, group: VfioGroup) =>
  new VfioDevice(new DeviceHandle(native, name, group.handle), address, group)

class GroupHandle extends GroupFile {
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
  /** Devices that stayed in the container when the group left. */
  #stayed: readonly Dependent[] | null = null

  constructor(group: GroupHandle, container: ContainerHandle) {
    this.#group = group
    this.#container = container
    container.dependents.add(this)
    container.mappings.limits = null
  }

  async release(): Promise<void> {
    if (this.#stayed) {
      await Promise.all(this.#stayed.map((device) => device.release()))
      this.#container.dependents.delete(this)
      return
    }
    do {
      await this.#group.idle()
      await Promise.all(Array.from(this.#group.dependents, (device) => device.release()))
    } while (this.#group.busy)
    if (!this.end()) await this.#closeToo().release()
  }

  releaseNow(): void {
    if (this.#stayed) {
      for (const device of this.#stayed) device.releaseNow()
      this.#container.dependents.delete(this)
      return
    }
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
    if (!this.#container.closed && !this.#container.hasIommu()) this.#container.mappings.emptied()
  }

  /** The kernel has let it go: an iommufd that provides the container even while devices are open. */
  left(): void {
    const container = this.#container
    const devices = [...this.#group.dependents].filter((one) => one instanceof DeviceHandle)
    this.forget()
    if (devices.length > 0) {
      this.#stayed = devices
      container.dependents.add(this)
    }
    const isLast = container.dependents.size === 0
    if (isLast && !(container.byIommufd ?? container.hasIommu())) container.mappings.emptied()
  }

  forget(): void {
    this.#container.dependents.delete(this)
    this.#container.mappings.limits = null
    this.#group.membership = null
  }
}
