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

/** A path below a root; `null` where the root is not known. */
export const below = (root: string | null, path: string) => (root === null ? null : `${root}/${path}`)

/** The bytes of a regular file, `null` where it cannot be read. */
export function readBytes(path: string | null): Buffer | null {
  if (path === null) return null
  let fd = -1
  try {
    // A FIFO or /dev/zero in a hostile tree must neither hang the reader nor feed it for ever.
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY)
    return fstatSync(fd).isFile() ? readFileSync(fd) : null
  } catch {
    return null
  } finally {
    if (fd >= 0) closeSync(fd)
  }
}

/** The text of a small file, without the white space at its end; `null` where it cannot be read. */
export const readText = (path: string | null) => readBytes(path)?.toString('utf8').trimEnd() ?? null

/** The names in a directory, in no order; empty where it cannot be read. */
export function listNames(path: string | null): string[] {
  if (path === null) return []
  try {
    return readdirSync(path)
  } catch {
    return []
  }
}

/** The last component of a link's target, `null` where there is no link. */
export function linkName(path: string): string | null {
  try {
    const target = readlinkSync(path)
    return target.slice(target.lastIndexOf('/') + 1)
  } catch {
    return null
  }
}

export function exists(path: string): boolean {
  try {
    return statSync(path, { throwIfNoEntry: false }) !== undefined
  } catch {
    return false
  }
}
