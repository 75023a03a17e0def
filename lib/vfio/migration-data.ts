import type { NativeMigrationData } from '../native/binding.js'
import { badArgument, checkInteger, checkOptions, show } from './arguments.js'
import type { FeatureOptions } from './feature.js'
import { type Handle, VfioObject, watched } from './handle.js'

/** As much as one call moves, in bytes. */
const MOST_AT_ONCE = 2 ** 26

/**
 * The stream of one transfer of a device's state. It comes from `Migration.setState()`: read it in `stop-copy` and
 * `pre-copy`, write it in `resuming`. What is in it is for the same driver elsewhere to understand.
 */
export class MigrationData extends VfioObject {
  /** @internal */
  readonly handle: Handle<NativeMigrationData>

  /** @internal */
  constructor(handle: Handle<NativeMigrationData>) {
    super()
    this.handle = watched(this, handle)
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
