import { VfioError } from '../../errors.js'
import { LITTLE_ENDIAN } from '../../native/answer.js'
import type { NativeMemory } from '../../native/binding.js'
import { binding } from '../../native/load.js'
import { call, translate } from '../../native/translate.js'
import type { MappableArea } from '../capabilities.js'
import { checkMappings, explainMemory } from '../limits.js'
import type { DeviceHandle, DevicePart } from './handle.js'
import type { RegionInfo } from './info.js'

/**
 * The parts of a region that may be mapped: all of it, those that the kernel lists, or none. None of one that cannot be
 * written: an array buffer always can, and the processor would not let it.
 */
export function mappableAreas({ mmap, write, size, capabilities }: RegionInfo): readonly MappableArea[] {
  if (!mmap || !write || size === 0n) return []
  const sparse = capabilities.find((entry) => entry.name === 'sparse-mmap')
  return sparse?.name === 'sparse-mmap' ? sparse.areas : [{ offset: 0n, size }]
}

/** One window of address space is at most this large; a region that is larger gets several. */
const LARGEST_WINDOW = 2 ** 30

/** A mapped piece of a region, seen in each width that a register can have. */
export interface Window {
  /** Where it begins in the region, a multiple of the page size, and how long it is, of 8; in bytes. */
  readonly start: number
  readonly length: number
  readonly bytes: Uint8Array
  readonly halves: Uint16Array
  readonly words: Uint32Array
  readonly longs: BigUint64Array
  readonly memory: NativeMemory | null
}

const windowOver = (start: number, length: number, buffer: ArrayBuffer, memory: NativeMemory | null) => ({
  start,
  length,
  bytes: new Uint8Array(buffer),
  halves: new Uint16Array(buffer),
  words: new Uint32Array(buffer),
  longs: new BigUint64Array(buffer),
  memory,
})

/** The window that no offset is in. */
const NOWHERE: Window = windowOver(0, 0, new ArrayBuffer(0), null)

/**
 * The mapped pieces of one region for register access, made when they are first needed. It belongs to the open device
 * and not to the object that the program holds, so that closing the device takes it away.
 */
export class Windows {
  // The last one used, by its parts: a step less on the way to a register.
  start = NOWHERE.start
  length = NOWHERE.length
  bytes = NOWHERE.bytes
  halves = NOWHERE.halves
  words = NOWHERE.words
  longs = NOWHERE.longs
  memory = NOWHERE.memory
  /** Up to here all accesses are the descriptor's; 0 where some place may be mapped, and from the closing of the device on. */
  fileEnd: number
  /** What the addon knows the device by. */
  readonly device: number
  /** Of this process, as the addon counts them, and how many are known of. */
  readonly losses: Uint32Array
  seenLosses: number

  readonly #handle: DeviceHandle
  readonly #position: number
  readonly #areas: readonly { start: number; end: number }[]
  readonly #made: Window[] = []

  /** `position` is that of the region in the device's file, `size` its own; `areas` are the parts that may be mapped. */
  constructor(handle: DeviceHandle, position: number, size: number, areas: readonly MappableArea[]) {
    this.#handle = handle
    this.#position = position
    this.device = handle.native.id
    // Typed arrays have the byte order of this machine, and devices have that of PCI.
    const page = binding().pageSize
    this.#areas = LITTLE_ENDIAN
      ? areas
          .map(({ offset, size }) => ({
            // What lies before it in its page goes through the descriptor.
            start: Math.ceil(Number(offset) / page) * page,
            end: Number((offset + size) & ~7n),
          }))
          .filter(({ start, end }) => start < end)
      : []
    this.fileEnd = this.#areas.length > 0 ? 0 : size - (size % 8)
    this.losses = new Uint32Array(binding().mappingCounts, 0, 1)
    this.seenLosses = this.losses[0] ?? 0
  }

  /** Makes the window with these bytes the current one. Returns null where they cannot be mapped. */
  find(offset: number, size: number): Window | null {
    if (this.#handle.closed) throw this.#handle.closedError()
    if (this.#areas.length === 0) return null
    const made = this.#made.find(({ start, length }) => offset >= start && offset + size <= start + length)
    if (made?.memory?.lost()) restore(made.memory)
    const window = made ?? this.#make(offset, size)
    if (window) this.#use(window)
    return window
  }

  #use({ start, length, bytes, halves, words, longs, memory }: Window): void {
    this.start = start
    this.length = length
    this.bytes = bytes
    this.halves = halves
    this.words = words
    this.longs = longs
    this.memory = memory
  }

  #make(offset: number, size: number): Window | null {
    const area = this.#areas.find(({ start, end }) => offset >= start && offset + size <= end)
    if (!area) return null
    const start = offset - ((offset - area.start) % LARGEST_WINDOW)
    const length = Math.min(LARGEST_WINDOW, area.end - start)
    // A copy may go over two windows: the descriptor takes it.
    if (offset + size > start + length) return null
    const { native } = this.#handle
    try {
      checkMappings()
      const memory = native.map(this.#position + start, length)
      const window = windowOver(start, length, memory.buffer, memory)
      this.#made.push(window)
      return window
    } catch (error) {
      const translated = explainMemory(translate(error))
      // The descriptor works there too.
      if (translated instanceof VfioError && translated.code === 'ERR_VFIO_NO_EXTERNAL_MEMORY') return null
      throw translated
    }
  }

  /**
   * Was it this access that met a SIGBUS? Called only when some access of this process did. The next access maps the window
   * anew first, and throws while that fails.
   * @throws VfioError `ERR_VFIO_MEMORY_DISABLED`
   */
  noticeLoss(memory: NativeMemory | null, region: string): void {
    this.seenLosses = this.losses[0] ?? 0
    if (!memory?.lost()) return
    this.#use(NOWHERE)
    throw memoryDisabled(this.#handle.name, region)
  }

  /** Detaches all. */
  close(): void {
    this.#use(NOWHERE)
    this.fileEnd = 0
    for (const { memory } of this.#made.splice(0)) memory?.close()
  }
}

const memoryDisabled = (device: string, region: string) =>
  new VfioError(
    'ERR_VFIO_MEMORY_DISABLED',
    `nothing answers in ${region} of ${device}: its memory decode is off (config.setCommand({ memory: true })), or it sleeps or is being reset; ARM tells so too of a device that refuses an access of this width`,
  )

/** A part of a region in this process's memory. It comes from `VfioRegion.map()`. */
export class RegionMapping {
  /** Over the device's own memory; detached when the mapping or the device is closed. */
  readonly buffer: ArrayBuffer
  /** In bytes from the start of the region. */
  readonly offset: number
  readonly length: number
  readonly #device: DevicePart
  readonly #memory: NativeMemory

  /** @internal */
  constructor(device: DevicePart, memory: NativeMemory, offset: number, length: number) {
    this.#device = device
    this.offset = offset
    this.length = length
    this.buffer = memory.buffer
    this.#memory = memory
  }

  get closed(): boolean {
    return !this.#device.handle.owns(this.#memory)
  }

  /**
   * Did an access meet a SIGBUS since it was mapped or restored? The device's memory decode was off then, and reads gave
   * all ones, as on a PCI bus.
   * @throws VfioError `ERR_VFIO_CLOSED`
   */
  get lost(): boolean {
    return call(() => this.#memory.lost())
  }

  /**
   * Maps the device anew where something was lost.
   * @throws VfioError `ERR_VFIO_CLOSED`
   * @throws VfioSystemError where the kernel does not map it: it stays lost, and reads ones where it was
   */
  restore(): void {
    restore(this.#memory)
  }

  /** Detaches the buffer. Idempotent. */
  close(): void {
    this.#device.handle.letGo(this.#memory)
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

/** Maps `length` bytes from `position` on of the device's file, which are those from `offset` on of the region. */
export function mapRegion(
  device: DevicePart,
  position: number,
  offset: number,
  length: number,
): RegionMapping {
  const { handle } = device
  checkMappings()
  const memory = explained(() => handle.native.map(position, length))
  handle.own(memory)
  return new RegionMapping(device, memory, offset, length)
}

/** Maps device memory anew where something of it was lost. */
function restore(memory: NativeMemory): void {
  explained(() => memory.restore())
}

function explained<T>(mapping: () => T): T {
  try {
    return mapping()
  } catch (error) {
    throw explainMemory(translate(error))
  }
}
