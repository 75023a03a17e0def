import { constants } from 'node:os'
import { isAbsolute, resolve } from 'node:path'
import type { Binding } from '../native/binding.js'
import { bindingIfThere } from '../native/load.js'
import { decode } from './bytes.js'
import { EXTENDED_BODIES } from './config.js'
import * as plain from './plain.js'
import { isShortage, type LookingCall, lookFailed } from './unseen.js'

/**
 * What one batch of reads brought: for each directory each file's bytes or link's target. Entries of equal bytes start at
 * the same place where the addon has read them, and what is made of one of them is made once.
 */
export class Batch {
  readonly #data: Buffer
  readonly #spans: Int32Array
  readonly #columns: ReadonlyMap<string, number>
  readonly #texts = new Map<number, string>()

  constructor(data: Uint8Array, spans: Int32Array, columns: ReadonlyMap<string, number>) {
    this.#data = Buffer.from(data.buffer, data.byteOffset, data.byteLength)
    this.#spans = spans
    this.#columns = columns
  }

  /** Where the span of an entry is; behind all spans for a column that was not asked for. */
  #at(row: number, name: string): number {
    const column = this.#columns.get(name)
    return column === undefined ? this.#spans.length : 2 * (row * this.#columns.size + column)
  }

  /** Where a span ends, without white space at its end. */
  #end(start: number, at: number): number {
    let end = start + (this.#spans[at + 1] ?? 0)
    while (end > start && (this.#data[end - 1] ?? 0) <= 0x20) end--
    return end
  }

  /** The text without white space at its end, or `null` where it could not be read. */
  text(row: number, name: string): string | null {
    const at = this.#at(row, name)
    const start = this.#spans[at] ?? -1
    if (start < 0) return null
    // What is empty starts where something else does.
    const end = this.#end(start, at)
    if (end === start) return ''
    const known = this.#texts.get(start)
    if (known !== undefined) return known
    const text = decode(this.#data, start, end)
    this.#texts.set(start, text)
    return text
  }

  /** The same without keeping it, for what differs in each row and is asked for once. */
  textOnce(row: number, name: string): string | null {
    const at = this.#at(row, name)
    const start = this.#spans[at] ?? -1
    return start < 0 ? null : decode(this.#data, start, this.#end(start, at))
  }

  bytes(row: number, name: string): Uint8Array | null {
    const at = this.#at(row, name)
    const start = this.#spans[at] ?? -1
    return start < 0 ? null : this.#data.subarray(start, start + (this.#spans[at + 1] ?? 0))
  }

  /** Reads a column by a function of its texts, which is called once for equal ones. */
  ofText<T>(name: string, read: (text: string | null) => T): (row: number) => T {
    const known = new Map<string | null, T>()
    return (row) => {
      const text = this.text(row, name)
      const made = known.get(text)
      if (made !== undefined) return made
      const first = read(text)
      known.set(text, first)
      return first
    }
  }

  /** The same of its bytes. */
  ofBytes<T>(name: string, read: (bytes: Uint8Array | null) => T): (row: number) => T {
    const known = new Map<number, T>()
    return (row) => {
      const at = this.#at(row, name)
      const start = this.#spans[at] ?? -1
      // What is empty starts where something else does.
      const key = start < 0 ? -1 : this.#spans[at + 1] === 0 ? -2 : start
      const made = known.get(key)
      if (made !== undefined) return made
      const first = read(this.bytes(row, name))
      known.set(key, first)
      return first
    }
  }

  /** The names of a list, in order, whatever that of its file system is; empty where it could not be read. */
  names(row: number, name: string): string[] {
    const names = this.unsortedNames(row, name)
    return names.length > 1 ? names.sort() : names
  }

  /** The same in the order of the file system, for what orders them itself. */
  unsortedNames(row: number, name: string): string[] {
    const at = this.#at(row, name)
    const start = this.#spans[at] ?? -1
    const length = this.#spans[at + 1] ?? 0
    if (start < 0 || length === 0) return []
    const text = decode(this.#data, start, start + length - 1)
    return text.includes('\0') ? text.split('\0') : [text]
  }

  /** The last component of a link's target: how sysfs names a driver, a group, a function. */
  linkName(row: number, name: string): string | null {
    const target = this.text(row, name)
    return target === null ? null : target.slice(target.lastIndexOf('/') + 1)
  }

  /** The last component of a link's target where that is a number of at most nine digits, else `null`. */
  linkNumber(row: number, name: string): number | null {
    const at = this.#at(row, name)
    const start = this.#spans[at] ?? -1
    if (start < 0) return null
    const end = this.#end(start, at)
    let from = end
    while (from > start && this.#data[from - 1] !== SLASH) from--
    if (from === end || end - from > 9) return null
    let number = 0
    for (let index = from; index < end; index++) {
      const digit = (this.#data[index] ?? 0) - ZERO
      if (digit < 0 || digit > 9) return null
      number = number * 10 + digit
    }
    return number
  }

  /** Did the same requests bring the same bytes, and fail alike? */
  equals(other: Batch): boolean {
    return this.#data.equals(other.#data) && bytesOf(this.#spans).equals(bytesOf(other.#spans))
  }

  /** The errno of a failed read, 0 where it succeeded. */
  errno(row: number, name: string): number {
    const start = this.#spans[this.#at(row, name)] ?? 0
    return start < 0 ? -start : 0
  }
}

const bytesOf = ({ buffer, byteOffset, byteLength }: Int32Array) =>
  Buffer.from(buffer, byteOffset, byteLength)

const SLASH = 0x2f
const ZERO = 0x30

/** The addon makes looking quick; without it the calls of `node:fs` give the same answers. */
export const reader = (): Pick<Binding, 'readTree' | 'readWaiting' | 'findHead'> => bindingIfThere() ?? plain

/** A sysfs attribute, and all of config space, fit in a page of 4096 bytes. */
const PAGE = 4096

/** From so many directories on their names, which no NUL is in, are handed over in one text. */
const MANY = 64

/** Ids of extended capabilities, each with how many bytes of it are read. */
const BODIES = Object.entries(EXTENDED_BODIES).flatMap(([id, size]) => [Number(id), size])

export interface Wanted {
  readonly files?: readonly string[]
  /** `.` for where the directory itself leads, if it is a link. */
  readonly links?: readonly string[]
  readonly lists?: readonly string[]
  /** Names of which the number of the device behind them is wanted, as `c1:3` or `b259:0`; empty for no device. */
  readonly nodes?: readonly string[]
  /** For files of which less than a page is wanted, in bytes. */
  readonly limits?: Readonly<Record<string, number>>
  /** Files that are config spaces, of which no more is read on a live host than `readCapabilities` takes. */
  readonly spaces?: readonly string[]
  /** The caller asks for the errno of these entries itself. */
  readonly judged?: readonly string[]
}

/**
 * Reads the same files and links of many directories in one call: thousands of functions with a dozen
 * attributes each are too many for one JavaScript call apiece. What fails is as in {@link lookFailed}.
 */
export const readBatch = (root: string, directories: readonly string[], wanted: Wanted): Batch =>
  beginBatch(root, directories, wanted)()

/** The same, read by threads beside until the answer is called, once, which waits for them. */
export function beginBatch(root: string, directories: readonly string[], wanted: Wanted): () => Batch {
  const { files = [], links = [], lists = [], nodes = [] } = wanted
  const names = [...files, ...links, ...lists, ...nodes]
  const columns = new Map(names.map((name, index) => [name, index]))
  const limits = files.map((name) => wanted.limits?.[name] ?? PAGE)
  // In a copy one read brings all of it.
  const spaces = wanted.spaces !== undefined && plain.isSysfs(root) ? wanted.spaces : []
  // One text is quicker to hand over than thousands.
  const given = directories.length < MANY ? directories : directories.join('\0')
  const read = reader().readTree(root, given, files, limits, links, lists, nodes, spaces, BODIES)
  const callOf = (column: number): LookingCall => {
    if (column < files.length) return 'read'
    if (column < files.length + links.length) return 'readlink'
    return column < files.length + links.length + lists.length ? 'getdents' : 'stat'
  }
  return () => {
    const { data, spans } = read()
    const judged = new Set(wanted.judged)
    // The errno of nearly all that is not there.
    const absent = -constants.errno.ENOENT
    for (let at = 0; at < spans.length; at += 2) {
      const start = spans[at] ?? 0
      if (start >= 0 || start === absent) continue
      const column = (at / 2) % names.length
      const name = names[column] ?? ''
      if (judged.has(name) && !isShortage(-start)) continue
      const directory = directories[Math.floor(at / 2 / names.length)] ?? ''
      lookFailed(
        callOf(column),
        -start,
        `${root}/${directory}/${name}`.replaceAll('/./', '/').replace(/\/\.$/, ''),
      )
    }
    const batch = new Batch(data, spans, columns)
    record?.push(batch)
    return batch
  }
}

/** Where batches are kept, by whoever wants to compare a look with an earlier one. Looking is synchronous. */
let record: Batch[] | null = null

/** Runs a look, and returns all that was read for it in batches, in order. */
export function recording<T>(look: () => T): { readonly seen: T; readonly batches: readonly Batch[] } {
  const outer = record
  const own: Batch[] = []
  record = own
  try {
    return { seen: look(), batches: own }
  } finally {
    record = outer
  }
}

/** Did two looks that asked for the same read the same? */
export const areEqual = (some: readonly Batch[], others: readonly Batch[]) =>
  some.length === others.length &&
  some.every((batch, index) => others[index] !== undefined && batch.equals(others[index]))

/** How long the kernel may take for one such file, in milliseconds. */
const PATIENCE = 2000

/**
 * The texts of files that wait for as long as a change of their device takes, in order; `null` where there is none.
 * Whoever calls the answer waits a few seconds at most: what has not answered by then counts as a look that failed.
 */
export function beginWaiting(paths: readonly string[]): () => (string | null)[] {
  if (paths.length === 0) return () => []
  const given = paths.map((path) => (isAbsolute(path) ? path : resolve(path)))
  const read = reader().readWaiting(given, PATIENCE)
  return () => {
    const { data, spans } = read()
    const batch = new Batch(data, spans, ONE)
    return paths.map((path, row) => {
      const errno = batch.errno(row, TEXT)
      if (errno !== 0) lookFailed('read', errno, path)
      return batch.text(row, TEXT)
    })
  }
}

const TEXT = 'text'
const ONE = new Map([[TEXT, 0]])
