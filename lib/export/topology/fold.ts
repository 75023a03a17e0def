import type { Item, Root } from './tree.js'

/** One place of a folded tree: a single item, or several that are alike, each with the same below it. */
export interface Folded {
  /** Never empty; those of a child are in the order of its parent's. */
  readonly items: readonly Item[]
  readonly children: readonly Folded[]
}

export interface FoldedRoot {
  readonly bus: string
  readonly children: readonly Folded[]
}

/** So many siblings that are alike are shown as one. */
const ALIKE = 4

/** How many items there are in these. */
export const countOf = (items: readonly Item[]): number =>
  items.reduce((sum, { children }) => sum + 1 + countOf(children), 0)

/** Is there something in it that somebody may want, and not bridges and parts of the machine alone? */
export const isWanted = (item: Item): boolean => !item.infrastructure || item.children.some(isWanted)

/** Without bridges and parts of the machine that nothing else hangs on. */
export const withoutInfrastructure = (roots: readonly Root[]): Root[] =>
  roots
    .map(({ bus, children }) => ({ bus, children: wantedOf(children) }))
    .filter(({ children }) => children.length > 0)

const wantedOf = (items: readonly Item[]): Item[] =>
  // Most of them are leaves.
  items
    .filter(isWanted)
    .map((item) => (item.children.length === 0 ? item : { ...item, children: wantedOf(item.children) }))

/** Siblings that are alike with all that hangs on them, together in the place of the first. */
export function foldRoots(roots: readonly Root[]): FoldedRoot[] {
  const sizes = sizesOf(roots)
  return roots.map(({ bus, children }) => ({ bus, children: foldSiblings([children], sizes) }))
}

/** How many members each group and each reset has in the whole tree, by {@link keysOf}. */
export type Sizes = ReadonlyMap<number, number>

/** Even ones of groups, odd ones of resets: numbers, since there are thousands of them. */
const keysOf = ({ group, sets }: Item): number[] => {
  const keys = sets.map((set) => 2 * set + 1)
  if (group !== null) keys.unshift(2 * group)
  return keys
}

const count = (item: Item, sizes: Map<number, number>): void => {
  for (const key of keysOf(item)) sizes.set(key, (sizes.get(key) ?? 0) + 1)
  for (const child of item.children) count(child, sizes)
}

/** Those of a whole tree. */
export function sizesOf(roots: readonly { readonly children: readonly Item[] }[]): Sizes {
  const sizes = new Map<number, number>()
  for (const { children } of roots) for (const child of children) count(child, sizes)
  return sizes
}

/** @param lists of the same shape: what is alike in one of them is so in all */
function foldSiblings(lists: readonly (readonly Item[])[], sizes: Sizes): Folded[] {
  const [list = []] = lists
  const at = new Map(list.map((item, index) => [item, index]))
  return alikeSiblings(list, sizes).map((alike) =>
    foldOne(
      alike.flatMap((item) => lists.flatMap((each) => each[at.get(item) ?? 0] ?? [])),
      sizes,
    ),
  )
}

/** Siblings in their order: those that are alike together in the place of the first, where there are enough of them. */
export function alikeSiblings(items: readonly Item[], sizes: Sizes): Item[][] {
  if (items.length < ALIKE) return items.map((item) => [item])
  const alike = new Map<string, Item[]>()
  for (const item of items) {
    const key = signature(item, sizes)
    const known = alike.get(key)
    if (known) known.push(item)
    else alike.set(key, [item])
  }
  const places = [...alike.values()].flatMap((all) =>
    all.length < ALIKE ? all.map((item) => [item]) : [all],
  )
  const order = new Map(items.map((item, index) => [item, index]))
  const placeOf = ([first]: readonly Item[]) => (first && order.get(first)) ?? 0
  return places.sort((one, other) => placeOf(one) - placeOf(other))
}

const foldOne = (items: readonly Item[], sizes: Sizes): Folded => ({
  items,
  children: foldSiblings(
    items.map(({ children }) => children),
    sizes,
  ),
})

/** Between texts that have no control characters, since they are made safe to show. */
const BETWEEN = '\u0001'

/** Equal for what looks the same but for addresses, and stands alike to what is around it. */
function signature(top: Item, sizes: Sizes): string {
  const inside = new Map<number, number>()
  count(top, inside)
  const names = new Map<number, number>()
  const texts: string[] = []
  const write = (item: Item): void => {
    const { kind, what, ids, name, driver, word, use, reset, numa, children } = item
    texts.push(kind, what, ids, name, driver, word, use, reset, String(numa), String(children.length))
    for (const key of keysOf(item)) {
      // What is whole in here counts by its place alone; what others are in too is that one.
      const isWhole = inside.get(key) === sizes.get(key)
      if (isWhole && !names.has(key)) names.set(key, names.size)
      texts.push(isWhole ? `${key % 2 === 0 ? 'group' : 'reset'} #${names.get(key)}` : String(key))
    }
    for (const child of children) write(child)
  }
  write(top)
  return texts.join(BETWEEN)
}
