import { execFileSync } from 'node:child_process'
import { mkdtempSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Host, type PciDevice, survey } from 'vfio'
import type { Pair } from './measure.js'

const ROUNDS = 5

/** Nanoseconds by name. */
export type Times<Name extends string> = Readonly<Record<Name, number>>

export interface Compared {
  readonly name: string
  readonly pairs: readonly Pair[]
}

export interface Bound {
  readonly address: string
  readonly group: number
}

/** Puts the first free device that fits to vfio-pci: one that no driver has, alone in its group. */
export function bindFree(what: string, fits: (device: PciDevice) => boolean): Bound {
  const seen = new Host().snapshot()
  const free = survey(seen).devices.find(
    ({ address, verdict, driver, toBind }) =>
      verdict === 'bindable' && driver === null && toBind.length === 1 && fits(seen.device(address)),
  )
  if (!free || free.group === null) throw new Error(`this guest has no free ${what}`)
  writeFileSync(`/sys/bus/pci/devices/${free.address}/driver_override`, 'vfio-pci\n')
  writeFileSync('/sys/bus/pci/drivers_probe', `${free.address}\n`)
  return { address: free.address, group: free.group }
}

/** Compiles a peer; returns the program. */
export function build(name: string): string {
  const program = join(mkdtempSync('/tmp/bench-'), name)
  execFileSync('cc', ['-O2', '-D_GNU_SOURCE', '-o', program, `scripts/bench/${name}.c`])
  return program
}

/** Runs a peer on a device; it prints a name and its nanoseconds on each line. */
export function run<Name extends string>(
  program: string,
  { group, address }: Bound,
  parameters: readonly (string | number)[],
): Times<Name> {
  const lines = execFileSync(program, [group, address, ...parameters].map(String), { encoding: 'utf8' })
  return Object.fromEntries(
    lines
      .trim()
      .split('\n')
      .map((line) => line.split(' '))
      .map(([name, time]) => [name, Number(time)]),
  ) as Times<Name>
}

/** Measures both in turn, A B A B …, after a round that warms up both. */
export async function compare<Name extends string>(
  ours: () => Promise<Times<Name>>,
  peer: () => Times<Name>,
): Promise<Compared[]> {
  const rounds: { ours: Times<Name>; peer: Times<Name> }[] = []
  for (let round = 0; round <= ROUNDS; round++) rounds.push({ ours: await ours(), peer: peer() })
  const counted = rounds.slice(1)
  const names = Object.keys(rounds[0]?.ours ?? {}) as Name[]
  return names.map((name) => ({
    name,
    pairs: counted.map(({ ours, peer }) => ({ ours: ours[name], peer: peer[name] })),
  }))
}
