import { DmaBuffer, type DmaMapping, type DmaSpace } from 'vfio'

/** A piece of memory that both sides reach. */
export interface Piece {
  /** Where the device sees it (IOVA); a multiple of the device's page size. */
  readonly address: number
  readonly bytes: Uint8Array
}

const alignUp = (value: number, to: number) => Math.ceil(value / to) * to

/** Memory that is mapped for DMA, handed out in whole pages of the device. */
export class DmaMemory implements AsyncDisposable {
  readonly #buffer: DmaBuffer
  readonly #mapping: DmaMapping
  readonly #pageSize: number
  #used = 0

  private constructor(buffer: DmaBuffer, mapping: DmaMapping, pageSize: number) {
    this.#buffer = buffer
    this.#mapping = mapping
    this.#pageSize = pageSize
  }

  /** @param pages how many pages, of `pageSize` bytes, can be taken from it */
  static async map(space: DmaSpace, pages: number, pageSize: number): Promise<DmaMemory> {
    // The one page more is for an address that the kernel's pages align and the device's, which are larger, do not.
    const buffer = DmaBuffer.allocate((pages + 1) * pageSize)
    try {
      return new DmaMemory(buffer, await space.map(buffer), pageSize)
    } catch (error) {
      buffer.close()
      throw error
    }
  }

  /** The next `size` bytes, as whole pages; zeros. */
  take(size: number): Piece {
    const base = Number(this.#mapping.iova)
    const address = alignUp(base + this.#used, this.#pageSize)
    const at = address - base
    this.#used = at + alignUp(size, this.#pageSize)
    return { address, bytes: this.#buffer.bytes.subarray(at, at + size) }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#mapping.unmap()
    this.#buffer.close()
  }
}

/** Pages of 8-byte addresses for which one PRP list of one page has room, and the page before them. */
const entriesOf = (pageSize: number) => pageSize / 8

/**
 * Memory for the data of one command, with its list of pages (PRP list). Its pages never change, so the list is written
 * once: a shorter transfer uses the beginning of it.
 */
export class TransferBuffer {
  readonly bytes: Uint8Array
  /** Where the data begin: the first PRP entry of each command. */
  readonly address: number
  readonly #pageSize: number
  readonly #list: number

  /** How many bytes one command can transfer with one page of list. */
  static limit(pageSize: number): number {
    return entriesOf(pageSize) * pageSize
  }

  /** The pages that a buffer of `size` bytes takes. */
  static pages(size: number, pageSize: number): number {
    return Math.ceil(size / pageSize) + 1
  }

  constructor(memory: DmaMemory, size: number, pageSize: number) {
    const list = memory.take(pageSize)
    const data = memory.take(size)
    this.bytes = data.bytes
    this.address = data.address
    this.#pageSize = pageSize
    this.#list = list.address
    const entries = new DataView(list.bytes.buffer, list.bytes.byteOffset, list.bytes.byteLength)
    for (let page = 1; page * pageSize < size; page++)
      entries.setBigUint64((page - 1) * 8, BigInt(data.address + page * pageSize), true)
  }

  /** The second PRP entry of a command that transfers `size` bytes: nothing, the second page, or the list. */
  second(size: number): number {
    if (size <= this.#pageSize) return 0
    return size <= 2 * this.#pageSize ? this.address + this.#pageSize : this.#list
  }
}
