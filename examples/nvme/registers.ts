// Registers of an NVMe controller in BAR 0 (NVM Express Base Specification 2.0, chapter 3.1.3), as byte offsets.
export const CAP = 0x00
export const VS = 0x08
export const CC = 0x14
export const CSTS = 0x1c
export const AQA = 0x24
export const ASQ = 0x28
export const ACQ = 0x30
const DOORBELLS = 0x1000

/** Fields of CC, the controller's configuration. */
export const ENABLE = 1
export const SHUTDOWN_MASK = 3 << 14
export const SHUTDOWN_NORMAL = 1 << 14
/** Entries of 2^6 bytes in submission queues and of 2^4 in completion queues: the only sizes that there are. */
export const ENTRY_SIZES = (6 << 16) | (4 << 20)
export const pageSizeField = (pageSize: number) => (Math.log2(pageSize) - 12) << 7

/** Fields of CSTS, the controller's status. */
export const READY = 1
export const FATAL = 2
export const SHUTDOWN_STATE = 3 << 2
export const SHUTDOWN_COMPLETE = 2 << 2
/** What any register of a device that is gone reads as. */
export const ALL_ONES = 0xffff_ffff

/** What the controller says of itself in CAP. */
export interface ControllerLimits {
  /** The most entries that an I/O queue may have. */
  readonly queueEntries: number
  /** How long becoming ready, or no longer ready, may take: milliseconds. */
  readonly timeout: number
  /** From one doorbell to the next: bytes. */
  readonly doorbellStride: number
  /** Bytes of its smallest page, a power of two from 4096 on. */
  readonly pageSize: number
  /** It takes the commands of the NVM command set: reads and writes of blocks. */
  readonly blocks: boolean
}

export function decodeCapabilities(cap: bigint): ControllerLimits {
  const field = (shift: number, bits: number) => Number((cap >> BigInt(shift)) & ((1n << BigInt(bits)) - 1n))
  return {
    queueEntries: field(0, 16) + 1,
    // Zero is not allowed, and met all the same.
    timeout: Math.max(field(24, 8), 1) * 500,
    doorbellStride: 4 << field(32, 4),
    pageSize: 2 ** (12 + field(48, 4)),
    blocks: (field(37, 8) & 1) !== 0,
  }
}

/** Where the doorbells of a queue pair are. */
export function doorbells(queue: number, stride: number): { submission: number; completion: number } {
  return {
    submission: DOORBELLS + 2 * queue * stride,
    completion: DOORBELLS + (2 * queue + 1) * stride,
  }
}
