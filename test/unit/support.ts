import { type Arbitrary, configureGlobal } from 'fast-check'
import { Host, type Snapshot } from 'vfio'
import { type HostDescription, makeHost } from '../fixtures/host.js'

/** The seed of all property tests: VFIO_SEED repeats a run. */
export const SEED = Number(process.env.VFIO_SEED ?? Date.now() % 2 ** 31)
configureGlobal({ seed: SEED })

/** Looks at a described host. */
export const see = (host: HostDescription): Snapshot => new Host(makeHost(host)).snapshot()

/** A value that a test cannot do without. */
export function present<T>(value: T | null | undefined, what = 'a value'): T {
  if (value === null || value === undefined) throw new Error(`expected ${what}`)
  return value
}

export type Generated<A> = A extends Arbitrary<infer T> ? T : never
