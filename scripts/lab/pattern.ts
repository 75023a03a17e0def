import { closeSync, openSync, renameSync, statSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { cacheDirectory } from './cache.js'

const WORD = 8
const CHUNK = 1 << 20

/**
 * What a disk with the pattern has at an offset: each 8-byte word is its own number, and a hash of it, so that no two
 * places of a disk look alike. All in bytes.
 */
export function patternBytes(offset: number, length: number): Buffer {
  const first = Math.floor(offset / WORD)
  const words = new Uint32Array(2 * (Math.ceil((offset + length) / WORD) - first))
  for (let index = 0; index < words.length; index += 2) {
    const word = first + index / 2
    words[index] = Math.imul(word + 1, 0x9e3779b1) ^ 0x5a5a5a5a
    words[index + 1] = word
  }
  return Buffer.from(words.buffer, offset - first * WORD, length)
}

/** The path of an image of so many bytes with the pattern; made when there is none. */
export function patternImage(size: number): string {
  const file = join(cacheDirectory('images'), `pattern-1-${size}.img`)
  if (statSync(file, { throwIfNoEntry: false })?.size === size) return file
  const scratch = `${file}.${process.pid}`
  const image = openSync(scratch, 'w')
  try {
    for (let at = 0; at < size; at += CHUNK) writeSync(image, patternBytes(at, Math.min(CHUNK, size - at)))
  } finally {
    closeSync(image)
  }
  renameSync(scratch, file)
  return file
}
