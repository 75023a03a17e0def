import { createRequire } from 'node:module'
import { dirname } from 'node:path'
import { configureGlobal } from 'fast-check'
import { Host, type Snapshot } from 'vfio'
import { type HostDescription, makeHost } from '../fixtures/host.js'
import { sized } from '../fixtures/size.js'

/** The seed of all property tests: VFIO_SEED repeats a run. */
export const SEED = Number(process.env.VFIO_SEED ?? Date.now() % 2 ** 31)
configureGlobal({ seed: SEED })

/** Of so many runs of a property that looks at hosts a third, since each seed is another one; the soak has all. */
export const runs = (count: number): number => sized(Math.ceil(count / 3), count)

/** Looks at a described host. */
export const see = (host: HostDescription): Snapshot => new Host(makeHost(host)).snapshot()

/** A value that a test cannot do without. */
export function present<T>(value: T | null | undefined, what = 'a value'): T {
  if (value === null || value === undefined) throw new Error(`expected ${what}`)
  return value
}

/** The root of the package, wherever this test was compiled to. */
export const ROOT = dirname(createRequire(import.meta.url).resolve('vfio/package.json'))
