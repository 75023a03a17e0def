import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { closeSync, mkdtempSync, openSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Outcome, runSource } from '../native/fake.js'
import { ABORTABLE, answersFor, HUNG, type Hung } from './hung.js'

const HUNG_URL = new URL('./hung.js', import.meta.url).href
const WORKER_URL = new URL('./hung-worker.js', import.meta.url).href

/** What nobody waits for any more. */
const LEFT_BEHIND: readonly Hung[] = [...ABORTABLE, 'opened']

const MAIN = `
const { hang } = await import(input.url)
const controller = new AbortController()
globalThis.held = await hang(input.hung, controller.signal)
console.log('hangs')
if (input.end === 'exit') process.exit(7)
if (input.end === 'throw') throw new Error('thrown on purpose')
if (input.end === 'natural') controller.abort()
if (input.end === 'SIGTERM') {
  process.kill(process.pid, 'SIGTERM')
  setInterval(() => {}, 1000)
}
`

const WORKER = `
import { Worker } from 'node:worker_threads'
const fakeFds = () => fs.readdirSync('/proc/self/fd').filter((fd) => {
  try { return fs.readlinkSync('/proc/self/fd/' + fd).includes('memfd:fake-vfio') } catch { return false }
}).length
const threads = () => fs.readdirSync('/proc/self/task').filter((id) => {
  try { return fs.readFileSync('/proc/self/task/' + id + '/comm', 'utf8').startsWith('vfio:') } catch { return false }
}).length
// A global, so that no garbage collection closes them before the end.
globalThis.held = input.main ? [vfio.VfioContainer.open(), vfio.VfioGroup.open(2)] : []
const worker = new Worker(new URL(input.url), { workerData: input, execArgv: [] })
worker.on('message', () => {
  if (input.end === 'terminate') worker.terminate()
  if (input.end === 'main') process.exit(7)
})
const code = await new Promise((resolve, reject) => worker.on('error', reject).on('exit', resolve))
// The thread is still there, and ends like any other once the kernel answers.
assert.equal(threads(), 1)
if (input.hung !== 'read') {
  letGo()
  while (threads() > 0 || fakeFds() > held.length) await new Promise(setImmediate)
}
console.log('ended', code)
`

describe('a call that hangs', function () {
  this.timeout(60_000)

  let directory: string
  let stream: number
  before(() => {
    directory = mkdtempSync(join(tmpdir(), 'vfio-hung-'))
    execFileSync('mkfifo', [join(directory, 'stream')])
    stream = openSync(join(directory, 'stream'), 'r+')
  })
  after(() => {
    closeSync(stream)
    rmSync(directory, { recursive: true })
  })

  /** What the program did. It is killed, and so told from one that ended, when it takes far too long. */
  const run = (source: string, hung: Hung, input: object): Promise<Outcome> =>
    runSource(source, answersFor(hung), { input: { hung, ...input }, descriptors: [stream] })

  /** Side by side, because those with a worker have a wait in them. */
  const each = (calls: readonly Hung[], check: (hung: Hung) => Promise<void>) => Promise.all(calls.map(check))

  const ends = {
    exit: { code: 7, signal: null },
    throw: { code: 1, signal: null },
    natural: { code: 0, signal: null },
    SIGTERM: { code: null, signal: 'SIGTERM' },
  } as const
  for (const [end, expected] of Object.entries(ends)) {
    it(`lets the program end by ${end}`, () =>
      each(end === 'natural' ? LEFT_BEHIND : HUNG, async (hung) => {
        const { stderr, ...outcome } = await run(MAIN, hung, { url: HUNG_URL, end })
        assert.deepEqual(outcome, { ...expected, stdout: 'hangs\n' }, `${hung}: ${stderr}`)
        assert.match(stderr, end === 'throw' ? /thrown on purpose/ : /^$/, hung)
      }))
  }

  it('of a worker lets the program end by process.exit', () =>
    each(HUNG, async (hung) => {
      const outcome = await run(WORKER, hung, { url: WORKER_URL, end: 'main' })
      assert.deepEqual(outcome, { code: 7, signal: null, stdout: '', stderr: '' }, hung)
    }))

  for (const main of [false, true]) {
    for (const end of ['terminate', 'exit', 'natural']) {
      const loaded = main ? 'loaded in main too' : 'loaded in the worker only'
      it(`lets a worker end by ${end}, with the addon ${loaded}`, () =>
        each(end === 'natural' ? LEFT_BEHIND : HUNG, async (hung) => {
          const outcome = await run(WORKER, hung, { url: WORKER_URL, end, main })
          const code = end === 'terminate' ? 1 : 0
          assert.deepEqual(outcome, { code: 0, signal: null, stdout: `ended ${code}\n`, stderr: '' }, hung)
        }))
    }
  }
})
