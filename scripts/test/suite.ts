// Runs compiled tests of one directory under mocha, on the host or in a guest:
//   node build/ts/scripts/test/suite.js DIRECTORY SECONDS FILES [GREP]
// SECONDS: the least that a test may take; FILES: names without `.test.js`, in order, with commas; empty for all.
import { readdirSync } from 'node:fs'
import { join, resolve } from 'node:path'
import Mocha from 'mocha'
import { type SuiteRecord, writeRecord } from './records.js'

const [directory = '', seconds = '10', files = '', grep] = process.argv.slice(2)
// Taken at the start, because a test may replace it.
const write = process.stdout.write.bind(process.stdout)
const tell = (record: SuiteRecord) => write(writeRecord(record))

/** Sends each result to the runner as it comes. */
class Reporter {
  constructor(runner: Mocha.Runner) {
    let last = performance.now()
    // Since the result before, so that the hooks around a test count too.
    const passed = () => {
      const now = performance.now()
      const seconds = (now - last) / 1000
      last = now
      return seconds
    }
    runner.on('pass', (test) => tell({ kind: 'passed', title: test.fullTitle(), seconds: passed() }))
    runner.on('pending', (test) => tell({ kind: 'skipped', title: test.fullTitle(), reason: reasonOf(test) }))
    runner.on('fail', (test, error) =>
      tell({
        kind: 'failed',
        title: test.fullTitle(),
        detail: described(error),
        seconds: passed(),
      }),
    )
  }
}

/** What failed in a test, with what its resources said as they were closed: `await using` puts both into one error. */
function described(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const { error: closing, suppressed } = error as { error?: unknown; suppressed?: unknown }
  if (suppressed === undefined) return error.stack ?? String(error)
  return `${described(suppressed)}\nand then, as it was closed:\n${described(closing)}`
}

/** A test says why it is skipped by setting `skipReason` on itself. */
function reasonOf(test: Mocha.Test): string {
  const { skipReason } = test as Mocha.Test & { skipReason?: string }
  return skipReason ?? 'no reason given'
}

/** A test may ask for more time, and not for less: a limit is there to end a hang, and the machine may be busy. */
function givePatience(suite: Mocha.Suite, least: number): void {
  const hooks = ['_beforeAll', '_beforeEach', '_afterEach', '_afterAll'].flatMap(
    (name) => (suite as unknown as Record<string, Mocha.Hook[]>)[name] ?? [],
  )
  for (const each of [suite, ...suite.tests, ...hooks]) {
    const limit = each.timeout()
    if (limit > 0 && limit < least) each.timeout(least)
  }
  for (const inner of suite.suites) givePatience(inner, least)
}

const mocha = new Mocha({
  ui: 'bdd',
  reporter: Reporter as unknown as Mocha.ReporterConstructor,
  timeout: Number(seconds) * 1000,
  ...(grep === undefined ? {} : { grep }),
  // A test marked `.only` by mistake would hide all others.
  forbidOnly: true,
})
const all = () =>
  readdirSync(directory, { recursive: true, encoding: 'utf8' }).filter((file) => file.endsWith('.test.js'))
const tests = files === '' ? all().sort() : files.split(',').map((name) => `${name}.test.js`)
for (const file of tests) mocha.addFile(resolve(join(directory, file)))
await mocha.loadFilesAsync()
givePatience(mocha.suite, Number(seconds) * 1000)
mocha.run((failures) => {
  tell({ kind: 'ended' })
  process.exitCode = failures > 0 ? 1 : 0
})
