import { constants } from 'node:os'
import { type SystemFailure, VfioError } from '../../errors.js'
import { pageBits } from '../../native/answer.js'
import type { NativeHandle } from '../../native/binding.js'
import { binding } from '../../native/load.js'
import { translate } from '../../native/translate.js'
import {
  badArgument,
  bigintOf,
  checkFlag,
  checkInteger,
  checkOptions,
  checkUint64,
  show,
} from '../arguments.js'
import type { IovaRange } from '../capabilities.js'
import type { Handle } from '../handle.js'
import { explainMap, type MapLimits, showSpan } from '../limits.js'
import { allocateFor, DmaBuffer } from './buffer.js'
import { IovaMap, type IovaSpan } from './iova-map.js'

/** What of a buffer is mapped where. */
export interface MappedSpan extends IovaSpan {
  /** `null` where it is a file that is mapped by its descriptor. */
  readonly buffer: DmaBuffer | null
  /** The kernel has not answered yet: the place is taken, and nothing is mapped there. */
  pending: boolean
  /** It has its place here. */
  placed: boolean
}

/** What of an IOMMU decides where something can be mapped. */
export interface IommuLimits {
  readonly ranges: readonly IovaSpan[]
  /** Its smallest page in bytes: addresses and sizes are multiples of it. */
  readonly page: bigint
}

/** What is mapped in one address space, apart from the object that the program holds. */
export class Mappings {
  /** What the IOMMU maps; null until it is asked, and after a device came or went. */
  limits: IommuLimits | null = null
  /** Where the next place that is chosen may lie. */
  next = 0n
  readonly spans = new IovaMap<MappedSpan>()

  /** Takes an address range for a buffer, where it is free; from then on the buffer cannot be closed. */
  take(span: MappedSpan): boolean {
    if (!this.spans.add(span)) return false
    span.placed = true
    span.buffer?.count(1)
    return true
  }

  /** Does nothing where all has been unmapped meanwhile. */
  give(span: MappedSpan): void {
    if (!span.placed) return
    this.spans.delete(span)
    span.placed = false
    span.buffer?.count(-1)
  }

  /** The kernel has unmapped everything; what waits for it is not concerned. */
  emptied(): void {
    for (const span of [...this.spans]) if (!span.pending) this.give(span)
  }

  /** The kernel has let the whole address space go. */
  clear(): void {
    for (const span of this.spans) {
      span.placed = false
      span.buffer?.count(-1)
    }
    this.spans.clear()
  }
}

/** What devices may do with mapped memory. */
export const MAY_READ = 1 << 0
export const MAY_WRITE = 1 << 1

/** What the kernel has to map memory with: a container of type1, or an IOAS of an iommufd. Each call is one of the kernel's. */
export interface SpaceBackend {
  /** Whose calls these are. */
  readonly handle: Handle<NativeHandle>
  readonly mappings: Mappings
  /** `memory` is the number of mapped memory, `offset` and `length` are the part of it in bytes, `access` MAY_READ and MAY_WRITE. */
  mapNow(memory: number, offset: number, length: number, iova: bigint, access: number): void
  map(memory: number, offset: number, length: number, iova: bigint, access: number): Promise<unknown>
  /** How many bytes that was. */
  unmapNow(iova: bigint, size: number): number
  unmap(iova: bigint, size: bigint): Promise<bigint>
  /** All that is mapped; `null` where the kernel has no call for that. */
  unmapAll(): (() => Promise<bigint>) | null
  /** What the kernel says of the addresses and pages; what it leaves open, all IOMMUs have. */
  askLimits(): { readonly ranges: readonly IovaSpan[] | null; readonly page: bigint | null }
  /** The same and more, for an error. */
  explainLimits(): MapLimits
  startDirty(): Promise<void>
  stopDirty(): Promise<void>
  /** A bit for each page, in words of 64 bits. */
  dirtyBitmap(iova: bigint, size: bigint, pageSize: bigint): Promise<ArrayBuffer>
  unmapDirty(iova: bigint, size: bigint, pageSize: bigint): Promise<ArrayBuffer>
  /** The smallest page that can be told of; `null` where the kernel does not say. */
  dirtyPage(): bigint | null
}

/** Where something is mapped, and for what. */
export interface PlaceOptions {
  /**
   * Where devices see it, a multiple of the smallest page of the IOMMU; left out: a free place is chosen from
   * {@link DmaSpace.ranges}.
   */
  readonly iova?: number | bigint | undefined
  /** Whether devices may read and write it; left out: they may. */
  readonly read?: boolean | undefined
  readonly write?: boolean | undefined
  /** A place that is chosen lies below 2 to this power: what the device can address. */
  readonly addressBits?: number | undefined
  /** Aborts the wait: the promise rejects at once, and what was mapped meanwhile is unmapped again. */
  readonly signal?: AbortSignal | undefined
}

export interface MapOptions extends PlaceOptions {
  /** What of the buffer, in bytes, multiples of that page too; left out: all of it. */
  readonly offset?: number | undefined
  readonly length?: number | undefined
}

/** Up to here the kernel needs about as long as another thread would take to begin. */
const LARGEST_AT_ONCE = 2 * 2 ** 20

/** What any IOMMU maps, for kernels that do not say: below the window of message-signalled interrupts. */
const COMMON_RANGE = { start: 0n, end: 0xfedf_ffffn }

/** The sizes of pages that IOMMUs have above the smallest, largest first: a page of 8-byte entries maps the next one. */
const largePages = (page: bigint) => [page * (page / 8n) ** 2n, page * (page / 8n)]

const LAST_ADDRESS = 2n ** 64n - 1n

/**
 * The memory that the devices of a container or an IOAS may use, by I/O virtual addresses. Addresses go in as number or
 * bigint and come out as bigint.
 */
export class DmaSpace {
  /** Logging of the pages that devices write, as far as the IOMMU can tell. */
  readonly dirty: DirtyPages
  /** @internal It keeps the object that the program holds open as long as this is held. */
  readonly backend: SpaceBackend

  /** @internal */
  constructor(backend: SpaceBackend) {
    this.backend = backend
    this.dirty = new DirtyPages(this)
  }

  /** What is mapped, lowest address first. */
  get mappings(): { readonly iova: bigint; readonly size: number; readonly buffer: DmaBuffer | null }[] {
    return [...this.backend.mappings.spans]
      .filter(({ pending }) => !pending)
      .map((span) => ({ iova: span.start, size: sizeOf(span), buffer: span.buffer }))
  }

  /**
   * Maps a buffer, or a part of it, for the devices (`VFIO_IOMMU_MAP_DMA`, `IOMMU_IOAS_MAP`). Its pages stay in memory, and count
   * against RLIMIT_MEMLOCK: each container charges this process for itself, an iommufd charges all programs of the user
   * together ({@link Iommufd.option}). Above 2 MiB it runs off the main thread. Calls take effect in the order in which they are made.
   * @throws VfioSystemError `EEXIST` where the range is taken, `EINVAL` where it is uneven or outside of the ranges,
   * `EOVERFLOW` from newer kernels where it runs over the last of all addresses,
   * `ENOMEM` at the limit on locked memory, `ENOSPC` where the container takes no more mappings; each message has the figures
   * @throws VfioError `ERR_VFIO_NO_IOVA` where no place is free
   */
  map(buffer: DmaBuffer, options: MapOptions = {}): Promise<DmaMapping<DmaBuffer>> {
    // No async function, which takes as long as the kernel does for a small mapping.
    try {
      const { backend } = this
      checkOptions(options).signal?.throwIfAborted()
      if (!(buffer instanceof DmaBuffer)) throw badArgument(`buffer must be a DmaBuffer, not ${show(buffer)}`)
      if (backend.handle.closed) throw backend.handle.closedError()
      const memory = buffer.memoryId
      const { offset, length } = partOf(buffer, options)
      const access = accessOf(options)
      const span = this.#spanFor(buffer, length, options)
      if (length > LARGEST_AT_ONCE || backend.handle.busy) {
        const work = () => backend.map(memory, offset, length, span.start, access)
        return this.#placeLater(span, buffer, offset, length, options, work, this.map)
      }
      try {
        backend.mapNow(memory, offset, length, span.start, access)
      } catch (error) {
        throw this.#explain(translate(error), span, offset)
      }
      this.#confirm(span)
      return Promise.resolve(new DmaMapping(this, span, length, buffer))
    } catch (error) {
      return Promise.reject(error)
    }
  }

  /** @internal Maps something by another call, at a place that is chosen, or given. */
  async place<B extends DmaBuffer | null>(
    { buffer, offset, length }: { buffer: B; offset: number; length: number },
    options: PlaceOptions,
    work: (iova: bigint, access: number) => Promise<unknown>,
    caller: (...args: never[]) => unknown,
  ): Promise<DmaMapping<B>> {
    const access = accessOf(options)
    const span = this.#spanFor(buffer, length, options)
    const call = () => work(span.start, access)
    return this.#placeLater(span, buffer, offset, length, options, call, caller)
  }

  #spanFor(buffer: DmaBuffer | null, length: number, options: PlaceOptions): MappedSpan {
    const { iova } = options
    const start = iova === undefined ? this.#choose(length, options) : checkUint64(iova, 'iova')
    // Without arithmetic of bigints, which calls the runtime, where a number has it.
    const end =
      typeof iova === 'number' && iova + length <= Number.MAX_SAFE_INTEGER
        ? bigintOf(iova + length - 1)
        : start + bigintOf(length - 1)
    return { start, end, buffer, pending: true, placed: false }
  }

  async #placeLater<B extends DmaBuffer | null>(
    span: MappedSpan,
    buffer: B,
    offset: number,
    length: number,
    { signal }: PlaceOptions,
    work: () => Promise<unknown>,
    caller: (...args: never[]) => unknown,
  ): Promise<DmaMapping<B>> {
    const { handle, mappings } = this.backend
    this.#reserve(span)
    let began = false
    try {
      await handle.run(
        async () => {
          began = true
          for (const other of [...mappings.spans.overlapping(span.start, span.end)]) {
            // Calls that wait take their places again when their turn comes.
            if (other.pending && other !== span) mappings.give(other)
          }
          this.#reserve(span)
          try {
            await work()
          } catch (error) {
            mappings.give(span)
            throw error
          }
          this.#confirm(span)
          // In the same turn, so that whoever comes next finds the place free.
          if (signal?.aborted) await this.#unmapNow(span)
        },
        { signal },
        caller,
      )
    } catch (error) {
      if (!began) mappings.give(span)
      throw this.#explain(error, span, offset)
    }
    return new DmaMapping(this, span, length, buffer)
  }

  #explain(error: unknown, span: MappedSpan, offset: number): unknown {
    const { backend } = this
    // What would say more cannot be asked of what closed meanwhile.
    if (backend.handle.closed) return error
    return explainMap(
      error,
      span,
      { offset, systemPage: binding().pageSize },
      () => backend.explainLimits(),
      () => [...backend.mappings.spans.overlapping(span.start, span.end)].find((other) => other !== span),
    )
  }

  /**
   * Unmaps all that lies in a range (`VFIO_IOMMU_UNMAP_DMA`, `IOMMU_IOAS_UNMAP`): how many bytes that was. Above 2 MiB it runs off the main
   * thread.
   * @throws VfioSystemError where the range would cut a mapping in two: `EINVAL`, and nothing is unmapped; from iommufd, also
   * where it provides the container, `ENOENT`, and what lies below that mapping is unmapped
   */
  unmap(iova: number | bigint, size: number | bigint): Promise<bigint> {
    return this.#unmap(iova, size, () => true)
  }

  /** @internal Unmaps one mapping, unless that has happened when its turn comes: nothing to wait for where it is small. */
  unmapSpan(span: MappedSpan, size: number): Promise<unknown> | undefined {
    const { backend } = this
    const { handle, mappings } = backend
    if (!span.placed) return undefined
    if (size > LARGEST_AT_ONCE || handle.busy) return this.#unmap(span.start, size, () => span.placed)
    unmapAtOnce(backend, span.start, size)
    mappings.give(span)
    return undefined
  }

  async #unmap(iova: number | bigint, size: number | bigint, wanted: () => boolean): Promise<bigint> {
    const { backend } = this
    const { handle } = backend
    const start = checkUint64(iova, 'iova')
    const length = checkUint64(size, 'size')
    if (length === 0n) throw badArgument('size must not be 0')
    const end = start + length - 1n
    if (length <= LARGEST_AT_ONCE && !handle.busy) {
      const bytes = unmapAtOnce(backend, start, Number(length))
      this.forget(start, end)
      return BigInt(bytes)
    }
    return handle.run(
      async () => {
        if (!wanted()) return 0n
        const bytes = await backend
          .unmap(start, length)
          .catch((error) => wasEmpty(backend, start, end, error))
        this.forget(start, end)
        return bytes
      },
      {},
      this.unmap,
    )
  }

  /** Unmaps everything: how many bytes that was. */
  async unmapAll(): Promise<bigint> {
    const { handle } = this.backend
    const all = this.backend.unmapAll()
    if (all !== null) {
      return handle.run(
        async () => {
          const bytes = await all()
          this.forget(0n, LAST_ADDRESS)
          return bytes
        },
        {},
        this.unmapAll,
      )
    }
    let bytes = 0n
    for (const { start, end } of this.ranges.flatMap(halves))
      bytes += await this.unmap(start, end - start + 1n)
    return bytes
  }

  /** The I/O virtual addresses that may be mapped, lowest first. */
  get ranges(): readonly IovaRange[] {
    return this.limits.ranges
  }

  /** @internal What was unmapped by the kernel is not mapped here either; what waits for the kernel is not concerned. */
  forget(start: bigint, end: bigint): void {
    const { mappings } = this.backend
    for (const span of mappings.spans.within(start, end)) if (!span.pending) mappings.give(span)
  }

  /** Takes the place, where it is free. */
  #reserve(span: MappedSpan): void {
    const { handle, mappings } = this.backend
    if (!handle.closed && !span.placed) mappings.take(span)
  }

  /** The kernel has mapped it. */
  #confirm(span: MappedSpan): void {
    const { handle, mappings } = this.backend
    span.pending = false
    if (handle.closed || span.placed) return
    if (mappings.take(span)) return
    // The kernel has mapped it, so what is recorded there is out of date.
    for (const other of [...mappings.spans.overlapping(span.start, span.end)]) mappings.give(other)
    mappings.take(span)
  }

  async #unmapNow(span: MappedSpan): Promise<void> {
    await this.backend.unmap(span.start, BigInt(sizeOf(span)))
    this.backend.mappings.give(span)
  }

  /** @internal What may be mapped, asked again when a device has come or gone. */
  get limits(): IommuLimits {
    const { mappings } = this.backend
    if (mappings.limits) return mappings.limits
    const { ranges, page: known } = this.backend.askLimits()
    const page = known ?? BigInt(binding().pageSize)
    allocateFor(page)
    mappings.limits = { ranges: ranges ?? [COMMON_RANGE], page }
    return mappings.limits
  }

  #choose(length: number, { addressBits }: PlaceOptions): bigint {
    const limit = addressBits === undefined ? LAST_ADDRESS : 2n ** BigInt(checkBits(addressBits)) - 1n
    const size = BigInt(length)
    const { mappings } = this.backend
    const { spans, next } = mappings
    const { ranges, page } = this.limits
    for (const alignment of [...largePages(page).filter((step) => size >= step), page]) {
      // Behind the last one first, so that many of them are chosen quickly; never address 0, which means "none" to many.
      for (const lowest of [next > page ? next : page, page]) {
        for (const { start, end } of ranges) {
          const from = start > lowest ? start : lowest
          const to = end < limit ? end : limit
          const place = from <= to ? spans.gap(from, to, size, alignment) : null
          if (place === null) continue
          mappings.next = place + size
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

/** What a mapping was made with; `null` for what is none. */
export let backendOf: (mapping: unknown) => SpaceBackend | null

/** What one `map()` mapped. */
export class DmaMapping<B extends DmaBuffer | null = DmaBuffer | null> {
  /** Where devices see it. */
  readonly iova: bigint
  /** In bytes. */
  readonly size: number
  /** `null` where it is a file that was mapped by its descriptor. */
  readonly buffer: B
  readonly #space: DmaSpace
  readonly #span: MappedSpan

  static {
    backendOf = (mapping) =>
      typeof mapping === 'object' && mapping !== null && #space in mapping ? mapping.#space.backend : null
  }

  /** @internal */
  constructor(space: DmaSpace, span: MappedSpan, size: number, buffer: B) {
    this.#space = space
    this.#span = span
    this.iova = span.start
    this.size = size
    this.buffer = buffer
  }

  /** False after it was unmapped, in whatever way. */
  get mapped(): boolean {
    return this.#span.placed
  }

  /** Unmaps it. Does nothing where that has happened. */
  unmap(): Promise<void> {
    // No async function, as in map().
    try {
      return this.#space.unmapSpan(this.#span, this.size)?.then(() => {}) ?? DONE
    } catch (error) {
      return Promise.reject(error)
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.unmap()
  }
}

/**
 * The pages that devices wrote. By container (`VFIO_IOMMU_DIRTY_PAGES`) the kernel calls every page dirty that is mapped, where
 * the IOMMU does not track them. By iommufd (`IOMMU_HWPT_GET_DIRTY_BITMAP`) it refuses then, with `ENOTSUP`; devices move to page
 * tables that can log when the log begins. A bitmap has a bit for each page, the lowest address in the lowest bit of the first byte.
 */
export class DirtyPages {
  readonly #space: DmaSpace

  /** @internal */
  constructor(space: DmaSpace) {
    this.#space = space
  }

  /**
   * Begins to log.
   * @throws VfioSystemError `ENOTSUP` by iommufd where an IOMMU tracks no writes.
   */
  start(): Promise<void> {
    return this.#run((backend) => backend.startDirty(), this.start)
  }

  /**
   * Ends the log. By iommufd devices go back to the address space that they were attached to.
   * @throws VfioSystemError `EBUSY` by iommufd while a device is being reset: it stays where it is, all others have gone back, and
   * another call tries again.
   */
  stop(): Promise<void> {
    return this.#run((backend) => backend.stopDirty(), this.stop)
  }

  /**
   * The pages of a range that were written since they were asked for last: bit 0 of byte 0 is the first page, and so on, in
   * a multiple of eight bytes. `pageSize` in bytes; left out: the smallest that can be logged (by container of
   * `iommuInfo().migration`, by iommufd the IOMMU's smallest page).
   * @throws VfioSystemError `EINVAL` while nothing is logged, or where the range cuts a mapping in two
   */
  async bitmap(
    iova: number | bigint,
    size: number | bigint,
    pageSize?: number | bigint,
  ): Promise<Uint8Array> {
    const [start, length, page] = this.#question(iova, size, pageSize)
    return pageBits(await this.#run((backend) => backend.dirtyBitmap(start, length, page), this.bitmap))
  }

  /**
   * Unmaps a range, and tells the pages of it that were written until then. By iommufd these are two calls: let the device write
   * nothing there meanwhile.
   */
  async unmap(iova: number | bigint, size: number | bigint, pageSize?: number | bigint): Promise<Uint8Array> {
    const [start, length, page] = this.#question(iova, size, pageSize)
    const work = async (backend: SpaceBackend) => {
      const bits = await backend.unmapDirty(start, length, page)
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
    const page = pageSize === undefined ? this.#smallestPage() : checkUint64(pageSize, 'pageSize')
    const length = checkUint64(size, 'size')
    if (length === 0n || page === 0n) throw badArgument('size and pageSize must not be 0')
    return [checkUint64(iova, 'iova'), length, page]
  }

  #smallestPage(): bigint {
    return this.#space.backend.dirtyPage() ?? this.#space.limits.page
  }

  #run<T>(work: (backend: SpaceBackend) => Promise<T>, caller: (...args: never[]) => unknown): Promise<T> {
    const { backend } = this.#space
    return backend.handle.run(() => work(backend), {}, caller)
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

function unmapAtOnce(backend: SpaceBackend, start: bigint, length: number): number {
  try {
    return backend.unmapNow(start, length)
  } catch (error) {
    try {
      return Number(wasEmpty(backend, start, start + BigInt(length) - 1n, error))
    } catch (other) {
      throw translate(other)
    }
  }
}

/**
 * Older iommufds call it an error where nothing is mapped, and all where a mapping would be cut in two: then they have
 * unmapped those that lie below.
 */
function wasEmpty({ mappings }: SpaceBackend, start: bigint, end: bigint, error: unknown): bigint {
  if ((error as Partial<SystemFailure>).errno !== constants.errno.ENOENT) throw error
  const spans = [...mappings.spans.overlapping(start, end)]
  if (spans.length === 0) return 0n
  const cut = spans.findIndex((span) => span.start < start || span.end > end)
  for (const span of spans.slice(0, Math.max(cut, 0))) if (!span.pending) mappings.give(span)
  throw error
}
const DONE = Promise.resolve()

const sizeOf = ({ start, end }: MappedSpan) => Number(end - start + 1n)

function checkBits(value: unknown): number {
  if (typeof value === 'number' && Number.isInteger(value) && value >= 12 && value <= 64) return value
  throw badArgument(`addressBits must be an integer from 12 to 64, not ${show(value)}`)
}

function accessOf(options: PlaceOptions): number {
  const access =
    (checkFlag(options.read, true, 'options.read') ? MAY_READ : 0) |
    (checkFlag(options.write, true, 'options.write') ? MAY_WRITE : 0)
  if (access === 0) throw badArgument('options.read and options.write must not both be false')
  return access
}

function partOf(buffer: DmaBuffer, { offset = 0, length }: MapOptions): { offset: number; length: number } {
  checkInteger(offset, buffer.size - 1, 'offset')
  const rest = buffer.size - offset
  const checked = length === undefined ? rest : checkInteger(length, rest, 'length')
  if (checked === 0) throw badArgument('length must not be 0')
  return { offset, length: checked }
}
