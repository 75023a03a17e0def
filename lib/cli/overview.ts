import { cut } from '../columns.js'
import {
  classWord,
  harmsOf,
  isInfrastructure,
  resetWord,
  type Survey,
  type SurveyedDevice,
  type SurveyedMediated,
  shortAddress,
  shortly,
  shortName,
  useWord,
  verdictWord,
} from '../index.js'
import { colour, isTerminal, table, width, wrap } from './output.js'
import { along, verdictColour } from './words.js'

/** The columns of an overview. */
export const HEAD = [
  'GROUP',
  'ADDRESS',
  'CLASS',
  'DRIVER',
  'VERDICT',
  'WITH',
  'USED',
  'RESET',
  'DEVICE',
] as const
const [GROUP, ADDRESS, , DRIVER, VERDICT, WITH, USED, RESET, NAME] =
  HEAD.keys() as Iterable<number> as number[]

/** A text for each column. */
export type Row = readonly string[]

export function toRow(device: SurveyedDevice, group = ''): Row {
  const isShown = !isInfrastructure(device)
  return [
    group,
    shortAddress(device.address),
    classWord(device.class),
    device.driver ?? '-',
    isShown ? verdictWord(device) : '-',
    isShown ? along(device) : '',
    isShown ? useWord(device) : '',
    isShown ? resetWord(device) : '-',
    shortName(device),
  ]
}

export interface Column {
  readonly at: number
  readonly width: number
}

/** Columns in which most devices are known by name, and in which one can be told from another. */
const GOOD_NAME = 26
const SHORT_NAME = 14

/** Words that devices come to have while they are watched, by column. */
const LATER: Row = ['', '', 'Ethernet', 'vfio-pci', 'bindable', '', 'network', 'function', '']

/**
 * As wide as what is in them; the name takes what is left of the line, and empty columns take nothing.
 * @param before columns of the line that something else takes: of lines that come one by one, for which none is left out
 */
export function layOut(rows: readonly Row[], before = 0): Column[] {
  const room = width() - before
  const isEmpty = (at: number) =>
    before === 0 && (at === WITH || at === USED) && rows.every((row) => row[at] === '')
  const all = before === 0 ? [HEAD, ...rows] : [HEAD, LATER, ...rows]
  const widths = HEAD.map((_head, at) => Math.max(...all.map((row) => row[at]?.length ?? 0)))
  let columns = [...HEAD.keys()].filter((at) => !isEmpty(at)).map((at) => ({ at, width: widths[at] ?? 0 }))
  const taken = () => columns.reduce((sum, { at, width: one }) => sum + (at === NAME ? 0 : one + 1), 0)
  if (!Number.isFinite(room))
    return columns.map((one) => (one.at === NAME ? { at: one.at, width: Number.POSITIVE_INFINITY } : one))
  const isTooWide = (name: number) => taken() + name > room
  if (isTooWide(GOOD_NAME)) {
    const over = taken() + GOOD_NAME - room
    columns = columns.map((one) =>
      one.at === DRIVER ? { at: one.at, width: Math.max(8, one.width - over) } : one,
    )
  }
  // What a person can do without when choosing, in this order, and what when changes are told.
  for (const at of before === 0 ? [DRIVER, RESET, WITH, GROUP] : [RESET, WITH, GROUP, DRIVER])
    if (isTooWide(SHORT_NAME)) columns = columns.filter((one) => one.at !== at)
  return columns.map((one) => (one.at === NAME ? { at: one.at, width: Math.max(1, room - taken()) } : one))
}

/** The group number is right-aligned. */
export const toLine = (cells: Row, columns: readonly Column[]): string[] =>
  columns.map(({ at, width: room }) => {
    const text = cells[at] ?? ''
    // A line without an end has room for what comes later and is wider.
    const cell = Number.isFinite(width()) ? cut(text, room) : text
    if (at === GROUP) return cell.padStart(room)
    return at === NAME ? cell : cell.padEnd(room)
  })

/** The line as people see it: what hinders in colours. */
function paint(
  cells: readonly string[],
  columns: readonly Column[],
  device: SurveyedDevice,
  isMarked = false,
): string {
  if (isInfrastructure(device)) return colour.faint(cells.join(' ').trimEnd())
  const isHarmful = harmsOf(device).length > 0
  const of = (at: number, cell: string) => {
    const text = cell.trimEnd()
    const rest = cell.slice(text.length)
    if (at === VERDICT) return (isHarmful ? colour.bad : verdictColour(device.verdict))(text) + rest
    if (at === ADDRESS && isMarked) return colour.strong(text) + rest
    return at === USED && isHarmful ? colour.bad(text) + rest : cell
  }
  return cells
    .map((cell, index) => of(columns[index]?.at ?? 0, cell))
    .join(' ')
    .trimEnd()
}

/** How an overview is printed. */
export interface Style {
  readonly showsAll: boolean
  readonly isFiltered: boolean
}

/** @param marked addresses of what has just changed */
export function render(
  all: Survey,
  { showsAll, isFiltered }: Style,
  marked: ReadonlySet<string> = new Set(),
): string {
  const shown = all.devices.filter((device) => showsAll || !isInfrastructure(device))
  const hidden = all.devices.length - shown.length
  const { mediated = [] } = all
  if (all.devices.length + mediated.length === 0)
    return isFiltered ? 'No device fits.\n' : 'There are no PCI devices here.\n'
  if (shown.length + mediated.length === 0)
    return `Only bridges and parts of the machine ${isFiltered ? 'fit' : 'are here'}: --all shows them.\n`
  const rows = new Map(shown.map((device) => [device, toRow(device, String(device.group ?? '-'))]))
  const columns = layOut([...rows.values()])
  const lines = shown.length > 0 ? [colour.strong(toLine(HEAD, columns).join(' ').trimEnd())] : []
  const write = (device: SurveyedDevice, group: string) => {
    const row = rows.get(device)
    if (row)
      lines.push(
        paint(toLine([group, ...row.slice(1)], columns), columns, device, marked.has(device.address)),
      )
  }
  const inGroup = new Map<number, SurveyedDevice[]>()
  for (const device of shown) {
    if (device.group !== null) inGroup.set(device.group, [...(inGroup.get(device.group) ?? []), device])
  }
  for (const { group } of all.groups) {
    const members = inGroup.get(group) ?? []
    for (const [index, device] of members.entries()) write(device, index === 0 ? String(group) : '')
    if (all.host.iommu.present) lines.push(...whyBlocked(members))
  }
  const alone = shown.filter(({ group }) => group === null)
  for (const device of alone) write(device, '-')
  if (all.host.iommu.present) lines.push(...whyBlocked(alone))
  if (mediated.length > 0) lines.push(...(lines.length > 0 ? [''] : []), ...mediatedLines(mediated))
  lines.push(...ends(all, hidden))
  return `${lines.join('\n')}\n`
}

/** What stands in the way, once for all whom it concerns. */
function whyBlocked(devices: readonly SurveyedDevice[]): string[] {
  const blocked = devices.filter((device) => device.verdict === 'blocked' && !isInfrastructure(device))
  return [...new Set(blocked.map(({ reason }) => reason))].map((reason) =>
    colour.faint(wrap(shortly(reason), 6)),
  )
}

function ends({ host }: Survey, hidden: number): string[] {
  const lines: string[] = []
  if (!host.iommu.present) {
    lines.push(
      '',
      wrap(
        host.noIommuMode
          ? 'No IOMMU is on, and the no-IOMMU mode is: what is given away reaches all memory of this host ("vfio doctor").'
          : 'No IOMMU is on, so nothing here can be given away: "vfio doctor" tells what to do.',
        0,
      ),
    )
  }
  if (hidden > 0 && isTerminal()) {
    const what =
      hidden === 1 ? '1 bridge or part of the machine is' : `${hidden} bridges and parts of the machine are`
    lines.push(colour.faint(`${what} not shown: --all shows them`))
  }
  return lines
}

const MEDIATED_HEAD = ['GROUP', 'MEDIATED DEVICE', 'VERDICT', 'TYPE', 'PARENT', 'DRIVER'] as const

/** A table of mediated devices, with its head. */
export function mediatedLines(mediated: readonly SurveyedMediated[]): string[] {
  const rows = mediated.map(({ group, uuid, verdict, type, parent, driver }) => [
    group === null ? '-' : String(group),
    uuid,
    verdict,
    type ?? '-',
    parent ?? '-',
    driver ?? '-',
  ])
  const lines = table([MEDIATED_HEAD, ...rows], [true])
  return lines.map((line, row) => {
    const device = mediated[row - 1]
    if (!device) return colour.strong(line)
    const at = line.indexOf(` ${device.verdict}`)
    return `${line.slice(0, at + 1)}${verdictColour(device.verdict)(device.verdict)}${line.slice(at + 1 + device.verdict.length)}`
  })
}
