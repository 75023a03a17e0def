import assert from 'node:assert/strict'
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import type { Binding } from '../../lib/native/binding.js'
import * as plain from '../../lib/sysfs/plain.js'
import { removeDirectories, temporaryDirectory } from '../fixtures/host.js'
import { ROOT } from './fake.js'

const path = process.env.VFIO_ADDON || join(ROOT, 'build/Release/vfio.node')
const quick = createRequire(import.meta.url)(path) as Binding
/** Attributes of the kernel's, which every machine has. */
const ATTRIBUTES = readdirSync('/sys/kernel/mm/transparent_hugepage')
  .map((name) => `/sys/kernel/mm/transparent_hugepage/${name}`)
  .filter((file) => /^-r/.test(execFileSync('stat', ['-c', '%A', file], { encoding: 'utf8' })))

describe('files that may keep a reader waiting', function () {
  this.timeout(120_000)
  afterEach(removeDirectories)

  // In milliseconds: starting a process takes longer, and more so on a machine that is busy. A program of Node sleeps for moments.
  for (const [name, { readWaiting }, patience] of [
    ['quick', quick, 1],
    ['plain', plain, 50],
  ] as const) {
    it(`are waited for while their reader runs, however slowly: ${name}`, () => {
      const paths = Array.from({ length: 500 }, (_, index) => ATTRIBUTES[index % ATTRIBUTES.length] ?? '')
      for (let round = 0; round < (name === 'quick' ? 30 : 2); round++) {
        const { data, spans } = readWaiting(paths, patience)()
        for (const [index, file] of paths.entries()) {
          const start = spans[2 * index] ?? -1
          assert(start >= 0, `round ${round}: ${file} was not waited for (${start})`)
          const text = Buffer.from(data.subarray(start, start + (spans[2 * index + 1] ?? 0))).toString()
          assert.equal(text, readFileSync(file, 'utf8'))
        }
      }
    })
  }

  it('keep nobody waiting who does not ask for them', async () => {
    const fifo = join(temporaryDirectory(), 'fifo')
    execFileSync('mkfifo', [fifo])
    const program = `
      const { readWaiting } = require(process.argv[1])
      // Of a function of its own, which leaves nothing on the stack.
      const begin = () => { readWaiting([process.argv[2]], 600000) }
      begin()
      const turn = () => new Promise(setImmediate)
      void (async () => {
        for (let round = 0; round < 20; round++) {
          gc()
          await turn()
        }
        console.log('free')
        setInterval(() => {}, 60000)
      })()`
    const child = spawn(process.execPath, ['--expose-gc', '-e', program, path, fifo], {
      stdio: ['ignore', 'pipe', 'inherit'],
      detached: true,
    })
    try {
      assert.equal(
        String((await once(child.stdout, 'data', { signal: AbortSignal.timeout(60_000) }))[0]),
        'free\n',
      )
    } finally {
      process.kill(-(child.pid ?? 0), 'SIGKILL')
      // Its reader is of a session of its own: somebody who writes ends it.
      execFileSync('timeout', ['60', 'sh', '-c', ': > "$1"', 'sh', fifo])
    }
  })
})
