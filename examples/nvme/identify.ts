// What a controller and its namespaces say of themselves (Identify data structures, Base Specification 2.0, 5.17.2).
import { NvmeError } from './errors.js'

export const IDENTIFY_SIZE = 4096

export interface ControllerIdentity {
  readonly model: string
  readonly serial: string
  readonly firmware: string
  /** The most bytes that one command may transfer; Infinity where the controller knows no limit. */
  readonly maxTransfer: number
  /** How many namespaces there can be. */
  readonly namespaces: number
}

export interface Namespace {
  readonly id: number
  readonly blocks: number
  /** Bytes of a block. */
  readonly blockSize: number
  /** Bytes of all blocks. */
  readonly size: number
}

const viewOf = (page: Uint8Array) => new DataView(page.buffer, page.byteOffset, page.byteLength)

export function decodeController(page: Uint8Array, pageSize: number): ControllerIdentity {
  const view = viewOf(page)
  const text = (from: number, to: number) => Buffer.from(page.subarray(from, to)).toString('latin1').trim()
  const mdts = view.getUint8(77)
  return {
    serial: text(4, 24),
    model: text(24, 64),
    firmware: text(64, 72),
    maxTransfer: mdts === 0 ? Number.POSITIVE_INFINITY : 2 ** mdts * pageSize,
    namespaces: view.getUint32(516, true),
  }
}

/** The identifiers in a list of active namespaces, which ends with a zero or with the page. */
export function decodeNamespaceList(page: Uint8Array): number[] {
  const view = viewOf(page)
  const ids = Array.from({ length: page.byteLength / 4 }, (_none, index) => view.getUint32(index * 4, true))
  const end = ids.indexOf(0)
  return end < 0 ? ids : ids.slice(0, end)
}

/** @throws NvmeError where its format is none that this driver can read and write */
export function decodeNamespace(id: number, page: Uint8Array): Namespace {
  const view = viewOf(page)
  const formatted = view.getUint8(26)
  // Formats from 16 on have the rest of their number in bits 5 and 6.
  const format = 128 + 4 * ((formatted & 0xf) | (view.getUint8(25) > 15 ? (formatted & 0x60) >> 1 : 0))
  const metadata = view.getUint16(format, true)
  if (metadata !== 0) {
    throw new NvmeError(
      `namespace ${id} has ${metadata} bytes of metadata with each block, and this driver knows only blocks without`,
    )
  }
  const blockSize = 2 ** view.getUint8(format + 2)
  const blocks = Number(view.getBigUint64(0, true))
  return { id, blocks, blockSize, size: blocks * blockSize }
}
