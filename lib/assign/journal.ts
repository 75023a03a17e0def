import {
  closeSync,
  constants,
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
import { promisify } from 'node:util'
import type { Program } from '../change/program.js'
import { VfioError } from '../errors.js'
import { isAddress } from '../sysfs/address.js'
import { readText } from '../sysfs/files.js'
import { isAbandoned, isOurDraft } from './drafts.js'
import type { FormerState, PlannedDevice, ResetPolicy } from './plan.js'

/** Where records are kept: gone after a reboot, as are the changes that they speak of. */
export const JOURNAL = '/run/vfio'

/** How far an assignment is. Everything but `assigned` is half done. */
export type RecordState = 'assigning' | 'assigned' | 'releasing' | 'broken'

/** What is needed to give devices back, written before the first change. */
export interface JournalRecord extends Program {
  readonly version: 1
  /** The first device's address names the record. */
  readonly id: string
  readonly state: RecordState
  /** Of the boot in which it was written: after a reboot nothing of it holds any more. */
  readonly bootId: string
  /** Of the file that its groups were locked in: where it is another one, the lock tells nothing about its program. */
  readonly lock?: string | undefined
  /** When it was begun, ISO 8601. */
  readonly since: string
  readonly reset: ResetPolicy
  readonly sysfs: string
  readonly devices: readonly PlannedDevice[]
  readonly ids: readonly string[]
  /** Of a broken one: what could not be undone. */
  readonly failures: readonly string[]
}

/** A record file that is none: truncated, foreign, or worse. */
export interface BadRecord {
  readonly path: string
  readonly reason: string
}

const PREFIX = 'assignment-'
const SUFFIX = '.json'
const DRAFT_END = '.new'
const DRAFT = `${SUFFIX}${DRAFT_END}`
/** How often a directory may vanish while a record is written. */
const ATTEMPTS = 10
/** A group of 4,096 functions makes a record of one MiB. */
const LARGEST = 2 ** 24

// All else on a few small files takes less time than handing it to another thread.
const sync = promisify(fsync)

/** The records of one directory. */
export class Journal {
  readonly directory: string

  constructor(directory: string = JOURNAL) {
    this.directory = directory
  }

  /** The file of a record. */
  path(id: string): string {
    return `${this.directory}/${PREFIX}${id}${SUFFIX}`
  }

  /** Writes a record whole: a reader, or a crash, sees the old one or the new one. */
  async write(record: JournalRecord): Promise<void> {
    const path = this.path(record.id)
    const text = `${JSON.stringify(record, null, 2)}\n`
    try {
      // What could not be read back would be lost.
      parseRecord(text)
      for (let attempts = 0; !(await this.#replace(path, text)); attempts++) {
        // Where nothing can be made, as in /proc or a directory that was deleted, it would be so for ever.
        if (attempts === ATTEMPTS) throw new Error('no file can be made there')
      }
    } catch (error) {
      throw unusable(path, error)
    }
  }

  /** `false` where another program took the directory or the draft away meanwhile. */
  async #replace(path: string, text: string): Promise<boolean> {
    this.#create()
    const draft = `${path}${DRAFT_END}`
    try {
      // What lies there from a crash, or was put there as a link, must not be written through.
      rmSync(draft, { force: true })
      const { O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW } = constants
      const file = openSync(draft, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600)
      try {
        if (!isOurDraft(file)) return false
        writeFileSync(file, text)
        await sync(file)
        renameSync(draft, path)
      } finally {
        closeSync(file)
      }
      await this.#sync()
      return true
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false
      throw error
    }
  }

  async remove(id: string): Promise<void> {
    try {
      rmSync(this.path(id), { force: true })
      rmSync(`${this.path(id)}${DRAFT_END}`, { force: true })
      await this.#sync()
      this.#removeIfEmpty()
    } catch (error) {
      throw unusable(this.path(id), error)
    }
  }

  /** All records, and what lies beside them that is none. */
  async read(): Promise<{ records: JournalRecord[]; bad: BadRecord[] }> {
    const records: JournalRecord[] = []
    const bad: BadRecord[] = []
    for (const name of this.#names().sort()) {
      if (!name.startsWith(PREFIX) || !name.endsWith(SUFFIX)) continue
      const path = `${this.directory}/${name}`
      try {
        const record = parseRecord(readWhole(path))
        if (this.path(record.id) !== path) throw new Error('it carries the name of another record')
        records.push(record)
      } catch (error) {
        // Released by another program since the names were listed.
        if ((error as NodeJS.ErrnoException).code === 'ENOENT') continue
        bad.push({ path, reason: error instanceof Error ? error.message : String(error) })
      }
    }
    return { records, bad }
  }

  /** Clears away what a crash left beside the records: drafts whose writer is gone. */
  sweep(): void {
    for (const name of this.#names()) {
      if (name.startsWith(PREFIX) && name.endsWith(DRAFT)) attempt(() => this.#sweepDraft(name))
    }
    this.#removeIfEmpty()
  }

  #sweepDraft(name: string): void {
    const path = `${this.directory}/${name}`
    if (!lstatSync(path).isFile()) {
      rmSync(path)
      return
    }
    const file = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK)
    try {
      if (isAbandoned(file)) rmSync(path, { force: true })
    } finally {
      closeSync(file)
    }
  }

  #create(): void {
    try {
      // Not with its parents: Node tries for ever where there can be none, as below /proc.
      mkdirSync(this.directory, { mode: 0o700 })
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw unusable(this.directory, error)
    }
    this.#check()
  }

  /** Who else could write there decides over drivers; a link could lead anywhere. */
  #check(): void {
    try {
      const facts = lstatSync(this.directory)
      if (!facts.isDirectory()) throw new Error('it is not a directory')
      if (!isTrusted(facts.uid)) throw new Error(`it belongs to user ${facts.uid}`)
      if (facts.mode & 0o022) throw new Error('others may write there')
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return
      throw unusable(this.directory, error)
    }
  }

  #names(): string[] {
    this.#check()
    try {
      return readdirSync(this.directory)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
      throw unusable(this.directory, error)
    }
  }

  /** A rename is safe from a crash only when its directory is on the disk too. */
  async #sync(): Promise<void> {
    const directory = openSync(this.directory, constants.O_RDONLY | constants.O_DIRECTORY)
    try {
      await sync(directory)
    } finally {
      closeSync(directory)
    }
  }

  #removeIfEmpty(): void {
    attempt(() => rmdirSync(this.directory))
  }
}

/** What may fail without harm. */
function attempt(work: () => void): void {
  try {
    work()
  } catch {
    // Another program was quicker, or the next one will do it.
  }
}

const isTrusted = (uid: number) => uid === 0 || uid === (process.geteuid?.() ?? 0)

function unusable(path: string, error: unknown): VfioError {
  if (error instanceof VfioError) return error
  const { code = '', message } = error as NodeJS.ErrnoException
  const isDenied = (code === 'EACCES' || code === 'EPERM') && process.geteuid?.() !== 0
  const cure = isDenied ? 'run as root' : 'make it a directory of root, or name another'
  return new VfioError(
    'ERR_VFIO_BAD_JOURNAL',
    `the journal ${path} cannot be used (${code || message}): ${cure}`,
    {
      cause: error,
    },
  )
}

function readWhole(path: string): string {
  // A link could point anywhere; a FIFO must not hang us.
  const file = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK)
  try {
    const facts = fstatSync(file)
    if (!facts.isFile()) throw new Error('it is not a regular file')
    if (facts.size > LARGEST) throw new Error('it is too large for a record')
    if (!isTrusted(facts.uid)) throw new Error(`it belongs to user ${facts.uid}`)
    return readFileSync(file, 'utf8')
  } finally {
    closeSync(file)
  }
}

/** What the kernel takes as a driver's name, and reads as one line: it becomes a part of a path. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is refused
const DRIVER = /^(?!\.\.?$)[^/\u0000-\u001f\u007f]{1,255}$/
/** What may stand in `driver_override`; it never becomes a part of a path. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is refused
const OVERRIDE = /^[^\u0000-\u001f\u007f]{1,4095}$/
const STATES: readonly unknown[] = ['assigning', 'assigned', 'releasing', 'broken'] satisfies RecordState[]
const RESETS: readonly unknown[] = ['none', 'before', 'before-and-after'] satisfies ResetPolicy[]

/** Checks every field: a record decides what is written to sysfs. */
export function parseRecord(text: string): JournalRecord {
  const value: unknown = JSON.parse(text)
  const record = fields(value, 'the record')
  const check = (holds: boolean, what: string) => {
    if (!holds) throw new Error(`${what} is missing or wrong`)
  }
  const isText = (item: unknown): item is string => typeof item === 'string' && item.length < 4096
  check(record.version === 1, 'its version')
  check(isAddressText(record.id), 'its id')
  check(STATES.includes(record.state), 'its state')
  check(RESETS.includes(record.reset), 'its reset policy')
  for (const name of ['bootId', 'program', 'since', 'sysfs']) check(isText(record[name]), name)
  check(isText(record.sysfs) && record.sysfs.startsWith('/') && !record.sysfs.includes('\0'), 'sysfs')
  check(Number.isSafeInteger(record.pid), 'its pid')
  check(record.started === undefined || Number.isSafeInteger(record.started), 'the start of its program')
  for (const name of ['pidNamespace', 'lock']) check(record[name] === undefined || isText(record[name]), name)
  check(
    Array.isArray(record.ids) && record.ids.every((id) => /^[0-9a-f]{4} [0-9a-f]{4}$/.test(String(id))),
    'ids',
  )
  check(
    Array.isArray(record.failures) && record.failures.every((item) => typeof item === 'string'),
    'its failures',
  )
  check(Array.isArray(record.devices) && record.devices.length > 0, 'its devices')
  for (const item of record.devices as unknown[]) {
    const device = fields(item, 'a device')
    const former = fields(device.former, 'a former state')
    check(isAddressText(device.address), 'the address of a device')
    check(
      device.group === null || (Number.isSafeInteger(device.group) && Number(device.group) >= 0),
      'the group of a device',
    )
    check(isDriver(device.driver), 'the driver of a device')
    check(former.driver === null || isDriver(former.driver), 'the former driver of a device')
    check(former.override === null || matches(OVERRIDE, former.override), 'the former override of a device')
  }
  return value as JournalRecord
}

function fields(value: unknown, what: string): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new Error(`${what} is not an object`)
  return value as Record<string, unknown>
}

const matches = (pattern: RegExp, value: unknown) => typeof value === 'string' && pattern.test(value)
const isAddressText = (value: unknown) => typeof value === 'string' && isAddress(value)
const isDriver = (value: unknown) => matches(DRIVER, value)

/** A mark that is the same until the next boot. */
export const bootId = () => readText('/proc/sys/kernel/random/boot_id') ?? ''

/** Is a former state what a device has now? */
export const isAsBefore = (now: FormerState, former: FormerState) =>
  now.driver === former.driver && now.override === former.override
