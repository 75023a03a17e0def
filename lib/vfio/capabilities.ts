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

/** IBM Z: a PCI function (`struct vfio_device_info_cap_zpci_base`). What its version does not have yet is `null`. */
export interface ZpciBase {
  readonly name: 'zpci-base'
  readonly id: 1
  readonly version: number
  /** The addresses for DMA, from the first to the last. */
  readonly startDma: bigint
  readonly endDma: bigint
  /** The physical channel, and the virtual function on it. */
  readonly pchid: number
  readonly vfn: number
  /** Of the function's measurement block, in bytes. */
  readonly fmbLength: number
  /** The type of the function. */
  readonly pft: number
  /** The group of functions that it is in. */
  readonly gid: number
  /** The function handle, since version 2. */
  readonly fh: number | null
  /** How long what {@link VfioDevice.zpciError} tells is, in bytes, since version 3. */
  readonly ccdfErrorLength: number | null
}

/** IBM Z: what the functions of a group have in common (`struct vfio_device_info_cap_zpci_group`). */
export interface ZpciGroup {
  readonly name: 'zpci-group'
  readonly id: 2
  readonly version: number
  /** The mask of DMA address spaces. */
  readonly dasm: bigint
  readonly msiAddress: bigint
  /** The program refreshes the table of translations itself. */
  readonly refresh: boolean
  /** The interval between updates of the measurement block, in milliseconds as the machine says it. */
  readonly mui: number
  /** The most MSIs. */
  readonly noi: number
  /** The longest block store, in bytes. */
  readonly maxstbl: number
  /** Of PCI, as the machine counts them. */
  readonly pciVersion: number
  /** The longest block store that is interpreted, in bytes, since version 2. */
  readonly imaxstbl: number | null
}

/** IBM Z: a name that the machine's owner may give to a function. */
export interface ZpciUtilityString {
  readonly name: 'zpci-util'
  readonly id: 3
  readonly version: number
  /** In EBCDIC. */
  readonly string: Uint8Array
}

/** IBM Z: where in the machine a function is. */
export interface ZpciFunctionPath {
  readonly name: 'zpci-pfip'
  readonly id: 4
  readonly version: number
  readonly path: Uint8Array
}

export type DeviceCapability =
  | ZpciBase
  | ZpciGroup
  | ZpciUtilityString
  | ZpciFunctionPath
  /** The widths in bits of the PCI Express atomic operations that the root port completes for the device. */
  | {
      readonly name: 'pci-atomic-completer'
      readonly id: 5
      readonly version: 1
      readonly widths: readonly (32 | 64 | 128)[]
    }
  | UnknownCapability

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
  // Newer versions of these only add to what older ones have.
  if (id === 1 && version >= 1) return zpciBase(answer, at, version)
  if (id === 2 && version >= 1) return zpciGroup(answer, at, version)
  if (id === 3 && version >= 1) return { name: 'zpci-util', id, version, string: counted(answer, at) }
  if (id === 4 && version >= 1) return { name: 'zpci-pfip', id, version, path: counted(answer, at) }
  if (id !== 5 || version !== 1) return { name: 'unknown', id, version }
  need(answer, at, 12)
  const flags = answer.u32(at + 8)
  const widths = ([32, 64, 128] as const).filter((_, bit) => flags & (1 << bit))
  return { name: 'pci-atomic-completer', id, version, widths }
}

function zpciBase(answer: Answer, at: number, version: number): ZpciBase {
  need(answer, at, version >= 3 ? 40 : version === 2 ? 36 : 32)
  return {
    ...{ name: 'zpci-base', id: 1, version },
    ...{ startDma: answer.u64Anywhere(at + 8), endDma: answer.u64Anywhere(at + 16) },
    ...{ pchid: answer.u16(at + 24), vfn: answer.u16(at + 26), fmbLength: answer.u16(at + 28) },
    ...{ pft: answer.u8(at + 30), gid: answer.u8(at + 31) },
    fh: version >= 2 ? answer.u32(at + 32) : null,
    ccdfErrorLength: version >= 3 ? answer.u32(at + 36) : null,
  }
}

function zpciGroup(answer: Answer, at: number, version: number): ZpciGroup {
  need(answer, at, version >= 2 ? 42 : 39)
  return {
    ...{ name: 'zpci-group', id: 2, version },
    ...{ dasm: answer.u64Anywhere(at + 8), msiAddress: answer.u64Anywhere(at + 16) },
    refresh: (answer.u64Anywhere(at + 24) & 1n) !== 0n,
    ...{ mui: answer.u16(at + 32), noi: answer.u16(at + 34), maxstbl: answer.u16(at + 36) },
    pciVersion: answer.u8(at + 38),
    imaxstbl: version >= 2 ? answer.u16(at + 40) : null,
  }
}

/** The bytes that follow their number. */
function counted(answer: Answer, at: number): Uint8Array {
  need(answer, at, 12)
  const size = answer.u32(at + 8)
  if (size > answer.end(at) - at - 12)
    throw badData(answer, at, `announces ${size} bytes, more than it holds`)
  return answer.bytes(at + 12, at + 12 + size)
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
