import type { NativeMemory } from '../native/binding.js'
import { call, translate } from '../native/translate.js'
import { checkMappings, explainMemory } from './memory-errors.js'
import type { VfioRegion } from './region.js'

/** A part of a region in this process's memory. It comes from `VfioRegion.map()`. */
export class RegionMapping {
  /** Over the device's own memory; detached when the mapping or the device is closed. */
  readonly buffer: ArrayBuffer
  /** In bytes from the start of the region. */
  readonly offset: number
  readonly length: number
  readonly region: VfioRegion
  readonly #memory: NativeMemory

  /** @internal */
  constructor(region: VfioRegion, memory: NativeMemory, offset: number, length: number) {
    this.region = region
    this.offset = offset
    this.length = length
    this.buffer = memory.buffer
    this.#memory = memory
  }

  get closed(): boolean {
    return !this.region.device.handle.isAttached(this.#memory)
  }

  /**
   * Did an access find nothing there, since it was mapped or restored? The device's memory decode was off then, and
   * what was read was ones, as on a PCI bus.
   * @throws VfioError `ERR_VFIO_CLOSED`
   */
  get lost(): boolean {
    return call(() => this.#memory.lost())
  }

  /**
   * Maps the device anew where something was lost.
   * @throws VfioError `ERR_VFIO_CLOSED`
   * @throws VfioSystemError where the kernel does not map it: it stays lost, and reads ones where it was
   */
  restore(): void {
    restore(this.#memory)
  }

  /** Detaches the buffer. Idempotent. */
  close(): void {
    this.region.device.handle.detach(this.#memory)
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

/** Maps `length` bytes from `position` on of the device's file, which are those from `offset` on of the region. */
export function mapRegion(
  region: VfioRegion,
  position: number,
  offset: number,
  length: number,
): RegionMapping {
  const { handle } = region.device
  checkMappings()
  const memory = explained(() => handle.native.map(position, length))
  handle.attach(memory)
  return new RegionMapping(region, memory, offset, length)
}

/** Maps device memory anew where something of it was lost. */
export const restore = (memory: NativeMemory): void => explained(() => memory.restore())

function explained<T>(mapping: () => T): T {
  try {
    return mapping()
  } catch (error) {
    throw explainMemory(translate(error))
  }
}
