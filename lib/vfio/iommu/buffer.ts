import { fstatSync, type Stats, statfsSync } from 'node:fs'
import { VfioError } from '../../errors.js'
import type { NativeMemory, NativeMemoryFile } from '../../native/binding.js'
import { binding } from '../../native/load.js'
import { call, translate } from '../../native/translate.js'
import { badArgument, checkInteger, show } from '../arguments.js'
import { checkMappings, checkRoom, explainMemory } from '../limits.js'

const HUGE_PAGE_SIZE = 2 ** 21
/** Of `<linux/magic.h>`; a memfd has it too. */
const TMPFS_MAGIC = 0x01021994

/** Buffers have whole pages of this size from a multiple of it on, where the system's are smaller: those of IOMMUs. */
let iommuPage = 0

/** What a container's IOMMU maps is in pages of at least this many bytes: so will be what is allocated from now on. */
export function allocateFor(page: bigint): void {
  // Nobody makes larger ones the smallest.
  if (page <= BigInt(HUGE_PAGE_SIZE)) iommuPage = Math.max(iommuPage, Number(page))
}

export interface DmaBufferOptions {
  /** Huge pages: `true` for those of 2 MiB, or their size in bytes (a power of two that the processor has). They come from the host's pool. */
  readonly hugepages?: boolean | number | undefined
}

/**
 * Memory that devices may read and write: of its own (`memfd_create(2)`), or a part of a file of the caller's such as
 * the RAM of a guest. It can be mapped any number of times, and not be closed while it is mapped.
 *
 * All of it is there from the beginning, so that the program and devices have the same pages. A page that goes away later,
 * because somebody cuts the file short, ends the process at the next access (SIGBUS) with a sentence on standard error: what
 * a device has by then is another page. The memory of `allocate()` cannot be cut short, nor can a memfd that may be sealed.
 *
 * Each has a descriptor and a memory mapping of the process: there are as many as RLIMIT_NOFILE (`ulimit -n`) and 15 of 16
 * that the sysctl vm.max_map_count allows (61435 by default). `close()` gives both back at once.
 */
export class DmaBuffer {
  /** In bytes; a multiple of the page size. */
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
   * New memory, zeroed. The size is rounded up to whole pages: the system's, or those of an IOMMU that was set before
   * (`setIommu()`) where they are larger. The thread waits until the kernel has all of it: some GiB take about a second.
   * @throws VfioError `ERR_VFIO_NO_MEMORY` where the host or the control group has not so much to spare
   * `ERR_VFIO_TOO_MANY` near vm.max_map_count
   * @throws VfioSystemError `ENOMEM` where the host has not so many free huge pages, or at RLIMIT_AS, `EMFILE` at
   * RLIMIT_NOFILE
   */
  static allocate(size: number, options: DmaBufferOptions = {}): DmaBuffer {
    checkSize(size, 'size')
    if (typeof options !== 'object' || options === null)
      throw badArgument(`options must be an object, not ${show(options)}`)
    const huge = hugePageSize(options.hugepages)
    const page = huge ?? pageSize()
    const rounded = Math.ceil(size / page) * page
    const file = call(() => binding().MemoryFile.create(rounded, huge === null ? 0 : Math.log2(huge)))
    // Huge pages have a pool of their own.
    return map(file, 0, rounded, () => {
      if (huge === null) checkRoom(rounded)
    })
  }

  /**
   * A part of a file that the caller has open for reading and writing, the RAM of a guest for instance. The descriptor
   * is duplicated and stays the caller's. `offset` and `size` in bytes, multiples of the page size of the file. What the
   * file has no space for yet is taken now; the thread waits. A memfd is sealed against shrinking, where it allows seals:
   * give one of those, because nothing keeps another program from cutting another file short.
   * @throws VfioError `ERR_VFIO_BAD_ARGUMENT` for what is no file, or not so large; `ERR_VFIO_NO_MEMORY`, `ERR_VFIO_TOO_MANY`
   * @throws VfioSystemError `EBADF`, `EACCES`, `ENODEV` where the file cannot be mapped, `ENOSPC` where its file system has
   * no space for all of it, `EINVAL` where that cannot be taken in advance
   */
  static fromFd(fd: number, options: { readonly offset?: number; readonly size: number }): DmaBuffer {
    checkInteger(fd, 0x7fffffff, 'fd')
    if (typeof options !== 'object' || options === null)
      throw badArgument(`options must be an object with size, not ${show(options)}`)
    const { offset = 0, size } = options
    checkSize(size, 'size')
    checkInteger(offset, Number.MAX_SAFE_INTEGER, 'offset')
    const page = binding().pageSize
    if (offset % page !== 0 || size % page !== 0) {
      throw badArgument(`offset and size must be multiples of ${page}, not ${offset} and ${size}`)
    }
    const file = call(() => binding().MemoryFile.duplicate(fd))
    try {
      checkFile(file, fd, offset, size)
    } catch (error) {
      file.closeNow()
      throw error
    }
    return map(file, offset, size, () => {
      // It may have shrunk until it was sealed.
      file.seal()
      checkFile(file, fd, offset, size)
    })
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
    call(() => this.#memory.close())
    this.#closed = true
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
function map(file: NativeMemoryFile, offset: number, size: number, beforeReserving: () => void): DmaBuffer {
  let memory: NativeMemory | undefined
  try {
    checkMappings()
    memory = file.map(offset, size, iommuPage)
    beforeReserving()
    memory.reserve()
    return new DmaBuffer(file, memory, size)
  } catch (error) {
    memory?.close()
    file.closeNow()
    throw explainMemory(translate(error))
  }
}

/** Throws where a file has not all of the part, or where there is not so much memory for what it lacks. */
function checkFile(file: NativeMemoryFile, fd: number, offset: number, size: number): void {
  const stats = fstatSync(call(() => file.number()))
  if (!stats.isFile()) {
    throw badArgument(
      `descriptor ${fd} is ${kindOf(stats)}, which has no memory: give a memfd, or a file of tmpfs or hugetlbfs`,
    )
  }
  if (offset + size > stats.size) {
    throw badArgument(`descriptor ${fd} has ${stats.size} bytes, so ${size} from ${offset} on are not in it`)
  }
  // What it has already may be in the part or outside of it.
  if (isInMemory(file)) checkRoom(Math.min(size, stats.size - stats.blocks * 512))
}

/** Huge pages have a pool of their own, and a disk its space. */
function isInMemory(file: NativeMemoryFile): boolean {
  try {
    return statfsSync(`/proc/self/fd/${file.number()}`).type === TMPFS_MAGIC
  } catch {
    // Without /proc the kernel's own answer is all there is.
    return false
  }
}

function kindOf(stats: Stats): string {
  if (stats.isDirectory()) return 'a directory'
  if (stats.isCharacterDevice()) return 'a character device'
  if (stats.isBlockDevice()) return 'a block device'
  if (stats.isFIFO()) return 'a pipe'
  return stats.isSocket() ? 'a socket' : 'no file'
}

/** What ordinary memory is rounded up to. */
const pageSize = () => Math.max(binding().pageSize, iommuPage)

function checkSize(size: unknown, name: string): void {
  if (checkInteger(size, Number.MAX_SAFE_INTEGER, name) === 0) throw badArgument(`${name} must not be 0`)
}

function hugePageSize(hugepages: unknown): number | null {
  if (hugepages === undefined || hugepages === false) return null
  if (hugepages === true) return HUGE_PAGE_SIZE
  const page = binding().pageSize
  if (typeof hugepages === 'number' && hugepages > page && Number.isInteger(Math.log2(hugepages))) {
    return hugepages
  }
  throw badArgument(
    `hugepages must be true, false or the size of a huge page in bytes (a power of two above ${page}), not ${show(hugepages)}`,
  )
}
