import { randomBytes } from 'node:crypto'
import { constants } from 'node:fs'
import { type FileHandle, lstat, mkdir, open, readdir, rename, rm } from 'node:fs/promises'
import { isAbandoned, isOurDraft } from './assign/drafts.js'
import { VfioError, VfioSystemError } from './errors.js'
import { binding } from './native/load.js'

const { O_RDONLY, O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_DIRECTORY } = constants

/** Longer files are none that this package writes. */
const LARGEST = 2 ** 20

/** One character for each byte: what is no UTF-8 comes through unharmed. */
const BYTES = 'latin1'

/** A small file as it was read, with what it takes to write one like it. */
export interface SafeFile {
  readonly text: string
  readonly mode: number
  readonly uid: number
  readonly gid: number
}

/**
 * An open directory. Every name below it is reached through the descriptor, so that neither a symbolic link nor a rename
 * beside us leads anywhere else.
 */
export class SafeDirectory {
  readonly #handle: FileHandle
  /** As errors call it. */
  readonly path: string

  private constructor(handle: FileHandle, path: string) {
    this.#handle = handle
    this.path = path
  }

  /**
   * Opens a directory below `root`, which may itself be reached by links; nothing below it may.
   * @returns `null` where there is none and none is to be made
   * @throws VfioError `ERR_VFIO_BAD_FILE` where a part of the path is no directory
   */
  static async open(
    root: string,
    path: string,
    { create = false, mode = 0o755 }: { create?: boolean; mode?: number } = {},
  ): Promise<SafeDirectory | null> {
    let current: FileHandle
    try {
      current = await openDirectory(root, root, 0)
    } catch (error) {
      if (codeOf(error) === 'ENOENT' && !create) return null
      throw fileError(error, root)
    }
    let shown = root.replace(/\/+$/, '')
    for (const name of path.split('/').filter((part) => part !== '')) {
      const parent = current
      shown = `${shown}/${name}`
      try {
        const below = `/proc/self/fd/${parent.fd}/${name}`
        if (create) await mkdir(below, mode).catch(ignore('EEXIST'))
        current = await openDirectory(below, shown, O_NOFOLLOW)
      } catch (error) {
        if (codeOf(error) === 'ENOENT' && !create) return null
        throw fileError(error, shown)
      } finally {
        await parent.close()
      }
    }
    return new SafeDirectory(current, shown)
  }

  /** Takes the lock of this directory, until it is closed. Answers `false` where another program has it. */
  tryLock(): boolean {
    return binding().tryLock(this.#handle.fd)
  }

  /** Does its path still lead here? */
  async isInPlace(): Promise<boolean> {
    try {
      const [ours, there] = [await this.#handle.stat(), await lstat(this.path)]
      return ours.ino === there.ino && ours.dev === there.dev
    } catch (error) {
      if (codeOf(error) === 'ENOENT') return false
      throw fileError(error, this.path)
    }
  }

  async names(): Promise<string[]> {
    try {
      return await readdir(this.#name(''))
    } catch (error) {
      throw fileError(error, this.path)
    }
  }

  /** @throws VfioError `ERR_VFIO_BAD_FILE` where there is something, and it is no regular file of a sane size */
  async read(name: string): Promise<SafeFile | null> {
    const path = `${this.path}/${name}`
    let file: FileHandle
    try {
      file = await open(this.#name(name), O_RDONLY | O_NOFOLLOW | O_NONBLOCK)
    } catch (error) {
      if (codeOf(error) === 'ENOENT') return null
      throw fileError(error, path)
    }
    try {
      const facts = await file.stat()
      if (!facts.isFile()) throw badFile(path, 'it is no regular file')
      if (facts.size > LARGEST) throw badFile(path, 'it is larger than 1 MiB')
      const text = await file.readFile(BYTES)
      return { text, mode: facts.mode & 0o7777, uid: facts.uid, gid: facts.gid }
    } catch (error) {
      throw fileError(error, path)
    } finally {
      await file.close()
    }
  }

  /** Takes away the drafts of a file that a crash left: those that nobody writes. */
  async sweep(name: string): Promise<void> {
    for (const one of await this.names()) {
      if (!one.endsWith(draftEnd(name)) || !isDraftOf(one, name)) continue
      // What is no draft, or not ours to take away, is left alone.
      await this.#sweepDraft(one).catch(() => {})
    }
  }

  async #sweepDraft(name: string): Promise<void> {
    const file = await open(this.#name(name), O_RDONLY | O_NOFOLLOW | O_NONBLOCK)
    try {
      if ((await file.stat()).isFile() && isAbandoned(file.fd)) await rm(this.#name(name), { force: true })
    } finally {
      await file.close()
    }
  }

  /** Writes a file whole: whoever reads it, also after a crash, sees the old one or the new one. */
  async write(name: string, { text, mode, uid, gid }: SafeFile): Promise<void> {
    await this.sweep(name)
    // Its end keeps it out of what is read by suffix, and tells a sweep what a crash left.
    const draft = this.#name(`.${randomBytes(6).toString('hex')}${draftEnd(name)}`)
    try {
      const file = await open(draft, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600)
      try {
        // Swept away between being made and being locked: the next one has another name.
        if (!isOurDraft(file.fd)) return await this.write(name, { text, mode, uid, gid })
        await file.writeFile(text, BYTES)
        const facts = await file.stat()
        if (facts.uid !== uid || facts.gid !== gid) await file.chown(uid, gid)
        await file.chmod(mode)
        await file.sync()
        await rename(draft, this.#name(name))
      } finally {
        await file.close()
      }
      await this.#handle.sync()
    } catch (error) {
      await rm(draft, { force: true }).catch(() => {})
      throw fileError(error, `${this.path}/${name}`)
    }
  }

  async rename(from: string, to: string): Promise<void> {
    try {
      await rename(this.#name(from), this.#name(to))
      await this.#handle.sync()
    } catch (error) {
      throw fileError(error, `${this.path}/${from}`)
    }
  }

  async remove(name: string): Promise<void> {
    try {
      await rm(this.#name(name), { force: true })
      await this.#handle.sync()
    } catch (error) {
      throw fileError(error, `${this.path}/${name}`)
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#handle.close()
  }

  #name(name: string): string {
    return `/proc/self/fd/${this.#handle.fd}/${name}`
  }
}

const draftEnd = (name: string) => `-${name}.new`
const isDraftOf = (draft: string, name: string) =>
  /^\.[0-9a-f]{12}$/.test(draft.slice(0, -draftEnd(name).length))

async function openDirectory(path: string, shown: string, flags: number): Promise<FileHandle> {
  try {
    return await open(path, O_RDONLY | O_DIRECTORY | flags)
  } catch (error) {
    if (codeOf(error) === 'ENOENT') throw error
    throw fileError(error, shown)
  }
}

const codeOf = (error: unknown) => (error as NodeJS.ErrnoException).code

const ignore = (code: string) => (error: unknown) => {
  if (codeOf(error) !== code) throw error
}

function badFile(path: string, why: string): VfioError {
  return new VfioError('ERR_VFIO_BAD_FILE', `${path} is left alone: ${why}`)
}

/** A failed call on a file as an error of this package; those of this package pass. */
export function fileError(error: unknown, path: string): unknown {
  if (error instanceof VfioError) return error
  const { code, errno, syscall = 'open' } = error as NodeJS.ErrnoException
  if (code === 'ELOOP' || code === 'ENOTDIR') {
    return badFile(path, 'it is a symbolic link, or no directory, and is not followed')
  }
  if (typeof errno !== 'number') return error
  return new VfioSystemError({ errno: -errno, syscall, request: 'file', path }, { cause: error })
}
