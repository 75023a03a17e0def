import { endianness } from 'node:os'

/** The byte order of this machine: that of the kernel's structures and of typed arrays. */
export const LITTLE_ENDIAN = endianness() === 'LE'

/** As large as the addon's first question, so that most answers need no new buffer. */
export const scratch = new ArrayBuffer(128)

/**
 * A structure as the kernel filled it, in the byte order of this machine. The offsets that callers use are pinned in
 * native/uapi/vfio.h; like those of the kernel they are multiples of the size of what they point at, save in chains.
 */
export class Answer {
  readonly #bytes: Uint8Array
  readonly #halves: Uint16Array
  readonly #words: Uint32Array
  readonly #longs: BigUint64Array

  constructor(buffer: ArrayBuffer) {
    this.#bytes = new Uint8Array(buffer)
    this.#halves = new Uint16Array(buffer)
    this.#words = new Uint32Array(buffer)
    this.#longs = new BigUint64Array(buffer)
  }

  get byteLength(): number {
    return this.#bytes.byteLength
  }

  u8(at: number): number {
    return inside(this.#bytes[at])
  }

  u16(at: number): number {
    return inside(this.#halves[at >>> 1])
  }

  u32(at: number): number {
    return inside(this.#words[at >>> 2])
  }

  u64(at: number): bigint {
    return inside(this.#longs[at >>> 3])
  }

  /** Kernels before 6.6 align their capabilities to four bytes only. */
  u64Anywhere(at: number): bigint {
    return at & 7 ? inside(new BigUint64Array(this.#bytes.slice(at, at + 8).buffer)[0]) : this.u64(at)
  }

  bytes(at: number, end: number): Uint8Array {
    return this.#bytes.slice(at, end)
  }

  /** Reads every capability of the chain that begins at `first`; the addon has checked that it goes on and stays inside. */
  chain<T>(first: number, read: (answer: Answer, at: number) => T): T[] {
    if (first === 0) return []
    const list = [read(this, first)]
    for (let at = this.next(first); at !== 0; at = this.next(at)) list.push(read(this, at))
    return list
  }

  /** The offset of the capability after the one at `at`, 0 after the last. */
  next(at: number): number {
    return this.u32(at + 4)
  }

  /** Where the capability at `at` ends at the latest. */
  end(at: number): number {
    return this.next(at) || this.byteLength
  }
}

function inside<T>(value: T | undefined): T {
  if (value === undefined) throw new RangeError('a read beyond the answer of the kernel')
  return value
}

const scratchAnswer = new Answer(scratch)

/** Reads what a call of the addon returned. Read it at once: the next call may overwrite it. */
export function answerIn(buffer: ArrayBuffer): Answer {
  return buffer === scratch ? scratchAnswer : new Answer(buffer)
}

const WORD = 8

/**
 * The kernel's bitmaps are words of 64 bits in the byte order of the processor. In what is returned bit 0 of byte 0 is the
 * first page on each: the buffer's own bytes, put in order.
 */
export function pageBits(bitmap: ArrayBuffer): Uint8Array {
  const bytes = new Uint8Array(bitmap)
  if (!LITTLE_ENDIAN) {
    for (let at = 0; at + WORD <= bytes.length; at += WORD) bytes.subarray(at, at + WORD).reverse()
  }
  return bytes
}
