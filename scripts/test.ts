import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { parseArgs } from 'node:util'
import { changedFiles, touchedSteps } from './test/changed.js'
import { execute, leftOut, type Outcome, type Timed } from './test/execute.js'
import {
  type Lane,
  ROOT,
  type Step,
  steps,
  stepsOnNode,
  testedLines,
  usualSteps,
  whyLeftOut,
} from './test/steps.js'

const USAGE = `usage: npm test -- [--changed] [--node LINE] [--grep PATTERN] [STEP…]

Runs all tests, or those of the steps named; a name stands for all steps that begin with it (\`lab\`, \`lab:6.12\`).

  --changed        only the steps that can see what differs from main, committed or not
  --node LINE      unit and native, or the one of them that is named, on one line of Node: ${testedLines.join(', ')}
  --grep PATTERN   only tests whose title matches

steps: ${usualSteps.map(({ name }) => name).join(', ')}
by name only (npm run soak): ${steps
  .filter((step) => !usualSteps.includes(step))
  .map(({ name }) => name)
  .join(', ')}`

const PROGRESS_SECONDS = 30
const LONGEST = 10
const TIMES = join(ROOT, 'build/test-times.tsv')

function named(names: readonly string[]): Step[] {
  const fits = (name: string, wanted: string) => name === wanted || name.startsWith(`${wanted}:`)
  const unknown = names.filter((wanted) => !steps.some(({ name }) => fits(name, wanted)))
  if (unknown.length > 0) throw new Error(`there is no step ${unknown.join(', ')}\n${USAGE}`)
  return steps.filter(({ name }) => names.some((wanted) => fits(name, wanted)))
}

function onLine(line: string, names: readonly string[]): Step[] {
  if (!testedLines.includes(line))
    throw new Error(`--node takes ${testedLines.join(', ')}, not ${line}\n${USAGE}`)
  const all = stepsOnNode(line)
  const suite = ({ name }: Step) => name.slice(name.indexOf(':') + 1)
  const unknown = names.filter((name) => !all.some((step) => suite(step) === name))
  if (unknown.length > 0) {
    throw new Error(`--node goes with ${all.map(suite).join(', ')}, not ${unknown.join(', ')}\n${USAGE}`)
  }
  return all.filter((step) => names.length === 0 || names.includes(suite(step)))
}

/** The steps, and those that have to have ended before. */
function withNeeded(chosen: readonly Step[]): Step[] {
  const names = new Set(chosen.flatMap(({ name, after = [] }) => [name, ...after]))
  const wanted = new Map(chosen.map((step) => [step.name, step]))
  return steps.filter(({ name }) => names.has(name)).map((step) => wanted.get(step.name) ?? step)
}

async function main(): Promise<boolean> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      changed: { type: 'boolean' },
      node: { type: 'string' },
      grep: { type: 'string' },
      help: { type: 'boolean', short: 'h' },
    },
  })
  if (values.help) {
    console.log(USAGE)
    return true
  }
  if (values.node !== undefined) {
    if (values.changed) throw new Error(`--node goes without --changed\n${USAGE}`)
    return summarize(await runAll(onLine(values.node, positionals), values.grep))
  }
  let chosen: readonly Step[] = positionals.length > 0 ? named(positionals) : usualSteps
  if (values.changed) {
    const files = changedFiles()
    const touched = await touchedSteps(files, chosen)
    console.log(
      `${files.length} files changed: ${touched.map(({ name }) => name).join(', ') || 'no step sees them'}`,
    )
    if (touched.length === 0) return summarize([])
    chosen = touched
  }
  const mayBuild = positionals.length > 0
  const outcomes = await runAll(withNeeded(chosen), values.grep, mayBuild)
  return summarize(outcomes) || (values.changed === true && outcomes.length === 0)
}

async function runAll(
  chosen: readonly Step[],
  grep: string | undefined,
  mayBuild = true,
): Promise<Finished[]> {
  const begun = new Map<string, Promise<Finished>>()
  const running = new Set<Running>()
  const waiting = [...chosen]
  // Who has come to the end of a lane helps with the other.
  const lane = async (name: Lane) => {
    for (;;) {
      const own = waiting.findIndex((each) => each.lane === name)
      const [step] = waiting.splice(Math.max(own, 0), 1)
      if (step === undefined) return
      await Promise.all((step.after ?? []).map((other) => begin(other)))
      await begin(step.name)
    }
  }
  // A step that another waits for may belong to the other lane; it begins where it is asked for first.
  const begin = (name: string): Promise<Finished | undefined> => {
    const step = chosen.find((each) => each.name === name)
    if (step === undefined) return Promise.resolve(undefined)
    const outcome = begun.get(name) ?? perform(step, grep, running, mayBuild)
    begun.set(name, outcome)
    return outcome
  }
  const ticking = setInterval(() => {
    for (const each of running) console.log(progressOf(each))
  }, PROGRESS_SECONDS * 1000)
  try {
    // Tests on the host wait much of their time for deadlines and for other processes, so that two of them fit on a core.
    await Promise.all([lane('host'), lane('host'), lane('lab')])
    return await Promise.all(begun.values())
  } finally {
    clearInterval(ticking)
  }
}

interface Running {
  readonly name: string
  readonly start: number
  results: number
  last: string
}

interface Finished extends Outcome {
  readonly step: string
  readonly seconds: number
}

const secondsSince = (start: number) => (performance.now() - start) / 1000

const progressOf = ({ name, start, results, last }: Running) =>
  `${name}: ${results} results in ${secondsSince(start).toFixed(0)} s${last === '' ? '' : `, last ${last}`}`

async function perform(
  step: Step,
  grep: string | undefined,
  running: Set<Running>,
  mayBuild: boolean,
): Promise<Finished> {
  const state: Running = { name: step.name, start: performance.now(), results: 0, last: '' }
  running.add(state)
  console.log(`${step.name} …`)
  const reason = mayBuild ? null : whyLeftOut(step)
  const outcome =
    reason === null
      ? await execute(step, grep, (results, last) => {
          Object.assign(state, { results, last })
        })
      : leftOut(step, reason)
  running.delete(state)
  const seconds = secondsSince(state.start)
  const cpu = outcome.cpuSeconds === undefined ? '' : `, ${outcome.cpuSeconds.toFixed(1)} s of processor`
  // In one piece, so that two steps that end together do not mix.
  const lines = [
    `${step.name}: ${counts([outcome])} (${seconds.toFixed(1)} s${cpu})`,
    // What a test prints it prints for people: how many comparisons, how many points.
    ...(outcome.output !== '' && 'directory' in step.work ? [indent(outcome.output)] : []),
    ...outcome.skipped.map(({ title, reason }) => `  skipped: ${title} (${reason})`),
    ...outcome.failed.map(failure),
  ]
  console.log(lines.join('\n'))
  const finished = { ...outcome, step: step.name, seconds }
  ended.push(finished)
  // A run that is ended before its end has told where its time went until then.
  writeTimes(testsOf(ended))
  return finished
}

const ended: Finished[] = []

const testsOf = (outcomes: readonly Finished[]) =>
  outcomes.flatMap(({ step, passed, failed }) =>
    [...passed, ...failed].map((test: Timed) => ({ ...test, step })),
  )

const failure = ({ title, detail }: { title: string; detail: string }) =>
  `  FAILED: ${title}\n${indent(detail)}`

function summarize(outcomes: readonly Finished[]): boolean {
  const tests = testsOf(outcomes)
  console.log('the time of each step, in seconds:')
  console.log(outcomes.map(({ step, seconds }) => `${step} ${seconds.toFixed(0)}`).join(', '))
  const longest = tests.toSorted((one, other) => other.seconds - one.seconds).slice(0, LONGEST)
  if (longest.length > 0) console.log('the longest tests:')
  for (const { step, title, seconds } of longest) {
    console.log(`  ${seconds.toFixed(1).padStart(6)} s  ${step}: ${title}`)
  }
  // Once more at the end, which is what is left of a long output.
  for (const { step, failed } of outcomes) {
    for (const each of failed) console.log(`${step}:\n${failure(each)}`)
  }
  console.log(counts(outcomes))
  return tests.length > 0 && outcomes.every(({ failed }) => failed.length === 0)
}

/** Every test with its time, longest first, for who wants to know where it goes. */
function writeTimes(tests: readonly (Timed & { readonly step: string })[]): void {
  const lines = tests
    .toSorted((one, other) => other.seconds - one.seconds)
    .map(({ step, title, seconds }) => `${seconds.toFixed(2)}\t${step}\t${title}\n`)
  mkdirSync(dirname(TIMES), { recursive: true })
  writeFileSync(TIMES, lines.join(''))
}

function counts(outcomes: readonly Outcome[]): string {
  const sum = (count: (outcome: Outcome) => number) => outcomes.reduce((total, one) => total + count(one), 0)
  return [
    `${sum(({ passed }) => passed.length)} passed`,
    `${sum(({ failed }) => failed.length)} failed`,
    `${sum(({ skipped }) => skipped.length)} skipped`,
  ].join(', ')
}

const indent = (text: string) => text.replace(/^/gm, '    ')

try {
  process.exitCode = (await main()) ? 0 : 1
} catch (error) {
  console.error(`test: ${error instanceof Error ? error.message : error}`)
  process.exitCode = 2
}
