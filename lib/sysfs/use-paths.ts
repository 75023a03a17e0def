import { isAddress } from './address.js'
import { readBatch } from './tree.js'

/** A thing of the kernel's with its place in sysfs. */
export interface Placed {
  readonly name: string
  /** The path that its link gives, `null` where it is no link. */
  readonly path: string | null
  /** Every PCI function on that path, from the root bus down: the last is the one that carries it. */
  readonly functions: readonly string[]
}

const NONE: readonly string[] = Object.freeze([])

/** The PCI functions that a path leads through. */
export function functionsOn(path: string | null): readonly string[] {
  if (path === null) return NONE
  const functions = path.split('/').filter(isAddress)
  return functions.length === 0 ? NONE : functions
}

/** As people count: `dm-2` before `dm-10`. */
export const byLength = (a: string, b: string) => a.length - b.length || (a < b ? -1 : 1)

/** The names in each of these directories, in order, by one call; empty where there is no such directory. */
export function readNames<T extends string>(root: string, directories: readonly T[]): Record<T, string[]> {
  const batch = readBatch(root, ['.'], { lists: directories })
  const entries = directories.map((directory) => [directory, batch.names(0, directory).sort(byLength)])
  return Object.fromEntries(entries) as Record<T, string[]>
}

/** Where the links of one directory lead. */
export function readPlaces(root: string, directory: string, names: readonly string[]): Placed[] {
  if (names.length === 0) return []
  const batch = readBatch(root, [directory], { links: names })
  return names.map((name) => {
    const path = batch.text(0, name)
    return { name, path, functions: functionsOn(path) }
  })
}

/** Whether a use on these functions is one of those that are looked for. */
export type Concerns = (functions: readonly string[]) => boolean
