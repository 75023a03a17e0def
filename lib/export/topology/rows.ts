import { shortAddress } from '../../sysfs/short-names.js'
import type { Folded, FoldedRoot } from './fold.js'
import type { Item } from './tree.js'

/** One line of a picture that is made of lines. */
export interface Row {
  /** For each level whether something follows below: of itself the last. Empty for a root bus. */
  readonly follows: readonly boolean[]
  /** `null` for a root bus. */
  readonly place: Folded | null
  /** Address, or the first and last of those that are alike with their count. */
  readonly address: string
  readonly what: string
  readonly group: string
  readonly groupKeys: readonly string[]
  readonly resetKeys: readonly string[]
  /** The one whose words are those of all. */
  readonly item: Item | null
}

/** The lines of a folded tree, from top to bottom. */
export function rowsOf(roots: readonly FoldedRoot[]): Row[] {
  const rows: Row[] = []
  const write = (places: readonly Folded[], above: readonly boolean[]) => {
    for (const [index, place] of places.entries()) {
      const follows = [...above, index < places.length - 1]
      rows.push(rowOf(place, follows))
      write(place.children, follows)
    }
  }
  for (const { bus, children } of roots) {
    const address = bus === '' ? 'on no PCI function' : `root bus ${bus}`
    const none = { follows: [], place: null, what: '', group: '', groupKeys: [], resetKeys: [], item: null }
    rows.push({ ...none, address })
    write(children, [])
  }
  return rows
}

function rowOf(place: Folded, follows: readonly boolean[]): Row {
  const { items } = place
  const item = items[0] ?? null
  const groups = items.map(({ group }) => group)
  const most = Math.max(0, ...items.map(({ sets }) => sets.length))
  return {
    follows,
    place,
    address: addressText(items),
    what: item?.what ?? '',
    group: rangeText(groups),
    groupKeys: groups.includes(null) ? [] : [distinct(groups)],
    resetKeys: Array.from({ length: most }, (_, at) => distinct(items.map(({ sets }) => sets[at]))),
    item,
  }
}

const distinct = (values: readonly unknown[]) => [...new Set(values)].join()

/** `04:10.0`, `64 × 04:10.0 … 04:17.7` */
export function addressText(items: readonly Item[]): string {
  const [first, last] = [items[0]?.id ?? '', items.at(-1)?.id ?? '']
  if (items.length < 2) return shortAddress(first)
  return `${items.length} × ${shortAddress(first)} … ${shortAddress(last)}`
}

/** `16`, `16–79`, or with gaps `16…99`. */
export function rangeText(numbers: readonly (number | null)[]): string {
  const known = [...new Set(numbers.filter((one) => one !== null))]
  if (known.length === 0) return '-'
  const [least, most] = [Math.min(...known), Math.max(...known)]
  if (least === most) return String(least)
  return most - least === known.length - 1 ? `${least}–${most}` : `${least}…${most}`
}
