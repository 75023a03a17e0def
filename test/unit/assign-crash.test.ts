import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface, type Interface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { assign, recover, release, status } from 'vfio'
import { removeDirectories } from '../fixtures/host.js'
import { CASES, journalOf, photographOf, planOn, prepare, SINGLE, TWINS, using } from './assign-hosts.js'
import { makeKernelHost, SimulatedKernel } from './assign-kernel.js'
import type { Task } from './assign-program.js'
import { present } from './support.js'

const PROGRAM = fileURLToPath(new URL('assign-program.js', import.meta.url))

/** A program at work, line by line. */
class Program {
  readonly child: ChildProcess
  readonly #lines: AsyncIterator<string>
  readonly ended: Promise<unknown[]>

  constructor(task: Task) {
    this.child = spawn(process.execPath, [PROGRAM, JSON.stringify(task)], {
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    const lines: Interface = createInterface({ input: present(this.child.stdout) })
    this.#lines = lines[Symbol.asyncIterator]()
    this.ended = once(this.child, 'close')
  }

  async line(): Promise<string> {
    const { value, done } = await this.#lines.next()
    return done ? '' : value
  }

  go(): void {
    this.child.stdin?.write('go\n')
  }
}

/** Runs it to its end: `true` where it was killed by itself on the way. */
async function crashes(task: Task): Promise<boolean> {
  const program = new Program(task)
  const line = await program.line()
  const [status, signal] = await program.ended
  if (signal === null) assert.deepEqual([status, line], [0, 'done'])
  else assert.equal(signal, 'SIGKILL')
  return signal !== null
}

describe('after a crash', function () {
  this.timeout(120_000)
  afterEach(removeDirectories)

  for (const one of CASES) {
    it(`of an assignment of ${one.name}, at any point, recover puts everything back`, async () => {
      let points = 0
      for (;;) {
        const { trees, plan } = prepare(one)
        const before = photographOf(trees)
        if (!(await crashes({ trees, plan, dieAfter: points + 1 }))) break
        points++
        const { assignments, bad } = await status({ journal: journalOf(trees) })
        assert.deepEqual(bad, [])
        const [record] = assignments
        assert.equal(record?.alive, false)
        const assigned = record.state === 'assigned'
        const { recovered } = await recover(using(trees, new SimulatedKernel(trees)))
        assert.equal(recovered.length > 0, !assigned)
        // The last point is behind the whole assignment, which stands.
        if (assigned) await release('all', using(trees, new SimulatedKernel(trees)))
        assert.deepEqual(photographOf(trees), before, `after ${points} changes`)
        removeDirectories()
      }
      assert.equal(points, prepare(one).plan.steps.length + 2 + Number(one.options.ids === true))
      console.log(`      ${points} points`)
    })

    it(`of a release of ${one.name}, at any point, recover does the rest`, async () => {
      let points = 0
      for (;;) {
        const { trees, plan } = prepare(one)
        const before = photographOf(trees)
        await assign(plan, using(trees, new SimulatedKernel(trees)))
        if (!(await crashes({ trees, dieAfter: points + 1 }))) break
        points++
        await recover(using(trees, new SimulatedKernel(trees)))
        assert.deepEqual(photographOf(trees), before, `after ${points} changes`)
        removeDirectories()
      }
      assert.ok(points > 4)
      console.log(`      ${points} points`)
    })
  }

  it('of a recovery, at any point, another one does the rest', async () => {
    const one = present(CASES[1])
    let points = 0
    for (let isOver = false; !isOver; ) {
      const { trees, plan } = prepare(one)
      const before = photographOf(trees)
      assert.ok(await crashes({ trees, plan, dieAfter: plan.steps.length }))
      let changes = 0
      const stop = new Error('stop')
      const onChange = () => {
        // From here on nothing more gets done, as in a crash.
        if (++changes > points) throw stop
      }
      try {
        await recover(using(trees, new SimulatedKernel(trees), { onChange }))
        isOver = true
      } catch {
        points++
      }
      await recover(using(trees, new SimulatedKernel(trees)))
      assert.deepEqual(photographOf(trees), before, `after ${points} changes`)
      removeDirectories()
    }
    assert.ok(points > 4)
  })
})

describe('two programs at once', function () {
  this.timeout(120_000)
  afterEach(removeDirectories)

  it('the second is told who works on the device, and recover and release leave it alone', async () => {
    const { trees, plan } = prepare({ host: SINGLE, addresses: ['01:00.0'], options: {} })
    const before = photographOf(trees)
    const first = new Program({ trees, plan, waitAt: 1 })
    assert.equal(await first.line(), 'waiting')
    const halfway = photographOf(trees)
    const second = new Program({ trees, plan })
    assert.equal(await second.line(), 'ready')
    second.go()
    const answer = await second.line()
    assert.match(answer, /^ERR_VFIO_LOCKED /)
    assert.match(answer, new RegExp(`group 10 right now \\(.*, pid ${first.child.pid}\\)`))
    const options = using(trees, new SimulatedKernel(trees))
    assert.deepEqual((await recover(options)).busy, ['0000:01:00.0'])
    await assert.rejects(release('all', options), { code: 'ERR_VFIO_LOCKED' })
    const { assignments } = await status({ journal: journalOf(trees) })
    assert.deepEqual(
      assignments.map(({ state, alive, pid }) => ({ state, alive, pid })),
      [{ state: 'assigning', alive: true, pid: first.child.pid }],
    )
    assert.deepEqual(photographOf(trees), halfway)
    first.go()
    assert.equal(await first.line(), 'done')
    await Promise.all([first.ended, second.ended])
    await release('all', options)
    assert.deepEqual(photographOf(trees), before)
  })

  it('of a group that both want the second gets nothing, not even what is free', async () => {
    const trees = makeKernelHost(TWINS)
    const plans = [planOn(trees, ['03:00.0', '04:00.0']), planOn(trees, ['04:00.0', '05:00.0'])]
    const [one, two] = plans
    const first = new Program({ trees, ...(one && { plan: one }), waitAt: 2 })
    assert.equal(await first.line(), 'waiting')
    const halfway = photographOf(trees)
    const second = new Program({ trees, ...(two && { plan: two }) })
    assert.equal(await second.line(), 'ready')
    second.go()
    assert.match(await second.line(), /^ERR_VFIO_LOCKED .*group 31 right now/)
    assert.deepEqual(photographOf(trees), halfway)
    first.go()
    assert.equal(await first.line(), 'done')
    await Promise.all([first.ended, second.ended])
    await release('all', using(trees, new SimulatedKernel(trees)))
  })

  it('started together one wins, and the other is told why not', async () => {
    for (let round = 0; round < 6; round++) {
      const trees = makeKernelHost(TWINS)
      const before = photographOf(trees)
      const wanted =
        round % 2 === 0
          ? [['03:00.0'], ['03:00.0']]
          : [
              ['03:00.0', '04:00.0'],
              ['04:00.0', '05:00.0'],
            ]
      const programs = wanted.map((addresses) => new Program({ trees, plan: planOn(trees, addresses) }))
      for (const program of programs) assert.equal(await program.line(), 'ready')
      for (const program of programs) program.go()
      const answers = await Promise.all(programs.map((program) => program.line()))
      assert.equal(answers.filter((answer) => answer === 'done').length, 1, answers.join('\n'))
      const [lost = ''] = answers.filter((answer) => answer !== 'done')
      assert.match(lost, /^ERR_VFIO_(LOCKED|IN_USE) /)
      await Promise.all(programs.map(({ ended }) => ended))
      await release('all', using(trees, new SimulatedKernel(trees)))
      assert.deepEqual(photographOf(trees), before)
      removeDirectories()
    }
  })
})
