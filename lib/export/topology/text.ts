import { cut, wrapTo } from '../../columns.js'
import { shortAddress } from '../../sysfs/short-names.js'
import { inAscii } from '../../text.js'
import { countOf, foldRoots, withoutInfrastructure } from './fold.js'
import { fewOf, type Glimpse, glimpsesOf } from './glance.js'
import { type Bracket, bracketsOf } from './lanes.js'
import type { HostTopology } from './model.js'
import { notesOf } from './notes.js'
import { type Row, rowsOf } from './rows.js'
import { type Item, type Root, treeOf } from './tree.js'

/** How a terminal shows that something is good, doubtful, bad, beside the point, or a heading. */
export interface Paint {
  readonly good: (text: string) => string
  readonly doubtful: (text: string) => string
  readonly bad: (text: string) => string
  readonly faint: (text: string) => string
  readonly strong: (text: string) => string
}

export interface TextOptions {
  /** So many columns, at least 40; left out: as many as it takes. */
  readonly columns?: number | undefined
  /** Lines and marks beyond ASCII. */
  readonly unicode?: boolean | undefined
  /** Bridges and parts of the machine that nothing else hangs on too. */
  readonly all?: boolean | undefined
  /** Left out: no colours. */
  readonly paint?: Paint | undefined
}

const plain = (text: string) => text
const PLAIN: Paint = { good: plain, doubtful: plain, bad: plain, faint: plain, strong: plain }

interface Signs {
  readonly branch: string
  readonly last: string
  readonly line: string
  /** Of a bracket: its first row, its last, a member between, a row that it passes, and one row alone. */
  readonly bracket: readonly [first: string, last: string, member: string, passed: string, alone: string]
  readonly mark: string
}

const UNICODE: Signs = {
  branch: '├─',
  last: '└─',
  line: '│',
  bracket: ['┐', '┘', '┤', '│', ']'],
  mark: '✗',
}
const ASCII: Signs = { branch: '|-', last: '`-', line: '|', bracket: ['.', "'", '+', '|', ']'], mark: 'x' }

/** Below that, levels are less deep. */
const NARROW = 80
/** More brackets beside each other take the room of what they are about. */
const MOST_LANES = 4
/** Behind the brackets of a row that belongs to another one too, which found no place. */
const MORE = '…'

/** The tree as a terminal shows it, and below it what people look for first. */
export function topologyText(topology: HostTopology, options: TextOptions = {}): string {
  const { columns = Number.POSITIVE_INFINITY, unicode = true, all = false, paint = PLAIN } = options
  const signs = unicode ? UNICODE : ASCII
  const room = Math.max(40, columns)
  const whole = treeOf(topology)
  const shown = all ? whole : withoutInfrastructure(whole)
  const rows = rowsOf(foldRoots(shown))
  const lines = rows.length > 0 ? drawRows(rows, room, signs, paint) : []
  const hidden = sizeOf(whole) - sizeOf(shown)
  if (hidden > 0) {
    const what =
      hidden === 1 ? '1 bridge or part of the machine is' : `${hidden} bridges and parts of the machine are`
    lines.push(paint.faint(`${what} not shown: --all shows them`))
  }
  const glimpses = glimpsesOf(topology)
  if (glimpses.length > 0) lines.push('')
  for (const glimpse of glimpses) lines.push(...glimpseLines(glimpse, room, signs, paint))
  for (const note of notesOf(topology)) lines.push('', wrapTo(room, note, 0))
  const text = `${lines.join('\n')}\n`
  return unicode ? text : inAscii(text)
}

const sizeOf = (roots: readonly Root[]) => roots.reduce((sum, { children }) => sum + countOf(children), 0)

// --- columns

type ColumnName = 'device' | 'driver' | 'verdict' | 'used' | 'group' | 'reset' | 'numa' | 'name'

interface Column {
  readonly name: ColumnName
  readonly head: string
  readonly cells: readonly string[]
  readonly width: number
}

/** Columns in which most devices are known by name, and in which one can be told from another. */
const GOOD_NAME = 20
const SHORT_NAME = 12
const SHORT_DRIVER = 8

function drawRows(rows: readonly Row[], room: number, signs: Signs, paint: Paint): string[] {
  const groups = drawBrackets(
    rows.map(({ groupKeys }) => groupKeys),
    rows,
    signs,
  )
  const resets = drawBrackets(
    rows.map(({ resetKeys }) => resetKeys),
    rows,
    signs,
  )
  const own = (text: (row: Row, item: Item) => string) =>
    rows.map((row) => (row.item === null ? '' : text(row, row.item)))
  const numas = new Set(rows.flatMap(({ item }) => (item === null ? [] : [item.numa])))
  const groupWidth = Math.max(...rows.map(({ group }) => group.length))
  const resetWidth = Math.max(...rows.map(({ item }) => item?.reset.length ?? 0))
  const all = (isShort: boolean): Column[] => [
    column(
      'device',
      'DEVICE',
      rows.map((row) => treeText(row, signs, room < NARROW, isShort)),
    ),
    column(
      'driver',
      'DRIVER',
      own((_, { driver }) => driver),
    ),
    column(
      'verdict',
      'VERDICT',
      own((_, { infrastructure, word }) => (infrastructure ? '-' : word)),
    ),
    column(
      'used',
      'USED',
      own((_, { use }) => use),
    ),
    column(
      'group',
      'GROUP',
      rows.map(({ group, item }, at) =>
        `${(item === null ? '' : group).padStart(groupWidth)} ${groups[at]}`.trimEnd(),
      ),
    ),
    column(
      'reset',
      'RESET',
      rows.map(({ item }, at) => `${(item?.reset ?? '').padEnd(resetWidth)} ${resets[at]}`.trimEnd()),
    ),
    column('numa', 'NUMA', numas.size > 1 ? own((_, { numa }) => (numa === null ? '-' : String(numa))) : []),
    column(
      'name',
      'NAME',
      own((_, { name }) => name),
    ),
  ]
  const lay = (isShort: boolean) =>
    layOut(
      all(isShort).filter(({ name, cells }) => name === 'device' || cells.some((cell) => cell !== '')),
      room,
    )
  // The last address of those that are alike is what can be done without first.
  const long = lay(false)
  const columns = isCrowded(long) ? lay(true) : long
  const head = columns.map(({ head, width }) => cut(head, width).padEnd(width)).join(' ')
  return [
    paint.strong(head.trimEnd()),
    ...rows.map((row, at) =>
      columns
        .map(({ name, cells, width }) => painted(name, cut(cells[at] ?? '', width).padEnd(width), row, paint))
        .join(' ')
        .trimEnd(),
    ),
  ]
}

/** Is something cut or left out that says what a device is? */
const isCrowded = (columns: readonly Column[]) =>
  columns.every(({ name }) => name !== 'driver') ||
  columns.some(({ name, width, cells }) => name === 'device' && cells.some((cell) => cell.length > width))

const column = (name: ColumnName, head: string, cells: readonly string[]): Column => ({
  name,
  head,
  cells,
  width: Math.max(head.length, ...cells.map((cell) => cell.length)),
})

/** The name takes what is left of the line; then goes what a person can do without when choosing. */
function layOut(all: readonly Column[], room: number): Column[] {
  let columns = [...all]
  if (!Number.isFinite(room)) return columns
  const taken = () => columns.reduce((sum, { name, width }) => sum + (name === 'name' ? 0 : width + 1), 0)
  const isTooWide = (name: number) => taken() + name - (name === 0 ? 1 : 0) > room
  const narrow = (which: ColumnName, least: number, name: number) => {
    const over = taken() + name - room
    if (over <= 0) return
    columns = columns.map((one) =>
      one.name === which ? { ...one, width: Math.max(Math.min(least, one.width), one.width - over) } : one,
    )
  }
  narrow('driver', SHORT_DRIVER, GOOD_NAME)
  if (isTooWide(SHORT_NAME)) columns = columns.filter(({ name }) => name !== 'name')
  for (const which of ['numa', 'driver'] as const)
    if (isTooWide(0)) columns = columns.filter(({ name }) => name !== which)
  narrow('device', 24, 0)
  if (isTooWide(0)) columns = columns.filter(({ name }) => name !== 'reset')
  narrow('device', 16, 0)
  if (isTooWide(0)) columns = columns.filter(({ name }) => name !== 'group')
  const left = room - taken()
  return columns.map((one) => (one.name === 'name' ? { ...one, width: Math.min(one.width, left) } : one))
}

function painted(name: ColumnName, cell: string, { item }: Row, paint: Paint): string {
  const text = cell.trimEnd()
  const rest = cell.slice(text.length)
  if (item === null) return paint.strong(text) + rest
  if (item.infrastructure) return name === 'group' || name === 'reset' ? cell : paint.faint(text) + rest
  if (name === 'verdict') return VERDICTS[item.word](paint)(text) + rest
  if (name === 'used' && item.use !== '?') return paint.bad(text) + rest
  return cell
}

const VERDICTS: Readonly<Record<Item['word'], (paint: Paint) => (text: string) => string>> = {
  ready: ({ good }) => good,
  bindable: ({ doubtful }) => doubtful,
  'in use': ({ bad }) => bad,
  blocked: ({ bad }) => bad,
}

// --- lines

function treeText(
  { follows, address, what, item, place }: Row,
  signs: Signs,
  isNarrow: boolean,
  isShort: boolean,
): string {
  if (item === null || place === null) return address
  const { branch, last, line } = signs
  const step = isNarrow ? 2 : 3
  const above = follows.slice(0, -1).map((more) => (more ? line : '').padEnd(step))
  const own = (follows.at(-1) ? branch : last).slice(0, step - 1).padEnd(step)
  const count = place.items.length
  const which = isShort && count > 1 ? `${count} × ${shortAddress(item.id)}` : address
  return `${above.join('')}${own}${which} ${what}`
}

/** What stands in the lanes beside each row. */
function drawBrackets(
  keys: readonly (readonly string[])[],
  rows: readonly Row[],
  { bracket: [first, last, member, passed, alone] }: Signs,
): string[] {
  const { drawn: brackets, left } = bracketsOf(keys, MOST_LANES)
  const lanes = Math.max(0, ...brackets.map(({ lane }) => lane + 1))
  const sign = (bracket: Bracket | undefined, row: number) => {
    if (bracket === undefined) return ' '
    if (row === bracket.first) return first
    if (row === bracket.last) return last
    return bracket.members.has(row) ? member : passed
  }
  return rows.map((row, at) => {
    const inLane = (lane: number) =>
      brackets.find((one) => one.lane === lane && one.first <= at && at <= one.last)
    const text = Array.from({ length: lanes }, (_, lane) => sign(inLane(lane), at)).join('')
    if (left.has(at)) return `${text}${MORE}`
    // Several that are drawn as one row, and belong together all the same.
    return text.trim() === '' && isOneOfAll(keys[at] ?? [], row) ? alone : text
  })
}

const isOneOfAll = (keys: readonly string[], { place }: Row) =>
  place !== null && place.items.length > 1 && keys.some((key) => !key.includes(','))

// --- what people look for first

/** So many are named before the rest is counted. */
const NAMED = 6
const TITLE = 18

function glimpseLines({ kind, title, entries }: Glimpse, room: number, signs: Signs, paint: Paint): string[] {
  const head = title.padEnd(TITLE)
  const colour = COLOURS[kind](paint)
  if (kind === 'free' || kind === 'unsure') {
    const named = entries.slice(0, NAMED).map(({ text }) => text)
    const more = entries.length - named.length
    const text = `${entries.length}: ${named.join(' ')}${more > 0 ? ` and ${more} more` : ''}`
    return [colour(head) + wrapTo(room, text, TITLE, '')]
  }
  const { texts, rest } = fewOf(entries, NAMED)
  const mark = kind === 'lost' ? `${signs.mark} ` : ''
  const lines = texts.map(
    (text, at) => (at === 0 ? colour(head) : ' '.repeat(TITLE)) + wrapTo(room, `${mark}${text}`, TITLE, ''),
  )
  return rest > 0 ? [...lines, `${' '.repeat(TITLE)}and ${rest} more`] : lines
}

const COLOURS: Readonly<Record<Glimpse['kind'], (paint: Paint) => (text: string) => string>> = {
  free: ({ good }) => good,
  unsure: ({ doubtful }) => doubtful,
  together: ({ doubtful }) => doubtful,
  resets: ({ doubtful }) => doubtful,
  lost: ({ bad }) => bad,
  blocked: ({ bad }) => bad,
}
