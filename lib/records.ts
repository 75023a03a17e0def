import {
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  fstatSync,
  fsync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { basename, dirname, resolve } from 'node:path'
import { promisify } from 'node:util'
import { builtin } from './builtin.js'
import { VfioError, VfioSystemError } from './errors.js'
import { binding } from './native/load.js'

const { O_RDONLY, O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_DIRECTORY } = constants
/** A descriptor to start from, for which the right to pass through is enough. */
const O_PATH = 0o10000000

/** Where records are kept: gone after a reboot, as are the changes that they speak of. */
export const JOURNAL = '/run/vfio'

/** A group of 4,096 functions makes a record of one MiB. */
const LARGEST_RECORD = 2 ** 24
/** How often a directory may vanish while a record is written. */
const ATTEMPTS = 10

// All else on a few small files takes less time than handing it to another thread.
const sync = promisify(fsync)

/** A call on a file that failed, or what was found in its place. */
export class FileFault extends Error {
  readonly path: string
  /** The name of an errno, or a sentence. */
  readonly reason: string

  constructor(path: string, cause: unknown) {
    const { code, message } = cause as NodeJS.ErrnoException
    const reason = code ?? message
    super(`${path}: ${reason}`, { cause })
    this.path = path
    this.reason = reason
  }
}

/** A small file as it was read, with what it takes to write one like it. */
export interface FileContent {
  readonly bytes: Buffer
  readonly mode: number
  readonly uid: number
  readonly gid: number
}

/**
 * An open directory. Every name below it is reached through the descriptor, so that neither a symbolic link nor a rename
 * beside us leads anywhere else. What fails is a {@link FileFault}.
 */
export class Directory {
  readonly #descriptor: number
  /** As errors call it. */
  readonly path: string

  private constructor(descriptor: number, path: string) {
    this.#descriptor = descriptor
    this.path = path
  }

  /**
   * Opens a directory below `root`, which may itself be reached by links; nothing below it may.
   * @returns `null` where there is none and none is to be made
   */
  static open(
    root: string,
    path: string,
    { create = false, mode = 0o755 }: { create?: boolean; mode?: number } = {},
  ): Directory | null {
    let shown = root
    let current: number | null = null
    try {
      current = openSync(root, O_PATH | O_DIRECTORY)
      const names = path.split('/').filter((part) => part !== '')
      for (const [index, name] of names.entries()) {
        shown = `${shown === '/' ? '' : shown}/${name}`
        const below = at(current, name)
        const flags = (index === names.length - 1 ? O_RDONLY : O_PATH) | O_DIRECTORY | O_NOFOLLOW
        const next = create ? openMade(below, mode, flags) : openSync(below, flags)
        closeSync(current)
        current = next
      }
      return new Directory(current, shown)
    } catch (error) {
      if (current !== null) closeSync(current)
      if (codeOf(error) === 'ENOENT' && !create) return null
      throw new FileFault(shown, error)
    }
  }

  /** Whose it is, and who may write there. */
  facts(): { readonly uid: number; readonly mode: number } {
    return this.#do('', () => fstatSync(this.#descriptor))
  }

  names(): string[] {
    return this.#do('', () => readdirSync(this.#at('')))
  }

  /** `null` where there is none. */
  read(name: string, largest = 2 ** 20): FileContent | null {
    return this.#do(name, () => {
      // A link could point anywhere; a FIFO must not hang us.
      const file = openOrNull(this.#at(name), O_RDONLY | O_NOFOLLOW | O_NONBLOCK)
      if (file === null) return null
      try {
        const facts = fstatSync(file)
        if (!facts.isFile()) throw new Error('it is not a regular file')
        if (facts.size > largest) throw new Error(`it is too large: more than ${largest / 2 ** 20} MiB`)
        return { bytes: readFileSync(file), mode: facts.mode & 0o7777, uid: facts.uid, gid: facts.gid }
      } finally {
        closeSync(file)
      }
    })
  }

  /** Writes a file whole: whoever reads it, also after a crash, sees the old one or the new one. */
  async write(name: string, content: FileContent): Promise<void> {
    this.sweep(name)
    // Its end keeps it out of what is read by suffix, and tells a sweep what a crash left.
    const { randomBytes } = builtin('node:crypto')
    const draft = `.${randomBytes(6).toString('hex')}${draftEnd(name)}`
    try {
      const file = openSync(this.#at(draft), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600)
      try {
        // Swept away between being made and being locked: the next one has another name.
        if (!isOurDraft(file)) return await this.write(name, content)
        writeFileSync(file, content.bytes)
        const { uid, gid } = fstatSync(file)
        if (uid !== content.uid || gid !== content.gid) fchownSync(file, content.uid, content.gid)
        fchmodSync(file, content.mode)
        await sync(file)
        renameSync(this.#at(draft), this.#at(name))
      } finally {
        closeSync(file)
      }
      // A rename is safe from a crash only when its directory is on the disk too.
      await sync(this.#descriptor)
    } catch (error) {
      attempt(() => rmSync(this.#at(draft), { force: true }))
      throw this.#fault(name, error)
    }
  }

  async rename(from: string, to: string): Promise<void> {
    this.#do(from, () => renameSync(this.#at(from), this.#at(to)))
    await this.#sync(from)
  }

  async remove(name: string): Promise<void> {
    this.#do(name, () => rmSync(this.#at(name), { force: true }))
    await this.#sync(name)
  }

  /** Takes away the drafts of a file that a crash left: those that nobody writes. What is none is left alone. */
  sweep(name: string): void {
    this.sweepAll((one) => isDraftOf(one, name))
  }

  sweepAll(isDraft: (name: string) => boolean): void {
    for (const name of this.names()) if (isDraft(name)) attempt(() => this.#sweepDraft(this.#at(name)))
  }

  #sweepDraft(path: string): void {
    // A link that was put there is not followed, and no FIFO is waited for.
    if (lstatSync(path).isSymbolicLink()) {
      rmSync(path)
      return
    }
    const file = openSync(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK)
    try {
      if (fstatSync(file).isFile() && isAbandoned(file)) rmSync(path, { force: true })
    } finally {
      closeSync(file)
    }
  }

  [Symbol.dispose](): void {
    closeSync(this.#descriptor)
  }

  async #sync(name: string): Promise<void> {
    await sync(this.#descriptor).catch((error: unknown) => {
      throw this.#fault(name, error)
    })
  }

  #do<T>(name: string, work: () => T): T {
    try {
      return work()
    } catch (error) {
      throw this.#fault(name, error)
    }
  }

  #fault(name: string, error: unknown): FileFault {
    return error instanceof FileFault
      ? error
      : new FileFault(name ? `${this.path}/${name}` : this.path, error)
  }

  #at(name: string): string {
    return at(this.#descriptor, name)
  }
}

const at = (directory: number, name: string) => `/proc/self/fd/${directory}/${name}`
const codeOf = (error: unknown) => (error as NodeJS.ErrnoException).code

function openOrNull(path: string, flags: number): number | null {
  try {
    return openSync(path, flags)
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return null
    throw error
  }
}

/** Makes a directory where there is none, and opens it, though others may take it away in between. */
function openMade(path: string, mode: number, flags: number): number {
  for (let attempts = 0; ; attempts++) {
    try {
      // Not with its parents: Node tries for ever where there can be none, as below /proc.
      mkdirSync(path, { mode })
    } catch (error) {
      if (codeOf(error) !== 'EEXIST') throw error
    }
    const directory = openOrNull(path, flags)
    if (directory !== null) return directory
    if (attempts === ATTEMPTS) throw new Error('no directory stays there')
  }
}

/** Calls something that may fail without harm. */
function attempt(work: () => void): void {
  try {
    work()
  } catch {
    // Another program has done it, or a later one will.
  }
}

const draftEnd = (name: string) => `-${name}.new`
const isDraftOf = (draft: string, name: string) =>
  draft.endsWith(draftEnd(name)) && /^\.[0-9a-f]{12}$/.test(draft.slice(0, -draftEnd(name).length))

/**
 * Locks a draft that was just made: it is locked for as long as its writer lives, since the kernel takes the lock from one
 * that dies. `false` where another program has taken it for abandoned already.
 */
const isOurDraft = (file: number) => binding().tryLock(file) && fstatSync(file).nlink > 0

/** Has the writer of this draft died? Its name may be taken away then, while the file is open. */
const isAbandoned = isOurDraft

const alone = (path: string, why: string) =>
  new VfioError('ERR_VFIO_BAD_FILE', `${path} is left alone: ${why}`)

/** A failed call on a file as an error of this package; those of this package pass. */
export function fileError(error: unknown, path: string): unknown {
  if (error instanceof VfioError) return error
  if (error instanceof FileFault) {
    const isAnswer = typeof (error.cause as NodeJS.ErrnoException).errno === 'number'
    return isAnswer ? fileError(error.cause, error.path) : alone(error.path, error.reason)
  }
  const { code, errno, syscall = 'open' } = error as NodeJS.ErrnoException
  if (code === 'ELOOP' || code === 'ENOTDIR') {
    return alone(path, 'it is a symbolic link, or no directory, and is not followed')
  }
  if (typeof errno !== 'number') return error
  return new VfioSystemError({ errno: -errno, syscall, request: 'file', path }, { cause: error })
}

/** What the records of one kind are. */
export interface Schema<T> {
  /** Begins the names of their files, which go on with the key and end in `.json`. */
  readonly prefix: string
  /** Checks every field, since records decide what is written to the host. Throws an Error that says what is wrong. */
  parse(text: string): T
  /** What a record is known by. */
  keyOf(record: T): string
}

/** A record file that is none: truncated, foreign, or worse. */
export interface BadRecord {
  readonly path: string
  readonly reason: string
}

const SUFFIX = '.json'

/**
 * The records of one kind in one directory: JSON files of root or of the caller, each written atomically. Records decide over
 * drivers and nodes, so a directory or file that others can write to is refused.
 */
export class Records<T> {
  /** Absolute: a program may go elsewhere meanwhile. */
  readonly directory: string
  readonly #schema: Schema<T>

  constructor(directory: string | undefined, schema: Schema<T>) {
    this.directory = absolute(directory ?? JOURNAL)
    this.#schema = schema
  }

  /** The file of a record. */
  path(key: string): string {
    return `${this.directory}/${this.#name(key)}`
  }

  /** All records, and the files in their place that are none. */
  read(): { records: T[]; bad: BadRecord[] } {
    const records: T[] = []
    const bad: BadRecord[] = []
    using directory = this.#open(false)
    for (const name of directory?.names().sort() ?? []) {
      if (!name.startsWith(this.#schema.prefix) || !name.endsWith(SUFFIX)) continue
      try {
        const record = this.#parse(directory, name)
        // Removed by another program since the names were listed.
        if (record !== null) records.push(record)
      } catch (error) {
        bad.push({ path: `${this.directory}/${name}`, reason: reasonOf(error) })
      }
    }
    return { records, bad }
  }

  /**
   * One record; `null` where there is none.
   * @throws VfioError `ERR_VFIO_BAD_JOURNAL` where its file is none
   */
  find(key: string): T | null {
    using directory = this.#open(false)
    try {
      return this.#parse(directory, this.#name(key))
    } catch (error) {
      throw badRecord({ path: this.path(key), reason: reasonOf(error) }, error)
    }
  }

  #parse(directory: Directory | null, name: string): T | null {
    const file = directory?.read(name, LARGEST_RECORD)
    if (!file) return null
    refuseUntrusted(file)
    const record = this.#schema.parse(file.bytes.toString('utf8'))
    if (this.#name(this.#schema.keyOf(record)) !== name)
      throw new Error('it carries the name of another record')
    return record
  }

  /** Writes a record whole: a reader, or a crash, sees the old one or the new one. */
  async write(record: T): Promise<void> {
    const name = this.#name(this.#schema.keyOf(record))
    const text = `${JSON.stringify(record, null, 2)}\n`
    try {
      // A record that cannot be parsed could never be undone.
      this.#schema.parse(text)
      for (let attempts = 0; !(await this.#replace(name, Buffer.from(text))); attempts++) {
        // Where nothing can be made, as in /proc or a directory that was deleted, it would be so for ever.
        if (attempts === ATTEMPTS) throw new Error('no file can be made there')
      }
    } catch (error) {
      throw unusable(`${this.directory}/${name}`, error)
    }
  }

  /** `false` where another program took the directory away meanwhile. */
  async #replace(name: string, bytes: Buffer): Promise<boolean> {
    using directory = this.#open(true)
    try {
      const [uid, gid] = [process.geteuid?.() ?? 0, process.getegid?.() ?? 0]
      await directory?.write(name, { bytes, mode: 0o600, uid, gid })
      return true
    } catch (error) {
      if (error instanceof FileFault && error.reason === 'ENOENT') return false
      throw error
    }
  }

  async remove(key: string): Promise<void> {
    using directory = this.#open(false)
    try {
      await directory?.remove(this.#name(key))
    } catch (error) {
      throw unusable(this.path(key), error)
    }
    this.#removeIfEmpty()
  }

  /** Clears away what a crash left beside the records: drafts whose writer is gone. */
  sweep(): void {
    using directory = this.#open(false)
    // Those of the first versions had no random part.
    const isDraft = (name: string) =>
      name.replace(/^\.[0-9a-f]{12}-/, '').startsWith(this.#schema.prefix) && name.endsWith(`${SUFFIX}.new`)
    directory?.sweepAll(isDraft)
    this.#removeIfEmpty()
  }

  #name(key: string): string {
    return `${this.#schema.prefix}${key}${SUFFIX}`
  }

  #open(create: boolean): Directory | null {
    try {
      const [root, name] = [dirname(this.directory), basename(this.directory)]
      const directory = Directory.open(root, name, { create, mode: 0o700 })
      try {
        if (directory) refuseUntrusted(directory.facts(), 'others may write there')
        return directory
      } catch (error) {
        directory?.[Symbol.dispose]()
        throw error
      }
    } catch (error) {
      throw unusable(this.directory, error)
    }
  }

  #removeIfEmpty(): void {
    attempt(() => rmdirSync(this.directory))
  }
}

/** Without a current directory (it was deleted) a relative path stays as it is, and is not found. */
function absolute(path: string): string {
  try {
    return resolve(path)
  } catch {
    return path
  }
}

/** Only root and the caller may decide what happens on this host. */
function refuseUntrusted(
  { uid, mode }: { readonly uid: number; readonly mode: number },
  writable = 'others may write it',
): void {
  if (uid !== 0 && uid !== (process.geteuid?.() ?? 0)) throw new Error(`it belongs to user ${uid}`)
  if (mode & 0o022) throw new Error(writable)
}

function reasonOf(error: unknown): string {
  if (error instanceof FileFault) return error.reason
  return error instanceof Error ? error.message : String(error)
}

/** What keeps a record from being taken for one, as an error. */
export const badRecord = ({ path, reason }: BadRecord, cause?: unknown): VfioError =>
  new VfioError(
    'ERR_VFIO_BAD_JOURNAL',
    `${path} is not a record of vfio (${reason}): look at it and remove it`,
    { cause },
  )

function unusable(path: string, error: unknown): VfioError {
  if (error instanceof VfioError) return error
  const reason = reasonOf(error)
  // Of the directory itself; what is wrong with its parents is told as the kernel does.
  const isNone = error instanceof FileFault && error.path === path && /^(?:ELOOP|ENOTDIR)$/.test(reason)
  const isDenied = /^(?:EACCES|EPERM)$/.test(reason) && process.geteuid?.() !== 0
  const cure = isDenied ? 'run as root' : 'make it a directory of root, or name another'
  return new VfioError(
    'ERR_VFIO_BAD_JOURNAL',
    `the journal ${path} cannot be used (${isNone ? 'it is not a directory' : reason}): ${cure}`,
    { cause: error },
  )
}
