import { spawnSync } from 'node:child_process'

/** What one round brought: ours and that of the peer, in the same unit. */
export interface Pair {
  readonly ours: number
  readonly peer: number
}

/**
 * One line of the benchmark: medians of all rounds. `ratio` is ours ÷ peer, as the median of what each round had, and
 * should be at most `bar`; `spread` is the lowest and the highest of them.
 */
export interface Result {
  readonly name: string
  readonly ours: number
  readonly peer: number
  readonly unit: string
  readonly ratio: number
  readonly spread: readonly [lowest: number, highest: number]
  readonly rounds: number
  readonly bar: number
}

/** `scale` is how many of what was measured are one of `unit`. */
export function result(name: string, pairs: readonly Pair[], unit: string, bar: number, scale = 1): Result {
  const ratios = pairs.map(({ ours, peer }) => ours / peer)
  return {
    name,
    ours: round(median(pairs.map(({ ours }) => ours)) / scale),
    peer: round(median(pairs.map(({ peer }) => peer)) / scale),
    unit,
    ratio: round(median(ratios)),
    spread: [round(Math.min(...ratios)), round(Math.max(...ratios))],
    rounds: pairs.length,
    bar,
  }
}

const round = (value: number) => Number(value.toPrecision(3))

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN
}

/** Wall-clock milliseconds of a program from start to end, its output thrown away. */
export function timeProgram(
  program: string,
  args: readonly string[],
  more: NodeJS.ProcessEnv = {},
  cwd = process.cwd(),
): number {
  // Where it is set Node reads all certificates at each start, which takes a third of it and is no cost of what is compared.
  const { NODE_EXTRA_CA_CERTS, ...own } = process.env
  const env = { ...own, ...more }
  const start = performance.now()
  const { status, error } = spawnSync(program, args, { stdio: ['ignore', 'ignore', 'ignore'], env, cwd })
  const milliseconds = performance.now() - start
  if (error) throw error
  if (status !== 0) throw new Error(`${program} ${args.join(' ')} ended with status ${status}`)
  return milliseconds
}

/** Measures two things in turn, A B A B …, so that both meet the same moods of the machine, after a round that warms up both. */
export function alternate(rounds: number, ours: () => number, peer: () => number): Pair[] {
  ours()
  peer()
  return Array.from({ length: rounds }, () => ({ ours: ours(), peer: peer() }))
}
