import { VfioError } from '../../errors.js'
import { LITTLE_ENDIAN } from '../../native/answer.js'
import type { NativeMigrationData } from '../../native/binding.js'
import { badArgument, checkInteger, checkOptions, show } from '../arguments.js'
import { Handle, VfioObject, watched } from '../handle.js'
import { type FeatureOptions, VfioFeature } from './features.js'
import type { DevicePart } from './handle.js'

/** The migration states of a device (`enum vfio_device_mig_state`), by number. */
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
 * Saving and loading the state of a device (`VFIO_DEVICE_FEATURE_MIG*`, since Linux 5.18). Only variant drivers and
 * mediated devices can; vfio-pci answers `ENOTTY`.
 */
export class Migration {
  readonly #device: DevicePart

  /** @internal */
  constructor(device: DevicePart) {
    this.#device = device
  }

  /**
   * The states that the device has.
   * @throws VfioSystemError `ENOTTY` where it cannot migrate.
   */
  async support(options: FeatureOptions = {}): Promise<MigrationSupport> {
    const bytes = await new VfioFeature(this.#device, 'migration').getBytes(8, options, this.support)
    const flags = long(bytes)
    const flag = (bit: bigint) => (flags & (1n << bit)) !== 0n
    return { stopCopy: flag(0n), p2p: flag(1n), preCopy: flag(2n), flags }
  }

  /**
   * The state that the device is in. After a `setState()` that failed it may be any state on the way; only
   * `VfioDevice.reset()` leads out of `error`.
   * @throws VfioSystemError `ENOTTY` where it cannot migrate.
   */
  async state(options: FeatureOptions = {}): Promise<MigrationStateName> {
    // struct vfio_device_feature_mig_state, with the descriptor that is −1 here.
    const bytes = await new VfioFeature(this.#device, 'migration-state').getBytes(8, options, this.state)
    const number = new DataView(bytes.buffer).getUint32(0, LITTLE_ENDIAN)
    const state = STATES[number]
    if (state !== undefined) return state
    throw new VfioError('ERR_VFIO_BAD_KERNEL_DATA', `the kernel names a migration state ${number}`)
  }

  /**
   * Brings the device into another state, through those between, and returns when it is there. A state that begins a
   * transfer (`stop-copy`, `pre-copy`, `resuming`) returns the stream of its data; close it at the end.
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
    return handle && new MigrationData(handle, this.#device.owner)
  }

  /**
   * An estimate of the data that `stop-copy` would give now, in bytes. Since Linux 6.2.
   * @throws VfioSystemError `ENOTTY` where the device cannot say.
   */
  async dataSize(options: FeatureOptions = {}): Promise<bigint> {
    return long(
      await new VfioFeature(this.#device, 'migration-data-size').getBytes(8, options, this.dataSize),
    )
  }

  /**
   * Lets {@link MigrationData.precopyInfo} tell of new initial data (`VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2`, in
   * Linux 7.3): a program that does is one that waits for it. Before the state becomes `pre-copy`.
   * @throws VfioSystemError `ENOTTY` before Linux 7.3, `EINVAL` where the device has no `pre-copy`.
   */
  async usePrecopyInfoV2(options: FeatureOptions = {}): Promise<void> {
    await new VfioFeature(this.#device, 'precopy-info-v2').setBytes(
      new Uint8Array(),
      options,
      this.usePrecopyInfoV2,
    )
  }
}

/** How much a stream still has in `pre-copy` (`struct vfio_precopy_info`): estimates, in bytes. */
export interface PrecopyInfo {
  /** What should go over before `stop-copy`: it falls to 0. */
  readonly initialBytes: bigint
  /** What has changed since it was read. */
  readonly dirtyBytes: bigint
  /** There is new initial data, whatever was told before; only after {@link Migration.usePrecopyInfoV2}. */
  readonly reinitialized: boolean
}

const long = (bytes: Uint8Array) => new DataView(bytes.buffer).getBigUint64(0, LITTLE_ENDIAN)

/** VFIO_PRECOPY_INFO_REINIT. */
const PRECOPY_REINIT = 1

/** As much as one call moves, in bytes. */
const MOST_AT_ONCE = 2 ** 26

/**
 * The stream of one transfer of a device's state. It comes from `Migration.setState()`: read it in `stop-copy` and
 * `pre-copy`, write it in `resuming`. Only the same driver understands its content.
 */
export class MigrationData extends VfioObject {
  /** @internal */
  readonly handle: Handle<NativeMigrationData>
  /** @internal The device, which stays open as long as this is held. */
  readonly owner: object

  /** @internal */
  constructor(handle: Handle<NativeMigrationData>, owner: object) {
    super()
    this.handle = watched(this, handle)
    this.owner = owner
  }

  /**
   * Reads what comes next (`read(2)`).
   * @param size in bytes, the most to read: from 1 to 64 MiB
   * @returns bytes of its own, fewer than `size` where the driver has no more at once; none at the end
   * @throws VfioSystemError `ENOMSG` at the end of what `pre-copy` has for now.
   */
  async read(size: number, options: FeatureOptions = {}): Promise<Uint8Array> {
    if (checkInteger(size, MOST_AT_ONCE, 'size') === 0) throw badArgument('size must be 1 at least, not 0')
    const { signal } = checkOptions(options)
    return new Uint8Array(await this.handle.run(() => this.handle.native.read(size), { signal }, this.read))
  }

  /**
   * How much there is to read in `pre-copy` (`VFIO_MIG_GET_PRECOPY_INFO`, since Linux 6.2).
   * @throws VfioSystemError `EINVAL` in any other state, `ENOTTY` where the device has no `pre-copy`.
   */
  async precopyInfo(options: FeatureOptions = {}): Promise<PrecopyInfo> {
    const { signal } = checkOptions(options)
    const info = await this.handle.run(() => this.handle.native.precopyInfo(), { signal }, this.precopyInfo)
    const { initialBytes, dirtyBytes, flags } = info
    return { initialBytes, dirtyBytes, reinitialized: (flags & PRECOPY_REINIT) !== 0 }
  }

  /**
   * Writes all of `bytes` (`write(2)`); they must not change until it has. After an abort or an error part of them may
   * have been written, so the transfer has failed: reset the device.
   */
  async write(bytes: Uint8Array, options: FeatureOptions = {}): Promise<void> {
    if (!(bytes instanceof Uint8Array)) throw badArgument(`bytes must be a Uint8Array, not ${show(bytes)}`)
    const { signal } = checkOptions(options)
    await this.handle.run(
      async () => {
        for (let done = 0; done < bytes.byteLength; ) {
          signal?.throwIfAborted()
          const size = Math.min(bytes.byteLength - done, MOST_AT_ONCE)
          const { buffer, byteOffset } = bytes
          done += await this.handle.native.write(buffer as ArrayBuffer, byteOffset + done, size)
        }
      },
      { signal },
      this.write,
    )
  }
}
