import { constants } from 'node:os'
import type { SystemFailure } from '../errors.js'
import { scratch } from '../native/answer.js'
import type { NativeContainer } from '../native/binding.js'
import type { DmaBuffer } from './dma-buffer.js'
import { Handle } from './handle.js'
import { IovaMap, type IovaSpan } from './iova-map.js'

/** What of a buffer is mapped where. */
export interface MappedSpan extends IovaSpan {
  readonly buffer: DmaBuffer
  /** The kernel has not answered yet: the place is taken, and nothing is mapped there. */
  pending: boolean
}

/** What of an IOMMU decides where something can be mapped. */
export interface IommuLimits {
  readonly ranges: readonly IovaSpan[]
  /** Its smallest page in bytes: addresses and sizes are multiples of it. */
  readonly page: bigint
}

/** An open container with what it maps, apart from the object that the program holds. */
export class ContainerHandle extends Handle<NativeContainer> {
  /** What the IOMMU maps; null until it is asked, and after a group came or went. */
  limits: IommuLimits | null = null
  /** Where the next place that is chosen may lie. */
  next = 0n
  readonly mapped = new IovaMap<MappedSpan>()

  /** Takes an address range for a buffer; from then on the buffer cannot be closed. */
  take(span: MappedSpan): void {
    this.mapped.add(span)
    span.buffer.count(1)
  }

  /** Does nothing where the container has closed meanwhile. */
  give(span: MappedSpan): void {
    if (this.mapped.delete(span)) span.buffer.count(-1)
  }

  /** The last group has left, and with it the kernel has unmapped everything. */
  emptied(): void {
    for (const span of [...this.mapped]) if (!span.pending) this.give(span)
  }

  /** Whether it has an IOMMU: where it has none, nothing is mapped. */
  hasIommu(): boolean {
    try {
      this.raw.iommuInfo(scratch)
      return true
    } catch (error) {
      return (error as Partial<SystemFailure>).errno !== constants.errno.EINVAL
    }
  }

  // The kernel has unmapped everything with the container.
  protected override afterClose(): void {
    for (const { buffer } of this.mapped) buffer.count(-1)
    this.mapped.clear()
  }
}
