import type { PciDevice } from './devices.js'

/** What vendors add to their names and nobody says, in small letters. */
const LEGAL_FORMS = new Set([
  ...['corporation', 'corp', 'incorporated', 'inc', 'company', 'co', 'limited', 'ltd', 'llc', 'plc', 'pte'],
  ...['gmbh', 'ag', 'sa', 'bv', 'kk', 'oy', 'ab', 'a/s', 'l.l.c', 's.a', 'b.v', 'k.k'],
])

/** Two may be written as one word: `Co.,Ltd`. An expression that lists all takes longer to make than a list does in all. */
function isLegalForm(word: string): boolean {
  const plain = word.toLowerCase().replace(/[.,;:]+$/, '')
  return (
    LEGAL_FORMS.has(plain) ||
    (/[.,]/.test(plain) && plain.split(/[.,]+/).every((part) => LEGAL_FORMS.has(part)))
  )
}

/** `Bayer Corporation, Agfa Division` keeps its comma, `Bug, Inc. Sapporo` needs none, and of two vendors each has a form. */
function withoutLegalForms(words: readonly string[]): string {
  let short = ''
  for (const word of words) {
    const slash = word.indexOf('/')
    const first = slash > 0 && !isLegalForm(word) ? word.slice(0, slash) : word
    const rest = word.slice(first.length)
    if (short === '') short = word
    else if (!isLegalForm(first)) short += ` ${word}`
    else short = short.replace(/,$/, '') + (word.endsWith(',') ? ',' : '') + rest
  }
  return short
}

/** A vendor's name without its legal form and what stands in brackets: `Intel`, `NVIDIA`, `Red Hat`. */
function shortVendor(name: string): string {
  const known = shortVendors.get(name)
  if (known !== undefined) return known
  const words = name.replace(/\s*[[(].*$/, '').split(/\s+/)
  const short = withoutLegalForms(words).replace(/[\s,.]+$/, '')
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
