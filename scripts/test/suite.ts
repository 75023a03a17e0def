// Runs the compiled tests of one directory under mocha, on the host or in a guest:
//   node build/ts/scripts/test/suite.js DIRECTORY TIMEOUT-SECONDS FILES [GREP]   (FILES: how their names begin; with ! before them, how none begins)
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
    runner.on('pass', (test) => tell({ kind: 'passed', title: test.fullTitle() }))
    runner.on('pending', (test) => tell({ kind: 'skipped', title: test.fullTitle(), reason: reasonOf(test) }))
    runner.on('fail', (test, error) =>
      tell({ kind: 'failed', title: test.fullTitle(), detail: error.stack ?? String(error) }),
    )
  }
}

/** A test says why it is skipped by setting `skipReason` on itself. */
function reasonOf(test: Mocha.Test): string {
  const { skipReason } = test as Mocha.Test & { skipReason?: string }
  return skipReason ?? 'no reason given'
}

const mocha = new Mocha({
  ui: 'bdd',
  reporter: Reporter as unknown as Mocha.ReporterConstructor,
  timeout: Number(seconds) * 1000,
  ...(grep === undefined ? {} : { grep }),
  // A test marked `.only` by mistake would hide all others.
  forbidOnly: true,
})
const isExclusion = files.startsWith('!')
const beginnings = files.slice(isExclusion ? 1 : 0).split(',')
const isWanted = (file: string) => beginnings.some((beginning) => file.startsWith(beginning)) !== isExclusion
const tests = readdirSync(directory, { recursive: true, encoding: 'utf8' }).filter(
  (file) => file.endsWith('.test.js') && isWanted(file),
)
for (const file of tests.sort()) mocha.addFile(resolve(join(directory, file)))
await mocha.loadFilesAsync()
mocha.run((failures) => {
  tell({ kind: 'ended' })
  process.exitCode = failures > 0 ? 1 : 0
})
