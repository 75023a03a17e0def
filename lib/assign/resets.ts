import { tokenToOpen } from '../assess/assessment.js'
import { assessReset } from '../assess/reset.js'
import type { Snapshot } from '../sysfs/snapshot.js'

/** A reset that brings one device, or with `hot` all that share its slot or bus, to a known state. */
export interface ChosenReset {
  readonly address: string
  readonly kind: 'function' | 'hot'
  readonly why: string
}

/**
 * The resets that bring devices of one owner to a known state, judged on a host where they are bound: a function reset where
 * there is one, else a hot reset where the owner has all that it affects. The others are in `without`, with the reason.
 */
export function chooseResets(
  bound: Snapshot,
  addresses: readonly string[],
): { resets: ChosenReset[]; without: { address: string; reason: string }[] } {
  const ours = new Set(addresses)
  const owned = asOneGroup(bound, ours)
  const hit = new Set<string>()
  const resets: ChosenReset[] = []
  const without: { address: string; reason: string }[] = []
  for (const address of addresses) {
    if (hit.has(address)) continue
    const { function: alone, hot } = assessReset(owned, address)
    const token = tokenToOpen(bound, bound.device(address))
    const isOurs = hot.affected.every((affected) => ours.has(affected.address))
    // Resetting it takes opening it, and nobody here knows the token.
    if (token !== '') without.push({ address, reason: `is not reset here, as that takes opening it${token}` })
    else if (alone.supported) resets.push({ address, kind: 'function', why: alone.reason })
    else if (hot.supported && isOurs) {
      resets.push({ address, kind: 'hot', why: hot.reason })
      for (const affected of hot.affected) hit.add(affected.address)
    } else {
      const why = hot.supported
        ? `a hot reset would hit ${hot.affected
            .map((one) => one.address)
            .filter((one) => !ours.has(one))
            .join(', ')} too, which was not named`
        : hot.reason
      without.push({ address, reason: `keeps its state, since nothing resets it: ${alone.reason}; ${why}` })
    }
  }
  return { resets, without }
}

/** Whoever owns several groups gives all of them to a hot reset, so they count as one. */
function asOneGroup(seen: Snapshot, ours: ReadonlySet<string>): Snapshot {
  const [first] = seen.devices.filter(({ address }) => ours.has(address))
  const devices = seen.devices.map((device) =>
    first && ours.has(device.address) ? { ...device, group: first.group } : device,
  )
  return seen.with({ devices })
}
