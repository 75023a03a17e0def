import { readFileSync } from 'node:fs'
import type { PciDevice, Snapshot } from 'vfio'
import { isAt, isPresent, type Place, put } from './binding.js'

/** One way to put the members of a group; who is not named keeps what it has without anybody's doing. */
export interface State {
  readonly name: string
  readonly places: ReadonlyMap<string, Place>
}

/** An IOMMU group with the members that may be moved. */
export interface Group {
  readonly number: number
  readonly members: readonly string[]
  readonly endpoints: readonly string[]
  readonly bridges: readonly string[]
}

const OTHERS: readonly Place[] = ['host', 'uio_pci_generic', 'pci-stub', 'none']

const isEndpoint = (device: PciDevice) => device.headerType === 'normal'

/** The groups of a host; what is in use is a member, and not to be moved. */
export function groupsOf(seen: Snapshot, used: ReadonlySet<string>): Group[] {
  return seen.groups
    .filter(({ noIommu }) => !noIommu)
    .map(({ group, members }) => {
      const movable = members
        .map((address) => seen.device(address))
        .filter(({ address }) => !used.has(address))
      return {
        number: group,
        members,
        endpoints: movable.filter(isEndpoint).map(({ address }) => address),
        bridges: movable.filter((device) => !isEndpoint(device)).map(({ address }) => address),
      }
    })
}

/**
 * The states of a group: nothing bound; each endpoint alone with the others on each kind of driver (of a group of more
 * than four endpoints: the first, the middle and the last alone); all but one; all; and all with the bridges on none
 * and on pci-stub.
 */
export function statesOf({ endpoints, bridges }: Group): State[] {
  const states: State[] = []
  const add = (name: string, place: (address: string, index: number) => Place) =>
    states.push({
      name,
      places: new Map(endpoints.map((address, index) => [address, place(address, index)])),
    })
  for (const place of OTHERS) add(`all on ${place}`, () => place)
  const count = endpoints.length
  const chosen = count > 4 ? [0, count >> 1, count - 1] : endpoints.map((_, index) => index)
  if (count > 1) {
    for (const one of chosen) {
      for (const place of OTHERS) {
        add(`only ${endpoints[one]} on vfio-pci, others on ${place}`, (_, at) =>
          at === one ? 'vfio-pci' : place,
        )
      }
    }
  }
  if (count > 2) {
    for (const one of chosen) {
      for (const place of OTHERS) {
        add(`all but ${endpoints[one]} (${place}) on vfio-pci`, (_, at) => (at === one ? place : 'vfio-pci'))
      }
    }
    add('one of each', (_, at) => (['vfio-pci', ...OTHERS] as const)[at % 5] ?? 'none')
  }
  add('all on vfio-pci', () => 'vfio-pci')
  const all = states.at(-1)
  if (all && count > 0 && bridges.length > 0) {
    for (const place of ['none', 'pci-stub'] as const) {
      const places = new Map([...all.places, ...bridges.map((address) => [address, place] as const)])
      states.push({ name: `all on vfio-pci, bridges on ${place}`, places })
    }
  }
  return states
}

export const allOn = ({ endpoints }: Group, place: Place): State => ({
  name: `all on ${place}`,
  places: new Map(endpoints.map((address) => [address, place])),
})

/** Functions that no driver of the host takes: asking again in every state would only cost time. */
const unwanted = new Set<string>()

const isUsb = (address: string) =>
  readFileSync(`/sys/bus/pci/devices/${address}/class`, 'utf8').startsWith('0x0c03')

/**
 * USB controllers of one slot go to their drivers together or not at all: when ehci_hcd binds or unbinds it takes the
 * driver data of the others for its own kind, and Linux 5.10 and 6.1 panic where vfio-pci holds one of them.
 */
function mayHaveHostDriver(address: string, places: ReadonlyMap<string, Place>): boolean {
  if (!isUsb(address)) return true
  const slot = address.slice(0, -1)
  return [0, 1, 2, 3, 4, 5, 6, 7]
    .map((fn) => `${slot}${fn}`)
    .every((mate) => !isPresent(mate) || !isUsb(mate) || places.get(mate) === 'host')
}

/** Puts a group into a state, unbinding first: a driver may refuse what shares a group with an owned device. */
export function apply(group: Group, state: State | undefined): void {
  const wanted = new Map<string, Place>([
    ...group.endpoints.map((address) => [address, 'none'] as const),
    ...group.bridges.map((address) => [address, 'host'] as const),
    ...(state?.places ?? []),
  ])
  const places = [...wanted].map(([address, place]) => {
    const stays = place !== 'host' || mayHaveHostDriver(address, wanted)
    return [address, stays ? place : 'none'] as const
  })
  for (const [address, place] of places) if (!isAt(address, place)) put(address, 'none')
  for (const [address, place] of places) {
    if (place === 'host' && unwanted.has(address)) continue
    if (put(address, place) === null && place === 'host') unwanted.add(address)
  }
}
