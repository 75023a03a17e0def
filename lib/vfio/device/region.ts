import { binding } from '../../native/load.js'
import { translate } from '../../native/translate.js'
import { badArgument, checkView, show } from '../arguments.js'
import type { DeviceHandle, DevicePart } from './handle.js'
import type { RegionInfo } from './info.js'
import { mappableAreas, mapRegion, type RegionMapping, type Windows } from './region-memory.js'

/**
 * How 64 bits go over the bus: in one access, or in two of 32 bits each with the low or the high half first, as
 * devices without 64-bit registers want. Through the descriptor a kernel before 6.10 makes two of `single`.
 */
export type WordOrder = 'single' | 'lo-hi' | 'hi-lo'

/**
 * Every value read from a mapping is stored here: that makes the load of an element happen each time, where
 * the compiler could else drop one whose value nobody uses, or have one for two. `Atomics.load` would promise as much,
 * and take twice as long.
 */
const seen = new Uint32Array(1)

/**
 * A region of an open device: a BAR, the ROM, config space. Offsets are in bytes from its start.
 *
 * **Mapping or descriptor?** An access goes through a mapping where the kernel lets that place be mapped (`mmap` in
 * `info`, within the areas of a `sparse-mmap` capability): one load or store of exactly that width by the processor.
 * Everything else, config space, the ROM, I/O ports, an MSI-X table that may not be mapped, goes through the descriptor
 * (`pread(2)`, `pwrite(2)`), and so does all on a big-endian machine. Values have PCI's byte order either way.
 */
export class VfioRegion {
  readonly index: number
  /** `bar0` … `bar5`, `rom`, `config`, `vga`, or `region 9` for one of the device's own. */
  readonly name: string
  /** In bytes; 0 where the device does not implement it. */
  readonly size: number
  readonly info: RegionInfo
  /** What stays open as long as the region is held. */
  readonly #device: DevicePart
  readonly #handle: DeviceHandle
  readonly #windows: Windows
  readonly #position: number

  /** @internal */
  constructor(device: DevicePart, name: string, info: RegionInfo, windows: Windows) {
    this.#device = device
    this.#handle = device.handle
    this.name = name
    this.info = info
    this.index = info.index
    this.size = Number(info.size)
    this.#position = Number(info.offset)
    this.#windows = windows
  }

  /**
   * Reads 8 bits.
   * @throws VfioError `ERR_VFIO_BAD_ARGUMENT` outside of the region, `ERR_VFIO_CLOSED`, `ERR_VFIO_MEMORY_DISABLED`
   * @throws VfioSystemError `EIO` through the descriptor where the device's decode is off; `mmap` failing where a mapping
   * that found nothing cannot be made anew yet
   */
  read8(offset: number): number {
    const windows = this.#windows
    const at = typeof offset === 'number' ? offset - windows.start : -1
    if (at >>> 0 === at && at < windows.length) {
      const value = windows.bytes[at] as number
      seen[0] = value
      if (value === 0xff && windows.losses[0] !== windows.seenLosses)
        windows.noticeLoss(windows.memory, this.name)
      return value
    }
    return this.#elsewhere8(offset)
  }

  /** Reads 16 bits at a multiple of 2; see {@link read8}. */
  read16(offset: number): number {
    const windows = this.#windows
    const at = typeof offset === 'number' ? offset - windows.start : -1
    if (at >>> 0 === at && (at & 1) === 0 && at < windows.length) {
      const value = windows.halves[at >>> 1] as number
      seen[0] = value
      if (value === 0xffff && windows.losses[0] !== windows.seenLosses)
        windows.noticeLoss(windows.memory, this.name)
      return value
    }
    return this.#elsewhere16(offset)
  }

  /** Reads 32 bits at a multiple of 4; see {@link read8}. */
  read32(offset: number): number {
    const windows = this.#windows
    const at = typeof offset === 'number' ? offset - windows.start : -1
    if (at >>> 0 === at && (at & 3) === 0 && at < windows.length) {
      const value = windows.words[at >>> 2] as number
      seen[0] = value
      if (value === 0xffffffff && windows.losses[0] !== windows.seenLosses)
        windows.noticeLoss(windows.memory, this.name)
      return value
    }
    return this.#elsewhere32(offset)
  }

  /** Reads 64 bits at a multiple of 8 in the order that is given; see {@link read8}. */
  read64(offset: number, order: WordOrder): bigint {
    if (checkOrder(order) !== 'single') {
      this.#check(offset, 8)
      const high = order === 'hi-lo' ? this.read32(offset + 4) : null
      const low = this.read32(offset)
      return (BigInt(high ?? this.read32(offset + 4)) << 32n) | BigInt(low)
    }
    const windows = this.#windows
    if (this.#enter(offset, 8)) {
      const value = Atomics.load(windows.longs, (offset - windows.start) / 8)
      if (windows.losses[0] !== windows.seenLosses) windows.noticeLoss(windows.memory, this.name)
      return value
    }
    try {
      return binding().deviceRead64(this.#handle.native.id, this.#position + offset)
    } catch (error) {
      throw translate(error)
    }
  }

  /**
   * Writes 8 bits.
   * @throws as {@link read8} does, and `ERR_VFIO_BAD_ARGUMENT` for a value that does not fit
   */
  write8(offset: number, value: number): void {
    this.#store(offset, 1, checkValue(value, 0xff), 'memoryWrite8', 'deviceWrite8')
  }

  /** Writes 16 bits at a multiple of 2; see {@link write8}. */
  write16(offset: number, value: number): void {
    this.#store(offset, 2, checkValue(value, 0xffff), 'memoryWrite16', 'deviceWrite16')
  }

  /** Writes 32 bits at a multiple of 4; see {@link write8}. */
  write32(offset: number, value: number): void {
    this.#store(offset, 4, checkValue(value, 0xffffffff), 'memoryWrite32', 'deviceWrite32')
  }

  /** Writes 64 bits at a multiple of 8 in the order that is given; see {@link write8}. */
  write64(offset: number, value: bigint, order: WordOrder): void {
    if (typeof value !== 'bigint' || BigInt.asUintN(64, value) !== value) {
      throw badArgument(`the value must be a bigint from 0 to 2^64 - 1, not ${show(value)}`)
    }
    if (checkOrder(order) === 'single') {
      this.#store(offset, 8, value, 'memoryWrite64', 'deviceWrite64')
      return
    }
    this.#check(offset, 8)
    const low = Number(value & 0xffffffffn)
    const high = Number(value >> 32n)
    if (order === 'hi-lo') this.write32(offset + 4, high)
    this.write32(offset, low)
    if (order === 'lo-hi') this.write32(offset + 4, high)
  }

  /**
   * Fills `into` from `offset` on. Through a mapping with one 32-bit access after another (with 8 bits before the first
   * and after the last multiple of 4), through the descriptor as the kernel likes. The thread waits: 4 KiB of device
   * memory take up to a millisecond.
   */
  read(into: ArrayBufferView, offset: number): void {
    const view = checkView(into, 'into')
    this.#copy(offset, view, 'memoryCopyOut', 'deviceCopyOut')
  }

  /** Writes all of `from` at `offset`, in accesses as {@link read} makes them. */
  write(from: ArrayBufferView, offset: number): void {
    const view = checkView(from, 'from')
    this.#copy(offset, view, 'memoryCopyIn', 'deviceCopyIn')
  }

  /**
   * Maps a part of the region, for bulk data: `offset` a multiple of the system's page size, `length` in bytes; left out:
   * all of it. The buffer is detached when the mapping or the device is closed. Registers are for the methods above: a
   * typed array promises no width. A listener of SIGBUS on `process` does not hear of accesses
   * that find nothing here; one that is added on the main thread while only workers have loaded this package takes them,
   * and must be added before they map something.
   * @throws VfioError `ERR_VFIO_BAD_ARGUMENT` where that part may not be mapped, with the parts that may
   * @throws VfioError `ERR_VFIO_TOO_MANY` near vm.max_map_count
   * @throws VfioSystemError `ENOMEM` at RLIMIT_AS
   */
  map(options: { offset?: number; length?: number } = {}): RegionMapping {
    if (typeof options !== 'object' || options === null)
      throw badArgument(`options must be an object, not ${show(options)}`)
    this.#checkOpen()
    const { offset = 0 } = options
    this.#checkOffset(offset, 1, binding().pageSize)
    const { length = this.size - offset } = options
    if (!Number.isInteger(length) || length <= 0 || length > this.size - offset) {
      throw badArgument(
        `length must be an integer from 1 to ${this.size - offset} (the rest of ${this.name}), not ${show(length)}`,
      )
    }
    const areas = mappableAreas(this.info)
    const fits = areas.some(
      (area) => BigInt(offset) >= area.offset && BigInt(offset + length) <= area.offset + area.size,
    )
    if (!fits) {
      const list = areas.map((area) => `0x${area.offset.toString(16)} + 0x${area.size.toString(16)}`)
      throw badArgument(
        list.length === 0
          ? `${this.name} of ${this.#device.address} may not be mapped: use read() and write()`
          : `this part of ${this.name} of ${this.#device.address} may not be mapped, only ${list.join(', ')}: use read() and write()`,
      )
    }
    return mapRegion(this.#device, this.#position + offset, offset, length)
  }

  // Through the descriptor, or through a window that is not the current one. Apart, so that the compiler puts the quick
  // way in line. What `fileEnd` allows needs no more checks: it is 0 once the device closes.

  #elsewhere8(offset: number): number {
    const windows = this.#windows
    const isFile = typeof offset === 'number' && offset >>> 0 === offset && offset < windows.fileEnd
    if (!isFile && this.#enter(offset, 1)) return this.read8(offset)
    try {
      return binding().deviceRead8(windows.device, this.#position + offset)
    } catch (error) {
      throw translate(error)
    }
  }

  #elsewhere16(offset: number): number {
    const windows = this.#windows
    const isFile =
      typeof offset === 'number' && offset >>> 0 === offset && (offset & 1) === 0 && offset < windows.fileEnd
    if (!isFile && this.#enter(offset, 2)) return this.read16(offset)
    try {
      return binding().deviceRead16(windows.device, this.#position + offset)
    } catch (error) {
      throw translate(error)
    }
  }

  #elsewhere32(offset: number): number {
    const windows = this.#windows
    const isFile =
      typeof offset === 'number' && offset >>> 0 === offset && (offset & 3) === 0 && offset < windows.fileEnd
    if (!isFile && this.#enter(offset, 4)) return this.read32(offset)
    try {
      return binding().deviceRead32(windows.device, this.#position + offset)
    } catch (error) {
      throw translate(error)
    }
  }

  #store<V extends number | bigint>(
    offset: number,
    width: number,
    value: V,
    inMemory: V extends bigint ? 'memoryWrite64' : 'memoryWrite8' | 'memoryWrite16' | 'memoryWrite32',
    inFile: V extends bigint ? 'deviceWrite64' : 'deviceWrite8' | 'deviceWrite16' | 'deviceWrite32',
  ): void {
    const windows = this.#windows
    const memory = this.#enter(offset, width) ? windows.memory : null
    try {
      if (!memory) {
        binding()[inFile](this.#handle.native.id, this.#position + offset, value as never)
        return
      }
      binding()[inMemory](memory.id, offset - windows.start, value as never)
    } catch (error) {
      throw translate(error)
    }
    if (windows.losses[0] !== windows.seenLosses) windows.noticeLoss(memory, this.name)
  }

  #copy(
    offset: number,
    view: ArrayBufferView,
    inMemory: 'memoryCopyOut' | 'memoryCopyIn',
    inFile: 'deviceCopyOut' | 'deviceCopyIn',
  ): void {
    this.#checkOpen()
    this.#checkOffset(offset, view.byteLength, 1)
    const windows = this.#windows
    const memory = windows.find(offset, view.byteLength)?.memory
    try {
      if (!memory) {
        binding()[inFile](this.#handle.native.id, this.#position + offset, view)
        return
      }
      binding()[inMemory](memory.id, offset - windows.start, view)
    } catch (error) {
      throw translate(error)
    }
    if (windows.losses[0] !== windows.seenLosses) windows.noticeLoss(memory, this.name)
  }

  /** Whether the current window has the access, after all has been checked; else it is the descriptor's. */
  #enter(offset: number, width: number): boolean {
    const windows = this.#windows
    const at = typeof offset === 'number' ? offset - windows.start : -1
    if (at >= 0 && at < windows.length && at % width === 0) return true
    this.#check(offset, width)
    return windows.find(offset, width) !== null
  }

  #check(offset: number, width: number): void {
    this.#checkOpen()
    this.#checkOffset(offset, width, width)
  }

  #checkOpen(): void {
    if (this.#handle.closed) throw this.#handle.closedError()
  }

  #checkOffset(offset: unknown, size: number, alignment: number): void {
    if (typeof offset !== 'number' || !Number.isInteger(offset) || offset < 0 || offset > this.size - size) {
      throw badArgument(
        this.size === 0
          ? `${this.#device.address} has no ${this.name}`
          : `an access of ${size} bytes in ${this.name} (${this.size} bytes) must be inside of it, not at ${show(offset)}`,
      )
    }
    if (offset % alignment !== 0)
      throw badArgument(`the offset must be a multiple of ${alignment}, not ${offset}`)
  }
}

function checkValue(value: unknown, largest: number): number {
  if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= largest) return value
  throw badArgument(`the value must be an integer from 0 to ${largest}, not ${show(value)}`)
}

function checkOrder(order: unknown): WordOrder {
  if (order === 'single' || order === 'lo-hi' || order === 'hi-lo') return order
  throw badArgument(`the order must be 'single', 'lo-hi' or 'hi-lo', not ${show(order)}`)
}
