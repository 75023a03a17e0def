import { randomFillSync } from 'node:crypto'
import type { Disk } from './disk.js'
import { NvmeError } from './errors.js'

/** Enough for a list of pages, and little to lose where the power fails in the middle. */
const SPAN = 64 * 1024

/**
 * Overwrites blocks in the middle of the disk with random bytes, reads them back, and restores what was there, also when
 * something fails in between. Answers how many bytes it were.
 */
export async function verifyRoundTrip(disk: Disk, signal: AbortSignal): Promise<number> {
  const { blockSize, blocks } = disk.namespace
  const count = Math.min(Math.ceil(Math.min(SPAN, disk.maxTransfer) / blockSize), blocks)
  const size = count * blockSize
  const lba = Math.floor((blocks - count) / 2)
  const [saved, sent, received] = await disk.controller.buffers(3, size)
  if (!saved || !sent || !received) throw new NvmeError('there are no buffers')
  await disk.read(lba, count, saved)
  const original = Buffer.from(saved.bytes)
  randomFillSync(sent.bytes)
  signal.throwIfAborted()
  try {
    await disk.write(lba, count, sent)
    await disk.read(lba, count, received)
    if (Buffer.compare(received.bytes, sent.bytes) !== 0)
      throw new NvmeError(`other bytes came back from block ${lba} on than were written`)
  } finally {
    await disk.write(lba, count, saved)
    await disk.flush()
    await disk.read(lba, count, received)
  }
  if (Buffer.compare(received.bytes, original) !== 0)
    throw new NvmeError(`${count} blocks from ${lba} on are not as they were before`)
  return size
}
