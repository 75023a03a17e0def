import { constants } from 'node:os'
import { resolve } from 'node:path'
import type { Binding } from '../native/binding.js'
import { bindingIfThere } from '../native/load.js'
import { decode } from './bytes.js'
import * as plain from './plain.js'
import { isShortage, type LookingCall, lookFailed } from './unseen.js'

/** What one batch of reads brought: for each directory each file's bytes or link's target. */
export class Batch {
  readonly #data: Buffer
  readonly #spans: Int32Array
  readonly #columns: ReadonlyMap<string, number>

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

  /** The text without white space at its end, or `null` where it could not be read. */
  text(row: number, name: string): string | null {
    const at = this.#at(row, name)
    const start = this.#spans[at] ?? -1
    let end = start + (this.#spans[at + 1] ?? 0)
    if (start < 0) return null
    while (end > start && (this.#data[end - 1] ?? 0) <= 0x20) end--
    return decode(this.#data, start, end)
  }

  bytes(row: number, name: string): Uint8Array | null {
    const at = this.#at(row, name)
    const start = this.#spans[at] ?? -1
    return start < 0 ? null : this.#data.subarray(start, start + (this.#spans[at + 1] ?? 0))
  }

  /** The names of a list, in order, whatever that of its file system is; empty where it could not be read. */
  names(row: number, name: string): string[] {
    const at = this.#at(row, name)
    const start = this.#spans[at] ?? -1
    const length = this.#spans[at + 1] ?? 0
    return start < 0 || length === 0
      ? []
      : decode(this.#data, start, start + length - 1)
          .split('\0')
          .sort()
  }

  /** The last component of a link's target: how sysfs names a driver, a group, a function. */
  linkName(row: number, name: string): string | null {
    const target = this.text(row, name)
    return target === null ? null : target.slice(target.lastIndexOf('/') + 1)
  }

  /** The errno of a failed read, 0 where it succeeded. */
  errno(row: number, name: string): number {
    const start = this.#spans[this.#at(row, name)] ?? 0
    return start < 0 ? -start : 0
  }
}

/** The addon makes looking quick; without it the calls of `node:fs` give the same answers. */
const reader = (): Pick<Binding, 'readTree' | 'readWaiting'> => bindingIfThere() ?? plain

/** A sysfs attribute, and all of config space, fit in a page of 4096 bytes. */
const PAGE = 4096

export interface Wanted {
  readonly files?: readonly string[]
  readonly links?: readonly string[]
  readonly lists?: readonly string[]
  /** Names of which the number of the device behind them is wanted, as `c1:3` or `b259:0`; empty for no device. */
  readonly nodes?: readonly string[]
  /** For files of which less than a page is wanted, in bytes. */
  readonly limits?: Readonly<Record<string, number>>
  /** The caller asks for the errno of these entries itself. */
  readonly judged?: readonly string[]
}

/**
 * Reads the same files and links of many directories in one call: thousands of functions with a dozen
 * attributes each are too many for one JavaScript call apiece. What fails is as in {@link lookFailed}.
 */
export function readBatch(root: string, directories: readonly string[], wanted: Wanted): Batch {
  const { files = [], links = [], lists = [], nodes = [] } = wanted
  const names = [...files, ...links, ...lists, ...nodes]
  const columns = new Map(names.map((name, index) => [name, index]))
  const limits = files.map((name) => wanted.limits?.[name] ?? PAGE)
  const { data, spans } = reader().readTree(root, directories, files, limits, links, lists, nodes)
  const callOf = (column: number): LookingCall => {
    if (column < files.length) return 'read'
    if (column < files.length + links.length) return 'readlink'
    return column < files.length + links.length + lists.length ? 'getdents' : 'stat'
  }
  const judged = new Set(wanted.judged)
  for (let at = 0; at < spans.length; at += 2) {
    const start = spans[at] ?? 0
    // The errno of nearly all that is not there.
    if (start >= 0 || start === -constants.errno.ENOENT) continue
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
  return new Batch(data, spans, columns)
}

/** How long the kernel may take for one such file, in milliseconds. */
const PATIENCE = 2000

/**
 * The texts of files that wait for as long as a change of their device takes, in order; `null` where there is none.
 * This process waits a few seconds at most: what has not answered by then counts as a look that failed.
 */
export function readWaiting(paths: readonly string[]): (string | null)[] {
  if (paths.length === 0) return []
  const given = paths.map((path) => resolve(path))
  return reader()
    .readWaiting(given, PATIENCE)
    .map((answer, index) => {
      if (typeof answer !== 'number') return decode(answer).trimEnd()
      lookFailed('read', -answer, paths[index] ?? '')
      return null
    })
}
