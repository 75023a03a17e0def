import { endianness } from 'node:os'

const swapped = (value: number) =>
  ((value & 0xff) << 24) | ((value & 0xff00) << 8) | ((value >>> 8) & 0xff00) | (value >>> 24)

/** A word of 32 bits as a queue has it, which is little-endian whatever the processor is; or back from there. */
export const littleEndian: (word: number) => number =
  endianness() === 'LE' ? (word) => word : (word) => swapped(word) >>> 0
