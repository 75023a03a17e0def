import { VfioError } from '../errors.js'
import { badArgument, checkOptions, show } from './arguments.js'
import type { VfioDevice } from './device.js'
import type { FeatureOptions } from './feature.js'
import { Handle } from './handle.js'
import { MigrationData } from './migration-data.js'

/** The states of a device that migrates (`enum vfio_device_mig_state`), by number. */
const STATES = [
  'error',
  'stop',
  'running',
  'stop-copy',
  'resuming',
  'running-p2p',
  'pre-copy',
  'pre-copy-p2p',
] as const
export type MigrationStateName = (typeof STATES)[number]

/** Which states a device has besides `running` and `error` (`struct vfio_device_feature_migration`). */
export interface MigrationSupport {
  /** `stop`, `stop-copy` and `resuming`. */
  readonly stopCopy: boolean
  /** `running-p2p`, and `pre-copy-p2p` where there is `pre-copy`. */
  readonly p2p: boolean
  /** `pre-copy`. */
  readonly preCopy: boolean
  /** As the kernel gave them. */
  readonly flags: bigint
}

/**
 * Saving and loading what a device has in it (`VFIO_DEVICE_FEATURE_MIG*`, since Linux 5.18). Only variant drivers and
 * mediated devices can; vfio-pci answers `ENOTTY`.
 */
export class Migration {
  readonly #device: VfioDevice

  /** @internal */
  constructor(device: VfioDevice) {
    this.#device = device
  }

  /**
   * The states that the device has.
   * @throws VfioSystemError `ENOTTY` where it cannot migrate.
   */
  async support(options: FeatureOptions = {}): Promise<MigrationSupport> {
    const bytes = await this.#device.feature('migration').getBytes(8, options, this.support)
    const flags = long(bytes)
    const flag = (bit: bigint) => (flags & (1n << bit)) !== 0n
    return { stopCopy: flag(0n), p2p: flag(1n), preCopy: flag(2n), flags }
  }

  /**
   * The state that the device is in. After a `setState()` that failed it may be any on the way; out of `error` leads only
   * `VfioDevice.reset()`.
   * @throws VfioSystemError `ENOTTY` where it cannot migrate.
   */
  async state(options: FeatureOptions = {}): Promise<MigrationStateName> {
    // struct vfio_device_feature_mig_state, with the descriptor that is −1 here.
    const bytes = await this.#device.feature('migration-state').getBytes(8, options, this.state)
    const number = new DataView(bytes.buffer).getUint32(0, LITTLE_ENDIAN)
    const state = STATES[number]
    if (state !== undefined) return state
    throw new VfioError('ERR_VFIO_BAD_KERNEL_DATA', `the kernel names a migration state ${number}`)
  }

  /**
   * Brings the device into another state, over those on the way, and returns when it is there. What begins a transfer
   * (`stop-copy`, `pre-copy` and `resuming`) gives the stream of its data; close it at the end.
   * @throws VfioSystemError `EINVAL` where no way leads there, `ENOTTY` where the device cannot migrate.
   */
  async setState(state: MigrationStateName, options: FeatureOptions = {}): Promise<MigrationData | null> {
    const number = STATES.indexOf(state)
    if (number <= 0) {
      throw badArgument(`state must be one of ${STATES.slice(1).join(', ')}, not ${show(state)}`)
    }
    const { signal } = checkOptions(options)
    const device = this.#device.handle
    const handle = await device.run(
      async () => {
        const data = await this.#device.handle.native.setMigrationState(number)
        const stream = data && new Handle(data, `the migration data of ${device.name}`, device)
        // Closed meanwhile, so that nobody else would close it.
        if (device.closed) void stream?.release()
        return stream
      },
      {
        signal,
        subject: 'migration-state',
        discard: (data) => void data?.release(),
      },
      this.setState,
    )
    return handle && new MigrationData(handle)
  }

  /**
   * An estimate of the data that `stop-copy` would give now, in bytes. Since Linux 6.2.
   * @throws VfioSystemError `ENOTTY` where the device cannot say.
   */
  async dataSize(options: FeatureOptions = {}): Promise<bigint> {
    return long(await this.#device.feature('migration-data-size').getBytes(8, options, this.dataSize))
  }
}

/** The kernel's words are in the byte order of the machine. */
const LITTLE_ENDIAN = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1

const long = (bytes: Uint8Array) => new DataView(bytes.buffer).getBigUint64(0, LITTLE_ENDIAN)
