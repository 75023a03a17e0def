import { compareAddresses } from 'vfio'
import type { OfferedDevice } from './offer.js'

/** What a choice goes by. */
export type Placed = Pick<OfferedDevice, 'id' | 'numa' | 'above'>

/**
 * Which of the available devices go well together: those of one NUMA node, and there of one switch, that leave the least
 * behind; with those that have to be among them, the nearest to these.
 * @param size how many in all
 */
export function prefer(
  available: readonly Placed[],
  mustInclude: readonly Placed[],
  size: number,
): readonly string[] {
  const chosen = [...mustInclude]
  const rest = available
    .filter(({ id }) => !mustInclude.some((must) => must.id === id))
    .sort((one, other) => compareAddresses(one.id, other.id))
  const missing = () => size - chosen.length
  const take = (device: Placed) => {
    chosen.push(device)
    rest.splice(rest.indexOf(device), 1)
  }
  if (missing() > 0 && chosen.length === 0) {
    for (const device of smallestEnough(rest, size)) take(device)
  }
  while (missing() > 0 && rest.length > 0) take(nearest(rest, chosen))
  return chosen.map(({ id }) => id)
}

/** Places from the widest to the narrowest. */
const placesOf = ({ numa, above }: Placed): string[] => [`numa ${numa.join()}`, ...above]

/** The devices of the narrowest place that has enough, of equal ones the one that has least: all of it is left whole for others. */
function smallestEnough(devices: readonly Placed[], size: number): readonly Placed[] {
  const inside = new Map<string, { depth: number; devices: Placed[] }>()
  for (const device of devices) {
    for (const depth of placesOf(device).keys()) {
      const key = placesOf(device)
        .slice(0, depth + 1)
        .join(' ')
      const known = inside.get(key)
      if (known) known.devices.push(device)
      else inside.set(key, { depth, devices: [device] })
    }
  }
  const enough = [...inside.values()].filter((place) => place.devices.length >= size)
  const best = enough.sort(
    (one, other) => one.devices.length - other.devices.length || other.depth - one.depth,
  )[0]
  if (best === undefined) return largestFirst(devices)
  // Of a place with more than are needed, the first with what is nearest to it.
  const [first, ...others] = best.devices
  const chosen = first === undefined ? [] : [first]
  while (chosen.length < size && others.length > 0) {
    const next = nearest(others, chosen)
    chosen.push(next)
    others.splice(others.indexOf(next), 1)
  }
  return chosen
}

/** No place has enough: the NUMA node with most begins. */
function largestFirst(devices: readonly Placed[]): readonly Placed[] {
  const byNode = new Map<string, Placed[]>()
  for (const device of devices) {
    const node = device.numa.join()
    byNode.set(node, [...(byNode.get(node) ?? []), device])
  }
  return [...byNode.values()].sort((one, other) => other.length - one.length)[0] ?? []
}

/** The one that shares most places with those that are chosen; of equal ones the first by address. */
function nearest(devices: readonly Placed[], chosen: readonly Placed[]): Placed {
  const score = (device: Placed) => chosen.reduce((sum, other) => sum + shared(device, other), 0)
  return devices.reduce((best, device) => (score(device) > score(best) ? device : best))
}

function shared(one: Placed, other: Placed): number {
  const [places, others] = [placesOf(one), placesOf(other)]
  const at = places.findIndex((place, depth) => place !== others[depth])
  return at < 0 ? places.length : at
}
