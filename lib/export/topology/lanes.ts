/** A bracket beside rows: from the first to the last, with the members among them. */
export interface Bracket {
  /** Counted from where the rows are. */
  readonly lane: number
  readonly first: number
  readonly last: number
  readonly members: ReadonlySet<number>
}

/** Brackets side by side, and the rows of those that found no place there. */
export interface Brackets {
  readonly drawn: readonly Bracket[]
  readonly left: ReadonlySet<number>
}

/**
 * Brackets around the rows that have a key in common, so that no two of them cross in one lane.
 * @param keys those of each row
 * @param most so many lanes
 */
export function bracketsOf(keys: readonly (readonly string[])[], most: number): Brackets {
  const rows = new Map<string, number[]>()
  for (const [row, own] of keys.entries())
    for (const key of own) rows.set(key, [...(rows.get(key) ?? []), row])
  const spans = [...rows.values()]
    .filter((members) => members.length > 1)
    .map((members) => ({ first: members[0] ?? 0, last: members.at(-1) ?? 0, members: new Set(members) }))
    // The shorter of two that overlap is nearer to the rows.
    .sort((one, other) => one.last - one.first - (other.last - other.first) || one.first - other.first)
  const lanes: { readonly first: number; readonly last: number }[][] = []
  const drawn: Bracket[] = []
  const left = new Set<number>()
  for (const span of spans) {
    const isFree = (lane: (typeof lanes)[number]) =>
      lane.every(({ first, last }) => last < span.first || first > span.last)
    const at = lanes.findIndex(isFree)
    const lane = at < 0 ? lanes.length : at
    if (lane >= most) {
      for (const row of span.members) left.add(row)
      continue
    }
    lanes[lane] = [...(lanes[lane] ?? []), span]
    drawn.push({ lane, ...span })
  }
  return { drawn, left }
}
