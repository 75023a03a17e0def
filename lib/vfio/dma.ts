import { VfioError } from '../errors.js'
import type { NativeContainer } from '../native/binding.js'
import { binding } from '../native/load.js'
import { type Page, sharedPage } from '../native/page.js'
import { translate } from '../native/translate.js'
import { badArgument, checkFlag, checkInteger, checkOptions, show } from './arguments.js'
import type { VfioContainer } from './container.js'
import type { IommuLimits, MappedSpan } from './container-handle.js'
import { allocateFor, DmaBuffer } from './dma-buffer.js'
import { explainMap, showSpan } from './dma-errors.js'
import type { IovaSpan } from './iova-map.js'
import { pageBits } from './page-bits.js'

export interface MapOptions {
  /**
   * Where devices see it, a multiple of the smallest page of `iommuInfo().pageSizes`; left out: a free place is chosen from
   * the container's ranges.
   */
  readonly iova?: number | bigint | undefined
  /** What of the buffer, in bytes, multiples of that page too; left out: all of it. */
  readonly offset?: number | undefined
  readonly length?: number | undefined
  /** Whether devices may read and write it; left out: they may. */
  readonly read?: boolean | undefined
  readonly write?: boolean | undefined
  /** A place that is chosen lies below 2 to this power: what the device can address. */
  readonly addressBits?: number | undefined
  /** Aborts the wait: the promise rejects at once, and what was mapped meanwhile is unmapped again. */
  readonly signal?: AbortSignal | undefined
}

const MAP_READ = 1 << 0
const MAP_WRITE = 1 << 1
const UNMAP_ALL = 1 << 1
const DIRTY_START = 1 << 0
const DIRTY_STOP = 1 << 1

/** Up to here the kernel needs about as long as another thread would take to begin. */
const LARGEST_AT_ONCE = 2 * 2 ** 20

/** What any IOMMU maps, for kernels that do not say: below the window of message-signalled interrupts. */
const COMMON_RANGE = { start: 0n, end: 0xfedf_ffffn }

/** The sizes of pages that IOMMUs have above the smallest, largest first: a page of 8-byte entries maps the next one. */
const largePages = (page: bigint) => [page * (page / 8n) ** 2n, page * (page / 8n)]

const LAST_ADDRESS = 2n ** 64n - 1n

/**
 * The memory that the devices of a container may use, by I/O virtual addresses. Addresses go in as number or bigint and
 * come out as bigint.
 */
export class DmaSpace {
  readonly container: VfioContainer
  /** Logging of the pages that devices write, as far as the IOMMU can tell. */
  readonly dirty: DirtyPages

  /** @internal */
  constructor(container: VfioContainer) {
    this.container = container
    this.dirty = new DirtyPages(this)
  }

  /** What is mapped, lowest address first. */
  get mappings(): { readonly iova: bigint; readonly size: number; readonly buffer: DmaBuffer }[] {
    return [...this.container.handle.mapped]
      .filter(({ pending }) => !pending)
      .map((span) => ({ iova: span.start, size: sizeOf(span), buffer: span.buffer }))
  }

  /**
   * Maps a buffer, or a part of it, for the devices (`VFIO_IOMMU_MAP_DMA`). Its pages stay in memory, and count against
   * RLIMIT_MEMLOCK. Above 2 MiB it runs off the main thread. Calls take effect in the order in which they are made.
   * @throws VfioSystemError `EEXIST` where the range is taken, `EINVAL` where it is uneven or outside of the ranges,
   * `EOVERFLOW` from newer kernels where it runs over the last of all addresses,
   * `ENOMEM` at the limit on locked memory, `ENOSPC` where the container takes no more mappings; each says all of it
   * @throws VfioError `ERR_VFIO_NO_IOVA` where no place is free
   */
  async map(buffer: DmaBuffer, options: MapOptions = {}): Promise<DmaMapping> {
    const { signal } = checkOptions(options)
    signal?.throwIfAborted()
    if (!(buffer instanceof DmaBuffer)) throw badArgument(`buffer must be a DmaBuffer, not ${show(buffer)}`)
    const { handle } = this.container
    const { native } = handle
    const memory = buffer.memoryId
    const { offset, length } = partOf(buffer, options)
    const flags =
      (checkFlag(options.read, true, 'options.read') ? MAP_READ : 0) |
      (checkFlag(options.write, true, 'options.write') ? MAP_WRITE : 0)
    if (flags === 0) throw badArgument('options.read and options.write must not both be false')
    const start = options.iova === undefined ? this.#choose(length, options) : checkIova(options.iova, 'iova')
    const span: MappedSpan = { start, end: start + BigInt(length) - 1n, buffer, pending: true }
    const explain = (error: unknown) =>
      // What would say more cannot be asked of a container that closed meanwhile.
      handle.closed
        ? error
        : explainMap(
            error,
            span,
            { offset, systemPage: binding().pageSize },
            () => this.container.iommuInfo(),
            () => [...handle.mapped.overlapping(span.start, span.end)].find((other) => other !== span),
          )
    if (length <= LARGEST_AT_ONCE && !handle.busy) {
      try {
        const { words, doubles, longs } = sharedPage()
        words[0] = native.id
        words[1] = memory
        words[2] = flags
        doubles[2] = offset
        doubles[3] = length
        longs[4] = start
        binding().containerMapDma()
      } catch (error) {
        throw explain(translate(error))
      }
      this.#confirm(span)
      return new DmaMapping(this, span, length)
    }
    this.#reserve(span)
    let began = false
    try {
      await handle.run(
        async () => {
          began = true
          for (const other of [...handle.mapped.overlapping(span.start, span.end)]) {
            // Who comes after this one gets the place after it.
            if (other.pending && other !== span) handle.give(other)
          }
          this.#reserve(span)
          try {
            await native.mapDma(memory, offset, length, start, flags)
          } catch (error) {
            handle.give(span)
            throw error
          }
          this.#confirm(span)
          // In the same turn, so that whoever comes next finds the place free.
          if (signal?.aborted) await this.#unmapNow(span)
        },
        { signal },
        this.map,
      )
    } catch (error) {
      if (!began) handle.give(span)
      throw explain(error)
    }
    return new DmaMapping(this, span, length)
  }

  /**
   * Unmaps all that lies in a range (`VFIO_IOMMU_UNMAP_DMA`): how many bytes that was. Above 2 MiB it runs off the main
   * thread.
   * @throws VfioSystemError `EINVAL` where the range would cut a mapping in two
   */
  unmap(iova: number | bigint, size: number | bigint): Promise<bigint> {
    return this.#unmap(iova, size, () => true)
  }

  /** @internal Unmaps one mapping, unless that has happened when its turn comes: nothing to wait for where it is small. */
  unmapSpan(span: MappedSpan, size: number): Promise<unknown> | undefined {
    const { handle } = this.container
    const isMapped = () => handle.mapped.has(span)
    if (!isMapped()) return undefined
    if (size > LARGEST_AT_ONCE || handle.busy) return this.#unmap(span.start, size, isMapped)
    unmapAtOnce(handle.native, span.start, BigInt(size))
    handle.give(span)
    return undefined
  }

  async #unmap(iova: number | bigint, size: number | bigint, wanted: () => boolean): Promise<bigint> {
    const { handle } = this.container
    const { native } = handle
    const start = checkIova(iova, 'iova')
    const length = checkIova(size, 'size')
    if (length === 0n) throw badArgument('size must not be 0')
    const end = start + length - 1n
    if (length <= LARGEST_AT_ONCE && !handle.busy) {
      const bytes = unmapAtOnce(native, start, length).longs[0] as bigint
      this.forget(start, end)
      return bytes
    }
    return handle.run(
      async () => {
        if (!wanted()) return 0n
        const bytes = await native.unmapDma(start, length, 0)
        this.forget(start, end)
        return bytes
      },
      {},
      this.unmap,
    )
  }

  /** Unmaps everything: how many bytes that was. */
  async unmapAll(): Promise<bigint> {
    const { handle } = this.container
    const { native } = handle
    if (this.container.checkExtension('unmap-all')) {
      return handle.run(
        async () => {
          const bytes = await native.unmapDma(0n, 0n, UNMAP_ALL)
          this.forget(0n, LAST_ADDRESS)
          return bytes
        },
        {},
        this.unmapAll,
      )
    }
    let bytes = 0n
    for (const { start, end } of this.limits.ranges.flatMap(halves))
      bytes += await this.unmap(start, end - start + 1n)
    return bytes
  }

  /** @internal What was unmapped by the kernel is not mapped here either; what waits for the kernel is not concerned. */
  forget(start: bigint, end: bigint): void {
    const { handle } = this.container
    for (const span of handle.mapped.within(start, end)) if (!span.pending) handle.give(span)
  }

  /** Takes the place, where it is free. */
  #reserve(span: MappedSpan): void {
    const { handle } = this.container
    if (!handle.closed && !handle.mapped.overlaps(span.start, span.end)) handle.take(span)
  }

  /** The kernel has mapped it. */
  #confirm(span: MappedSpan): void {
    const { handle } = this.container
    span.pending = false
    if (handle.closed || handle.mapped.has(span)) return
    // It knows better than we what is in the way of what.
    if (handle.mapped.overlaps(span.start, span.end)) {
      for (const other of [...handle.mapped.overlapping(span.start, span.end)]) handle.give(other)
    }
    handle.take(span)
  }

  async #unmapNow(span: MappedSpan): Promise<void> {
    const { handle } = this.container
    await handle.raw.unmapDma(span.start, BigInt(sizeOf(span)), 0)
    handle.give(span)
  }

  /** @internal What may be mapped, asked again when a group has come or gone. */
  get limits(): IommuLimits {
    const { handle } = this.container
    if (handle.limits) return handle.limits
    const { iovaRanges, pageSizes } = this.container.iommuInfo()
    const page = pageSizes[0] ?? BigInt(binding().pageSize)
    allocateFor(page)
    handle.limits = { ranges: iovaRanges ?? [COMMON_RANGE], page }
    return handle.limits
  }

  #choose(length: number, { addressBits }: MapOptions): bigint {
    const limit = addressBits === undefined ? LAST_ADDRESS : 2n ** BigInt(checkBits(addressBits)) - 1n
    const size = BigInt(length)
    const { mapped, next } = this.container.handle
    const { ranges, page } = this.limits
    for (const alignment of [...largePages(page).filter((step) => size >= step), page]) {
      // Behind the last one first, so that many of them are chosen quickly; never address 0, which means "none" to many.
      for (const lowest of [next > page ? next : page, page]) {
        for (const { start, end } of ranges) {
          const from = start > lowest ? start : lowest
          const to = end < limit ? end : limit
          const place = from <= to ? mapped.gap(from, to, size, alignment) : null
          if (place === null) continue
          this.container.handle.next = place + size
          return place
        }
      }
    }
    throw new VfioError(
      'ERR_VFIO_NO_IOVA',
      `no ${length} bytes are free${addressBits === undefined ? '' : ` below 2^${addressBits}`} in ${ranges.map(showSpan).join(', ')}: unmap something, or map less`,
    )
  }
}

/** What one `map()` mapped. */
export class DmaMapping {
  /** Where devices see it. */
  readonly iova: bigint
  /** In bytes. */
  readonly size: number
  readonly buffer: DmaBuffer
  readonly #space: DmaSpace
  readonly #span: MappedSpan

  /** @internal */
  constructor(space: DmaSpace, span: MappedSpan, size: number) {
    this.#space = space
    this.#span = span
    this.iova = span.start
    this.size = size
    this.buffer = span.buffer
  }

  /** False after it was unmapped, in whatever way. */
  get mapped(): boolean {
    return this.#space.container.handle.mapped.has(this.#span)
  }

  /** Unmaps it. Does nothing where that has happened. */
  async unmap(): Promise<void> {
    const unmapping = this.#space.unmapSpan(this.#span, this.size)
    if (unmapping) await unmapping
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.unmap()
  }
}

/**
 * The pages that devices wrote (`VFIO_IOMMU_DIRTY_PAGES`). Where the IOMMU does not track them, the kernel calls every
 * page dirty that is mapped. A bitmap has a bit for each page, the lowest address in the lowest bit of the first byte.
 */
export class DirtyPages {
  readonly #space: DmaSpace

  /** @internal */
  constructor(space: DmaSpace) {
    this.#space = space
  }

  /** Begins to log. */
  start(): Promise<void> {
    return this.#run((native) => native.logDirtyPages(DIRTY_START), this.start)
  }

  stop(): Promise<void> {
    return this.#run((native) => native.logDirtyPages(DIRTY_STOP), this.stop)
  }

  /**
   * The pages of a range that were written since they were asked for last: bit 0 of byte 0 is the first page, and so on, in
   * a multiple of eight bytes. `pageSize` in bytes, one that
   * `iommuInfo().migration` has; left out: the smallest of them, or of the IOMMU where they are not known.
   * @throws VfioSystemError `EINVAL` while nothing is logged, or where the range cuts a mapping in two
   */
  async bitmap(
    iova: number | bigint,
    size: number | bigint,
    pageSize?: number | bigint,
  ): Promise<Uint8Array> {
    const [start, length, page] = this.#question(iova, size, pageSize)
    return pageBits(await this.#run((native) => native.dirtyBitmap(start, length, page), this.bitmap))
  }

  /** Unmaps a range, and tells the pages of it that were written until then. */
  async unmap(iova: number | bigint, size: number | bigint, pageSize?: number | bigint): Promise<Uint8Array> {
    const [start, length, page] = this.#question(iova, size, pageSize)
    const work = async (native: NativeContainer) => {
      const bits = await native.unmapDirty(start, length, page)
      this.#space.forget(start, start + length - 1n)
      return bits
    }
    return pageBits(await this.#run(work, this.unmap))
  }

  #question(
    iova: number | bigint,
    size: number | bigint,
    pageSize: number | bigint | undefined,
  ): [bigint, bigint, bigint] {
    const page = pageSize === undefined ? this.#smallestPage() : checkIova(pageSize, 'pageSize')
    const length = checkIova(size, 'size')
    if (length === 0n || page === 0n) throw badArgument('size and pageSize must not be 0')
    return [checkIova(iova, 'iova'), length, page]
  }

  #smallestPage(): bigint {
    return this.#space.container.iommuInfo().migration?.pageSizes[0] ?? this.#space.limits.page
  }

  #run<T>(work: (native: NativeContainer) => Promise<T>, caller: (...args: never[]) => unknown): Promise<T> {
    const { handle } = this.#space.container
    return handle.run(() => work(handle.native), {}, caller)
  }
}

const HALF = 2n ** 63n

/** All addresses together are more than a size of 64 bits can say. */
const halves = (span: IovaSpan): IovaSpan[] =>
  span.end - span.start < LAST_ADDRESS
    ? [span]
    : [
        { start: 0n, end: HALF - 1n },
        { start: HALF, end: LAST_ADDRESS },
      ]

/** Afterwards the page has in its first long how many bytes that was. */
function unmapAtOnce(container: NativeContainer, start: bigint, length: bigint): Page {
  const page = sharedPage()
  page.words[0] = container.id
  page.words[1] = 0
  page.longs[1] = start
  page.longs[2] = length
  try {
    binding().containerUnmapDma()
  } catch (error) {
    throw translate(error)
  }
  return page
}

const sizeOf = ({ start, end }: MappedSpan) => Number(end - start + 1n)

/** An address or size: a bigint of 64 bits, or an integer that a number holds exactly. */
function checkIova(value: unknown, name: string): bigint {
  if (typeof value === 'bigint' && value >= 0n && value <= LAST_ADDRESS) return value
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return BigInt(value)
  throw badArgument(
    `${name} must be a bigint from 0 to 2^64 - 1, or an integer from 0 to 2^53 - 1, not ${show(value)}`,
  )
}

function checkBits(value: unknown): number {
  if (typeof value === 'number' && Number.isInteger(value) && value >= 12 && value <= 64) return value
  throw badArgument(`addressBits must be an integer from 12 to 64, not ${show(value)}`)
}

function partOf(buffer: DmaBuffer, { offset = 0, length }: MapOptions): { offset: number; length: number } {
  checkInteger(offset, buffer.size - 1, 'offset')
  const rest = buffer.size - offset
  const checked = length === undefined ? rest : checkInteger(length, rest, 'length')
  if (checked === 0) throw badArgument('length must not be 0')
  return { offset, length: checked }
}
