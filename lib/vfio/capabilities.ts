import { VfioError } from '../errors.js'
import type { Answer } from '../native/answer.js'

/** I/O virtual addresses; `end` is the last one. */
export interface IovaRange {
  readonly start: bigint
  readonly end: bigint
}

/** A capability that this version does not know, or knows in another version only. */
export interface UnknownCapability {
  readonly name: 'unknown'
  readonly id: number
  readonly version: number
}

export type IommuCapability =
  | {
      readonly name: 'iova-ranges'
      readonly id: 1
      readonly version: 1
      readonly ranges: readonly IovaRange[]
    }
  | {
      readonly name: 'migration'
      readonly id: 2
      readonly version: 1
      /** A bitmap of sizes in bytes. */
      readonly pageSizes: bigint
      readonly maxDirtyBitmapSize: bigint
    }
  | { readonly name: 'dma-available'; readonly id: 3; readonly version: 1; readonly available: number }
  | UnknownCapability

/** Where a region may be mapped, in bytes from its start. */
export interface MappableArea {
  readonly offset: bigint
  readonly size: bigint
}

export type RegionCapability =
  /** Only these areas may be mapped. */
  | {
      readonly name: 'sparse-mmap'
      readonly id: 1
      readonly version: 1
      readonly areas: readonly MappableArea[]
    }
  /** What a device specific region is: a type, global for each bus driver, and a subtype of it. */
  | {
      readonly name: 'type'
      readonly id: 2
      readonly version: 1
      readonly type: number
      readonly subtype: number
    }
  /** The region holds the MSI-X table and may be mapped all the same. */
  | { readonly name: 'msix-mappable'; readonly id: 3; readonly version: 1 }
  | UnknownCapability

export type DeviceCapability =
  /** s390: the raw bytes of a structure of `uapi/linux/vfio_zdev.h`, header included. */
  | {
      readonly name: 'zpci-base' | 'zpci-group' | 'zpci-util' | 'zpci-pfip'
      readonly id: number
      readonly version: number
      readonly bytes: Uint8Array
    }
  /** The widths in bits of the PCI Express atomic operations that the root port completes for the device. */
  | {
      readonly name: 'pci-atomic-completer'
      readonly id: 5
      readonly version: 1
      readonly widths: readonly (32 | 64 | 128)[]
    }
  | UnknownCapability

const ZPCI = ['zpci-base', 'zpci-group', 'zpci-util', 'zpci-pfip'] as const

export const iommuCapabilities = (answer: Answer, first: number): IommuCapability[] =>
  answer.chain(first, iommuCapability)

export const regionCapabilities = (answer: Answer, first: number): RegionCapability[] =>
  answer.chain(first, regionCapability)

export const deviceCapabilities = (answer: Answer, first: number): DeviceCapability[] =>
  answer.chain(first, deviceCapability)

function iommuCapability(answer: Answer, at: number): IommuCapability {
  const id = answer.u16(at)
  const version = answer.u16(at + 2)
  if (version !== 1) return { name: 'unknown', id, version }
  if (id === 1) {
    const ranges = pairs(answer, at, 'ranges').map(([start, end]) => ({ start, end }))
    return { name: 'iova-ranges', id, version, ranges }
  }
  if (id === 2) {
    need(answer, at, 32)
    const pageSizes = answer.u64Anywhere(at + 16)
    return { name: 'migration', id, version, pageSizes, maxDirtyBitmapSize: answer.u64Anywhere(at + 24) }
  }
  if (id === 3) {
    need(answer, at, 12)
    return { name: 'dma-available', id, version, available: answer.u32(at + 8) }
  }
  return { name: 'unknown', id, version }
}

function regionCapability(answer: Answer, at: number): RegionCapability {
  const id = answer.u16(at)
  const version = answer.u16(at + 2)
  if (version !== 1) return { name: 'unknown', id, version }
  if (id === 1) {
    const areas = pairs(answer, at, 'areas').map(([offset, size]) => ({ offset, size }))
    return { name: 'sparse-mmap', id, version, areas }
  }
  if (id === 2) {
    need(answer, at, 16)
    return { name: 'type', id, version, type: answer.u32(at + 8), subtype: answer.u32(at + 12) }
  }
  return id === 3 ? { name: 'msix-mappable', id, version } : { name: 'unknown', id, version }
}

function deviceCapability(answer: Answer, at: number): DeviceCapability {
  const id = answer.u16(at)
  const version = answer.u16(at + 2)
  const zpci = ZPCI[id - 1]
  if (zpci) return { name: zpci, id, version, bytes: answer.bytes(at, answer.end(at)) }
  if (id !== 5 || version !== 1) return { name: 'unknown', id, version }
  need(answer, at, 12)
  const flags = answer.u32(at + 8)
  const widths = ([32, 64, 128] as const).filter((_, bit) => flags & (1 << bit))
  return { name: 'pci-atomic-completer', id, version, widths }
}

/** The list of two 64-bit words each that follows a count. */
function pairs(answer: Answer, at: number, what: string): [bigint, bigint][] {
  need(answer, at, 16)
  const count = answer.u32(at + 8)
  if (count > (answer.end(at) - at - 16) / 16) {
    throw badData(answer, at, `announces ${count} ${what}, more than it holds`)
  }
  return Array.from({ length: count }, (_, i) => {
    const pair = at + 16 + i * 16
    return [answer.u64Anywhere(pair), answer.u64Anywhere(pair + 8)]
  })
}

function need(answer: Answer, at: number, bytes: number): void {
  if (answer.end(at) - at < bytes) throw badData(answer, at, 'is cut short')
}

function badData(answer: Answer, at: number, what: string): VfioError {
  return new VfioError(
    'ERR_VFIO_BAD_KERNEL_DATA',
    `a capability of the kernel's answer (id ${answer.u16(at)}) ${what}`,
  )
}
