import {
  type Assessment,
  type BadRecord,
  classWord,
  type PciDevice,
  shortAddress,
  shortName,
} from '../index.js'
import { printable } from '../text.js'
import { colour } from './output.js'

const hex4 = (value: number) => value.toString(16).padStart(4, '0')

/** `8086:10d3`, as `lspci -n` writes it. */
export const ids = (device: Pick<PciDevice, 'vendor' | 'device'>) =>
  `${hex4(device.vendor)}:${hex4(device.device)}`

/** `0200`, base class and subclass. */
export const classCode = (device: Pick<PciDevice, 'class'>) => hex4(device.class >>> 8)

/** What to call a device: its name, else what it is, else its ids. */
export function deviceName(device: Pick<PciDevice, 'names' | 'class'>): string {
  const { names } = device
  if (names.device) return `${names.vendor ?? ''} ${names.device}`.trim()
  return [names.vendor, names.class ?? `class ${classCode(device)}`].filter(Boolean).join(' ')
}

/** The first line about a device, as `list` names it too. */
export const headOf = (device: Pick<PciDevice, 'address' | 'names' | 'class' | 'ids'>) =>
  `${shortAddress(device.address)} ${classWord(device.class)}: ${printable(shortName(device))}`

/** How many have to come along. */
export function along({ toBind, address }: Pick<Assessment, 'toBind' | 'address'>): string {
  const others = toBind.filter((member) => member !== address).length
  return others === 0 ? '' : `+${others}`
}

const VERDICT_COLOURS = { ready: colour.good, bindable: colour.doubtful, blocked: colour.bad }

export const verdictColour = (verdict: Assessment['verdict']) => VERDICT_COLOURS[verdict]

/** What a driver writes in several lines, in one: line ends are printable by now. */
export const inOneLine = (text: string) => text.replaceAll('\\u000a', ', ')

/** A count of bytes in the largest unit that divides it. */
export function bytes(count: number): string {
  for (const [unit, size] of [
    ['TiB', 2 ** 40],
    ['GiB', 2 ** 30],
    ['MiB', 2 ** 20],
    ['KiB', 2 ** 10],
  ] as const) {
    if (count >= size && count % size === 0) return `${count / size} ${unit}`
  }
  return `${count} B`
}

export const NOTHING_ASSIGNED = 'Nothing is assigned.\n'

/** What is said of a file in the journal that no record is in. */
export const badRecord = ({ path, reason }: BadRecord) =>
  `vfio: ${path} is not a record of vfio (${reason}): look at it and remove it`
