import { call } from '../../native/translate.js'
import { badArgument, show } from '../arguments.js'
import { type EventFd, eventfdNumber } from '../event-fd.js'
import type { DeviceHandle, Resource } from './handle.js'
import { askRegionInfo, type RegionInfo, type RegionName, regionIndex } from './info.js'

/** A register write that an eventfd triggers. */
export interface IoeventfdOptions {
  /** A BAR of the device. */
  readonly region: RegionName | number
  /** In bytes from the start of the region; a multiple of the width. */
  readonly offset: number
  /** In bits. 64 only where the kernel can, as on x86-64. */
  readonly width: 8 | 16 | 32 | 64
  /** What is written, without a sign, in the byte order of PCI: little-endian. */
  readonly data: number | bigint
  /** It stays the caller's, and must stay open: closing it ends the writes. */
  readonly eventfd: EventFd | number
}

const WIDTHS: readonly unknown[] = [8, 16, 32, 64]

/** What the native call takes, save the eventfd. */
type Write = readonly [flags: number, offset: bigint, data: bigint]

/**
 * A write that the kernel makes each time an eventfd is signalled, without a program in between (`VFIO_DEVICE_IOEVENTFD`).
 * It comes from `VfioDevice.ioeventfd()`, and ends with `close()` or with the device.
 */
export class Ioeventfd implements Disposable {
  readonly #device: DeviceHandle
  readonly #write: Resource

  /** @internal */
  constructor(device: DeviceHandle, write: Write, eventfd: number) {
    call(() => device.native.ioeventfd(...write, eventfd))
    const close = () => {
      try {
        device.raw.ioeventfd(...write, null)
      } catch {
        // A device that is gone has dropped it.
      }
    }
    this.#device = device
    this.#write = { close }
    device.own(this.#write)
  }

  /** True after `close()` was called or the device was closed. */
  get closed(): boolean {
    return !this.#device.owns(this.#write)
  }

  /** Takes it off again. Does nothing when that has happened. */
  close(): void {
    this.#device.letGo(this.#write)
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

/** @internal Checks what a program asks for, and asks the kernel. */
export function addIoeventfd(device: DeviceHandle, options: IoeventfdOptions): Ioeventfd {
  if (typeof options !== 'object' || options === null) {
    throw badArgument(`options must be an object, not ${show(options)}`)
  }
  const { width } = options
  if (!WIDTHS.includes(width)) {
    throw badArgument(`options.width must be 8, 16, 32 or 64, not ${show(width)}`)
  }
  const eventfd = eventfdNumber(options.eventfd, 'options.eventfd')
  const data = checkData(options.data, width)
  const region = askRegionInfo(device, regionIndex(options.region))
  const offset = region.offset + checkOffset(options.offset, width / 8, region)
  return new Ioeventfd(device, [width / 8, offset, data], eventfd)
}

function checkOffset(value: unknown, bytes: number, { size }: RegionInfo): bigint {
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0 && value % bytes === 0) {
    if (BigInt(value) + BigInt(bytes) <= size) return BigInt(value)
  }
  throw badArgument(
    `options.offset must be a multiple of ${bytes} inside the region, which has ${size} bytes, not ${show(value)}`,
  )
}

function checkData(value: unknown, width: number): bigint {
  if (typeof value === 'bigint' || (typeof value === 'number' && Number.isSafeInteger(value))) {
    const data = BigInt(value)
    if (data >= 0n && data < 1n << BigInt(width)) return data
  }
  throw badArgument(`options.data must be an integer of ${width} bits without a sign, not ${show(value)}`)
}
