import { existsSync } from 'node:fs'
import { type Command, InvalidArgumentError, Option } from 'commander'
import { builtin } from '../builtin.js'
import {
  Host,
  type HostUse,
  type Snapshot,
  type SnapshotOptions,
  VfioError,
  whatIsMissing,
} from '../index.js'
import { didYouMean, nearest } from '../nearest.js'
import { note, oneLine } from './output.js'

/** How a command declares itself to the program: its name, arguments, options and help, and what it does. */
export type Declare = (vfio: Command) => void

/** What every command may be given. */
export interface Common {
  readonly json?: boolean
  readonly sysfs?: string
}

export const json = () => new Option('--json', 'print what the API returns, as JSON')
export const sysfs = () => new Option('--sysfs <dir>', 'look at another tree in place of /sys')
export const journal = () => new Option('--journal <dir>', 'directory of the journal (default: /run/vfio)')
export const rescanOption = () =>
  new Option('--rescan', 'remove what cannot be bound again, and let the kernel find it anew')
export const timeout = () =>
  new Option('--timeout <seconds>', 'how long the kernel may take for one change (default: 30)').argParser(
    seconds,
  )
export const memory = () =>
  new Option('--memory <size>', 'memory of the VM, like 16G: tells the limit on locked memory that it needs')

function seconds(text: string): number {
  if (/^\d{1,6}$/.test(text) && Number(text) > 0) return Number(text)
  throw new InvalidArgumentError('expected a number of seconds, like 30.')
}

/** What the library takes of `--timeout`, in milliseconds. */
export const deadlineOf = ({ timeout }: { readonly timeout?: number }) =>
  timeout === undefined ? undefined : timeout * 1000

/** For an option that may be given again. */
export const collect = (value: string, earlier: string[] = []) => [...earlier, value]

/** @param what a kind of use that is named does to it */
export function force(what: string): Option {
  const option = new Option('--force <kind>', `${what} this kind of use (may be given again)`)
  // For the help and for completion; `forced` refuses all others.
  option.argChoices = [...KINDS]
  return option.argParser(collect)
}

const KINDS: readonly HostUse['kind'][] = ['mount', 'swap', 'holder', 'network', 'display', 'other']

/** The kinds of use that `--force` names. */
export function forced(kinds: readonly string[] = []): HostUse['kind'][] {
  return kinds.map((kind) => {
    const known = KINDS.find((name) => name === kind)
    if (known) return known
    throw new VfioError(
      'ERR_VFIO_BAD_ARGUMENT',
      `--force takes one of ${KINDS.join(', ')}, not ${kind}${didYouMean(nearest(kind, KINDS))}`,
    )
  })
}

/** Overrides are read, which may take seconds, only where something rests on them or shows them. */
type Look = SnapshotOptions & {
  readonly overrides?: boolean
  readonly uses?: boolean
  readonly diagnosis?: boolean
  /** The program goes on looking. */
  readonly isWatch?: boolean
}

/** Looks at the host, or at the tree that `--sysfs` names. */
export function look(
  { sysfs: root }: Common,
  { overrides = false, diagnosis = false, isWatch = false, ...options }: Look = {},
): Snapshot {
  const isOnce = !isWatch && options.around === undefined
  const counted = (functions: number) => {
    if (isOnce && functions >= MANY) runOnce()
  }
  const lookAt = (host: Host) => host.look({ ...options, overrides: overrides ? null : NOT_READ, counted })
  if (root === undefined) {
    const seen = lookAt(new Host())
    // A diagnosis has it among its checks.
    if (!diagnosis) for (const sentence of whatIsMissing(seen)) note(`vfio: ${sentence}`)
    return seen
  }
  if (!existsSync(`${root}/bus/pci/devices`)) {
    throw new VfioError(
      'ERR_VFIO_BAD_ARGUMENT',
      `${oneLine(root)} is not a sysfs tree: it has no bus/pci/devices`,
    )
  }
  return lookAt(new Host({ sysfs: root }))
}

/**
 * So many functions take long enough for the compiler to begin optimizing what runs only once, which takes a second processor
 * for as long as the command runs. With fewer, loading what tells it not to takes longer.
 */
const MANY = 500

/** The largest function that V8 optimizes, in bytes of its own code, unless it is told otherwise. */
const OPTIMIZED = 61_440

/**
 * Nothing is optimized, until the program ends: what the compiler made is kept for programs that begin without that. By a size,
 * because `--no-opt` turns off what `--opt` does not turn on again in Node 22.
 */
function runOnce(): void {
  const v8 = builtin('node:v8')
  const optimize = (size: number) => v8.setFlagsFromString(`--max-optimized-bytecode-size=${size}`)
  optimize(0)
  process.prependListener('exit', () => optimize(OPTIMIZED))
}

/** Looks at this host once more, without saying again what is missing. */
export const lookAgain = (): Snapshot => new Host().look({ overrides: NOT_READ })

const NOT_READ = new Map<string, null>()

/** Runs a command and keeps its exit status. */
export function run<A extends readonly unknown[]>(
  command: (...args: A) => number | Promise<number>,
): (...args: A) => Promise<void> {
  return async (...args) => {
    const status = await command(...args)
    // Output that was lost meanwhile is a failure.
    process.exitCode ||= status
  }
}
