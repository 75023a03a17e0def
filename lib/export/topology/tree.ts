import { resetWord, useWord, verdictWord } from '../../assess/overview.js'
import type { SurveyedMediated } from '../../assess/survey.js'
import { busOf, compareAddresses } from '../../sysfs/address.js'
import { classWord } from '../../sysfs/class-names.js'
import { shortName } from '../../sysfs/short-names.js'
import { printable } from '../../text.js'
import type { HostTopology, TopologyDevice, TopologyKind } from './model.js'

/** What every picture shows of a device, in words that are safe to show, and what hangs on it. */
export interface Item {
  /** Address or UUID. */
  readonly id: string
  readonly kind: TopologyKind | 'mediated'
  /** What it is in a word: of a port that, of all others the class. */
  readonly what: string
  readonly ids: string
  readonly name: string
  readonly driver: string
  readonly verdict: TopologyDevice['verdict']
  readonly word: ReturnType<typeof verdictWord>
  readonly use: string
  readonly reset: string
  readonly group: number | null
  readonly numa: number | null
  /** Numbers of the resets that reach it, in the order of the topology. */
  readonly sets: readonly number[]
  readonly infrastructure: boolean
  readonly children: Item[]
}

/** A root bus with what is on it. */
export interface Root {
  readonly bus: string
  readonly children: readonly Item[]
}

const KINDS: Readonly<Partial<Record<TopologyKind, string>>> = {
  'root-port': 'root port',
  'upstream-port': 'switch',
  'downstream-port': 'switch port',
  bridge: 'bridge',
}

/** The tree of a host: root buses in their order. */
export function treeOf(topology: HostTopology): Root[] {
  const sets = setsOf(topology)
  const items = new Map<string, Item>()
  for (const device of topology.devices) items.set(device.address, itemOf(device, sets))
  for (const device of topology.mediated ?? []) items.set(device.uuid, itemOfMediated(device))
  const above = new Map([
    ...topology.devices.map(({ address, below }) => [address, below] as const),
    ...(topology.mediated ?? []).map((device) => [device.uuid, device.function] as const),
  ])
  const roots: Item[] = []
  for (const item of items.values()) {
    const on = items.get(above.get(item.id) ?? '')
    // A tree that contradicts itself is cut where it would go round in circles.
    if (on === undefined || isAbove(item.id, on.id, above)) roots.push(item)
    else on.children.push(item)
  }
  for (const { children } of items.values()) children.sort(inOrder)
  const buses = new Map<string, Item[]>()
  for (const root of roots.sort(inOrder)) {
    const bus = root.kind === 'mediated' ? '' : busOf(root.id)
    buses.set(bus, [...(buses.get(bus) ?? []), root])
  }
  return [...buses].map(([bus, children]) => ({ bus, children }))
}

const inOrder = (one: Item, other: Item) => compareAddresses(one.id, other.id)

function isAbove(id: string, from: string, above: ReadonlyMap<string, string | null>): boolean {
  const visited = new Set<string>()
  for (let at: string | null = from; at !== null && !visited.has(at); at = above.get(at) ?? null) {
    if (at === id) return true
    visited.add(at)
  }
  return false
}

function setsOf({ resets }: HostTopology): ReadonlyMap<string, number[]> {
  const sets = new Map<string, number[]>()
  for (const [index, { members }] of resets.entries()) {
    for (const member of members) {
      const known = sets.get(member)
      if (known) known.push(index)
      else sets.set(member, [index])
    }
  }
  return sets
}

function itemOf(device: TopologyDevice, sets: ReadonlyMap<string, number[]>): Item {
  const { address, kind, infrastructure } = device
  return {
    id: address,
    kind,
    what: KINDS[kind] ?? classWord(device.class),
    ids: device.ids,
    name: printable(shortName(device)),
    driver: printable(device.driver ?? '-'),
    verdict: device.verdict,
    word: verdictWord(device),
    use: infrastructure ? '' : useWord(device),
    reset: infrastructure ? '' : resetWord(device),
    group: device.group,
    numa: device.numaNode,
    sets: sets.get(address) ?? [],
    infrastructure,
    children: [],
  }
}

const itemOfMediated = ({ uuid, type, driver, verdict, group }: SurveyedMediated): Item => ({
  id: uuid,
  kind: 'mediated',
  what: 'mdev',
  ids: printable(type ?? ''),
  name: printable(type ?? ''),
  driver: printable(driver ?? '-'),
  verdict,
  word: verdict,
  use: '',
  reset: '',
  group,
  numa: null,
  sets: [],
  infrastructure: false,
  children: [],
})
