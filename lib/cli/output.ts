import { cut, wrapTo } from '../columns.js'
import { inAscii, printable } from '../text.js'

// A replacer would be called for every value of a large host; this is called for the bigints alone.
Object.defineProperty(BigInt.prototype, 'toJSON', {
  value(this: bigint) {
    return `0x${this.toString(16)}`
  },
})

/** JSON as every command prints it: what the library returned, a bigint as `0x…`, and nothing that steers a terminal. */
export function toJson(value: unknown): string {
  const text = JSON.stringify(value)
  // JSON has escaped all of ASCII that is not printable, but for DEL.
  const isPlain = Buffer.byteLength(text) === text.length && !text.includes('\u007f')
  return `${isPlain ? text : printable(text)}\n`
}

/** Writes to standard output. A reader that goes away early (`| head`) is no error. */
export function print(text: string): void {
  process.stdout.write(text)
}

/** Prints what the library returned, as JSON or as a person reads it. */
export function answer<T>(value: T, isJson: boolean | undefined, render: (value: T) => string): void {
  print(isJson ? toJson(value) : readable(value, render))
}

/** A value as a person reads it, whatever is in it. */
export const readable = <T>(value: T, render: (value: T) => string): string =>
  inLocale(render(harmless(value)))

/** One line on standard error, for the person. */
export function note(text: string): void {
  process.stderr.write(`${inLocale(printable(text))}\n`)
}

/** The first of these that says something decides, as in setlocale(3). */
const LOCALE = process.env.LC_ALL || process.env.LC_CTYPE || process.env.LANG || 'C'

/** Can the locale show more than ASCII? */
export const showsUnicode = /utf-?8/i.test(LOCALE)

/** What the locale cannot show is replaced, character by character. */
export const inLocale = (text: string) => (showsUnicode ? text : inAscii(text))

/** An argument may have line breaks in it; a message about it is one line all the same. */
export const oneLine = (text: string) => text.trim().replace(/\s+/g, ' ')

/** A copy with every text in it made printable: before colours and line ends of our own come to it. */
function harmless<T>(value: T): T
function harmless(value: unknown): unknown {
  if (typeof value === 'string') return printable(value)
  if (Array.isArray(value)) return value.map(harmless)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, harmless(part)]))
}

const paint = (code: number) => (text: string) =>
  process.stdout.isTTY && !process.env.NO_COLOR ? `\u001b[${code}m${text}\u001b[0m` : text

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
  if (!process.stdout.isTTY) return Number.POSITIVE_INFINITY
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
