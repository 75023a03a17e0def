import { VfioError } from '../errors.js'
import type { NativeMemory, NativeMemoryFile } from '../native/binding.js'
import { binding } from '../native/load.js'
import { badArgument, checkInteger, show } from './arguments.js'
import { call } from './translate.js'

const PAGE_SIZE = 4096
const HUGE_PAGE_SIZE = 2 ** 21

export interface DmaBufferOptions {
  /** Huge pages: `true` for those of 2 MiB, or their size in bytes (a power of two that the processor has). They come from the host's pool. */
  readonly hugepages?: boolean | number | undefined
}

/**
 * Memory that devices may read and write: of its own (`memfd_create(2)`), or a part of a file of the caller's such as
 * the RAM of a guest. It can be mapped any number of times, and not be closed while it is mapped.
 */
export class DmaBuffer {
  /** In bytes; a multiple of its page size. */
  readonly size: number
  /** All of it. Detached when it is closed. */
  readonly buffer: ArrayBuffer
  readonly bytes: Uint8Array
  readonly #file: NativeMemoryFile
  readonly #memory: NativeMemory
  #mappings = 0
  #closed = false

  /** @internal */
  constructor(file: NativeMemoryFile, memory: NativeMemory, size: number) {
    this.#file = file
    this.#memory = memory
    this.size = size
    this.buffer = memory.buffer
    this.bytes = new Uint8Array(memory.buffer)
  }

  /**
   * New memory, zeroed. The size is rounded up to whole pages.
   * @throws VfioSystemError `ENOMEM` where the host has not so much memory, or not so many free huge pages.
   */
  static allocate(size: number, options: DmaBufferOptions = {}): DmaBuffer {
    checkSize(size, 'size')
    if (typeof options !== 'object' || options === null)
      throw badArgument(`options must be an object, not ${show(options)}`)
    const huge = hugePageSize(options.hugepages)
    const page = huge ?? PAGE_SIZE
    const rounded = Math.ceil(size / page) * page
    return map(
      call(() => binding().MemoryFile.create(rounded, huge === null ? 0 : Math.log2(huge))),
      0,
      rounded,
    )
  }

  /**
   * A part of a file that the caller has open for reading and writing, the RAM of a guest for instance. The descriptor
   * is duplicated and stays the caller's. `offset` and `size` in bytes, multiples of the page size of the file.
   * @throws VfioSystemError `EBADF`, `EACCES`, `ENODEV` where the file cannot be mapped.
   */
  static fromFd(fd: number, options: { readonly offset?: number; readonly size: number }): DmaBuffer {
    checkInteger(fd, 0x7fffffff, 'fd')
    if (typeof options !== 'object' || options === null)
      throw badArgument(`options must be an object with size, not ${show(options)}`)
    const { offset = 0, size } = options
    checkSize(size, 'size')
    checkInteger(offset, Number.MAX_SAFE_INTEGER, 'offset')
    if (offset % PAGE_SIZE !== 0 || size % PAGE_SIZE !== 0) {
      throw badArgument(`offset and size must be multiples of ${PAGE_SIZE}, not ${offset} and ${size}`)
    }
    const file = call(() => binding().MemoryFile.duplicate(fd))
    const length = call(() => file.size())
    if (offset + size > length) {
      file.closeNow()
      throw badArgument(`descriptor ${fd} has ${length} bytes, so ${size} from ${offset} on are not in it`)
    }
    return map(file, offset, size)
  }

  /** The descriptor of its file, for other code of this process. It belongs to this object, which closes it. */
  get fd(): number {
    this.checkOpen()
    return call(() => this.#file.number())
  }

  /** Is a part of it mapped for a device? */
  get mapped(): boolean {
    return this.#mappings > 0
  }

  get closed(): boolean {
    return this.#closed
  }

  /**
   * Gives the memory back and detaches `buffer`. Idempotent.
   * @throws VfioError `ERR_VFIO_IN_USE` while a device may use it
   */
  close(): void {
    if (this.#closed) return
    if (this.#mappings > 0) {
      throw new VfioError(
        'ERR_VFIO_IN_USE',
        `the buffer of ${this.size} bytes is mapped for devices (${this.#mappings}×): unmap it, or close the container, before closing it`,
      )
    }
    this.#closed = true
    this.#memory.close()
    this.#file.closeNow()
  }

  [Symbol.dispose](): void {
    this.close()
  }

  /** @internal */
  checkOpen(): void {
    if (this.#closed)
      throw new VfioError('ERR_VFIO_CLOSED', `the buffer of ${this.size} bytes is closed: allocate another`)
  }

  /** @internal What the addon knows it by. */
  get memoryId(): number {
    this.checkOpen()
    return this.#memory.id
  }

  /** @internal A mapping of it begins (+1) or is over (−1). */
  count(change: 1 | -1): void {
    this.#mappings += change
  }
}

// Outside of the class, which keeps its name in the bundle only if it does not name itself.
function map(file: NativeMemoryFile, offset: number, size: number): DmaBuffer {
  try {
    return new DmaBuffer(
      file,
      call(() => file.map(offset, size)),
      size,
    )
  } catch (error) {
    file.closeNow()
    throw error
  }
}

function checkSize(size: unknown, name: string): void {
  if (checkInteger(size, Number.MAX_SAFE_INTEGER, name) === 0) throw badArgument(`${name} must not be 0`)
}

function hugePageSize(hugepages: unknown): number | null {
  if (hugepages === undefined || hugepages === false) return null
  if (hugepages === true) return HUGE_PAGE_SIZE
  if (typeof hugepages === 'number' && hugepages > PAGE_SIZE && Number.isInteger(Math.log2(hugepages))) {
    return hugepages
  }
  throw badArgument(
    `hugepages must be true, false or the size of a huge page in bytes (a power of two above ${PAGE_SIZE}), not ${show(hugepages)}`,
  )
}
