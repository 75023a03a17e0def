import { VfioSystemError } from '../../errors.js'
import { pageBits } from '../../native/answer.js'
import { binding } from '../../native/load.js'
import { call } from '../../native/translate.js'
import { badArgument, checkIndex, checkInteger, checkOptions, namesOf, show } from '../arguments.js'
import { type EventFd, eventfdNumber } from '../event-fd.js'
import type { DevicePart } from './handle.js'

/** Features of a device by name (`VFIO_DEVICE_FEATURE_*` in `uapi/linux/vfio.h`). */
const FEATURES = {
  'vf-token': 0,
  migration: 1,
  'migration-state': 2,
  'low-power-entry': 3,
  'low-power-entry-with-wakeup': 4,
  'low-power-exit': 5,
  'dma-logging-start': 6,
  'dma-logging-stop': 7,
  'dma-logging-report': 8,
  'migration-data-size': 9,
  'bus-master': 10,
  'dma-buf': 11,
  'precopy-info-v2': 12,
  'zpci-error': 13,
} as const
export type FeatureName = keyof typeof FEATURES
const FEATURE_NAMES = namesOf(FEATURES)
const NAMES: ReadonlyMap<unknown, string> = new Map(
  Object.entries(FEATURES).map(([name, index]) => [index, name]),
)

const LARGEST_INDEX = 0xffff
const LARGEST_DATA = 0x10000
const GET = 1 << 16
const SET = 1 << 17
const NOTHING = new Uint8Array()
// The kernel would write to where the bytes of a program say, or make a descriptor that nobody owns.
const NOT_GOT_RAW = new Map<number, string>([
  [FEATURES['dma-logging-report'], 'dmaLogging.report()'],
  [FEATURES['dma-buf'], 'dmaBuf()'],
  [FEATURES['zpci-error'], 'zpciError()'],
])
const NOT_SET_RAW = new Map<number, string>([
  [FEATURES['dma-logging-start'], 'dmaLogging.start()'],
  [FEATURES['migration-state'], 'migration.setState()'],
])

/** What can be done with a feature. */
export type FeatureOperation = 'get' | 'set'

type Caller = (...args: never[]) => unknown

export interface FeatureOptions {
  /** Aborts the wait: the promise rejects at once. A call that has begun ends by itself, and `close()` waits for it. */
  readonly signal?: AbortSignal | undefined
}

/**
 * One feature of a device, whether the kernel knows it or not (`VFIO_DEVICE_FEATURE`). It comes from
 * `VfioDevice.feature()`.
 */
export class VfioFeature {
  readonly #device: DevicePart
  readonly index: number
  /** The name in this package, `feature 4711` where it has none. */
  readonly name: string

  /** @internal */
  constructor(device: DevicePart, feature: FeatureName | number) {
    this.#device = device
    this.index = checkInteger(checkIndex(feature, FEATURE_NAMES, 'feature'), LARGEST_INDEX, 'feature')
    this.name = NAMES.get(this.index) ?? `feature ${this.index}`
  }

  /**
   * Whether the kernel and the driver of the device know the feature, and this operation of it. Changes nothing.
   * @throws VfioError `ERR_VFIO_CLOSED`
   */
  probe(operation: FeatureOperation): boolean {
    if (operation !== 'get' && operation !== 'set') {
      throw badArgument(`operation must be 'get' or 'set', not ${show(operation)}`)
    }
    const { native } = this.#device.handle
    try {
      call(() => native.probeFeature(this.index | (operation === 'get' ? GET : SET)))
      return true
    } catch (error) {
      // ENOTTY: no such feature. EINVAL: no such operation, since nothing else of a probe can be wrong.
      if (error instanceof VfioSystemError && (error.code === 'ENOTTY' || error.code === 'EINVAL'))
        return false
      throw error
    }
  }

  /**
   * The feature's data as the kernel fills it, in the layout of `uapi/linux/vfio.h`.
   * @param size of the structure in bytes, or the structure where the kernel also reads it; 64 KiB at most
   * @throws VfioSystemError `ENOTTY` where there is no such feature, `EINVAL` where it cannot be got or is larger.
   * @throws VfioError `ERR_VFIO_BAD_ARGUMENT` for data that would hold addresses: those have calls of their own.
   */
  async get(data: number | Uint8Array, options: FeatureOptions = {}): Promise<Uint8Array> {
    const payload =
      typeof data === 'number' ? new Uint8Array(checkInteger(data, LARGEST_DATA, 'size')) : checkData(data)
    this.#refuse(NOT_GOT_RAW)
    return this.#run(GET, payload, options, this.get)
  }

  /**
   * Sets the feature from its data, in the layout of `uapi/linux/vfio.h`, 64 KiB at most; several features have none.
   * Returns the data as the kernel left it.
   * @throws VfioSystemError `ENOTTY` where there is no such feature, `EINVAL` where it cannot be set, or not now.
   * @throws VfioError `ERR_VFIO_BAD_ARGUMENT` for data that would hold addresses: those have calls of their own.
   */
  async set(data: Uint8Array = NOTHING, options: FeatureOptions = {}): Promise<Uint8Array> {
    this.#refuse(NOT_SET_RAW)
    return this.#run(SET, checkData(data), options, this.set)
  }

  /** @internal Gets for a typed call. */
  getBytes(size: number, options: FeatureOptions, caller: Caller): Promise<Uint8Array> {
    return this.#run(GET, new Uint8Array(size), options, caller)
  }

  /** @internal Sets for a typed call. */
  async setBytes(data: Uint8Array, options: FeatureOptions, caller: Caller): Promise<void> {
    await this.#run(SET, data, options, caller)
  }

  async #run(
    operation: number,
    data: Uint8Array,
    options: FeatureOptions,
    caller: Caller,
  ): Promise<Uint8Array> {
    const { signal } = checkOptions(options)
    // A copy, since the caller may change the bytes while the call waits.
    const payload = Uint8Array.from(data).buffer
    const answer = await this.#device.handle.run(
      () => this.#device.handle.native.feature(this.index | operation, payload),
      { signal, subject: this.name },
      caller,
    )
    return new Uint8Array(answer)
  }

  #refuse(addressed: ReadonlyMap<number, string>): void {
    const typed = addressed.get(this.index)
    if (typed !== undefined) {
      throw badArgument(`the data of ${this.name} holds an address or a descriptor: use ${typed}`)
    }
  }
}

function checkData(data: unknown): Uint8Array {
  if (data instanceof Uint8Array && data.byteLength <= LARGEST_DATA) return data
  throw badArgument(`data must be a Uint8Array of 65536 bytes at most, not ${show(data)}`)
}

export interface LowPowerOptions extends FeatureOptions {
  /**
   * Signalled when the device wakes up. It then stays awake until the next `enter()`. The eventfd stays
   * the caller's.
   */
  readonly wakeup?: EventFd | number | undefined
}

/**
 * Permission for runtime suspend while the device is idle (`VFIO_DEVICE_FEATURE_LOW_POWER_*`, since Linux 6.1). Whether it
 * suspends, and how deep, the platform decides. Any call on the device resumes it.
 */
export class LowPower {
  readonly #device: DevicePart

  /** @internal */
  constructor(device: DevicePart) {
    this.#device = device
  }

  /** Whether kernel and driver know it. */
  get supported(): boolean {
    return new VfioFeature(this.#device, 'low-power-entry').probe('set')
  }

  /**
   * Allows it. Until `exit()`, registers that go through a mapping throw `ERR_VFIO_MEMORY_DISABLED`, and a `RegionMapping`
   * reads ones (`lost`).
   * @throws VfioSystemError `EINVAL` where it was given before, `EBADF` where `wakeup` is not open, `ENOTTY` before Linux 6.1.
   */
  async enter(options: LowPowerOptions = {}): Promise<void> {
    if (typeof options !== 'object' || options === null) {
      throw badArgument(`options must be an object, not ${show(options)}`)
    }
    const { wakeup } = options
    if (wakeup === undefined) {
      await new VfioFeature(this.#device, 'low-power-entry').setBytes(new Uint8Array(), options, this.enter)
      return
    }
    // struct vfio_device_low_power_entry_with_wakeup
    const data = new Int32Array([eventfdNumber(wakeup, 'options.wakeup'), 0])
    const bytes = new Uint8Array(data.buffer)
    await new VfioFeature(this.#device, 'low-power-entry-with-wakeup').setBytes(bytes, options, this.enter)
  }

  /**
   * Ends the permission and resumes the device. Does nothing where it was not given.
   * @throws VfioSystemError `ENOTTY` before Linux 6.1.
   */
  async exit(options: FeatureOptions = {}): Promise<void> {
    await new VfioFeature(this.#device, 'low-power-exit').setBytes(new Uint8Array(), options, this.exit)
  }
}

/** I/O virtual addresses whose writes are logged, in bytes. */
export interface DmaLoggingRange {
  readonly iova: number | bigint
  readonly length: number | bigint
}

export interface DmaLoggingOptions extends FeatureOptions {
  readonly ranges: readonly DmaLoggingRange[]
  /** What a bit of the log should stand for, in bytes: a power of two from 4096. The system's page where it is not given. */
  readonly pageSize?: number | bigint | undefined
}

/** What fits into one page, which all drivers take. */
const MOST_RANGES = 4096
const LARGEST_WORD = 2n ** 64n - 1n
const SMALLEST_PAGE = 4096n
/** A log of 1 GiB. */
const MOST_PAGES = 2n ** 33n

/**
 * A log, kept by the device itself, of the memory that it wrote (`VFIO_DEVICE_FEATURE_DMA_LOGGING_*`, since Linux 6.1). Only
 * variant drivers have it; vfio-pci answers `ENOTTY`. The log of the IOMMU is `opened.dma.dirty`, over either backend.
 */
export class DmaLogging {
  readonly #device: DevicePart

  /** @internal */
  constructor(device: DevicePart) {
    this.#device = device
  }

  /** Whether kernel and driver know it. */
  get supported(): boolean {
    return new VfioFeature(this.#device, 'dma-logging-start').probe('set')
  }

  /**
   * Begins to log. Returns what a bit of the log stands for, in bytes: the driver chooses where it cannot do as asked.
   * @throws VfioSystemError `ENOTTY` where the device has no log, `EINVAL` where it logs already or ranges overlap,
   * `E2BIG` for more ranges than the driver takes.
   */
  async start(options: DmaLoggingOptions): Promise<bigint> {
    const { ranges, pageSize = binding().pageSize, signal } = checkOptions(options)
    if (!Array.isArray(ranges) || ranges.length === 0 || ranges.length > MOST_RANGES) {
      throw badArgument(`options.ranges must be an array of 1 to ${MOST_RANGES} ranges, not ${show(ranges)}`)
    }
    const size = checkPageSize(pageSize, 'options.pageSize')
    const pairs = BigUint64Array.from(ranges.flatMap((range, i) => checkRange(range, `options.ranges[${i}]`)))
    return this.#device.handle.run(
      () => this.#device.handle.native.startDmaLogging(size, pairs.buffer),
      { signal, subject: 'dma-logging-start' },
      this.start,
    )
  }

  /**
   * Ends the log.
   * @throws VfioSystemError `ENOTTY` where the device has no log, `EINVAL` where it does not log.
   */
  async stop(options: FeatureOptions = {}): Promise<void> {
    await new VfioFeature(this.#device, 'dma-logging-stop').setBytes(new Uint8Array(), options, this.stop)
  }

  /**
   * The pages that were written since the last report, which are forgotten with it. Bit 0 of byte 0 is the first page, and so
   * on; the bytes are filled up to a multiple of eight. After an error all memory counts as written.
   * @param pageSize what a bit is to stand for, in bytes: a power of two from 4096, not necessarily that of the log
   * @throws VfioSystemError `ENOTTY` where the device has no log, `EINVAL` where it does not log.
   */
  async report(
    iova: number | bigint,
    length: number | bigint,
    pageSize: number | bigint,
    options: FeatureOptions = {},
  ): Promise<Uint8Array> {
    const { signal } = checkOptions(options)
    const [start, size] = checkRange({ iova, length }, 'the range')
    const page = checkPageSize(pageSize, 'pageSize')
    if ((size - 1n) / page >= MOST_PAGES) {
      throw badArgument(`the range has more than ${MOST_PAGES} pages: ask for it in pieces`)
    }
    const bitmap = await this.#device.handle.run(
      () => this.#device.handle.native.dmaLoggingReport(start, size, page),
      { signal, subject: 'dma-logging-report' },
      this.report,
    )
    return pageBits(bitmap)
  }
}

function checkRange(range: DmaLoggingRange, name: string): [bigint, bigint] {
  if (typeof range !== 'object' || range === null) {
    throw badArgument(`${name} must be an object with iova and length, not ${show(range)}`)
  }
  const iova = checkWord(range.iova, `iova of ${name}`)
  const length = checkWord(range.length, `length of ${name}`)
  if (length === 0n || iova + length - 1n > LARGEST_WORD) {
    throw badArgument(`${name} must have bytes, and end below 2^64`)
  }
  return [iova, length]
}

function checkPageSize(value: unknown, name: string): bigint {
  const size = checkWord(value, name)
  if (size >= SMALLEST_PAGE && (size & (size - 1n)) === 0n) return size
  throw badArgument(`${name} must be a power of two from ${SMALLEST_PAGE}, not ${show(value)}`)
}

function checkWord(value: unknown, name: string): bigint {
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return BigInt(value)
  if (typeof value === 'bigint' && value >= 0n && value <= LARGEST_WORD) return value
  throw badArgument(`${name} must be a safe integer or a bigint from 0 to 2^64 − 1, not ${show(value)}`)
}
