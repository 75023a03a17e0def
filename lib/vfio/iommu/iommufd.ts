import { pageBits } from '../../native/answer.js'
import type { NativeIommufd } from '../../native/binding.js'
import { binding } from '../../native/load.js'
import { call } from '../../native/translate.js'
import {
  badArgument,
  checkFlag,
  checkInteger,
  checkOptions,
  checkPath,
  checkUint64,
  show,
} from '../arguments.js'
import type { IovaRange } from '../capabilities.js'
import { describe } from '../descriptor.js'
import { Handle, VfioObject, watched } from '../handle.js'
import type { DmaBuffer } from './buffer.js'
import { backendOf, type DmaMapping, DmaSpace, type MapOptions, type PlaceOptions } from './space.js'
import {
  flagsOf,
  HWPT_DIRTY_TRACKING,
  HWPT_PASID,
  type HwptHandle,
  IoasCalls,
  IoasHandle,
  OPTION_GET,
  OPTION_RLIMIT_MODE,
  pairsOf,
  type TableHandle,
} from './tables.js'

const HWPT_NEST_PARENT = 1 << 0
const BITMAP_NO_CLEAR = 1 << 0
const OPTION_HUGE_PAGES = 1
const OPTION_SET = 0
const HW_INFO_OF_TYPE = 1 << 0
/** The largest number of an object. */
export const LARGEST_ID = 0xffffffff

/** A device that is bound to an iommufd, as `VfioDevice.openCdev()` opens it. */
export interface BoundDevice {
  readonly address: string
  /** Its number in the iommufd; `null` where it was opened by its group. */
  readonly devid: number | null
}

/** Whom locked memory is charged to: all programs of this user together, or this process. */
export type Accounting = 'user' | 'process'

/** What the IOMMU of a device is (`struct iommu_hw_info`). */
export interface HardwareInfo {
  /** What `data` is laid out as (`enum iommu_hw_info_type`); `number` for one that this version does not know. */
  readonly type: 'none' | 'intel-vtd' | 'arm-smmuv3' | 'tegra241-cmdqv' | 'amd' | number
  /** The IOMMU can log the pages that the device writes. */
  readonly dirtyTracking: boolean
  /** How many bits a PASID of the device has; 0 where it has none (always before Linux 6.15). */
  readonly pasidBits: number
  /** As the kernel gave them. */
  readonly capabilities: bigint
  /** In the layout of its type in `uapi/linux/iommufd.h`. */
  readonly data: Uint8Array
}

const HARDWARE = ['none', 'intel-vtd', 'arm-smmuv3', 'tegra241-cmdqv', 'amd'] as const
const CAN_TRACK = 1n << 0n

/** What `ioas.mapFile()` maps. */
export interface MapFileOptions extends PlaceOptions {
  /** What of the file, in bytes, multiples of the page size. */
  readonly offset?: number | undefined
  readonly length: number
}

export interface HwptOptions {
  /** Log the pages that devices write: {@link Hwpt.setDirtyTracking}. */
  readonly dirtyTracking?: boolean | undefined
  /** It may be the parent of page tables of a guest. */
  readonly nestParent?: boolean | undefined
  /** It may be attached to a PASID of a device. */
  readonly pasid?: boolean | undefined
  readonly signal?: AbortSignal | undefined
}

/** An open `/dev/iommu`: address spaces and page tables of the devices that are bound to it. */
export class Iommufd extends VfioObject {
  /** @internal */
  readonly handle: Handle<NativeIommufd>

  /** @internal */
  constructor(handle: Handle<NativeIommufd>) {
    super()
    this.handle = watched(this, handle)
  }

  /**
   * Opens it.
   * @throws VfioSystemError `ENOENT` where the kernel has no iommufd or its module is not loaded, `EACCES` without permission.
   */
  static open(path = '/dev/iommu'): Iommufd {
    const checked = checkPath(path)
    return opened(
      call(() => binding().Iommufd.open(checked)),
      `iommufd ${checked}`,
    )
  }

  /**
   * One that somebody else has opened, by its descriptor, which is duplicated and stays the caller's.
   * @throws VfioError `ERR_VFIO_BAD_ARGUMENT` where it is no iommufd
   */
  static fromDescriptor(fd: number): Iommufd {
    describe(fd, ['iommufd'])
    return opened(
      call(() => binding().Iommufd.fromDescriptor(fd)),
      `iommufd of descriptor ${fd}`,
    )
  }

  /**
   * The number of its descriptor, for other code of this process and for programs that it starts: see {@link VfioDevice.descriptor}.
   */
  descriptor(): number {
    return this.ask((native) => native.number())
  }

  /** A new address space (`IOMMU_IOAS_ALLOC`). */
  allocateIoas(): Ioas {
    return this.ioas(this.ask((native) => native.allocateIoas()))
  }

  /** @internal One that is there already. */
  ioas(id: number): Ioas {
    return new Ioas(new IoasHandle(this.handle, id), this)
  }

  /**
   * Whom memory is charged to that devices may use (`IOMMU_OPTION_RLIMIT_MODE`); with a second argument it is chosen, before
   * anything is allocated or bound. Left alone it is `'user'`: RLIMIT_MEMLOCK holds for all programs of the user together.
   * @throws VfioSystemError `EPERM` without CAP_SYS_RESOURCE, `EBUSY` where something is there already.
   */
  option(name: 'accounting'): Accounting
  option(name: 'accounting', value: Accounting): void
  option(name: 'accounting', value?: Accounting): Accounting | undefined {
    if (name !== 'accounting') throw badArgument(`an iommufd has the option 'accounting', not ${show(name)}`)
    if (value === undefined) {
      const mode = this.ask((native) => native.option(OPTION_RLIMIT_MODE, OPTION_GET, 0, 0n))
      return mode === 1n ? 'process' : 'user'
    }
    if (value !== 'user' && value !== 'process')
      throw badArgument(`the accounting is 'user' or 'process', not ${show(value)}`)
    this.ask((native) => native.option(OPTION_RLIMIT_MODE, OPTION_SET, 0, value === 'process' ? 1n : 0n))
    return undefined
  }

  /**
   * Charges all that is mapped to this process, and lets it belong to it, after another one has opened the iommufd
   * (`IOMMU_IOAS_CHANGE_PROCESS`, since Linux 6.13). Everything must be mapped by its file ({@link Ioas.mapFile}).
   * @throws VfioSystemError `EINVAL` where something is not.
   */
  changeProcess(): Promise<void> {
    return this.handle.run(() => this.handle.native.changeProcess(), {}, this.changeProcess)
  }

  /**
   * What the IOMMU of a device is and can (`IOMMU_GET_HW_INFO`).
   * @param type what its data is to be laid out as, by number, since Linux 6.17; left out: as the IOMMU likes
   * @throws VfioSystemError `ENOTSUP` where it has no such data.
   */
  hardwareInfo(device: BoundDevice, type?: number): HardwareInfo {
    const id = devidOf(device, this.handle)
    const wanted = type === undefined ? 0 : checkInteger(type, LARGEST_ID, 'type')
    const info = this.ask((native) => native.hwInfo(id, type === undefined ? 0 : HW_INFO_OF_TYPE, wanted))
    return {
      type: HARDWARE[info.type] ?? info.type,
      dirtyTracking: (info.capabilities & CAN_TRACK) !== 0n,
      pasidBits: info.pasidBits,
      capabilities: info.capabilities,
      data: new Uint8Array(info.data),
    }
  }

  /**
   * Destroys an object by its number (`IOMMU_DESTROY`): one that the kernel made by itself. Those of this package close.
   * @throws VfioSystemError `EBUSY` while something uses it, `ENOENT` where there is none.
   */
  destroy(id: number): Promise<void> {
    const checked = checkInteger(id, LARGEST_ID, 'id')
    return this.handle.run(() => this.handle.native.destroy(checked), {}, this.destroy)
  }
}

// Outside of the class, which keeps its name in the bundle only if it does not name itself.
const opened = (native: NativeIommufd, name: string) =>
  new Iommufd(new Handle<NativeIommufd>(native, name, null))

/** What another thread left to this one. */
export const acceptedIommufd = opened

/** What a device can be attached to: an address space, or a page table of one. */
export abstract class PageTable extends VfioObject {
  /** @internal */
  abstract override readonly handle: TableHandle

  /** Its number in the iommufd. */
  get id(): number {
    return this.handle.raw.id
  }
}

/**
 * An address space (I/O address space): what is mapped in it, the devices that are attached to it can reach. Closing it
 * detaches them first.
 */
export class Ioas extends PageTable {
  /** @internal */
  readonly handle: IoasHandle
  /** What stays open as long as it is held. */
  readonly iommufd: Iommufd
  /** The memory that its devices may use. */
  readonly dma: DmaSpace

  /** @internal */
  constructor(handle: IoasHandle, iommufd: Iommufd) {
    super()
    this.handle = watched(this, handle)
    this.iommufd = iommufd
    this.dma = new DmaSpace(new IoasCalls(this, handle))
  }

  /**
   * The addresses that may be mapped, and of what their places and sizes are multiples, in bytes (`IOMMU_IOAS_IOVA_RANGES`).
   * Both change with the devices that are attached.
   */
  ranges(): { readonly alignment: bigint; readonly ranges: readonly IovaRange[] } {
    const { alignment, ranges } = call(() => this.handle.iommufd.native.iovaRanges(this.handle.native.id))
    return { alignment, ranges: pairsOf(ranges) }
  }

  /**
   * The only addresses that the kernel may choose by itself, and that devices which are attached later must not reserve
   * (`IOMMU_IOAS_ALLOW_IOVAS`); `end` is the last one. None lifts that.
   * @throws VfioSystemError `EADDRINUSE` where an attached device reserves some of them, `EINVAL` where they overlap.
   */
  allow(ranges: readonly IovaRange[]): void {
    if (!Array.isArray(ranges)) throw badArgument(`ranges must be an array, not ${show(ranges)}`)
    const pairs = BigUint64Array.from(ranges.flatMap(checkRange))
    call(() => this.handle.iommufd.native.allowIovas(this.handle.native.id, pairs))
    this.handle.mappings.limits = null
  }

  /** Maps a buffer: {@link DmaSpace.map}. */
  map(buffer: DmaBuffer, options: MapOptions = {}): Promise<DmaMapping<DmaBuffer>> {
    return this.dma.map(buffer, options)
  }

  /**
   * Maps a memfd, or a file of hugetlbfs, by its descriptor, without mapping it into this process
   * (`IOMMU_IOAS_MAP_FILE`, since Linux 6.13). The kernel keeps the file.
   * @throws VfioSystemError `EINVAL` for another kind of file, and as {@link DmaSpace.map}
   */
  mapFile(fd: number, options: MapFileOptions): Promise<DmaMapping<null>> {
    checkInteger(fd, 0x7fffffff, 'fd')
    checkOptions(options).signal?.throwIfAborted()
    const offset = checkInteger(options.offset ?? 0, Number.MAX_SAFE_INTEGER, 'options.offset')
    const length = checkInteger(options.length, Number.MAX_SAFE_INTEGER, 'options.length')
    if (length === 0) throw badArgument('options.length must not be 0')
    const { handle } = this
    const work = (iova: bigint, access: number) =>
      handle.iommufd.native.mapFile(
        handle.native.id,
        fd,
        BigInt(offset),
        BigInt(length),
        iova,
        flagsOf(access),
      )
    return this.dma.place({ buffer: null, offset, length }, options, work, this.mapFile)
  }

  /**
   * Maps what is mapped in another address space of the same iommufd, whose pages are shared and charged once
   * (`IOMMU_IOAS_COPY`).
   * @throws VfioError `ERR_VFIO_BAD_ARGUMENT` where the mapping is unmapped, or is before its turn comes
   * @throws VfioSystemError as {@link DmaSpace.map}
   */
  copy<B extends DmaBuffer | null>(
    mapping: DmaMapping<B>,
    options: PlaceOptions = {},
  ): Promise<DmaMapping<B>> {
    checkOptions(options).signal?.throwIfAborted()
    const from = backendOf(mapping)
    const { handle } = this
    if (!(from instanceof IoasCalls) || from.handle.iommufd !== handle.iommufd)
      throw badArgument('mapping must be one of an address space of the same iommufd')
    const { iova: source, size, buffer } = mapping
    const work = async (iova: bigint, access: number) => {
      // Whatever lies there by now is not what was meant.
      if (!mapping.mapped) throw badArgument(`mapping is unmapped: nothing of it is left to copy`)
      await handle.iommufd.native.copy(
        handle.native.id,
        from.handle.native.id,
        BigInt(size),
        iova,
        source,
        flagsOf(access),
      )
    }
    return this.dma.place({ buffer, offset: 0, length: size }, options, work, this.copy)
  }

  /** Unmaps all that lies in a range: {@link DmaSpace.unmap}. */
  unmap(iova: number | bigint, size: number | bigint): Promise<bigint> {
    return this.dma.unmap(iova, size)
  }

  /** Unmaps everything: how many bytes that was. */
  unmapAll(): Promise<bigint> {
    return this.dma.unmapAll()
  }

  /**
   * A page table over what is mapped here, for the IOMMU of a device, which is not attached to it yet (`IOMMU_HWPT_ALLOC`).
   * @throws VfioSystemError `ENOTSUP` where that IOMMU has not what is asked for.
   */
  async allocateHwpt(device: BoundDevice, options: HwptOptions = {}): Promise<Hwpt> {
    const id = devidOf(device, this.handle.iommufd)
    const { signal } = checkOptions(options)
    const tracks = checkFlag(options.dirtyTracking, false, 'options.dirtyTracking')
    const flags =
      (tracks ? HWPT_DIRTY_TRACKING : 0) |
      (checkFlag(options.nestParent, false, 'options.nestParent') ? HWPT_NEST_PARENT : 0) |
      (checkFlag(options.pasid, false, 'options.pasid') ? HWPT_PASID : 0)
    const { handle } = this
    const table = await handle.run(
      () => handle.allocate(id, flags),
      { signal, subject: device.address, discard: (late) => void late.release() },
      this.allocateHwpt,
    )
    return new Hwpt(table, this)
  }

  /**
   * Whether the IOMMU may map with pages larger than those of the system (`IOMMU_OPTION_HUGE_PAGES`); with a second argument it
   * is chosen, before anything is mapped.
   * @throws VfioSystemError `EINVAL` where something is mapped already.
   */
  option(name: 'huge-pages'): boolean
  option(name: 'huge-pages', value: boolean): void
  option(name: 'huge-pages', value?: boolean): boolean | undefined {
    if (name !== 'huge-pages') throw badArgument(`an IOAS has the option 'huge-pages', not ${show(name)}`)
    const { iommufd, native } = this.handle
    if (value === undefined)
      return call(() => iommufd.native.option(OPTION_HUGE_PAGES, OPTION_GET, native.id, 0n)) === 1n
    const wanted = checkFlag(value, true, 'the option') ? 1n : 0n
    call(() => iommufd.native.option(OPTION_HUGE_PAGES, OPTION_SET, native.id, wanted))
    this.handle.mappings.limits = null
    return undefined
  }

  /**
   * Where in physical memory an address leads, and how many bytes, `length` at most, follow it there
   * (`IOMMU_IOAS_NOIOMMU_GET_PA`, in Linux 7.3): for devices without an IOMMU, which know no other addresses.
   * @throws VfioSystemError `ENOENT` where nothing is mapped there, `ENOTSUP` where the devices have an IOMMU, `EPERM`
   * without CAP_SYS_RAWIO.
   */
  physicalAddress(
    iova: number | bigint,
    length: number | bigint,
  ): Promise<{ readonly address: bigint; readonly length: bigint }> {
    const [at, most] = [checkUint64(iova, 'iova'), checkUint64(length, 'length')]
    return this.handle.run(
      () => this.handle.iommufd.native.noiommuPa(this.handle.native.id, at, most),
      {},
      this.physicalAddress,
    )
  }
}

/** A page table of an IOMMU (hardware page table) over an address space. It comes from `Ioas.allocateHwpt()`. */
export class Hwpt extends PageTable {
  /** @internal */
  readonly handle: HwptHandle
  /** What stays open as long as it is held. */
  readonly ioas: Ioas

  /** @internal */
  constructor(handle: HwptHandle, ioas: Ioas) {
    super()
    this.handle = watched(this, handle)
    this.ioas = ioas
  }

  /**
   * Begins or ends the log of the pages that devices write (`IOMMU_HWPT_SET_DIRTY_TRACKING`).
   * @throws VfioSystemError `ENOTSUP` where it was not allocated for that.
   */
  setDirtyTracking(on: boolean): Promise<void> {
    const wanted = checkFlag(on, true, 'on')
    return this.handle.run(() => this.handle.track(wanted), {}, this.setDirtyTracking)
  }

  /**
   * The pages of a range that were written since they were asked for last (`IOMMU_HWPT_GET_DIRTY_BITMAP`), as
   * {@link DirtyPages.bitmap} tells them. `keep`: they are told again next time.
   * @throws VfioSystemError `EINVAL` while nothing is logged, or where the range is uneven.
   */
  dirtyBitmap(
    iova: number | bigint,
    size: number | bigint,
    options: { readonly pageSize?: number | bigint | undefined; readonly keep?: boolean | undefined } = {},
  ): Promise<Uint8Array> {
    const [start, length] = [checkUint64(iova, 'iova'), checkUint64(size, 'size')]
    const page = checkUint64(options.pageSize ?? binding().pageSize, 'options.pageSize')
    const flags = checkFlag(options.keep, false, 'options.keep') ? BITMAP_NO_CLEAR : 0
    return this.handle.run(
      async () => pageBits(await this.handle.dirtyBitmap(start, length, page, flags)),
      {},
      this.dirtyBitmap,
    )
  }
}

function devidOf(device: BoundDevice, iommufd: Handle<NativeIommufd>): number {
  if (!(device instanceof VfioObject) || typeof device.address !== 'string')
    throw badArgument(`device must be a VfioDevice, not ${show(device)}`)
  if (device.devid === null)
    throw badArgument(
      `${device.address} was opened by its group, and is in no iommufd: open it with VfioDevice.openCdev()`,
    )
  // Each iommufd counts from 1, so that the number of another one's device may be that of something here.
  if (device.handle.parent === iommufd) return device.devid
  throw badArgument(
    `${device.address} is bound to another iommufd than this: open it with VfioDevice.openCdev() in the same one`,
  )
}

function checkRange(range: IovaRange): [bigint, bigint] {
  if (typeof range !== 'object' || range === null)
    throw badArgument(`a range must be an object with start and end, not ${show(range)}`)
  const [start, end] = [checkUint64(range.start, 'start'), checkUint64(range.end, 'end')]
  if (end < start)
    throw badArgument(`the range 0x${start.toString(16)}–0x${end.toString(16)} ends before it starts`)
  return [start, end]
}
