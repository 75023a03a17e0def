import type { Disk } from './disk.js'
import type { TransferBuffer } from './memory.js'

/** How many transfers are under way while one is consumed. */
const AHEAD = 4

interface Transfer {
  readonly buffer: TransferBuffer
  /** Where on the disk it begins: bytes. */
  readonly at: number
  readonly size: number
  readonly done: Promise<void>
}

/**
 * The bytes of a disk from `offset` on, in order and in pieces of at most a transfer; they need not begin or end with a
 * block. A piece is valid until the next is asked for.
 */
export async function* readBytes(disk: Disk, offset: number, length: number): AsyncGenerator<Uint8Array> {
  const { blockSize } = disk.namespace
  const end = offset + length
  const lastBlockEnd = Math.ceil(end / blockSize) * blockSize
  let next = offset - (offset % blockSize)
  if (length === 0) return
  const request = (buffer: TransferBuffer): Transfer => {
    const at = next
    const size = Math.min(disk.maxTransfer, lastBlockEnd - at)
    const done = disk.read(at / blockSize, size / blockSize, buffer)
    // It is awaited in its turn, which may be after it failed.
    done.catch(() => {})
    next += size
    return { buffer, at, size, done }
  }
  const count = Math.min(AHEAD, disk.queue.depth, Math.ceil((lastBlockEnd - next) / disk.maxTransfer))
  const transfers = (await disk.controller.buffers(count, disk.maxTransfer)).map(request)
  for (let transfer = transfers.shift(); transfer !== undefined; transfer = transfers.shift()) {
    const { buffer, at, size, done } = transfer
    await done
    yield buffer.bytes.subarray(Math.max(offset - at, 0), Math.min(end - at, size))
    if (next < lastBlockEnd) transfers.push(request(buffer))
  }
}
