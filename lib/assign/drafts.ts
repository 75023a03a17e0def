import { fstatSync } from 'node:fs'
import { binding } from '../native/load.js'

// A file that is not whole yet is locked for as long as its writer lives; the kernel takes the lock from one that dies.

/** Locks a draft that was just made. `false` where another program has taken it for abandoned already. */
export const isOurDraft = (file: number) => binding().tryLock(file) && fstatSync(file).nlink > 0

/** Has the writer of this draft died? Its name may be taken away then, while the file is open. */
export const isAbandoned = isOurDraft
