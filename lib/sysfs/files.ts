import {
  closeSync,
  constants,
  fstatSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
} from 'node:fs'
import { decode, decodeName, pathOf } from './bytes.js'
import { errnoOf, type LookingCall, lookFailed } from './unseen.js'

/** A path below a root; `null` where the root is not known. */
export const below = (root: string | null, path: string) => (root === null ? null : `${root}/${path}`)

/** The result of a read; `fallback` where nothing is there. An error without an errno is thrown. */
function look<T, F>(call: LookingCall, path: string, fallback: F, work: (path: string | Buffer) => T): T | F {
  // A hostile file may name such a path: no file has it, and Node throws a TypeError.
  if (path.includes('\0')) return fallback
  try {
    return work(pathOf(path))
  } catch (error) {
    const errno = errnoOf(error)
    if (errno === null) throw error
    lookFailed(call, errno, path)
    return fallback
  }
}

/** The bytes of a regular file, `null` where there is none. */
export function readBytes(path: string | null, call: LookingCall = 'read'): Buffer | null {
  if (path === null) return null
  return look(call, path, null, (name) => {
    // A FIFO in a hostile tree must not hang the reader, nor /dev/zero give it bytes for ever.
    const fd = openSync(name, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY)
    try {
      return fstatSync(fd).isFile() ? readFileSync(fd) : null
    } finally {
      closeSync(fd)
    }
  })
}

/** The text of a small file, without the white space at its end; `null` where there is none. */
export function readText(path: string | null): string | null {
  const bytes = readBytes(path)
  return bytes === null ? null : decode(bytes).trimEnd()
}

/** The names in a directory, in no order; empty where there is none. */
export function listNames(path: string | null): string[] {
  if (path === null) return []
  return look('getdents', path, [], (name) => readdirSync(name, 'buffer').map(decodeName))
}

/** Where a link leads, `null` where there is no link. */
export const linkTarget = (path: string): string | null =>
  look('readlink', path, null, (name) => {
    // Deno takes the object alone, and Yarn's Plug'n'Play gives text whatever was asked for.
    const target: string | Buffer = readlinkSync(name, { encoding: 'buffer' })
    return decodeName(target)
  })

/** The last component of a link's target, `null` where there is no link. */
export function linkName(path: string): string | null {
  const target = linkTarget(path)
  return target === null ? null : target.slice(target.lastIndexOf('/') + 1)
}

export function exists(path: string): boolean {
  return look('stat', path, false, (name) => statSync(name, { throwIfNoEntry: false }) !== undefined)
}
