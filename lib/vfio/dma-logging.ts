import { binding } from '../native/load.js'
import { badArgument, checkOptions, show } from './arguments.js'
import type { VfioDevice } from './device.js'
import type { FeatureOptions } from './feature.js'
import { pageBits } from './page-bits.js'

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
 * variant drivers have it; vfio-pci answers `ENOTTY`. The log of the IOMMU is the container's.
 */
export class DmaLogging {
  readonly #device: VfioDevice

  /** @internal */
  constructor(device: VfioDevice) {
    this.#device = device
  }

  /** Whether kernel and driver know it. */
  get supported(): boolean {
    return this.#device.feature('dma-logging-start').probe('set')
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
    await this.#device.feature('dma-logging-stop').setBytes(new Uint8Array(), options, this.stop)
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
