import { together, VfioError } from '../../errors.js'
import type { NativeHandle, NativeIommufd } from '../../native/binding.js'
import { binding } from '../../native/load.js'
import { call, translate } from '../../native/translate.js'
import type { IovaRange } from '../capabilities.js'
import type { DeviceHandle } from '../device/handle.js'
import { type Dependent, Handle } from '../handle.js'
import { MAY_READ, MAY_WRITE, Mappings, type SpaceBackend } from './space.js'

const MAP_FIXED = 1 << 0
const MAP_WRITEABLE = 1 << 1
const MAP_READABLE = 1 << 2
export const HWPT_DIRTY_TRACKING = 1 << 1
export const HWPT_PASID = 1 << 3
const DIRTY_ENABLE = 1 << 0
export const OPTION_RLIMIT_MODE = 0
export const OPTION_GET = 1
const LAST_ADDRESS = 2n ** 64n - 1n

/** An object of an iommufd as the addon would have it: the number that calls take, and its end. */
class Numbered implements NativeHandle {
  constructor(
    private readonly iommufd: Handle<NativeIommufd>,
    readonly id: number,
    private readonly kind: string,
  ) {}

  async close(): Promise<void> {
    try {
      await this.iommufd.raw.destroy(this.id)
    } catch (error) {
      // What is closed has let all of its objects go.
      if (this.iommufd.closed) return
      const { message } = translate(error) as Error
      process.emitWarning(
        `${this.kind} ${this.id} stays until ${this.iommufd.name} is closed: ${message}`,
        'VfioWarning',
      )
    }
  }

  closeNow(): void {
    void this.close()
  }
}

/** The state of an IOAS or a page table: what devices are attached to. */
export abstract class TableHandle extends Handle<NativeHandle> {
  constructor(
    readonly iommufd: Handle<NativeIommufd>,
    id: number,
    kind: string,
    parent: Handle<NativeHandle>,
  ) {
    super(new Numbered(iommufd, id, kind), `${kind} ${id} of ${iommufd.name}`, parent)
  }

  // Detaching a device takes a thread, and nothing can be destroyed before that.
  override releaseNow(): void {
    if (this.dependents.size > 0) void this.release()
    else super.releaseNow()
  }

  /** Itself, or what it is a table of. */
  abstract readonly ioas: IoasHandle

  /** What a device is to be attached to. */
  abstract tableFor(device: DeviceHandle, devid: number, pasid: number | null): Promise<TableHandle>

  /** A device has left it, or could not be attached. */
  left(): void {}
}

/** A hardware page table. */
export class HwptHandle extends TableHandle {
  /** A device was attached to it, so that it may have logged something. */
  wasUsed = false

  constructor(
    readonly ioas: IoasHandle,
    id: number,
    readonly flags: number,
    /** The device that the address space made it for, to log what it writes; `null`: a program holds it. */
    readonly madeFor: DeviceHandle | null = null,
  ) {
    super(ioas.iommufd, id, 'page table', ioas)
  }

  /** It can log the pages that devices write. */
  get canTrack(): boolean {
    return (this.flags & HWPT_DIRTY_TRACKING) !== 0
  }

  get hasDevices(): boolean {
    return this.dependents.size > 0
  }

  async tableFor(): Promise<TableHandle> {
    if (this.ioas.tracks && !this.canTrack) throw this.cannotTrack()
    return this
  }

  cannotTrack(): VfioError {
    return new VfioError(
      'ERR_VFIO_BAD_ARGUMENT',
      `${this.name} cannot log what its devices write: attach them to ${this.ioas.name}, or to a page table that was allocated with dirtyTracking`,
    )
  }

  // Its log can be read until the log ends.
  override left(): void {
    if (this.madeFor && !this.hasDevices && !(this.ioas.tracks && this.wasUsed)) void this.release()
  }

  async track(on: boolean): Promise<void> {
    await this.iommufd.native.setDirtyTracking(this.native.id, on ? DIRTY_ENABLE : 0)
  }

  dirtyBitmap(iova: bigint, size: bigint, page: bigint, flags: number): Promise<ArrayBuffer> {
    return this.iommufd.native.dirtyBitmap(this.native.id, iova, size, page, flags)
  }
}

/** An address space with what it maps, apart from the object that the program holds. */
export class IoasHandle extends TableHandle {
  readonly mappings = new Mappings()
  /** Attach calls that run now: they may have chosen their table before the log began. */
  readonly attaching = new Set<Promise<void>>()
  /** Writes are logged, also of devices that are attached later. */
  #tracks = false

  constructor(iommufd: Handle<NativeIommufd>, id: number) {
    super(iommufd, id, 'IOAS', iommufd)
  }

  get ioas(): IoasHandle {
    return this
  }

  get tracks(): boolean {
    return this.#tracks
  }

  async allocate(devid: number, flags: number, madeFor: DeviceHandle | null = null): Promise<HwptHandle> {
    const id = await this.iommufd.native.allocateHwpt(devid, this.native.id, flags, 0, null, 0)
    const table = new HwptHandle(this, id, flags, madeFor)
    try {
      // Closed meanwhile, so that nobody else would destroy it.
      if (this.closed) await table.release()
      else if (this.#tracks && table.canTrack) await table.track(true)
    } catch (error) {
      await table.release()
      throw error
    }
    return table
  }

  async tableFor(device: DeviceHandle, devid: number, pasid: number | null): Promise<TableHandle> {
    return this.#tracks ? this.#trackingTable(device, devid, pasid) : this
  }

  /** Devices whose page table cannot log move to one that can. */
  async startTracking(): Promise<void> {
    if (![...this.dependents].some((one) => one instanceof Attachment || one instanceof HwptHandle)) {
      throw new VfioError('ERR_VFIO_BAD_ARGUMENT', `no device is attached to ${this.name}: attach one first`)
    }
    const before = this.#tracks
    // From now on whoever comes gets a table that logs.
    this.#tracks = true
    try {
      await Promise.allSettled(this.attaching)
      const without = this.#tables().find((table) => !table.canTrack && table.hasDevices)
      if (without) throw without.cannotTrack()
      for (const one of [...this.dependents]) {
        if (one instanceof Attachment) {
          await one.moveTo(() => this.#trackingTable(one.device, one.devid, one.pasid))
        }
      }
      for (const table of this.#tracking()) await table.track(true)
    } catch (error) {
      // What was wrong first is what the caller has to know.
      if (!before) await this.stopTracking().catch(() => {})
      throw error
    }
  }

  /** Devices go back to this address space itself. One that fails keeps none of the others from it. */
  async stopTracking(): Promise<void> {
    this.#tracks = false
    await Promise.allSettled(this.attaching)
    const errors: unknown[] = []
    const attempt = (work: Promise<void>) =>
      work.catch((error: unknown) => void errors.push(translate(error)))
    for (const table of this.#tracking()) await attempt(table.track(false))
    for (const table of this.#tables().filter(({ madeFor }) => madeFor !== null)) {
      for (const one of [...table.dependents]) {
        if (one instanceof Attachment) await attempt(one.moveTo(async () => this))
      }
      // Before this ends, so that nothing of the log is in the way of whoever waited for it.
      if (!table.hasDevices) await table.release()
    }
    if (errors.length > 0) throw together(errors)
  }

  async dirtyBitmap(iova: bigint, size: bigint, page: bigint): Promise<ArrayBuffer> {
    const [first, ...others] = this.#tracking()
    if (!first) {
      throw new VfioError(
        'ERR_VFIO_BAD_ARGUMENT',
        `nothing logs what devices of ${this.name} write: dirty.start() first`,
      )
    }
    const bits = await first.dirtyBitmap(iova, size, page, 0)
    const all = new Uint32Array(bits)
    for (const table of others) {
      const more = new Uint32Array(await table.dirtyBitmap(iova, size, page, 0))
      // Without a BigInt for each word: this thread does nothing else meanwhile.
      for (let i = 0; i < all.length; i++) all[i] = (all[i] ?? 0) | (more[i] ?? 0)
    }
    return bits
  }

  #tables(): HwptHandle[] {
    return [...this.dependents].filter((one): one is HwptHandle => one instanceof HwptHandle && !one.closed)
  }

  #tracking(): HwptHandle[] {
    return this.#tables().filter(({ canTrack }) => canTrack)
  }

  /** A page table that logs for one device: devices may have different IOMMUs. Reuses the one that it left. */
  async #trackingTable(device: DeviceHandle, devid: number, pasid: number | null): Promise<HwptHandle> {
    // Where one of its PASIDs has a page table, that of the device has to fit those.
    const hasPasids = pasid !== null || [...device.tables.keys()].some((key) => key !== null)
    const flags = HWPT_DIRTY_TRACKING | (hasPasids ? HWPT_PASID : 0)
    const free = this.#tables().find(
      (table) => table.madeFor === device && table.flags === flags && !table.hasDevices,
    )
    return free ?? this.allocate(devid, flags, device)
  }

  protected override beforeSurrender(): void {
    for (const one of [...this.dependents]) if (one instanceof Attachment) one.forget()
  }

  // The kernel has unmapped everything with it.
  protected override afterClose(): void {
    this.mappings.clear()
  }
}

/** A device on a page table: it is detached before that is destroyed. */
class Attachment implements Dependent {
  constructor(
    readonly device: DeviceHandle,
    readonly devid: number,
    /** `null`: the device itself. */
    readonly pasid: number | null,
    public table: TableHandle,
  ) {
    this.#join(table)
    device.tables.set(pasid, this)
  }

  /** In the order of the device's calls. */
  async release(): Promise<void> {
    const { device, pasid } = this
    try {
      // A call that ran before may have attached the device elsewhere, or detached it.
      const detach = async () => {
        if (this.#holds) await device.native.detach(pasid)
      }
      if (!device.closed) await device.run(detach, {}, this.release)
    } catch {
      // Where the kernel refuses, the table stays until the iommufd is closed.
    }
    // One that closes, or closed while this waited, is detached by that.
    if (device.closed) await device.release().catch(() => {})
    this.forget()
  }

  releaseNow(): void {
    void this.release()
  }

  /** Attaches it to another one in the place of this, unless the device has left meanwhile. */
  async moveTo(make: () => Promise<TableHandle>): Promise<void> {
    const { device, pasid } = this
    const move = async () => {
      if (!this.#holds) return
      const table = await make()
      try {
        await device.native.attach(table.native.id, pasid)
        if (!this.#holds) return
        this.#leave()
        this.table = table
        this.#join(table)
      } finally {
        if (this.table !== table) table.left()
      }
    }
    try {
      await device.run(move, {}, this.moveTo)
    } catch (error) {
      // One that closes is not in the way of the others.
      if (!device.closed) throw error
    }
  }

  /** Has no later call attached or detached the device? */
  get #holds(): boolean {
    return this.device.tables.get(this.pasid) === this
  }

  /** It is detached, or closed. */
  forget(): void {
    this.#leave()
    if (this.device.tables.get(this.pasid) === this) this.device.tables.delete(this.pasid)
  }

  #join(table: TableHandle): void {
    table.dependents.add(this)
    if (table instanceof HwptHandle) table.wasUsed = true
    forgetLimits(table)
  }

  #leave(): void {
    this.table.dependents.delete(this)
    forgetLimits(this.table)
    this.table.left()
  }
}

/**
 * Attaches a device to a table, in the place of the one that it is on. To be run in the order of the device's calls.
 * @throws VfioError `ERR_VFIO_CLOSED` where the table was closed meanwhile
 */
export function attach(
  device: DeviceHandle,
  devid: number,
  pasid: number | null,
  target: TableHandle,
): Promise<void> {
  const work = (async () => {
    const table = await target.tableFor(device, devid, pasid)
    try {
      await device.native.attach(table.native.id, pasid)
      device.tables.get(pasid)?.forget()
      const closed = [device, target].find((handle) => handle.closed)
      if (!closed) {
        new Attachment(device, devid, pasid, table)
        return
      }
      try {
        await device.raw.detach(pasid)
      } catch (error) {
        // Nothing is left to detach of one that was disposed of.
        if (!device.closed) throw error
      }
      throw closed.closedError()
    } catch (error) {
      table.left()
      throw error
    }
  })()
  // Which is not destroyed before this has ended.
  target.lend(work)
  const { attaching } = target.ioas
  attaching.add(work)
  const ended = () => attaching.delete(work)
  work.then(ended, ended)
  return work
}

/** A device that another thread left on a table. */
export const wasAttached = (device: DeviceHandle, devid: number, table: TableHandle) =>
  void new Attachment(device, devid, null, table)

/** Each device reserves addresses of its own. */
function forgetLimits(table: TableHandle): void {
  for (const at of [table, table.parent]) if (at instanceof IoasHandle) at.mappings.limits = null
}

/** The calls of an IOAS, which stays open as long as they are held. */
export class IoasCalls implements SpaceBackend {
  readonly mappings: Mappings

  constructor(
    /** Not used, but kept. */
    readonly owner: object,
    readonly handle: IoasHandle,
  ) {
    this.mappings = handle.mappings
  }

  mapNow(memory: number, offset: number, length: number, iova: bigint, access: number): void {
    const { iommufd, native } = this.handle
    binding().iommufdMap(iommufd.native.id, native.id, memory, offset, length, iova, flagsOf(access))
  }

  map(memory: number, offset: number, length: number, iova: bigint, access: number): Promise<unknown> {
    const { iommufd, raw } = this.handle
    return iommufd.native.map(raw.id, memory, offset, length, iova, flagsOf(access))
  }

  unmapNow(iova: bigint, size: number): number {
    const { iommufd, native } = this.handle
    return binding().iommufdUnmap(iommufd.native.id, native.id, iova, size)
  }

  unmap(iova: bigint, size: bigint): Promise<bigint> {
    const { iommufd, raw } = this.handle
    return iommufd.native.unmap(raw.id, iova, size)
  }

  unmapAll() {
    return () => this.handle.iommufd.native.unmap(this.handle.native.id, 0n, LAST_ADDRESS)
  }

  askLimits() {
    const { iommufd, native } = this.handle
    const { alignment, ranges } = call(() => iommufd.native.iovaRanges(native.id))
    const system = BigInt(binding().pageSize)
    // Before a device is attached there is no page but the system's.
    return { ranges: pairsOf(ranges), page: alignment > system ? alignment : system }
  }

  explainLimits() {
    return {
      ...this.askLimits(),
      choosing: 'a device is attached',
      full: 'the kernel finds no place for it: give an address, or unmap something',
      locked: 'VmPin' as const,
      charged: this.#isPerProcess()
        ? 'this iommufd charges this process, for all that is mapped by whatever iommufd'
        : 'an iommufd charges the user, so that what other programs of the user have locked counts too',
    }
  }

  startDirty(): Promise<void> {
    return this.handle.startTracking()
  }

  stopDirty(): Promise<void> {
    return this.handle.stopTracking()
  }

  dirtyBitmap(iova: bigint, size: bigint, pageSize: bigint): Promise<ArrayBuffer> {
    return this.handle.dirtyBitmap(iova, size, pageSize)
  }

  // The kernel has no one call for both.
  async unmapDirty(iova: bigint, size: bigint, pageSize: bigint): Promise<ArrayBuffer> {
    const bits = await this.handle.dirtyBitmap(iova, size, pageSize)
    await this.unmap(iova, size)
    return bits
  }

  dirtyPage(): null {
    return null
  }

  #isPerProcess(): boolean {
    const { native } = this.handle.iommufd
    return call(() => native.option(OPTION_RLIMIT_MODE, OPTION_GET, 0, 0n)) === 1n
  }
}

export const flagsOf = (access: number) =>
  MAP_FIXED | (access & MAY_READ ? MAP_READABLE : 0) | (access & MAY_WRITE ? MAP_WRITEABLE : 0)

/** Pairs of a first and a last address. */
export const pairsOf = (words: BigUint64Array): IovaRange[] =>
  Array.from({ length: words.length / 2 }, (_, i) => ({
    start: words[2 * i] ?? 0n,
    end: words[2 * i + 1] ?? 0n,
  }))
