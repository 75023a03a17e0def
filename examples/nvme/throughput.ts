import { setImmediate } from 'node:timers/promises'
import { moveTo } from './commands.js'
import type { Disk } from './disk.js'

/** How long the polling keeps the rest of the process waiting. */
const SLICE_MS = 10
/** Asking for the time costs more than looking into a queue. */
const LOOKS = 64
const SILENCE_MS = 30_000

/** What a run has done. */
export interface Rate {
  readonly operations: number
  readonly bytes: number
  readonly seconds: number
}

export interface RunOptions {
  /** How many commands are kept in flight, at most. */
  readonly depth: number
  readonly seconds: number
  readonly signal: AbortSignal
}

/** Reads of 4 KiB, or of a block where that is larger, all over the disk. */
export async function randomReads(disk: Disk, options: RunOptions): Promise<Rate> {
  const { blocks, blockSize } = disk.namespace
  const each = Math.min(Math.max(1, 4096 / blockSize), blocks)
  const places = Math.floor(blocks / each)
  return keepBusy(disk, each, options, () => Math.floor(Math.random() * places) * each)
}

/** Reads of the largest size, one behind the other. */
export async function sequentialReads(disk: Disk, options: RunOptions): Promise<Rate> {
  const { blocks, blockSize } = disk.namespace
  const each = Math.min(disk.maxTransfer / blockSize, blocks)
  let next = 0
  return keepBusy(disk, each, options, () => {
    const lba = next
    next = lba + 2 * each > blocks ? 0 : lba + each
    return lba
  })
}

/** Keeps reads of `each` blocks in flight by polling, with no object and no promise for a single one. */
async function keepBusy(
  disk: Disk,
  each: number,
  { depth, seconds, signal }: RunOptions,
  place: () => number,
): Promise<Rate> {
  const { queue, namespace } = disk
  const inFlight = Math.min(depth, queue.depth)
  const size = each * namespace.blockSize
  const buffers = await disk.controller.buffers(inFlight, size)
  let operations = 0
  let isOver = false
  let failed = 0
  const began = performance.now()
  for (const buffer of buffers) {
    const command = disk.command('read', 0, each, buffer)
    const start = () => {
      moveTo(command, place())
      queue.submit(command, done)
    }
    const done = (status: number) => {
      if (status !== 0) failed = status
      operations++
      if (!isOver && failed === 0) start()
    }
    start()
  }
  queue.ring()
  let progress = began
  while (queue.outstanding > 0) {
    for (const slice = performance.now(); performance.now() - slice < SLICE_MS; ) {
      let taken = 0
      for (let look = 0; look < LOOKS; look++) taken += queue.poll()
      if (taken > 0) progress = performance.now()
    }
    const now = performance.now()
    isOver ||= signal.aborted || now - began >= seconds * 1000
    if (now - progress > SILENCE_MS) queue.giveUp()
    await setImmediate()
  }
  const elapsed = (performance.now() - began) / 1000
  if (failed !== 0) throw queue.errorOf('reading', failed)
  signal.throwIfAborted()
  return { operations, bytes: operations * size, seconds: elapsed }
}
