import assert from 'node:assert/strict'
import { type FakeAnswer, OPENS, runSource } from '../native/fake.js'
import { type Cell, ENDS, WORKS } from './cells.js'
import { DRIVING_ANSWERS } from './driving.js'

/** The second opening and every reset take a while, so that the end comes while they run. */
const ANSWERS: FakeAnswer[] = [
  OPENS,
  { call: 'openDevice', returns: 'fd', when: 60 },
  { call: 'reset', when: 60 },
  ...DRIVING_ANSWERS,
]

const WORKER_URL = new URL('./teardown-worker.js', import.meta.url).href

const DRIVING_URL = new URL('./driving.js', import.meta.url).href

const WORKERS = `const fakeFds = () => fs.readdirSync('/proc/self/fd').filter((fd) => {
  try { return fs.readlinkSync('/proc/self/fd/' + fd).includes('memfd:fake-vfio') } catch { return false }
}).length
import { Worker } from 'node:worker_threads'
// A global, so that no garbage collection closes them before the end.
globalThis.held = input.cell.main ? [vfio.VfioContainer.open(), vfio.VfioGroup.open(2)] : []
const ours = () => {
  const maps = fs.readFileSync('/proc/self/maps', 'utf8').split('\\n').filter((line) => /memfd:(fake-vfio|vfio-dma)/.test(line))
  return { descriptors: fs.readdirSync('/proc/self/fd').length, maps }
}
let before
for (let round = 0; round < 4; round++) {
  const worker = new Worker(new URL(input.url), { workerData: input.cell, execArgv: [] })
  worker.on('message', () => { if (input.cell.end === 'terminate') worker.terminate() })
  await new Promise((resolve, reject) => worker.on('error', reject).on('exit', resolve))
  assert.equal(fakeFds(), held.length, 'descriptors of the worker are left open')
  // The first worker of a process opens some for good.
  before ??= ours()
  assert.deepEqual(ours(), before)
  assert.deepEqual(before.maps, [])
}
console.log('done', held.length)
`

describe('the end of a worker', function () {
  this.timeout(30_000)

  for (const main of [false, true]) {
    for (const end of ENDS) {
      for (const work of WORKS) {
        const loaded = main ? 'loaded in main too' : 'loaded in the worker only'
        it(`by ${end} with work "${work}" and the addon ${loaded} is clean`, async () => {
          const input = { cell: { end, work, main } satisfies Cell, url: WORKER_URL }
          const outcome = await runSource(WORKERS, ANSWERS, { input })
          assert.deepEqual(outcome, { code: 0, signal: null, stdout: `done ${main ? 2 : 0}\n`, stderr: '' })
        })
      }
    }
  }
})

const MAIN = `
const { container, group } = openGroup()
const device = await group.openDevice('0000:01:00.0')
const { work, end } = input.cell
if (work === 'reset' || work === 'aborted') device.reset().catch(() => {})
if (work === 'queued') for (let i = 0; i < 3; i++) device.reset().catch(() => {})
if (work === 'open') group.openDevice('0000:01:00.1').catch(() => {})
if (work === 'close') void group.close()
const { drive } = await import(input.drive)
globalThis.held = drive(work, end, container, device)
console.log('done')
if (end === 'exit') process.exit(7)
if (end === 'throw') throw new Error('thrown on purpose')
`

describe('the end of the main thread', function () {
  this.timeout(30_000)

  const codes = { exit: 7, natural: 0, throw: 1 }
  for (const [end, code] of Object.entries(codes)) {
    for (const work of WORKS) {
      it(`by ${end} with work "${work}" is clean`, async () => {
        const { stderr, ...outcome } = await runSource(MAIN, ANSWERS, {
          input: { cell: { end, work }, drive: DRIVING_URL },
        })
        assert.deepEqual(outcome, { code, signal: null, stdout: 'done\n' })
        assert.match(stderr, end === 'throw' ? /thrown on purpose/ : /^$/)
      })
    }
  }

  it('by process.exit while a worker works is clean', async () => {
    const source = `import { Worker } from 'node:worker_threads'
      const worker = new Worker(new URL(input.url), { workerData: { end: 'terminate', work: 'queued', main: false }, execArgv: [] })
      worker.on('message', () => process.exit(7))`
    const outcome = await runSource(source, ANSWERS, { input: { url: WORKER_URL } })
    assert.deepEqual(outcome, { code: 7, signal: null, stdout: '', stderr: '' })
  })
})
