import { spawnSync } from 'node:child_process'

/** One line of the benchmark: `ratio` is ours ÷ peer, measured in the same run, and should be at most `bar`. */
export interface Result {
  readonly name: string
  readonly ours: number
  readonly peer: number
  readonly unit: string
  readonly ratio: number
  readonly bar: number
}

export function result(name: string, ours: number, peer: number, unit: string, bar: number): Result {
  return { name, ours: round(ours), peer: round(peer), unit, ratio: round(ours / peer), bar }
}

const round = (value: number) => Number(value.toPrecision(3))

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN
}

/** Wall-clock milliseconds of a program from start to end, its output thrown away. */
export function timeProgram(program: string, args: readonly string[]): number {
  const start = performance.now()
  const { status, error } = spawnSync(program, args, { stdio: ['ignore', 'ignore', 'ignore'] })
  const milliseconds = performance.now() - start
  if (error) throw error
  if (status !== 0) throw new Error(`${program} ${args.join(' ')} ended with status ${status}`)
  return milliseconds
}

/** Measures two things in turn, A B A B …, so that both meet the same moods of the machine; medians come back. */
export function alternate(rounds: number, ours: () => number, peer: () => number): [number, number] {
  ours()
  peer()
  const samples = Array.from({ length: rounds }, () => [ours(), peer()] as const)
  return [median(samples.map(([first]) => first)), median(samples.map(([, second]) => second))]
}
