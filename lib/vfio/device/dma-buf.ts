import type { NativeDmaBuf } from '../../native/binding.js'
import { call } from '../../native/translate.js'
import { badArgument, checkInteger, checkOptions, show } from '../arguments.js'
import { Handle, VfioObject, watched } from '../handle.js'
import type { DevicePart } from './handle.js'
import { askRegionInfo, type RegionName, regionIndex } from './info.js'

/** A part of a region, in bytes from its start; the kernel takes multiples of the page size. */
export interface RegionRange {
  readonly offset: number
  readonly length: number
}

export interface DmaBufOptions {
  /** What of the region, 4096 ranges at most; left out: all of it. */
  readonly ranges?: readonly RegionRange[] | undefined
  readonly signal?: AbortSignal | undefined
}

const MOST_RANGES = 4096
const O_RDWR = 2

/**
 * Memory of a device as a file for other devices to do DMA with (a dma-buf). It comes from `VfioDevice.dmaBuf()`, and closes with
 * the device at the latest. A reset, low power and memory decode that is off take it away from those who use it.
 */
export class DmaBuf extends VfioObject {
  /** @internal */
  readonly handle: Handle<NativeDmaBuf>
  /** Of all ranges together, in bytes. */
  readonly size: bigint
  /** @internal The device, which stays open as long as this is held. */
  readonly owner: object

  /** @internal */
  constructor(handle: Handle<NativeDmaBuf>, size: bigint, owner: object) {
    super()
    this.handle = watched(this, handle)
    this.size = size
    this.owner = owner
  }

  /** The descriptor, for `ioas.mapFile()` or another program. It stays this object's, and closes with it. */
  get fd(): number {
    return call(() => this.handle.native.number())
  }
}

/** @internal Checks what a program asks for, and asks the kernel. */
export async function exportDmaBuf(
  part: DevicePart,
  region: RegionName | number,
  options: DmaBufOptions,
  caller: (...args: never[]) => unknown,
): Promise<DmaBuf> {
  const { ranges, signal } = checkOptions(options)
  const { handle: device, owner } = part
  const index = regionIndex(region)
  const pairs = ranges === undefined ? [0n, askRegionInfo(device, index).size] : checkRanges(ranges)
  const handle = await device.run(
    async () => {
      const native = await part.handle.native.dmaBuf(index, O_RDWR, new BigUint64Array(pairs))
      const made = new Handle(native, `a dma-buf of ${device.name}`, device)
      // Closed meanwhile, so that nobody else would close it.
      if (device.closed) void made.release()
      return made
    },
    { signal, subject: 'dma-buf', discard: (made) => void made.release() },
    caller,
  )
  return new DmaBuf(
    handle,
    pairs.reduce((sum, each, at) => (at % 2 === 1 ? sum + each : sum), 0n),
    owner,
  )
}

function checkRanges(ranges: unknown): bigint[] {
  if (!Array.isArray(ranges) || ranges.length === 0 || ranges.length > MOST_RANGES)
    throw badArgument(
      `options.ranges must be an array of 1 to ${MOST_RANGES} pairs of offset and length, not ${show(ranges)}`,
    )
  return ranges.flatMap((range: unknown, at) => {
    const { offset, length } = (range ?? {}) as Record<keyof RegionRange, unknown>
    return [
      BigInt(checkInteger(offset, Number.MAX_SAFE_INTEGER, `options.ranges[${at}].offset`)),
      BigInt(checkInteger(length, Number.MAX_SAFE_INTEGER, `options.ranges[${at}].length`)),
    ]
  })
}
