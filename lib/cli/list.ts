import { type Survey, type SurveyedDevice, type SurveyedMediated, survey } from '../index.js'
import { type Common, type Declare, json, look, run, sysfs } from './options.js'
import { answer, colour, cut, table, width, wrap } from './output.js'
import { deviceName, ids, verdictColour } from './words.js'

/** `vfio list`: all groups and devices, what blocks them and how they can be reset. */
export const list: Declare = (vfio) => {
  vfio
    .command('list')
    .description('all groups and devices: driver, verdict, what blocks, reset')
    .addOption(json())
    .addOption(sysfs())
    .action(
      run((options: Common) => {
        answer(survey(look(options, { brief: true })), options.json, render)
        return 0
      }),
    )
}

const HEAD = ['GROUP', 'ADDRESS', 'ID', 'DRIVER', 'VERDICT', 'RESET', 'DEVICE'] as const

type Row = readonly [string, string, string, string, string, string, string]

function render({ host, groups, devices, mediated = [] }: Survey): string {
  if (devices.length === 0 && mediated.length === 0) return 'There are no PCI devices here.\n'
  const rows = new Map<SurveyedDevice, Row>()
  for (const device of devices) rows.set(device, toRow(device))
  const widths = HEAD.map((head, column) =>
    Math.max(head.length, ...Array.from(rows.values(), (row) => Math.min(row[column]?.length ?? 0, 16))),
  )
  const lines = [colour.strong(toLine(HEAD, widths))]
  const byAddress = new Map(devices.map((device) => [device.address, device]))
  const write = (device: SurveyedDevice, group: string) => {
    const row = rows.get(device)
    if (row) lines.push(paintVerdict(toLine([group, ...row.slice(1)], widths), device))
  }
  for (const group of groups) {
    for (const [index, address] of group.members.entries()) {
      const device = byAddress.get(address)
      if (device) write(device, index === 0 ? String(group.group) : '')
    }
    if (!group.viable) {
      const blockers = group.blockers.map(({ address, driver }) => `${address} (${driver})`).join(', ')
      lines.push(colour.faint(wrap(`blocked by ${blockers}`, 6)))
    }
  }
  for (const device of devices) if (device.group === null) write(device, '-')
  if (mediated.length > 0) lines.push('', ...mediatedLines(mediated))
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
  return `${lines.join('\n')}\n`
}

function toRow(device: SurveyedDevice): Row {
  return [
    device.group === null ? '-' : String(device.group),
    device.address,
    ids(device),
    device.driver ?? '-',
    device.verdict,
    device.resetScope,
    deviceName(device),
  ]
}

/** The group number is right-aligned, the name takes what is left of the line. */
function toLine(cells: readonly string[], widths: readonly number[]): string {
  const line = cells.map((cell, column) => {
    const columns = widths[column] ?? 0
    if (column === 0) return cell.padStart(columns)
    return column === cells.length - 1 ? cell : cut(cell, columns).padEnd(columns)
  })
  return cut(line.join(' '), width()).trimEnd()
}

function paintVerdict(line: string, device: SurveyedDevice): string {
  const at = line.indexOf(` ${device.verdict} `)
  if (at < 0) return line
  const end = at + 1 + device.verdict.length
  return line.slice(0, at + 1) + verdictColour(device.verdict)(device.verdict) + line.slice(end)
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
