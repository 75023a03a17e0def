import type { PciDevice } from './devices.js'

/** What vendors add to their names and nobody says. */
const LEGAL_FORM =
  /,?\s+(?:Corporation|Corp|Incorporated|Inc|Co|Company|Ltd|Limited|LLC|L\.L\.C|GmbH|AG|SA|S\.A|BV|B\.V|Plc|Pte|KK|K\.K|Oy|AB|A\/S)\b\.?/gi

/** A vendor's name without its legal form and what stands in brackets: `Intel`, `NVIDIA`, `Red Hat`. */
function shortVendor(name: string): string {
  const known = shortVendors.get(name)
  if (known !== undefined) return known
  const short = name
    .replace(/\s*[[(].*$/, '')
    .replace(LEGAL_FORM, '')
    .replace(/[\s,.]+$/, '')
  shortVendors.set(name, short)
  return short
}

/** A host has few vendors, and a device of each many times. */
const shortVendors = new Map<string, string>()

/** What a person looks for in a list: the device's own name first, then whose it is; without a name its ids. */
export function shortName({ names, ids }: Pick<PciDevice, 'names' | 'ids'>): string {
  const vendor = names.vendor === null ? '' : shortVendor(names.vendor)
  if (names.device === null) return [vendor, ids].filter(Boolean).join(' ')
  // Where there is a name for people it stands in brackets behind that of the chip.
  const own = /\[(.+)\]\s*$/.exec(names.device)?.[1] ?? names.device
  return vendor === '' || own.toLowerCase().startsWith(vendor.toLowerCase()) ? own : `${own}, ${vendor}`
}

/** An address as lspci prints it: without the domain where that is the first. */
export const shortAddress = (address: string) => address.replace(/^0000:/, '')

/** A sentence with short addresses, for people. What may be typed stays as it is: paths, and what is written into them. */
export const shortly = (sentence: string) =>
  sentence.replace(/(?<=^|[ (])(?<!echo )0000:(?=[0-9a-f]{2}:[01][0-9a-f]\.[0-7](?![\w/]))/g, '')
