import { below, readBytes, readText } from './files.js'

/** What a host can address and count; each `null` where it does not say. */
export interface HostLimits {
  /** Bytes of a page of this host's memory: 4, 16 or 64 KiB. */
  readonly pageSize: number | null
  /** Bits of a physical address of the processor (`/proc/cpuinfo`). */
  readonly processorBits: number | null
  /** Bits of an address that the IOMMU translates: of the narrowest unit (Intel alone publishes it). */
  readonly iommuBits: number | null
  /** How many mappings a container takes (`dma_entry_limit` of vfio_iommu_type1). */
  readonly dmaEntries: number | null
}

export function readLimits(sysfs: string, proc: string | null, units: readonly string[]): HostLimits {
  const widths = units.map((name) => {
    const text = readText(`${sysfs}/class/iommu/${name}/intel-iommu/cap`)
    return text !== null && /^[0-9a-f]{1,16}$/i.test(text) ? maximumWidth(BigInt(`0x${text}`)) : null
  })
  // One that does not tell may be the narrowest.
  const known = widths.filter((width) => width !== null)
  const limit = readText(`${sysfs}/module/vfio_iommu_type1/parameters/dma_entry_limit`)
  const bits = /^address sizes\s*:\s*(\d{1,2}) bits physical/m.exec(readText(below(proc, 'cpuinfo')) ?? '')
  return {
    pageSize: pageSizeIn(readBytes(below(proc, 'self/auxv'))),
    processorBits: bits ? Number(bits[1]) : null,
    iommuBits: known.length > 0 && known.length === widths.length ? Math.min(...known) : null,
    dmaEntries: limit !== null && /^\d{1,10}$/.test(limit) ? Number(limit) : null,
  }
}

/** Bits 16–21 of the capability register: MGAW, less one (Intel VT-d specification, 11.4.2). */
const maximumWidth = (capability: bigint) => Number((capability >> 16n) & 0x3fn) + 1

/** `AT_PAGESZ` of `linux/auxvec.h`. */
const PAGE_SIZE = 6n

/** The vector is of pairs of words as wide as the process's, which is 64 bits on all that Node runs on here. */
function pageSizeIn(vector: Buffer | null): number | null {
  if (vector === null) return null
  const isBig = new Uint8Array(Uint16Array.of(1).buffer)[0] === 0
  const word = (at: number) => (isBig ? vector.readBigUInt64BE(at) : vector.readBigUInt64LE(at))
  for (let at = 0; at + 16 <= vector.length; at += 16) if (word(at) === PAGE_SIZE) return Number(word(at + 8))
  return null
}
