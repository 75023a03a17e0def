/** As large as what the addon asks with first, so that the common answer needs no new buffer. */
export const scratch = new ArrayBuffer(256)

const LITTLE_ENDIAN = new Uint8Array(Uint16Array.of(1).buffer)[0] === 1

/** One capability of a chain: `at` is where its header begins, `end` where the next one or the answer's end is. */
export interface RawCapability {
  readonly id: number
  readonly version: number
  readonly at: number
  readonly end: number
}

/** A structure as the kernel filled it. The offsets that callers use are pinned in native/uapi/vfio.h. */
export class Answer {
  readonly #view: DataView

  constructor(buffer: ArrayBuffer) {
    this.#view = new DataView(buffer)
  }

  get byteLength(): number {
    return this.#view.byteLength
  }

  u8(at: number): number {
    return this.#view.getUint8(at)
  }

  u16(at: number): number {
    return this.#view.getUint16(at, LITTLE_ENDIAN)
  }

  u32(at: number): number {
    return this.#view.getUint32(at, LITTLE_ENDIAN)
  }

  u64(at: number): bigint {
    return this.#view.getBigUint64(at, LITTLE_ENDIAN)
  }

  bytes(at: number, end: number): Uint8Array {
    return new Uint8Array(this.#view.buffer.slice(at, end))
  }

  /** The chain that begins at `first`; the addon has checked that it goes forward and stays inside. */
  capabilities(first: number): RawCapability[] {
    const chain: RawCapability[] = []
    for (let at = first; at !== 0; ) {
      const next = this.u32(at + 4)
      chain.push({ id: this.u16(at), version: this.u16(at + 2), at, end: next || this.byteLength })
      at = next
    }
    return chain
  }
}

const scratchAnswer = new Answer(scratch)

/** Reads what a call of the addon returned. Read it at once: the next call may overwrite it. */
export function answerIn(buffer: ArrayBuffer): Answer {
  return buffer === scratch ? scratchAnswer : new Answer(buffer)
}
