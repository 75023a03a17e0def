import { type Assessment, type BadRecord, classWord, type HostUse, type PciDevice } from '../index.js'
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

/** What vendors add to their names and nobody says. */
const LEGAL_FORM =
  /,?\s+(?:Corporation|Corp|Incorporated|Inc|Co|Company|Ltd|Limited|LLC|L\.L\.C|GmbH|AG|SA|S\.A|BV|B\.V|Plc|Pte|KK|K\.K|Oy|AB|A\/S)\b\.?/gi

/** A vendor's name without its legal form and what stands in brackets: `Intel`, `NVIDIA`, `Red Hat`. */
export const shortVendor = (name: string) =>
  name
    .replace(/\s*[[(].*$/, '')
    .replace(LEGAL_FORM, '')
    .replace(/[\s,.]+$/, '')

/** What a person looks for in a list: the device's own name first, then whose it is. */
export function shortName(device: Pick<PciDevice, 'names' | 'class' | 'vendor' | 'device'>): string {
  const { names } = device
  const vendor = names.vendor === null ? '' : shortVendor(names.vendor)
  if (names.device === null) return [vendor, ids(device)].filter(Boolean).join(' ')
  // Where there is a name for people it stands in brackets behind that of the chip.
  const own = /\[(.+)\]\s*$/.exec(names.device)?.[1] ?? names.device
  return vendor === '' || own.toLowerCase().startsWith(vendor.toLowerCase()) ? own : `${own}, ${vendor}`
}

/** An address as lspci prints it: without the domain where that is the first. */
export const shortAddress = (address: string) => address.replace(/^0000:/, '')

/** A sentence with such addresses, for people. What may be typed stays as it is: paths, and what is written into them. */
export const shortly = (sentence: string) =>
  sentence.replace(/(?<=^|[ (])(?<!echo )0000:(?=[0-9a-f]{2}:[01][0-9a-f]\.[0-7](?![\w/]))/g, '')

/** The first line about a device, as `list` names it too. */
export const headOf = (device: Pick<PciDevice, 'address' | 'names' | 'class' | 'vendor' | 'device'>) =>
  `${shortAddress(device.address)} ${classWord(device.class)}: ${printable(shortName(device))}`

/** What harms the host when it goes, as far as is known. */
export const harms = (uses: readonly HostUse[] = []) =>
  uses.filter(({ severity, unknown }) => severity === 'blocks' && unknown === undefined)

/** Uses take no part in the verdict; but nobody is to read "bindable" of the disk that the host runs on. */
export const verdictWord = ({
  verdict,
  uses,
}: Partial<Pick<Assessment, 'uses'>> & Pick<Assessment, 'verdict'>) =>
  verdict === 'bindable' && harms(uses).length > 0 ? 'in use' : verdict

/** How many have to come along. */
export function along({ toBind, address }: Pick<Assessment, 'toBind' | 'address'>): string {
  const others = toBind.filter((member) => member !== address).length
  return others === 0 ? '' : `+${others}`
}

/** The gravest first. */
const KINDS: readonly HostUse['kind'][] = ['vfio', 'mount', 'swap', 'holder', 'network', 'display', 'other']

/** What `--force` names, and of VFIO what is never forced. */
export const kindWord = (kind: HostUse['kind']) => (kind === 'vfio' ? 'open' : kind)

/** The gravest kind of use, and a question mark where there may be some that could not be seen. */
export function usedWord(uses: readonly HostUse[] = []): string {
  const kinds = new Set(harms(uses).map(({ kind }) => kind))
  const [first] = KINDS.filter((kind) => kinds.has(kind))
  if (first !== undefined) return kindWord(first)
  return uses.some(({ unknown }) => unknown) ? '?' : ''
}

/** With a star what there is once all of it is bound. */
export const resetWord = (scope: Assessment['reset']['scope'], onceBound: 'hot' | undefined) =>
  onceBound === undefined ? scope : `${onceBound}*`

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
