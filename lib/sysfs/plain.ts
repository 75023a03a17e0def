import {
  closeSync,
  constants,
  openSync,
  readdirSync,
  readlinkSync,
  readSync,
  statfsSync,
  statSync,
} from 'node:fs'
import { constants as system } from 'node:os'
import type { Binding } from '../native/binding.js'
import { askBeside } from './beside.js'
import { pathOf } from './bytes.js'
import { deviceNumber } from './device-number.js'
import { errnoOf } from './unseen.js'

/** `linux/magic.h` */
const SYSFS_MAGIC = 0x62656572
const PROC_SUPER_MAGIC = 0x9fa0

/** How long the kernel may take to say what one open file is, in milliseconds. */
const PATIENCE = 2000

/** The result of a call of `node:fs`, or a negated errno. */
function attempt<T>(call: () => T): T | number {
  try {
    return call()
  } catch (error) {
    const errno = errnoOf(error)
    if (errno === null) throw error
    return -errno
  }
}

/** Bytes of all entries one behind the other, and for each where it starts and how long it is, as the addon has them. */
class Spans {
  readonly #parts: Uint8Array[] = []
  readonly #spans: number[] = []
  #length = 0

  add(answer: Uint8Array | number): void {
    if (typeof answer === 'number') {
      this.#spans.push(answer, 0)
      return
    }
    this.#spans.push(this.#length, answer.length)
    this.#parts.push(answer)
    this.#length += answer.length
  }

  done() {
    return { data: Buffer.concat(this.#parts, this.#length), spans: Int32Array.from(this.#spans) }
  }
}

/** By how many tabs a line is indented at most. An expression is run by machine code, and a loop over the bytes is not. */
const HEADS = [/\n[^\t#\n]/g, /\n(?:[^\t#\n]|\t[^\t])/g, /\n(?:[^\t#\n]|\t(?:[^\t]|\t[^\t]))/g] as const

/** As many characters as it takes to see one. */
const HEAD_LENGTH = 4

/** So much is searched at first, in bytes: most are near. */
const FIRST_STRETCH = 0x400

/** What the addon's does. */
export const findHead: Binding['findHead'] = ({ buffer, byteOffset, byteLength }, from, tabs) => {
  const text = Buffer.from(buffer, byteOffset, byteLength)
  const head = HEADS[tabs] ?? HEADS[0]
  for (let [at, size] = [from, FIRST_STRETCH]; at < text.length; size *= 2) {
    const end = at + size
    head.lastIndex = 0
    const found = head.exec(text.toString('latin1', at, end))
    if (found !== null) return at + found.index
    at = end - HEAD_LENGTH + 1
  }
  return -1
}

/**
 * What the addon's `readTree` does, with the calls of `node:fs`: on every platform, and not as quick. Here an entry is
 * found by its whole path, and of a config space all is read.
 */
export const readTree: Binding['readTree'] =
  (...wanted) =>
  () =>
    readAll(...wanted)

function readAll(...[root, given, files, limits, links, lists, nodes]: Parameters<Binding['readTree']>) {
  const directories = typeof given === 'string' ? given.split('\0') : given
  const batch = new Spans()
  const scratch = Buffer.allocUnsafe(Math.max(0, ...limits))
  const rows = directories.map((directory) => (name: string) => join(root, directory, name))
  const isLive = nodes.length > 0 && isOn(root, PROC_SUPER_MAGIC)
  const found = isLive ? nodesBeside(rows.flatMap((at) => nodes.map(at))) : []
  for (const [row, at] of rows.entries()) {
    for (const [column, name] of files.entries())
      batch.add(readFile(at(name), scratch.subarray(0, limits[column])))
    for (const name of links)
      batch.add(readLink(name === '.' ? join(root, directories[row] ?? '') : at(name)))
    for (const name of lists) batch.add(readList(at(name)))
    for (const [column, name] of nodes.entries())
      batch.add((isLive ? found[row * nodes.length + column] : undefined) ?? readNode(at(name)))
  }
  return batch.done()
}

/** `null` for what names nothing: the kernel finds nothing there, and Node takes no such path. */
function join(...names: readonly string[]): string | Buffer | null {
  return names.some((name) => name === '' || name.includes('\0')) ? null : pathOf(names.join('/'))
}

type Path = ReturnType<typeof join>

function readFile(path: Path, into: Buffer): Uint8Array | number {
  if (path === null) return -system.errno.ENOENT
  return attempt(() => {
    // A FIFO in a hostile tree must not hang the reader. Windows has neither flag.
    const file = openSync(path, constants.O_RDONLY | constants.O_NOCTTY | constants.O_NONBLOCK)
    try {
      return Uint8Array.from(into.subarray(0, readSync(file, into, 0, into.length, null)))
    } finally {
      closeSync(file)
    }
  })
}

function readLink(path: Path): Uint8Array | number {
  if (path === null) return -system.errno.ENOENT
  return attempt(() => toBytes(readlinkSync(path, { encoding: 'buffer' })))
}

/** The names in a directory, each followed by a NUL; hidden ones are left out. */
function readList(path: Path): Uint8Array | number {
  if (path === null) return -system.errno.ENOENT
  return attempt(() => {
    const names = readdirSync(path, 'buffer').map(toBytes)
    return Buffer.concat(names.flatMap((name) => (name[0] === DOT ? [] : [name, END])))
  })
}

const DOT = 0x2e
const END = Buffer.alloc(1)

/** Some runtimes give text, whatever they were asked for. */
const toBytes = (name: string | Buffer) => (typeof name === 'string' ? Buffer.from(name) : name)

function readNode(path: Path): Uint8Array | number {
  if (path === null) return -system.errno.ENOENT
  return attempt(() => {
    const { mode, rdev } = statSync(path, { bigint: true })
    return Buffer.from(deviceText(mode, rdev))
  })
}

/** stat(2) of an open file on a dead network file system may block for ever. */
function nodesBeside(paths: readonly Path[]): (Uint8Array | number)[] {
  const asked = paths.map((path) => path ?? '')
  return askBeside('stat', asked, PATIENCE).map((answer) => {
    if (typeof answer === 'number') return answer
    const [mode = '0', rdev = '0'] = Buffer.from(answer).toString('latin1').split(' ')
    return Buffer.from(deviceText(BigInt(mode), BigInt(rdev)))
  })
}

const KIND = 0o170000n
const KINDS = new Map([
  [0o020000n, 'c'],
  [0o060000n, 'b'],
])

/** As the addon writes it: `c1:3`, `b259:0`; empty for what is no device. */
function deviceText(mode: bigint, rdev: bigint): string {
  const kind = KINDS.get(mode & KIND)
  return kind === undefined ? '' : kind + deviceNumber(rdev)
}

/** Is it, or can it not be told whether it is, in a file system of this kind? */
function isOn(path: string | Buffer, magic: number): boolean {
  const type = attempt(() => ({ type: statfsSync(path).type }))
  return typeof type === 'number' ? type !== -system.errno.ENOENT : type.type === magic
}

/** What the addon's `readWaiting` does: what is no attribute of the kernel's is read at once, all else by a process beside. */
export const readWaiting: Binding['readWaiting'] = (paths, patience) => () => {
  const scratch = Buffer.allocUnsafe(LARGEST)
  const answers = paths.map((path) => {
    const at = join(path)
    return at !== null && mayWait(at) ? null : readFile(at, scratch)
  })
  const rest = paths.flatMap((path, index) => (answers[index] === null ? [pathOf(path)] : []))
  const asked = askBeside('read', rest, patience).values()
  const batch = new Spans()
  for (const answer of answers) batch.add(answer ?? asked.next().value ?? -system.errno.ETIMEDOUT)
  return batch.done()
}

/** As much of a file as may be waited for is read, in bytes. */
const LARGEST = 4096

function mayWait(path: string | Buffer): boolean {
  const isFile = attempt(() => statSync(path).isFile())
  // What is not there keeps nobody waiting.
  if (typeof isFile === 'number') return false
  return !isFile || isOn(path, SYSFS_MAGIC)
}

/** Is it on sysfs, as far as can be told? */
export const isSysfs = (path: string): boolean => isOn(pathOf(path), SYSFS_MAGIC)
