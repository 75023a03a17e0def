import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { PassThrough } from 'node:stream'
import { buildEnvironment } from '../headers.mjs'
import { messageOf } from '../lab/errors.js'
import { runInGuest } from '../lab/guest.js'
import { readRecord } from './records.js'
import { type Command, compiled, emptiness, ROOT, type Step, type Suite } from './steps.js'

/** What a step came to. */
export interface Outcome {
  readonly passed: number
  readonly failed: readonly { readonly title: string; readonly detail: string }[]
  readonly skipped: readonly { readonly title: string; readonly reason: string }[]
  /** What was printed beside the results. */
  readonly output: string
}

/** A guest that died, a sanitizer's report, a missing program: one failure with all that is known. */
const crashed = (title: string, detail: string, output = ''): Outcome => ({
  passed: 0,
  failed: [{ title, detail }],
  skipped: [],
  output,
})

export async function execute(step: Step, grep: string | undefined): Promise<Outcome> {
  try {
    return 'command' in step.work
      ? await runCommand(step.name, step.work)
      : await runSuite(step.name, step.work, grep)
  } catch (error) {
    return crashed(step.name, messageOf(error))
  }
}

async function runCommand(name: string, { command }: Command): Promise<Outcome> {
  const lines: string[] = []
  const environment = {
    ...buildEnvironment(),
    PATH: `${join(ROOT, 'node_modules/.bin')}:${process.env.PATH}`,
  }
  const { status } = await runOnHost(command, environment, undefined, (line) => lines.push(line))
  const output = lines.join('\n')
  if (status !== 0) return crashed(name, `${command.join(' ')} ended with status ${status}\n${output}`)
  return { passed: 1, failed: [], skipped: [], output }
}

async function runSuite(name: string, suite: Suite, grep: string | undefined): Promise<Outcome> {
  const nothing = emptiness(suite)
  if (nothing !== null) return crashed(name, nothing)
  const collected = new Collector()
  const command = [
    ...['node', join(ROOT, 'build/ts/scripts/test/suite.js'), compiled(suite), String(suite.testSeconds)],
    suite.files ?? '',
    ...(grep === undefined ? [] : [grep]),
  ]
  const { status, failure } = suite.guest
    ? await runInLab(suite, command, collected)
    : await runOnHost(
        suite.sanitized ? reporting(command) : command,
        { ...process.env, ...sanitizer(suite) },
        suite.totalSeconds,
        (line) => collected.line(line),
      )
  return collected.outcome(name, status, failure, grep === undefined)
}

/** Puts together what a suite told, and notices when it stopped telling. */
class Collector {
  readonly #passed: string[] = []
  readonly #failed: { title: string; detail: string }[] = []
  readonly #skipped: { title: string; reason: string }[] = []
  readonly #printed: string[] = []
  #ended = false

  line(line: string): void {
    const found = readRecord(line)
    const printed = found === null ? line : found.before
    if (printed !== '') this.#printed.push(printed)
    if (found === null) return
    const { record } = found
    if (record.kind === 'passed') this.#passed.push(record.title)
    if (record.kind === 'failed') this.#failed.push(record)
    if (record.kind === 'skipped') this.#skipped.push(record)
    if (record.kind === 'ended') this.#ended = true
  }

  outcome(name: string, status: number, failure: string | null, mayNotBeEmpty: boolean): Outcome {
    const output = this.#printed.join('\n')
    const failed = [...this.#failed]
    if (failure !== null) failed.push({ title: name, detail: failure })
    else if (!this.#ended)
      failed.push({ title: name, detail: `ended with status ${status} and no result\n${output}` })
    else if (status !== 0 && failed.length === 0) {
      failed.push({ title: name, detail: `ended with status ${status} although no test failed\n${output}` })
    } else if (mayNotBeEmpty && this.#passed.length + failed.length + this.#skipped.length === 0) {
      failed.push({ title: name, detail: 'there is no test in it' })
    }
    return { passed: this.#passed.length, failed, skipped: this.#skipped, output }
  }
}

interface Ended {
  readonly status: number
  readonly failure: string | null
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

async function runInLab(suite: Suite, command: readonly string[], collected: Collector): Promise<Ended> {
  const [stdout, stderr] = [new PassThrough(), new PassThrough()]
  const readers = [stdout, stderr].map((input) =>
    createInterface({ input }).on('line', (line) => collected.line(line)),
  )
  const result = await runInGuest({
    kernel: suite.guest?.kernel,
    topology: suite.guest?.topology,
    monitor: suite.guest?.monitor,
    command: suite.sanitized ? reporting(command) : command,
    cwd: ROOT,
    env: { FORCE_COLOR: '0', ...sanitizer(suite) },
    timeoutSeconds: suite.totalSeconds,
    streams: { stdin: null, stdout, stderr },
  })
  stdout.end()
  stderr.end()
  await Promise.all(readers.map((reader) => once(reader, 'close')))
  return result
}

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
    // Node itself never frees what lives as long as the process.
    ASAN_OPTIONS: 'detect_leaks=0',
    UBSAN_OPTIONS: 'print_stacktrace=1',
  }
}
