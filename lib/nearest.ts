/** How many single characters have to be typed, left out, replaced or swapped with the next to make one word of the other. */
export function distance(from: string, to: string): number {
  let [before, last] = [[] as number[], Array.from({ length: to.length + 1 }, (_none, index) => index)]
  for (let at = 1; at <= from.length; at++) {
    const row = [at]
    for (let other = 1; other <= to.length; other++) {
      const isSame = from[at - 1] === to[other - 1]
      const isSwapped =
        at > 1 && other > 1 && from[at - 1] === to[other - 2] && from[at - 2] === to[other - 1]
      row.push(
        Math.min(
          (row[other - 1] ?? 0) + 1,
          (last[other] ?? 0) + 1,
          (last[other - 1] ?? 0) + (isSame ? 0 : 1),
          ...(isSwapped ? [(before[other - 2] ?? 0) + 1] : []),
        ),
      )
    }
    before = last
    last = row
  }
  return last[to.length] ?? 0
}

/** How many are worth to be named. */
const FEW = 3

/**
 * What somebody may have meant: those of the known words that are nearest to what was typed, none where nothing is near.
 * @param most how far they may be
 */
export function nearest(
  typed: string,
  known: Iterable<string>,
  most = Math.max(1, Math.floor(typed.length / 3)),
): string[] {
  let best = most
  let found: string[] = []
  for (const word of known) {
    if (Math.abs(word.length - typed.length) > best) continue
    const far = distance(typed, word)
    if (far < best) found = []
    if (far <= best) found.push(word)
    best = Math.min(best, far)
  }
  return found.slice(0, FEW)
}

/** ` (did you mean a or b?)`, or nothing. */
export function didYouMean(words: readonly string[]): string {
  return words.length === 0 ? '' : ` (did you mean ${words.join(' or ')}?)`
}
