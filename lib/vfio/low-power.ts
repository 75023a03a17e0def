import { badArgument, show } from './arguments.js'
import type { VfioDevice } from './device.js'
import { type EventFd, eventfdNumber } from './event-fd.js'
import type { FeatureOptions } from './feature.js'

export interface LowPowerOptions extends FeatureOptions {
  /**
   * Signalled when the device wakes up. It then stays awake until the next `enter()`. The eventfd stays
   * the caller's.
   */
  readonly wakeup?: EventFd | number | undefined
}

/**
 * Leave for a device to sleep while nobody uses it (`VFIO_DEVICE_FEATURE_LOW_POWER_*`, since Linux 6.1). Whether it does is
 * for the platform to decide. Any call on the device wakes it.
 */
export class LowPower {
  readonly #device: VfioDevice

  /** @internal */
  constructor(device: VfioDevice) {
    this.#device = device
  }

  /** Whether kernel and driver know it. */
  get supported(): boolean {
    return this.#device.feature('low-power-entry').probe('set')
  }

  /**
   * Gives the leave. Until `exit()`, mapped regions must not be touched: a process that does is ended by SIGBUS.
   * @throws VfioSystemError `EINVAL` where it was given before, `EBADF` where `wakeup` is not open, `ENOTTY` before Linux 6.1.
   */
  async enter(options: LowPowerOptions = {}): Promise<void> {
    if (typeof options !== 'object' || options === null) {
      throw badArgument(`options must be an object, not ${show(options)}`)
    }
    const { wakeup } = options
    if (wakeup === undefined) {
      await this.#device.feature('low-power-entry').setBytes(new Uint8Array(), options, this.enter)
      return
    }
    // struct vfio_device_low_power_entry_with_wakeup
    const data = new Int32Array([eventfdNumber(wakeup, 'options.wakeup'), 0])
    const bytes = new Uint8Array(data.buffer)
    await this.#device.feature('low-power-entry-with-wakeup').setBytes(bytes, options, this.enter)
  }

  /**
   * Takes the leave back, and wakes the device. Does nothing where it was not given.
   * @throws VfioSystemError `ENOTTY` before Linux 6.1.
   */
  async exit(options: FeatureOptions = {}): Promise<void> {
    await this.#device.feature('low-power-exit').setBytes(new Uint8Array(), options, this.exit)
  }
}
