import type { Snapshot } from '../sysfs/snapshot.js'

/** Remembers the judgement of each subject of a snapshot, which does not change: a second call returns the same object. */
export function onceFor<K, T>(judge: (seen: Snapshot, subject: K) => T): (seen: Snapshot, subject: K) => T {
  const all = new WeakMap<Snapshot, Map<K, T>>()
  return (seen, subject) => {
    let made = all.get(seen)
    if (made === undefined) {
      made = new Map()
      all.set(seen, made)
    }
    const known = made.get(subject)
    if (known !== undefined) return known
    const judgement = judge(seen, subject)
    made.set(subject, judgement)
    return judgement
  }
}
