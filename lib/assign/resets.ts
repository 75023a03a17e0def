import { assessReset } from '../assess/reset.js'
import type { Snapshot } from '../sysfs/snapshot.js'

/** A reset that brings one device, or with `hot` all that share its slot or bus, to a known state. */
export interface ChosenReset {
  readonly address: string
  readonly kind: 'function' | 'hot'
  readonly why: string
}

/**
 * The resets that bring devices of one owner to a known state, judged on a host where they are bound: each by itself
 * where it can, else by a hot reset where all that it hits is the owner's. What is left goes without.
 */
export function chooseResets(
  bound: Snapshot,
  addresses: readonly string[],
): { resets: ChosenReset[]; without: { address: string; reason: string }[] } {
  const ours = new Set(addresses)
  const hit = new Set<string>()
  const resets: ChosenReset[] = []
  const without: { address: string; reason: string }[] = []
  for (const address of addresses) {
    if (hit.has(address)) continue
    const { function: alone, hot } = assessReset(bound, address)
    // An affected function in another group of ours is a blocker to the owner of one group, and none to us.
    const isOurs = hot.affected.length > 0 && hot.affected.every((affected) => ours.has(affected.address))
    if (alone.supported) resets.push({ address, kind: 'function', why: alone.reason })
    else if (isOurs) {
      resets.push({ address, kind: 'hot', why: hot.reason })
      for (const affected of hot.affected) hit.add(affected.address)
    } else without.push({ address, reason: alone.reason })
  }
  return { resets, without }
}
