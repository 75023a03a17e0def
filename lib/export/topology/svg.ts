import { cut, wrapTo } from '../../columns.js'
import { shortly } from '../../sysfs/short-names.js'
import { foldRoots, withoutInfrastructure } from './fold.js'
import { fewOf, glimpsesOf } from './glance.js'
import { type Bracket, type Brackets, bracketsOf } from './lanes.js'
import { escaped } from './markup.js'
import type { HostTopology } from './model.js'
import { notesOf } from './notes.js'
import { type Row, rowsOf } from './rows.js'
import { summaryOf } from './summary.js'
import { type Item, treeOf } from './tree.js'

export interface SvgOptions {
  /** Bridges and parts of the machine that nothing else hangs on too. */
  readonly all?: boolean | undefined
  /** `auto`, the default: as who looks at it prefers. */
  readonly theme?: 'auto' | 'light' | 'dark' | undefined
}

// --- sizes, in pixels

const MARGIN = 20
const ROW = 24
const STEP = 20
const GAP = 16
const LANE = 10
const MOST_LANES = 6
/** What a character of a text of this size takes, rather more than less: fonts differ. */
const MONO = 7.7
const SANS = 7.6
const TOP = 84
const LONGEST_NAME = 34
const LONGEST_DRIVER = 16

interface Palette {
  readonly [name: string]: string
}

const LIGHT: Palette = {
  back: 'fill:#ffffff',
  text: 'fill:#1f2328',
  muted: 'fill:#59636e',
  bus: 'fill:#1f2328;font-weight:600',
  wire: 'stroke:#818b98;fill:none',
  rule: 'stroke:#d1d9e0;fill:none',
  group: 'stroke:#0969da;fill:none;stroke-width:1.75',
  'group-text': 'fill:#0550ae',
  reset: 'stroke:#8250df;fill:none;stroke-width:1.75;stroke-dasharray:4 2.5',
  'reset-text': 'fill:#6639ba',
  ready: 'fill:#dafbe1',
  'ready-text': 'fill:#116329',
  bindable: 'fill:#fff8c5',
  'bindable-text': 'fill:#7d4e00',
  'in-use': 'fill:#ffebe9',
  'in-use-text': 'fill:#a40e26',
  blocked: 'fill:#eaeef2',
  'blocked-text': 'fill:#a40e26',
}

const DARK: Palette = {
  back: 'fill:#0d1117',
  text: 'fill:#f0f6fc',
  muted: 'fill:#9198a1',
  bus: 'fill:#f0f6fc;font-weight:600',
  wire: 'stroke:#656c76;fill:none',
  rule: 'stroke:#3d444d;fill:none',
  group: 'stroke:#4493f8;fill:none;stroke-width:1.75',
  'group-text': 'fill:#79c0ff',
  reset: 'stroke:#ab7df8;fill:none;stroke-width:1.75;stroke-dasharray:4 2.5',
  'reset-text': 'fill:#d2a8ff',
  ready: 'fill:#12361f',
  'ready-text': 'fill:#7ee787',
  bindable: 'fill:#3b2e0a',
  'bindable-text': 'fill:#e3b341',
  'in-use': 'fill:#4a1519',
  'in-use-text': 'fill:#ffaba8',
  blocked: 'fill:#262c36',
  'blocked-text': 'fill:#ffaba8',
}

const rules = (palette: Palette) =>
  Object.entries(palette)
    .map(([name, style]) => `.${name}{${style}}`)
    .join('')

const STYLES = {
  auto: `${rules(LIGHT)}@media (prefers-color-scheme:dark){${rules(DARK)}}`,
  light: rules(LIGHT),
  dark: rules(DARK),
}

const FONTS =
  'text{font:12.5px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}.mono{font-family:ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace}.title{font-size:16px;font-weight:600}.head{font-size:11px;font-weight:600}.strong{font-weight:600}'

const classOf = (word: Item['word']) => word.replace(' ', '-')
const number = (value: number) => String(Math.round(value * 10) / 10)

function textAt(x: number, y: number, classes: string, text: string, anchor = ''): string {
  const end = anchor === '' ? '' : ` text-anchor="${anchor}"`
  return `<text x="${number(x)}" y="${number(y)}" class="${classes}"${end}>${escaped(text)}</text>`
}

/** Where each column begins. */
interface Places {
  readonly name: number
  readonly driver: number
  readonly verdict: number
  readonly use: number
  readonly group: number
  readonly groupLanes: number
  readonly reset: number
  readonly resetLanes: number
  readonly numa: number
  readonly end: number
}

/** The tree as a picture by itself: rows with brackets around what is one group and what resets together. */
export function topologySvg(
  topology: HostTopology,
  { all = false, theme = 'auto' }: SvgOptions = {},
): string {
  const whole = treeOf(topology)
  const rows = rowsOf(foldRoots(all ? whole : withoutInfrastructure(whole)))
  const groups = bracketsOf(
    rows.map(({ groupKeys }) => groupKeys),
    MOST_LANES,
  )
  const resets = bracketsOf(
    rows.map(({ resetKeys }) => resetKeys),
    MOST_LANES,
  )
  const places = placesOf(rows, groups, resets)
  const reasons = new Map([
    ...topology.devices.map(({ address, reason }) => [address, reason] as const),
    ...(topology.mediated ?? []).map(({ uuid, reason }) => [uuid, reason] as const),
  ])
  const width = Math.max(640, places.end + MARGIN)
  const below = TOP + rows.length * ROW + 14
  const glance = glanceLines(topology, below, width)
  const height = below + glance.length * 18 + MARGIN
  const title = `PCI topology, Linux ${topology.host.kernel}`
  return `${[
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${number(width)} ${number(height)}" width="${number(width)}" height="${number(height)}" role="img" aria-labelledby="title desc">`,
    `<title id="title">${escaped(title)}</title>`,
    `<desc id="desc">${escaped(summaryOf(topology))}</desc>`,
    `<style>${STYLES[theme]}${FONTS}</style>`,
    `<rect class="back" x="0" y="0" width="${number(width)}" height="${number(height)}" rx="10"/>`,
    textAt(MARGIN, 32, 'text title', title),
    textAt(MARGIN, 52, 'muted', summaryOf(topology)),
    ...headLine(places, rows),
    ...wires(rows),
    ...rows.map((row, at) => drawRow(row, at, places, reasons)),
    ...drawBrackets(groups, places.groupLanes, 'group'),
    ...drawBrackets(resets, places.resetLanes, 'reset'),
    `<path class="rule" d="M${MARGIN} ${number(below - 8)}H${number(width - MARGIN)}"/>`,
    ...glance,
    '</svg>',
  ].join('\n')}\n`
}

const middleOf = (at: number) => TOP + at * ROW + ROW / 2
const indentOf = ({ follows }: Row) => MARGIN + follows.length * STEP

const deviceWidth = (row: Row) => row.address.length * MONO + (row.what.length + 1) * SANS
const longest = (texts: readonly string[]) => Math.max(0, ...texts.map((text) => text.length))

const laneCount = ({ drawn }: Brackets) => Math.max(0, ...drawn.map(({ lane }) => lane + 1))

function placesOf(rows: readonly Row[], groups: Brackets, resets: Brackets): Places {
  const items = rows.flatMap(({ item }) => item ?? [])
  // Behind the last is room for the sign that there are more.
  const lanes = (brackets: Brackets) => (laneCount(brackets) + (brackets.left.size > 0 ? 1 : 0)) * LANE
  const name = Math.max(MARGIN, ...rows.map((row) => indentOf(row) + deviceWidth(row))) + GAP
  const driver = name + Math.min(LONGEST_NAME, longest(items.map((item) => item.name))) * SANS + GAP
  const verdict = driver + Math.min(LONGEST_DRIVER, longest(items.map((item) => item.driver))) * SANS + GAP
  const use = verdict + 70
  const group = use + (items.some((item) => item.use !== '') ? 68 : 0)
  const groupLanes = group + Math.max(5, longest(rows.map((row) => row.group))) * MONO + 8
  const reset = groupLanes + lanes(groups) + GAP
  const resetLanes = reset + 62
  const numa = resetLanes + lanes(resets) + GAP
  const hasNuma = new Set(items.map((item) => item.numa)).size > 1
  return {
    name,
    driver,
    verdict,
    use,
    group,
    groupLanes,
    reset,
    resetLanes,
    numa,
    end: numa + (hasNuma ? 44 : -GAP),
  }
}

function headLine(places: Places, rows: readonly Row[]): string[] {
  const head = (x: number, text: string) => textAt(x, TOP - 8, 'muted head', text)
  const items = rows.flatMap(({ item }) => item ?? [])
  return [
    head(MARGIN, 'DEVICE'),
    head(places.name, 'NAME'),
    head(places.driver, 'DRIVER'),
    head(places.verdict, 'VERDICT'),
    ...(items.some(({ use }) => use !== '') ? [head(places.use, 'USED')] : []),
    head(places.group, 'GROUP'),
    head(places.reset, 'RESET'),
    ...(places.end > places.numa ? [head(places.numa, 'NUMA')] : []),
  ]
}

/** From what is above to each row. */
function wires(rows: readonly Row[]): string[] {
  const lastAt: number[] = []
  const paths = rows.flatMap(({ follows }, at) => {
    const depth = follows.length
    lastAt[depth] = at
    if (depth === 0) return []
    const x = MARGIN + (depth - 1) * STEP + 7
    const from = middleOf(lastAt[depth - 1] ?? at) + 8
    return [`M${number(x)} ${number(from)}V${number(middleOf(at))}h${STEP - 10}`]
  })
  return paths.length > 0 ? [`<path class="wire" d="${paths.join('')}"/>`] : []
}

function drawRow(row: Row, at: number, places: Places, reasons: ReadonlyMap<string, string>): string {
  const { item, address, what } = row
  const y = middleOf(at) + 4
  const x = indentOf(row)
  if (item === null) return textAt(x, y, 'bus', address)
  const tone = item.infrastructure ? 'muted' : 'text'
  const parts = [
    `<title>${escaped(titleOf(row, reasons))}</title>`,
    textAt(x, y, `${tone} mono`, address),
    textAt(x + address.length * MONO + SANS, y, tone, what),
    textAt(places.name, y, 'muted', cut(item.name, LONGEST_NAME)),
    textAt(places.driver, y, 'muted', cut(item.driver, LONGEST_DRIVER)),
  ]
  if (!item.infrastructure) {
    const name = classOf(item.word)
    const wide = item.word.length * 6.6 + 14
    parts.push(
      `<rect class="${name}" x="${number(places.verdict - 4)}" y="${number(y - 13)}" width="${number(wide)}" height="18" rx="9"/>`,
      textAt(places.verdict - 4 + wide / 2, y, `${name}-text`, item.word, 'middle'),
    )
  }
  if (item.use !== '') {
    const mark = item.use === '?' ? '' : '✗ '
    parts.push(textAt(places.use, y, item.use === '?' ? 'muted' : 'in-use-text', `${mark}${item.use}`))
  }
  parts.push(textAt(places.groupLanes - 8, y, 'group-text mono', row.group, 'end'))
  if (item.reset !== '')
    parts.push(textAt(places.reset, y, item.reset.startsWith('hot') ? 'reset-text' : 'muted', item.reset))
  if (places.end > places.numa) parts.push(textAt(places.numa, y, 'muted', String(item.numa ?? '-')))
  return `<g>${parts.join('')}</g>`
}

function titleOf({ place, item }: Row, reasons: ReadonlyMap<string, string>): string {
  const said = shortly(reasons.get(item?.id ?? '') ?? '')
  const count = place?.items.length ?? 1
  return count > 1 ? `${count} alike, the first: ${said}` : said
}

/** Side by side, and a sign at the rows of those that found no place. */
function drawBrackets(brackets: Brackets, from: number, name: 'group' | 'reset'): string[] {
  const behind = from + laneCount(brackets) * LANE
  return [
    ...brackets.drawn.map((bracket) => drawBracket(bracket, from, name)),
    ...[...brackets.left].map((row) => textAt(behind, middleOf(row) + 4, `${name}-text`, '…')),
  ]
}

function drawBracket({ first, last, members, lane }: Bracket, from: number, name: 'group' | 'reset'): string {
  const x = from + lane * LANE + 7
  const ticks = [...members].map((row) => `M${number(x - 6)} ${number(middleOf(row))}h6`)
  return `<path class="${name}" d="${ticks.join('')}M${number(x)} ${number(middleOf(first))}V${number(middleOf(last))}"/>`
}

const NAMED = 4
const TITLE = 116
const CLASSES = {
  free: 'ready-text',
  unsure: 'bindable-text',
  together: 'group-text',
  resets: 'reset-text',
  lost: 'in-use-text',
  blocked: 'blocked-text',
} as const

/** What people look for first, in lines below the tree. */
function glanceLines(topology: HostTopology, top: number, width: number): string[] {
  const room = Math.floor((width - 2 * MARGIN - TITLE) / 6.6)
  const lines: string[] = []
  const heightOf = (at: number) => top + 12 + at * 18
  for (const note of notesOf(topology).flatMap((text) => wrapTo(room, text, 0).split('\n')))
    lines.push(textAt(MARGIN, heightOf(lines.length), 'text strong', note))
  for (const { kind, title, entries } of glimpsesOf(topology)) {
    const isList = kind === 'free' || kind === 'unsure'
    const named = entries.slice(0, 2 * NAMED).map(({ text }) => text)
    const rest = entries.length - named.length
    const few = fewOf(entries, NAMED)
    const texts = isList
      ? [`${entries.length}: ${named.join(' ')}${rest > 0 ? ` and ${rest} more` : ''}`]
      : [...few.texts, ...(few.rest > 0 ? [`and ${few.rest} more`] : [])]
    const wrapped = texts.flatMap((text) => wrapTo(room, text, 0).split('\n'))
    for (const [at, text] of wrapped.entries()) {
      const y = heightOf(lines.length)
      const head = at === 0 ? textAt(MARGIN, y, `${CLASSES[kind]} strong`, title) : ''
      lines.push(`${head}${textAt(MARGIN + TITLE, y, 'text', text)}`)
    }
  }
  return lines
}
