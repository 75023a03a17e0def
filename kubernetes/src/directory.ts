import { type FSWatcher, statSync, watch } from 'node:fs'
import { dirname } from 'node:path'

/** Tells of every change in a directory, and goes on when it is made anew. */
export class WatchedDirectory {
  readonly #path: string
  readonly #changed: () => void
  #inside: FSWatcher | null = null
  #above: FSWatcher | null = null
  #inode: bigint | null = null
  #isClosed = false

  constructor(path: string, changed: () => void) {
    this.#path = path
    this.#changed = changed
    this.refresh()
  }

  /** Watches what could not be watched before, because it was not there. */
  refresh(): void {
    if (this.#isClosed) return
    this.#above ??= watched(dirname(this.#path), () => this.#look())
    this.#look()
  }

  close(): void {
    this.#isClosed = true
    this.#inside?.close()
    this.#above?.close()
  }

  /** Is it still the one that is watched? */
  #look(): void {
    if (this.#isClosed) return
    const inode = inodeOf(this.#path)
    if (inode === this.#inode) return
    this.#inside?.close()
    this.#inode = inode
    this.#inside =
      inode === null
        ? null
        : watched(this.#path, () => {
            this.#look()
            if (!this.#isClosed) this.#changed()
          })
    this.#changed()
  }
}

function inodeOf(path: string): bigint | null {
  try {
    return statSync(path, { bigint: true }).ino
  } catch {
    return null
  }
}

/** `null` where it is not there, or cannot be watched: who looks from time to time sees it all the same. */
function watched(path: string, changed: () => void): FSWatcher | null {
  try {
    const watcher = watch(path, { persistent: false }, changed)
    watcher.on('error', changed)
    return watcher
  } catch {
    return null
  }
}
