import assert from 'node:assert/strict'
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { assign, type Plan, recover, status } from 'vfio'
import { type HostTrees, removeDirectories } from '../fixtures/host.js'
import type { HangTask } from './assign-hang-program.js'
import { journalOf, photographOf, prepare, SINGLE, using } from './assign-hosts.js'
import { SimulatedKernel } from './assign-kernel.js'
import { present, ROOT } from './support.js'

const NVME = '0000:01:00.0'
const PROGRAM = fileURLToPath(new URL('assign-hang-program.js', import.meta.url))
const FOREVER = 2 ** 31 - 1

/** A file that nobody reads: opening it for writing waits, as an unbinding does while the device is open. */
class StuckFile {
  readonly path: string

  constructor(path: string) {
    this.path = path
    rmSync(path)
    execFileSync('mkfifo', [path])
  }

  /** The process that waits to write there, once there is one. */
  async writer(): Promise<number> {
    const name = this.path.slice(this.path.lastIndexOf('/'))
    for (;;) {
      // Other runs of the same tests on this machine have such processes too.
      const isOurs = (pid: string) => isStuckIn(pid, name) && this.#isOurs(pid)
      const found = readdirSync('/proc').find((pid) => /^\d+$/.test(pid) && isOurs(pid))
      if (found !== undefined) return Number(found)
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
  }

  #isOurs(pid: string): boolean {
    const root = this.path.slice(0, this.path.indexOf('/sys/'))
    return commandOf(pid).includes(root)
  }

  /** The kernel answers after all. */
  async answer(): Promise<void> {
    const reader = spawn('cat', [this.path], { stdio: ['ignore', 'pipe', 'inherit'] })
    await text(present(reader.stdout))
    rmSync(this.path)
    writeFileSync(this.path, '')
  }
}

function commandOf(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim()
  } catch {
    return ''
  }
}

const isStuckIn = (pid: string, file: string) => {
  const command = commandOf(pid)
  return command.startsWith('vfio-write ') && command.endsWith(file)
}

async function gone(pid: number): Promise<void> {
  while (existsSync(`/proc/${pid}`)) await new Promise((resolve) => setTimeout(resolve, 20))
}

interface Stuck {
  readonly trees: HostTrees
  readonly plan: Plan
  readonly before: readonly string[]
  readonly file: StuckFile
  readonly child: ChildProcess
  readonly writer: number
}

/** A program in the middle of an assignment, of which the kernel does not answer the unbinding. */
async function stuckProgram(deadline: number): Promise<Stuck> {
  const { trees, plan } = prepare({ host: SINGLE, addresses: [NVME], options: { reset: 'none' } })
  const before = photographOf(trees)
  const file = new StuckFile(`${trees.sysfs}/bus/pci/drivers/nvme/unbind`)
  const task: HangTask = { plan, journal: journalOf(trees), deadline }
  const child = spawn(process.execPath, [PROGRAM, JSON.stringify(task)], { stdio: ['pipe', 'pipe', 'pipe'] })
  return { trees, plan, before, file, child, writer: await file.writer() }
}

/** What was left in the kernel keeps everybody else off; when it has ended, `recover` makes the host as it was. */
async function putRight({ trees, plan, before, file, writer }: Stuck): Promise<void> {
  assert.ok(existsSync(`/proc/${writer}`), 'it goes on by itself')
  const kernel = new SimulatedKernel(trees)
  const report = await recover(using(trees, kernel))
  assert.deepEqual([report.busy, report.recovered, kernel.calls], [[NVME], [], []])
  assert.match(
    report.warnings.join(),
    new RegExp(
      `another program is changing group 10 right now \\(vfio-write, pid ${writer}\\): what it wrote to .*/unbind is still in the kernel since 2.*"vfio recover"`,
    ),
  )
  await assert.rejects(assign(plan, using(trees, kernel)), { code: 'ERR_VFIO_LOCKED' })
  await file.answer()
  await gone(writer)
  assert.deepEqual((await recover(using(trees, kernel))).recovered, [NVME])
  assert.deepEqual(photographOf(trees), before)
}

describe('a write to sysfs that never returns', function () {
  this.timeout(120_000)
  afterEach(removeDirectories)

  const ENDS: readonly [how: string, status: number | null, signal: NodeJS.Signals | null][] = [
    ['process.exit', 7, null],
    ['an error that nobody catches', 1, null],
    ['a rejection that nobody handles', 1, null],
    ['abort', null, 'SIGABRT'],
    ['SIGINT', null, 'SIGINT'],
    ['SIGTERM', null, 'SIGTERM'],
    ['SIGHUP', null, 'SIGHUP'],
    ['SIGKILL', null, 'SIGKILL'],
  ]
  for (const [how, wanted, signal] of ENDS) {
    it(`does not keep a program from ending by ${how}, nor whoever reads its output`, async () => {
      const stuck = await stuckProgram(FOREVER)
      const closed = once(stuck.child, 'close')
      if (how.startsWith('SIG')) stuck.child.kill(how as NodeJS.Signals)
      else stuck.child.stdin?.end(`${how}\n`)
      assert.deepEqual(await closed, [wanted, signal])
      await putRight(stuck)
    })
  }

  it('is told at the deadline in one sentence, and the program ends by itself', async () => {
    const stuck = await stuckProgram(3000)
    const closed = once(stuck.child, 'close')
    stuck.child.stdin?.end('by itself\n')
    const said = JSON.parse(await text(present(stuck.child.stdout))) as Record<string, string>
    assert.equal(said.isOurs, true)
    assert.match(
      said.message ?? '',
      /^the kernel has not answered for 3 s: writing "0000:01:00.0" to .*\/unbind; this could not be undone: .*is still busy.*\("vfio recover" tries again\)$/,
    )
    assert.deepEqual(await closed, [0, null])
    const { assignments } = await status({ journal: journalOf(stuck.trees) })
    assert.deepEqual(
      assignments.map(({ state, alive }) => [state, alive]),
      [['broken', false]],
    )
    await putRight(stuck)
  })

  it('leaves no zombie in a program that goes on', async () => {
    const stuck = await stuckProgram(3000)
    stuck.child.stdin?.end('staying\n')
    const lines = createInterface({ input: present(stuck.child.stdout) })[Symbol.asyncIterator]()
    await lines.next()
    assert.equal((await lines.next()).value, 'here')
    await putRight(stuck)
    stuck.child.kill('SIGKILL')
    await once(stuck.child, 'close')
  })

  it('fails like any other change when the process that makes it is killed', async () => {
    const stuck = await stuckProgram(FOREVER)
    const closed = once(stuck.child, 'close')
    stuck.child.stdin?.end('by itself\n')
    process.kill(stuck.writer, 'SIGKILL')
    const said = JSON.parse(await text(present(stuck.child.stdout))) as Record<string, unknown>
    assert.match(
      String(said.message),
      /^the process that changes the host was ended while it was at .*\/unbind; everything was put back$/,
    )
    assert.deepEqual(await closed, [0, null])
    assert.equal(existsSync(journalOf(stuck.trees)), false)
  })

  describe('under the command line', () => {
    /** A device that is assigned, and cannot be unbound. */
    async function assigned(): Promise<{ trees: HostTrees; before: readonly string[]; file: StuckFile }> {
      const { trees, plan } = prepare({ host: SINGLE, addresses: [NVME], options: { reset: 'none' } })
      const before = photographOf(trees)
      await assign(plan, using(trees, new SimulatedKernel(trees)))
      return { trees, before, file: new StuckFile(`${trees.sysfs}/bus/pci/drivers/vfio-pci/unbind`) }
    }

    function vfio(
      trees: HostTrees,
      ...args: readonly string[]
    ): { child: ChildProcess; stderr: Promise<string> } {
      const command = [join(ROOT, 'dist/cli/main.js'), ...args, '--journal', journalOf(trees)]
      const child = spawn(process.execPath, command, { stdio: ['ignore', 'pipe', 'pipe'] })
      return { child, stderr: text(present(child.stderr)) }
    }

    async function finish(trees: HostTrees, before: readonly string[], file: StuckFile, writer: number) {
      await file.answer()
      await gone(writer)
      await recover(using(trees, new SimulatedKernel(trees)))
      assert.deepEqual(photographOf(trees), before)
    }

    it('says after a second what is waited for, and ends a release at the deadline with status 1 and one sentence', async () => {
      const { trees, before, file } = await assigned()
      const { child, stderr } = vfio(trees, 'release', NVME, '--timeout', '3')
      const closed = once(child, 'close')
      const writer = await file.writer()
      assert.deepEqual(await closed, [1, null])
      assert.match(
        await stderr,
        /^vfio: still writing "0000:01:00.0" to [^\n]*\/unbind\nvfio: not everything could be given back: the kernel has not answered for 3 s: writing "0000:01:00.0" to .*\/unbind[^\n]*\n$/,
      )
      const again = vfio(trees, 'recover')
      assert.deepEqual(await once(again.child, 'close'), [1, null])
      assert.match(await again.stderr, /vfio-write, pid \d+.* is still in the kernel/)
      await finish(trees, before, file, writer)
    })

    for (const [signal, wanted] of [
      ['SIGINT', 130],
      ['SIGTERM', 143],
      ['SIGHUP', 129],
    ] as const) {
      it(`ends at a second ${signal} at once, with status ${wanted}`, async () => {
        const { trees, before, file } = await assigned()
        const { child, stderr } = vfio(trees, 'release', NVME)
        const closed = once(child, 'close')
        const writer = await file.writer()
        child.kill(signal)
        await once(present(child.stderr), 'data')
        child.kill(signal)
        assert.deepEqual(await closed, [wanted, null])
        assert.match(
          await stderr,
          new RegExp(
            `^vfio: ${signal}: finishing what is being given back .*\\nvfio: ended before it was done: "vfio recover"`,
          ),
        )
        await finish(trees, before, file, writer)
      })
    }
  })
})
