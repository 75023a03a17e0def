// npm run bench [-- --json]: ratios against the named peers, measured in the same run.
import { PassThrough } from 'node:stream'
import { text } from 'node:stream/consumers'
import { parseArgs } from 'node:util'
import { LabError, messageOf } from '../lab/errors.js'
import { runInGuest } from '../lab/guest.js'
import { benchHost } from './host.js'
import { type Result, result } from './measure.js'

const ADDON = 'build/Release/vfio.node'

interface Times {
  readonly name: string
  readonly ours: number
  readonly peer: number
}

/** Runs a program in a guest of its own, which prints what it measured. */
async function measureInGuest(script: string): Promise<Times[]> {
  const stdout = new PassThrough()
  const printed = text(stdout)
  const { status, failure } = await runInGuest({
    command: [process.execPath, `build/ts/scripts/bench/${script}.js`],
    streams: { stdin: null, stdout, stderr: process.stderr },
    timeoutSeconds: 300,
    say: (line) => console.error(`bench: ${line}`),
  })
  stdout.end()
  if (failure !== null || status !== 0) throw new LabError(failure ?? `the guest ended with status ${status}`)
  return JSON.parse(await printed) as Times[]
}

async function benchGuest(): Promise<Result[]> {
  const ioctls = await measureInGuest('ioctls')
  const bindings = await measureInGuest('bind')
  return [
    ...ioctls.map(({ name, ours, peer }) => result(`${name}() : the same ioctl in C`, ours, peer, 'ns', 2)),
    ...bindings.map(({ name, ours, peer }) =>
      result(`${name}() of a group of three : the same writes in C`, ours / 1e6, peer / 1e6, 'ms', 1.2),
    ),
  ]
}

function render(results: readonly Result[]): string {
  return results
    .map(({ name, ours, peer, unit, ratio, bar }) => {
      const verdict = ratio <= bar ? 'met' : 'NOT met'
      return `${name}\n    ${ours} ${unit} : ${peer} ${unit} = ${ratio} (at most ${bar}: ${verdict})`
    })
    .join('\n')
}

try {
  const { values } = parseArgs({ options: { json: { type: 'boolean', default: false } } })
  const results = [...benchHost(ADDON), ...(await benchGuest())]
  console.log(values.json ? JSON.stringify(results) : render(results))
} catch (error) {
  console.error(`bench: ${messageOf(error)}`)
  process.exitCode = 1
}
