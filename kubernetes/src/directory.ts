import { type FSWatcher, statSync, watch } from 'node:fs'
import { dirname } from 'node:path'

/** Tells of every change in a directory, and goes on when it is made anew. */
export class WatchedDirectory {
  readonly #path: string
  readonly #changed: () => void
  readonly #inside: Inode
  readonly #above: Inode
  /** The directory that was told of last. */
  #told: bigint | null = null
  #isClosed = false

  constructor(path: string, changed: () => void) {
    this.#path = path
    this.#changed = changed
    const failed = () => this.#isClosed || changed()
    this.#above = new Inode(dirname(path), () => this.#look(), failed)
    this.#inside = new Inode(
      path,
      () => {
        this.#look()
        if (!this.#isClosed) changed()
      },
      failed,
    )
    this.refresh()
  }

  /** Why changes may go by untold, so that somebody has to look from time to time; `null` where none does. */
  get blindness(): string | null {
    const code = this.#inside.failure ?? this.#above.failure
    return code === null ? null : `changes in ${this.#path} are not heard (${code})`
  }

  /** Watches what could not be watched before, or is another now. */
  refresh(): void {
    if (this.#isClosed) return
    this.#above.refresh()
    this.#look()
  }

  close(): void {
    this.#isClosed = true
    this.#inside.close()
    this.#above.close()
  }

  /** Is it still the one that was told of? */
  #look(): void {
    if (this.#isClosed) return
    const inode = this.#inside.refresh()
    if (inode === this.#told) return
    this.#told = inode
    this.#changed()
  }
}

/** What has a path, watched as long as it has it. */
class Inode {
  readonly #path: string
  readonly #changed: () => void
  readonly #failed: () => void
  #watcher: FSWatcher | null = null
  /** Of what is watched; `null` where that is nothing, so that it is tried again. */
  #watched: bigint | null = null
  /** Why what is there is not watched, the name of an errno. */
  failure: string | null = null

  constructor(path: string, changed: () => void, failed: () => void) {
    this.#path = path
    this.#changed = changed
    this.#failed = failed
  }

  /** @returns what has the path now */
  refresh(): bigint | null {
    const inode = inodeOf(this.#path)
    if (inode !== null && inode === this.#watched) return inode
    this.close()
    this.failure = null
    if (inode !== null) this.#watch(inode)
    return inode
  }

  close(): void {
    this.#watcher?.close()
    this.#watcher = null
    this.#watched = null
  }

  #watch(inode: bigint): void {
    try {
      this.#watcher = watch(this.#path, { persistent: false }, this.#changed)
      this.#watched = inode
    } catch (error) {
      this.failure = codeOf(error)
    }
    this.#watcher?.on('error', (error) => {
      this.close()
      this.failure = codeOf(error)
      this.#failed()
    })
  }
}

function inodeOf(path: string): bigint | null {
  try {
    return statSync(path, { bigint: true }).ino
  } catch {
    return null
  }
}

const codeOf = (error: unknown) => (error as NodeJS.ErrnoException).code ?? String(error)
