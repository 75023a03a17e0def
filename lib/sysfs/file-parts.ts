import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs'
import { pathOf } from './bytes.js'

/** A text of which parts are wanted. Offsets are in bytes; what is beyond the end is left out. */
export interface Parts {
  readonly size: number
  /**
   * The bytes of it until the next part is asked for: memory that is new takes longer than reading.
   * @throws Changed where it is not what it was
   */
  part(from: number, to: number): Buffer
  /** No more is wanted for now. */
  close(): void
}

/** A file was replaced or written since its size was taken, or cannot be read any more: what was found in it may be elsewhere. */
export class Changed extends Error {}

/** A text that is in memory. */
export const inMemory = (text: Buffer): Parts => ({
  size: text.length,
  part: (from, to) => text.subarray(Math.max(0, from), to),
  close: () => undefined,
})

/**
 * A regular file, read where it is asked for: a large one takes longer to read than a few searches in it. It is open from the
 * first part to `close`. `null` where there is none, or it cannot be opened.
 */
export function inFile(path: string): Parts | null {
  const first = openAs(path)
  if (first === null) return null
  let open: number | null = first.fd
  const close = () => {
    if (open !== null) closeSync(open)
    open = null
  }
  let room = Buffer.alloc(0)
  const part = (from: number, to: number): Buffer => {
    if (open === null) {
      const again = openAs(path)
      open = again?.fd ?? null
      if (again?.state !== first.state) throw new Changed()
    }
    const start = Math.max(0, from)
    const length = Math.max(0, Math.min(to, first.size) - start)
    if (room.length < length) room = Buffer.alloc(length)
    return readInto(open as number, room.subarray(0, length), start)
  }
  return { size: first.size, part, close }
}

interface Opened {
  readonly fd: number
  readonly size: number
  /** Another one for what is another file, or written anew. */
  readonly state: string
}

/** A FIFO hangs nobody, and what is no regular file is none. */
function openAs(path: string): Opened | null {
  let fd: number
  try {
    fd = openSync(pathOf(path), constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY)
  } catch {
    return null
  }
  const facts = fstatSync(fd)
  if (facts.isFile()) {
    const { dev, ino, size, mtimeMs, ctimeMs } = facts
    return { fd, size, state: [dev, ino, size, mtimeMs, ctimeMs].join() }
  }
  closeSync(fd)
  return null
}

function readInto(fd: number, bytes: Buffer, from: number): Buffer {
  for (let filled = 0; filled < bytes.length; ) {
    let got = 0
    try {
      got = readSync(fd, bytes, filled, bytes.length - filled, from + filled)
    } catch {
      throw new Changed()
    }
    if (got === 0) throw new Changed()
    filled += got
  }
  return bytes
}
