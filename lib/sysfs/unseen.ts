import { constants } from 'node:os'
import { errnoName, VfioSystemError } from '../errors.js'

/** A look that failed by an errno that proves nothing: what is there may be anything. */
export interface Unseen {
  readonly path: string
  /** The name of the errno. */
  readonly code: string
}

const { EMFILE, ENFILE, ENOMEM, ENOENT, ENOTDIR, ENODEV, ESRCH, EISDIR, EINVAL } = constants.errno

/** A shortage of this program or of the host says nothing about one file: no further read would succeed. */
const SHORTAGES: readonly number[] = [EMFILE, ENFILE, ENOMEM]

/**
 * The errnos that prove absence, by the call that failed: no such name, a process that ended (ESRCH), an attribute whose
 * device went while it was read (ENODEV), a directory in the place of a file, no link in the place of one (EINVAL).
 */
const ABSENCE: Readonly<Record<LookingCall, readonly number[]>> = {
  read: [ENOENT, ENOTDIR, ESRCH, ENODEV, EISDIR],
  readlink: [ENOENT, ENOTDIR, ESRCH, EINVAL],
  getdents: [ENOENT, ENOTDIR, ESRCH],
  stat: [ENOENT, ENOTDIR, ESRCH],
  // A process that is ending has no mounts any more.
  mounts: [ENOENT, ENOTDIR, ESRCH, EINVAL, EISDIR],
}
export type LookingCall = 'read' | 'readlink' | 'getdents' | 'stat' | 'mounts'

/** Where failed reads are noted; `null`: they throw. Looking is synchronous, so that one variable is enough. */
let notes: Map<string, Unseen> | null = null

/** Runs a look, and returns what could not be read with it. Outside of such a look a failed read throws. */
export function noting<T>(look: () => T): { readonly seen: T; readonly unseen: readonly Unseen[] } {
  const outer = notes
  const own = new Map<string, Unseen>()
  notes = own
  try {
    return { seen: look(), unseen: Object.freeze([...own.values()]) }
  } finally {
    notes = outer
  }
}

/** For facts that no verdict depends on, like the names of devices: what cannot be read is left out. */
export const leavingOut = <T>(look: () => T): T => noting(look).seen

/**
 * What a failed look means: nothing where the errno proves absence, else it is noted, or thrown where nobody takes notes.
 * @param errno positive
 * @throws VfioSystemError
 */
export function lookFailed(call: LookingCall, errno: number, path: string): void {
  if (ABSENCE[call].includes(errno)) return
  if (notes === null || isShortage(errno))
    throw new VfioSystemError({ errno, syscall: call === 'mounts' ? 'read' : call, request: 'look', path })
  notes.set(path, Object.freeze({ path, code: errnoName(errno) }))
}

/**
 * The errno of a failed call of `node:fs`, positive; `null` where the error is no answer of the system. Windows has
 * numbers of its own, and only the names agree.
 */
export function errnoOf(error: unknown): number | null {
  const { code = '', errno } = error as NodeJS.ErrnoException
  if (typeof errno !== 'number') return null
  return (constants.errno as Readonly<Record<string, number>>)[code] ?? -errno
}

/** Notes a failure that has no errno: `code` says what it was. */
export function noteUnseen(path: string, code: string): void {
  notes?.set(path, Object.freeze({ path, code }))
}

export const isShortage = (errno: number) => SHORTAGES.includes(errno)
