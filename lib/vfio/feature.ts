import { VfioSystemError } from '../errors.js'
import { call } from '../native/translate.js'
import { badArgument, checkIndex, checkInteger, checkOptions, namesOf, show } from './arguments.js'
import type { VfioDevice } from './device.js'

/** Features of a device by name (`VFIO_DEVICE_FEATURE_*` in `uapi/linux/vfio.h`). */
export const FEATURES = {
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
const NOT_GOT_RAW = new Map<number, string>([[FEATURES['dma-logging-report'], 'dmaLogging.report()']])
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
  readonly device: VfioDevice
  readonly index: number
  /** The name in this package, `feature 4711` where it has none. */
  readonly name: string

  /** @internal */
  constructor(device: VfioDevice, feature: FeatureName | number) {
    this.device = device
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
    const { native } = this.device.handle
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
    // A copy, which nobody changes while the call waits for its turn.
    const payload = Uint8Array.from(data).buffer
    const answer = await this.device.handle.run(
      () => this.device.handle.native.feature(this.index | operation, payload),
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
