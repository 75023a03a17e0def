import { shortAddress, shortly } from '../../sysfs/short-names.js'
import { printable } from '../../text.js'
import type { HostTopology, TopologyReset } from './model.js'

/** One of the questions with which people look at a host, and its answers. */
export interface Glimpse {
  readonly kind: 'free' | 'unsure' | 'together' | 'resets' | 'lost' | 'blocked'
  readonly title: string
  readonly entries: readonly Entry[]
}

/** Devices, and what is said of them. */
export interface Entry {
  readonly ids: readonly string[]
  readonly text: string
}

/** What can go, what must go together, what resets together, what would be lost, what stands in the way; only what there is. */
export function glimpsesOf(topology: HostTopology): Glimpse[] {
  const { glance, devices, mediated = [], resets } = topology
  const reasons = new Map([
    ...devices.map(({ address, reason }) => [address, reason] as const),
    ...mediated.map(({ uuid, reason }) => [uuid, reason] as const),
  ])
  const named = (ids: readonly string[]) => ids.map((id) => ({ ids: [id], text: shortAddress(id) }))
  const all: Glimpse[] = [
    { kind: 'free', title: 'can go', entries: named(glance.free) },
    { kind: 'unsure', title: 'can go, if unused', entries: named(glance.unsure) },
    {
      kind: 'together',
      title: 'go together',
      entries: glance.together.map(({ group, members }) => ({
        ids: members,
        text: `${members.map(shortAddress).join(' ')} (group ${group})`,
      })),
    },
    {
      kind: 'resets',
      title: 'reset together',
      entries: resets.map((reset) => ({ ids: reset.members, text: resetText(reset) })),
    },
    {
      kind: 'lost',
      title: 'would be lost',
      entries: glance.lost.map(({ address, what }) => ({
        ids: [address],
        text: `${shortAddress(address)}: ${what}`,
      })),
    },
    {
      kind: 'blocked',
      title: 'blocked',
      entries: glance.blocked.map((id) => ({ ids: [id], text: reasons.get(id) ?? id })),
    },
  ]
  return all
    .filter(({ entries }) => entries.length > 0)
    .map(({ entries, ...rest }) => ({
      ...rest,
      entries: entries.map(({ ids, text }) => ({ ids, text: printable(shortly(text)) })),
    }))
}

const WHEN: Readonly<Record<TopologyReset['possible'], string>> = {
  now: '',
  'once bound': 'once all of it is bound',
  no: 'which VFIO cannot do as it is',
}

/** When such a reset is possible, where that is not now. */
export const resetWhen = (possible: TopologyReset['possible']): string => WHEN[possible]

/** A bus of hundreds is named by its ends. */
const FEW = 8

function resetText({ members, through, possible }: TopologyReset): string {
  const names = members.map(shortAddress)
  const which = names.length > FEW ? `${names.length} from ${names[0]} to ${names.at(-1)}` : names.join(' ')
  const where = through === null ? '' : ` (through ${shortAddress(through)})`
  const when = resetWhen(possible)
  return `${which}${where}${when === '' ? '' : `, ${when}`}`
}

/**
 * So many entries as they are; of more, those that differ in nothing but addresses and numbers of groups as the first with how
 * many others there are.
 */
export function fewOf(
  entries: readonly Entry[],
  most: number,
): { readonly texts: string[]; readonly rest: number } {
  if (entries.length <= most) return { texts: entries.map(({ text }) => text), rest: 0 }
  const found = new Map<string, { readonly text: string; count: number }>()
  for (const { text } of entries) {
    const key = text
      .replace(/\b(?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[01][0-9a-f]\.[0-7]\b/g, '*')
      .replace(/group \d+/g, '#')
    const known = found.get(key)
    if (known) known.count++
    else found.set(key, { text, count: 1 })
  }
  const all = [...found.values()]
  const texts = all
    .slice(0, most)
    .map(({ text, count }) => (count > 1 ? `${text} (and ${count - 1} more alike)` : text))
  return { texts, rest: all.slice(most).reduce((sum, { count }) => sum + count, 0) }
}
