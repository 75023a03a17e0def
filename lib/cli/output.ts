import { fstatSync, writeSync } from 'node:fs'
import { cut, wrapTo } from '../columns.js'
import { inAscii, printable } from '../text.js'

// A replacer would be called for every value of a large host; this is called for the bigints alone.
Object.defineProperty(BigInt.prototype, 'toJSON', {
  value(this: bigint) {
    return `0x${this.toString(16)}`
  },
})

/** JSON as every command prints it: what the library returned, a bigint as `0x…`, and nothing that steers a terminal. */
export const toJson = (value: unknown): string => `${safe(JSON.stringify(value))}\n`

const safe = (json: string) => (isAscii(json) && !json.includes(DELETE) ? json : printable(json))

/** So many elements of a list become text at once: some ten thousand characters, of devices. */
const STEP = 64

/** A part of what is printed: text, and of that of a list all but its brackets. */
interface JsonPart {
  readonly head: string
  readonly list: string
}

const EMPTY_LIST = '[]'

/** A list whose elements are made when they are printed, so that no more of them than these take memory at once. */
export class Making<From, To> {
  readonly #from: readonly From[]
  readonly #make: (from: From) => To

  constructor(from: readonly From[], make: (from: From) => To) {
    this.#from = from
    this.#make = make
  }

  get length(): number {
    return this.#from.length
  }

  slice(start: number, end: number): To[] {
    return this.#from.slice(start, end).map(this.#make)
  }

  toJSON(): To[] {
    return this.#from.map(this.#make)
  }
}

/** A part as a text. */
export const partText = ({ head, list }: JsonPart): string => head + list.slice(1, -1)

/**
 * The same in parts, each short: of a large host all of it is millions of characters, and to touch that much new memory a few
 * times over takes as long as to look at the host.
 */
export function* jsonParts(value: object): Generator<JsonPart> {
  if (Array.isArray(value)) return yield { head: toJson(value), list: EMPTY_LIST }
  let text = '{'
  let comma = ''
  for (const [name, part] of Object.entries(value)) {
    const isLong = (Array.isArray(part) || part instanceof Making) && part.length > STEP
    const json = isLong ? '[' : JSON.stringify(part)
    if (json === undefined) continue
    text += `${comma}${JSON.stringify(name)}:${json}`
    comma = ','
    if (!isLong) continue
    for (let at = 0; at < part.length; at += STEP) {
      yield { head: at === 0 ? safe(text) : ',', list: safe(JSON.stringify(part.slice(at, at + STEP))) }
    }
    text = ']'
  }
  yield { head: `${safe(text)}}\n`, list: EMPTY_LIST }
}

const DESCRIPTORS = { stdout: 1, stderr: 2 } as const
type Stream = keyof typeof DESCRIPTORS

/** Who hears that output is lost. While there is somebody text goes to the descriptors: Node's streams take long to load. */
let onLost: ((error: Error) => void) | null = null

/** From now on text is written without Node's streams, until something asks for these. */
export function writeDirectly(lost: (error: Error) => void): void {
  onLost = lost
}

/** From now on text goes through Node's streams: for what has to know when a reader goes away, or how wide a terminal is. */
export function throughStreams(): void {
  const lost = onLost
  if (lost === null) return
  onLost = null
  process.stdout.on('error', (error) => tell(lost, 'stdout', error))
  process.stderr.on('error', (error) => tell(lost, 'stderr', error))
}

/**
 * A reader that goes away early (`vfio list | head`) has seen what it wanted. Without standard error the command goes on, and
 * its exit status tells how it ended.
 */
function tell(lost: (error: Error) => void, stream: Stream, error: NodeJS.ErrnoException): void {
  if (lostStreams.has(stream)) return
  lostStreams.add(stream)
  if (stream === 'stdout' && error.code !== 'EPIPE') lost(error)
}

/** What is written there goes nowhere, which is told once. */
const lostStreams = new Set<Stream>()

/** Text as it is, to one of the two. */
export function write(stream: Stream, text: string): void {
  if (lostStreams.has(stream)) return
  if (onLost === null) process[stream].write(text)
  else writeBytes(stream, encoded(text), onLost)
}

function printPart(part: JsonPart): void {
  if (onLost === null) print(partText(part))
  else if (!lostStreams.has('stdout')) writeBytes('stdout', encodedPart(part), onLost)
}

function writeBytes(stream: Stream, bytes: Buffer, lost: (error: Error) => void): void {
  let written = 0
  try {
    while (written < bytes.length) written += writeSync(DESCRIPTORS[stream], bytes, written)
  } catch (error) {
    // Somebody else made the pipe one that does not wait: the stream does.
    if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') tell(lost, stream, error as Error)
    else {
      throughStreams()
      process[stream].write(bytes.subarray(written))
    }
  }
}

/** What is written is encoded here, as long as it has room, in bytes: the same memory again is quicker than new. */
const ROOM = 0x10000
let room: Buffer | undefined

function encoded(text: string): Buffer {
  const length = Buffer.byteLength(text)
  if (length > ROOM) return Buffer.from(text)
  room ??= Buffer.allocUnsafeSlow(ROOM)
  room.write(text)
  return room.subarray(0, length)
}

/** The same of a part, of which no text is made first. */
function encodedPart(part: JsonPart): Buffer {
  const { head, list } = part
  const [before, within] = [Buffer.byteLength(head), Buffer.byteLength(list)]
  if (before + within > ROOM) return Buffer.from(partText(part))
  room ??= Buffer.allocUnsafeSlow(ROOM)
  // The end of what comes before takes the place of the bracket.
  room.write(list, before - 1)
  room.write(head)
  return room.subarray(0, before + within - 2)
}

/** Ends the program, unless Node's streams may have something left to write. */
export function leave(): void {
  if (onLost !== null) process.exit()
}

/** Writes to standard output. A reader that goes away early (`| head`) is no error. */
export const print = (text: string): void => write('stdout', text)

/** Prints what the library returned, as JSON or as a person reads it. */
export function answer<T extends object>(
  value: T,
  isJson: boolean | undefined,
  render: (value: T) => string,
): void {
  if (!isJson) print(readable(value, render))
  else printJson(value)
}

/** Prints what the library returned, as JSON. */
export function printJson(value: object): void {
  for (const part of jsonParts(value)) printPart(part)
}

/** A value as a person reads it, whatever is in it. */
export const readable = <T>(value: T, render: (value: T) => string): string =>
  inLocale(render(harmless(value)))

/** One line on standard error, for the person. */
export function note(text: string): void {
  write('stderr', `${inLocale(printable(text))}\n`)
}

/** The first of these that says something decides, as in setlocale(3). */
const LOCALE = process.env.LC_ALL || process.env.LC_CTYPE || process.env.LANG || 'C'

/** Can the locale show more than ASCII? */
export const showsUnicode = /utf-?8/i.test(LOCALE)

/** What the locale cannot show is replaced, character by character. */
export const inLocale = (text: string) => (showsUnicode ? text : inAscii(text))

/** An argument may have line breaks in it; a message about it is one line all the same. */
export const oneLine = (text: string) => text.trim().replace(/\s+/g, ' ')

/** With every text in it made printable, before colours and line ends of our own come to it: itself where all are. */
const harmless = <T>(value: T): T => (isPlain(value) ? value : copied(value))

/** Is every text in it of ASCII that shows as it is? JSON tells of all at once: it escapes what does not. */
function isPlain(value: unknown): boolean {
  const text = JSON.stringify(value) ?? ''
  return isAscii(text) && !text.includes('\\') && !text.includes(DELETE)
}

const isAscii = (text: string) => Buffer.byteLength(text) === text.length

/** The one character of ASCII that is not printable and that JSON does not escape. */
const DELETE = '\u007f'

function copied<T>(value: T): T
function copied(value: unknown): unknown {
  if (typeof value === 'string') return printable(value)
  if (Array.isArray(value)) return value.map(copied)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, copied(part)]))
}

/** Numbers of the kernel's devices for memory, like /dev/null. */
const MEMORY_DEVICES = 1

let terminal: boolean | undefined

/** Is standard output a terminal? What is no device, or /dev/null, is told without Node's streams. */
export function isTerminal(): boolean {
  terminal ??= mayBeTerminal() && process.stdout.isTTY === true
  return terminal
}

function mayBeTerminal(): boolean {
  try {
    const facts = fstatSync(DESCRIPTORS.stdout)
    return facts.isCharacterDevice() && (process.platform !== 'linux' || facts.rdev >>> 8 !== MEMORY_DEVICES)
  } catch {
    return true
  }
}

const paint = (code: number) => (text: string) =>
  isTerminal() && !process.env.NO_COLOR ? `\u001b[${code}m${text}\u001b[0m` : text

/** Colours, on a terminal only and never against `NO_COLOR`. */
export const colour = {
  good: paint(32),
  doubtful: paint(33),
  bad: paint(31),
  faint: paint(2),
  strong: paint(1),
}

/** The width to write for: that of `COLUMNS`, else the terminal's; a pipe or a file has none. */
export function width(): number {
  const { COLUMNS = '' } = process.env
  if (/^[1-9]\d{0,4}$/.test(COLUMNS)) return Math.max(40, Number(COLUMNS))
  if (!isTerminal()) return Number.POSITIVE_INFINITY
  return Math.max(40, process.stdout.columns || 80)
}

/** Rows in columns, each as wide as its widest text; `right` says which are aligned to the right. */
export function table(rows: readonly (readonly string[])[], right: readonly boolean[] = []): string[] {
  const widths = (rows[0] ?? []).map((_cell, column) =>
    Math.max(...rows.map((row) => row[column]?.length ?? 0)),
  )
  return rows.map((row) =>
    cut(
      row
        .map((cell, column) => {
          const columns = widths[column] ?? 0
          return right[column] ? cell.padStart(columns) : cell.padEnd(columns)
        })
        .join(' '),
      width(),
    ).trimEnd(),
  )
}

/** Breaks a text into lines of the terminal's width; lines behind the first start at the same indent. */
export const wrap = (text: string, indent: number, first?: string) => wrapTo(width(), text, indent, first)
