import { parseArgs } from 'node:util'
import { execute, type Outcome } from './test/execute.js'
import { type Lane, type Step, steps } from './test/steps.js'

const USAGE = `usage: npm test -- [--grep PATTERN] [STEP…]

Runs all tests, or those of the steps named; a name stands for all steps that begin with it (\`lab\`, \`lab:6.12\`).

steps: ${steps.map(({ name }) => name).join(', ')}`

function selected(names: readonly string[]): Step[] {
  const fits = (name: string, wanted: string) => name === wanted || name.startsWith(`${wanted}:`)
  const unknown = names.filter((wanted) => !steps.some(({ name }) => fits(name, wanted)))
  if (unknown.length > 0) throw new Error(`there is no step ${unknown.join(', ')}\n${USAGE}`)
  return steps.filter(({ name }) => names.length === 0 || names.some((wanted) => fits(name, wanted)))
}

async function main(): Promise<boolean> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { grep: { type: 'string' }, help: { type: 'boolean', short: 'h' } },
  })
  if (values.help) {
    console.log(USAGE)
    return true
  }
  const chosen = selected(positionals)
  const running = new Map<string, Promise<Outcome>>()
  const waiting = [...chosen]
  // Who has come to the end of a lane helps with the other.
  const lane = async (name: Lane) => {
    for (;;) {
      const own = waiting.findIndex((each) => each.lane === name)
      const [step] = waiting.splice(Math.max(own, 0), 1)
      if (step === undefined) return
      await Promise.all((step.after ?? []).map((other) => begun(other)))
      await begun(step.name)
    }
  }
  // A step that another waits for may belong to the other lane; it begins where it is asked for first.
  const begun = (name: string): Promise<Outcome | undefined> => {
    const step = chosen.find((each) => each.name === name)
    if (step === undefined) return Promise.resolve(undefined)
    const outcome = running.get(name) ?? perform(step, values.grep)
    running.set(name, outcome)
    return outcome
  }
  await Promise.all([lane('host'), lane('lab')])
  return summarize(await Promise.all(running.values()))
}

async function perform(step: Step, grep: string | undefined): Promise<Outcome> {
  const start = Date.now()
  console.log(`${step.name} …`)
  const outcome = await execute(step, grep)
  const seconds = ((Date.now() - start) / 1000).toFixed(1)
  console.log(`${step.name}: ${counts([outcome])} (${seconds} s)`)
  // What a test prints it prints for people: how many comparisons, how many points.
  if (outcome.output !== '' && 'directory' in step.work) console.log(indent(outcome.output))
  for (const { title, reason } of outcome.skipped) console.log(`  skipped: ${title} (${reason})`)
  for (const { title, detail } of outcome.failed) console.log(`  FAILED: ${title}\n${indent(detail)}`)
  return outcome
}

function summarize(outcomes: readonly Outcome[]): boolean {
  console.log(counts(outcomes))
  const ran = outcomes.some(({ passed, failed }) => passed + failed.length > 0)
  return ran && outcomes.every(({ failed }) => failed.length === 0)
}

function counts(outcomes: readonly Outcome[]): string {
  const sum = (count: (outcome: Outcome) => number) => outcomes.reduce((total, one) => total + count(one), 0)
  return [
    `${sum(({ passed }) => passed)} passed`,
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
