import { endianness } from 'node:os'

const WORD = 8

/**
 * The kernel's bitmaps are words of 64 bits in the byte order of the processor. In what is returned bit 0 of byte 0 is the
 * first page on each: the buffer's own bytes, put in order.
 */
export function pageBits(bitmap: ArrayBuffer): Uint8Array {
  const bytes = new Uint8Array(bitmap)
  if (endianness() === 'BE') {
    for (let at = 0; at + WORD <= bytes.length; at += WORD) bytes.subarray(at, at + WORD).reverse()
  }
  return bytes
}
