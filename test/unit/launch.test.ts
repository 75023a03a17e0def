import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import {
  assign,
  type JournalRecord,
  type LaunchOptions,
  launch,
  type Plan,
  type RunEvent,
  recover,
  release,
  status,
  VfioError,
} from 'vfio'
import { findProgram } from '../../lib/launch/program.js'
import { fillIn } from '../../lib/launch/words.js'
import { type HostTrees, removeDirectories, temporaryDirectory } from '../fixtures/host.js'
import { journalOf, photographOf, planOn, prepare, SINGLE, THREE, using } from './assign-hosts.js'
import { SimulatedKernel } from './assign-kernel.js'

const NVME = '0000:01:00.0'
const PROGRAM = fileURLToPath(new URL('launch-program.js', import.meta.url))

/** A host with one disk, and how to have it for a command. */
interface Ready {
  readonly trees: HostTrees
  readonly plan: Plan
  readonly kernel: SimulatedKernel
  readonly events: RunEvent[]
  options(command: readonly string[], more?: Partial<LaunchOptions>): LaunchOptions
}

function ready(host = SINGLE, addresses: readonly string[] = [NVME]): Ready {
  const { trees, plan } = prepare({ host, addresses, options: { reset: 'none', group: true } })
  const kernel = new SimulatedKernel(trees)
  const events: RunEvent[] = []
  return {
    ...{ trees, plan, kernel, events },
    options: (command, more) => ({
      command,
      kernel,
      journal: journalOf(trees),
      stdio: ['ignore', 'ignore', 'ignore'],
      onEvent: (event) => event.event !== 'device' && events.push(event),
      ...more,
    }),
  }
}

async function refused(work: Promise<unknown>, code: string, message = /./): Promise<void> {
  await assert.rejects(work, (error: unknown) => {
    assert.ok(error instanceof VfioError, String(error))
    assert.equal(error.code, code, error.message)
    assert.match(error.message, message)
    return true
  })
}

const recordIn = (trees: HostTrees) =>
  JSON.parse(readFileSync(`${journalOf(trees)}/assignment-${NVME}.json`, 'utf8')) as JournalRecord

/** A run of the command line in a process of its own. */
const program = (trees: HostTrees, command: readonly string[]): ChildProcess =>
  spawn(
    process.execPath,
    [PROGRAM, JSON.stringify({ trees, journal: journalOf(trees), address: NVME, command })],
    {
      stdio: ['ignore', 'ignore', 'inherit'],
    },
  )

/** Waits until the command of a run is known, which begins then. */
async function leaderIn(trees: HostTrees): Promise<number> {
  for (;;) {
    try {
      const { leader } = recordIn(trees).run ?? {}
      // It waits as this program's own until it may begin, and ends with its run then.
      if (leader && readlinkSync(`/proc/${leader.pid}/exe`) !== realpathSync(process.execPath))
        return leader.pid
    } catch {
      // Its record is not there yet.
    }
    await setTimeout(10)
  }
}

/** The fields of proc(5)'s stat from the third on, behind a name that may have anything in it. */
const statOf = (pid: number | string) =>
  readFileSync(`/proc/${pid}/stat`, 'latin1')
    .replace(/^.*\) /s, '')
    .split(' ')

/** The guards of a run that still live. */
function guardsOf({ pid }: ChildProcess): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((name) => {
      try {
        const [state, parent] = statOf(name)
        const comm = readFileSync(`/proc/${name}/comm`, 'utf8')
        return Number(parent) === pid && state !== 'Z' && comm === 'vfio-guard\n'
      } catch {
        return false
      }
    })
    .map(Number)
}

/** Lets a record be of another program that runs: the one that has started this. */
async function asAnothers(trees: HostTrees, work: () => Promise<void>): Promise<void> {
  const path = `${journalOf(trees)}/${readdirSync(journalOf(trees))[0]}`
  const text = readFileSync(path, 'utf8')
  const record = JSON.parse(text) as JournalRecord
  const other = { pid: process.ppid, started: Number(statOf(process.ppid)[19]) }
  writeFileSync(path, JSON.stringify({ ...record, run: { ...record.run, ...other } }))
  try {
    await work()
  } finally {
    writeFileSync(path, text)
  }
}

/** A program that has ended: that of this pid was started at another time. */
const ended = () => ({
  ...{ pid: 1, program: 'vfio', started: Number(statOf(1)[19]) + 1 },
  pidNamespace: readlinkSync('/proc/self/ns/pid'),
})

/** Does a process run? What has ended may wait for somebody to look. */
function isThere(pid: number): boolean {
  try {
    return statOf(pid)[0] !== 'Z'
  } catch {
    return false
  }
}

describe('the words of a command', () => {
  const words = {
    qemu: () => ['-device', 'vfio-pci'],
    cloudHypervisor: () => ['--device', 'path=x'],
    addresses: ['a', 'b'],
  }

  it('become as many words as they stand for, each by itself', () => {
    assert.deepEqual(fillIn(['run', '{addresses}', 'x{addresses}', '{qemu}', 'end'], words), [
      ...['run', 'a', 'b', 'x{addresses}', '-device', 'vfio-pci', 'end'],
    ])
    assert.deepEqual(fillIn(['vmm', '{cloud-hypervisor}'], words), ['vmm', '--device', 'path=x'])
  })

  it('come at the end of a QEMU that has none of them', () => {
    assert.deepEqual(fillIn(['/usr/bin/qemu-system-x86_64', '-m', '1G'], words), [
      ...['/usr/bin/qemu-system-x86_64', '-m', '1G', '-device', 'vfio-pci'],
    ])
    assert.deepEqual(fillIn(['qemu-system-arm', '{addresses}'], words), ['qemu-system-arm', 'a', 'b'])
    assert.deepEqual(fillIn(['qemu-img', 'info'], words), ['qemu-img', 'info'])
  })

  it('are a program, which is never one of them', () => {
    assert.deepEqual(fillIn(['{qemu}'], words), ['{qemu}'])
    for (const command of [[], [''], ['x', 'a\0b'], [1 as never]])
      assert.throws(() => fillIn(command, words), { code: 'ERR_VFIO_BAD_ARGUMENT' })
  })
})

describe('the program of a command', () => {
  after(removeDirectories)

  it('is looked for as a shell does it', () => {
    const [first, second] = [temporaryDirectory(), temporaryDirectory()]
    writeFileSync(join(first, 'plain'), '', { mode: 0o644 })
    mkdirSync(join(first, 'program'))
    writeFileSync(join(second, 'program'), '', { mode: 0o755 })
    const path = `${first}:/no/such/directory:${second}`
    assert.equal(findProgram('program', path), join(second, 'program'))
    assert.equal(findProgram('/a/path', path), '/a/path')
    assert.ok(findProgram('sh', undefined).endsWith('/sh'))
    for (const [name, code] of [
      ['plain', 'EACCES'],
      ['absent', 'ENOENT'],
    ] as const)
      assert.throws(() => findProgram(name, path), { code, request: 'command' })
  })
})

describe('launch', function () {
  this.timeout(120_000)
  afterEach(removeDirectories)

  it('gives everything back when its command ends, and tells how that was', async () => {
    const { trees, plan, events, options } = ready()
    const asItWas = photographOf(trees)
    const run = await launch(plan, options(['sh', '-c', 'exit 3']))
    assert.deepEqual(await run.exited, { status: 3, signal: null })
    await run.released
    assert.deepEqual(photographOf(trees), asItWas)
    assert.deepEqual(
      events.map(({ event }) => event),
      ['bound', 'started', 'ended', 'released'],
    )
    assert.deepEqual(events[3], { event: 'released', devices: [NVME], gone: [] })
    assert.equal(run.kill(), false)
  })

  it('has the command in a group of its own, with the addresses and no descriptor of others', async () => {
    const { plan, options } = ready()
    const file = join(temporaryDirectory(), 'out')
    const out = openSync(file, 'w')
    const script = 'echo "$VFIO_ADDRESSES $1 $LISTEN_FDS"; ls /proc/self/fd; cut -d" " -f1,5 /proc/$$/stat'
    const environment = { ...process.env, LISTEN_FDS: '1' }
    const run = await launch(
      plan,
      options(['sh', '-c', script, 'sh', '{addresses}'], { stdio: ['ignore', out, out], environment }),
    )
    await run.released
    assert.equal(readFileSync(file, 'utf8'), `${NVME} ${NVME} \n0\n1\n2\n3\n${run.pid} ${run.pid}\n`)
  })

  it('ends its command at the end of a block, however that takes it', async () => {
    const { trees, plan, events, options } = ready()
    const asItWas = photographOf(trees)
    const file = join(temporaryDirectory(), 'deaf')
    const script = 'trap "" TERM; touch "$1"; while :; do sleep 1; done'
    const run = await launch(plan, options(['sh', '-c', script, 'sh', file], { grace: 300 }))
    while (!existsSync(file)) await setTimeout(10)
    await run[Symbol.asyncDispose]()
    assert.deepEqual(events[2], { event: 'ended', status: null, signal: 'SIGKILL' })
    assert.deepEqual(photographOf(trees), asItWas)
  })

  it('ends what is left of its group, asked or not', async () => {
    const { plan, options } = ready()
    const directory = temporaryDirectory()
    const file = join(directory, 'out')
    const out = openSync(file, 'w')
    // The end of the command is the end of its group, so it waits until the one that ignores SIGTERM does.
    const begun = join(directory, 'begun')
    const deaf = `trap "" TERM; echo $$; : >${begun}; while :; do sleep 1; done`
    const script = `mkfifo ${begun}; sleep 1000 & echo $!; sh -c '${deaf}' & read line <${begun}; exit 0`
    const run = await launch(plan, options(['sh', '-c', script], { stdio: ['ignore', out, out], grace: 500 }))
    assert.deepEqual(await run.exited, { status: 0, signal: null })
    await run.released
    const pids = readFileSync(file, 'utf8').trim().split('\n').map(Number)
    assert.equal(pids.length, 2)
    assert.deepEqual(pids.filter(isThere), [])
  })

  it('leaves to recover what somebody has open still, and says who', async () => {
    const { trees, plan, kernel, events, options } = ready()
    const asItWas = photographOf(trees)
    const run = await launch(plan, options(['true']))
    kernel.open.add(10)
    await refused(run.released, 'ERR_VFIO_IN_USE', /0000:01:00\.0 is open/)
    assert.equal(events.at(-1)?.event, 'failed')
    const [left] = (await status({ journal: journalOf(trees) })).assignments
    assert.equal(left?.state, 'broken')
    kernel.open.delete(10)
    await recover(using(trees, kernel))
    assert.deepEqual(photographOf(trees), asItWas)
  })

  for (const [what, command, code] of [
    ['no such program', ['no-such-program-anywhere'], 'ENOENT'],
    ['no such path', ['/no/such/path'], 'ENOENT'],
    ['no program', ['/etc/passwd'], 'EACCES'],
    ['no interpreter', ['{script}'], 'ENOENT'],
  ] as const) {
    it(`puts everything back where there is ${what}`, async () => {
      const { trees, plan, events, options } = ready()
      const script = join(temporaryDirectory(), 'script')
      writeFileSync(script, '#!/no/such/interpreter\n', { mode: 0o755 })
      const asItWas = photographOf(trees)
      const filled = command.map((word) => (word === '{script}' ? script : word))
      await refused(launch(plan, options(filled)), code, /^execve on /)
      assert.deepEqual(photographOf(trees), asItWas)
      assert.ok(!events.some(({ event }) => event === 'started'))
    })
  }

  it('changes nothing where what it is asked for makes no sense', async () => {
    const { plan, kernel, options } = ready()
    for (const more of [
      { user: 'nobody-of-that-name' },
      { machine: 'no-machine', command: ['qemu-system-x86_64'] },
      { properties: { host: 'x' }, command: ['qemu-system-x86_64'] },
      { command: [] },
    ])
      await assert.rejects(launch(plan, options(['true'], more)), VfioError)
    assert.deepEqual(kernel.calls, [])
  })

  it('puts everything back where it is aborted before its command has begun', async () => {
    const { trees, plan, events, options } = ready()
    const asItWas = photographOf(trees)
    for (const at of [1, 3, plan.steps.length]) {
      const stop = new AbortController()
      let changes = 0
      const onChange = () => {
        if (++changes === at) stop.abort(new Error('stopped'))
      }
      await assert.rejects(launch(plan, options(['true'], { signal: stop.signal, onChange })), {
        message: 'stopped',
      })
      assert.deepEqual(photographOf(trees), asItWas)
    }
    assert.ok(!events.some(({ event }) => event === 'started'))
  })

  it('keeps others off its devices and their groups, and release too', async () => {
    const { trees, plan, kernel, options } = ready(THREE, ['0000:02:00.0'])
    const run = await launch(plan, options(['sleep', '1000']))
    const other = { ...plan, devices: [{ ...plan.devices[0], address: '0000:02:00.7' } as never] }
    for (const wanted of [plan, other]) {
      await asAnothers(trees, async () => {
        await refused(
          launch(wanted, options(['true'])),
          'ERR_VFIO_IN_USE',
          /is with "vfio run" \(pid \d+, for sleep\)/,
        )
        await refused(assign(wanted, using(trees, kernel)), 'ERR_VFIO_IN_USE', /it comes back when that ends/)
        await refused(
          release('all', using(trees, kernel)),
          'ERR_VFIO_IN_USE',
          /gives it back when sleep ends/,
        )
        assert.deepEqual((await recover(using(trees, kernel))).recovered, [])
      })
    }
    await run[Symbol.asyncDispose]()
  })

  it('adds to what was assigned before, and leaves that as it was', async () => {
    const { trees, plan, kernel, options } = ready()
    const journal = journalOf(trees)
    await assign(plan, using(trees, kernel))
    const assigned = photographOf(trees)
    const again = planOn(trees, [NVME], { reset: 'none' })
    const run = await launch(again, options(['sleep', '1000']))
    const { run: marked, state } = recordIn(trees)
    assert.deepEqual(
      [state, marked?.keeps, marked?.command, marked?.leader?.pid],
      ['assigned', true, 'sleep', run.pid],
    )
    await run[Symbol.asyncDispose]()
    assert.deepEqual(photographOf(trees), assigned)
    // The same after a crash.
    writeFileSync(
      `${journal}/assignment-${NVME}.json`,
      JSON.stringify({ ...recordIn(trees), run: { ...ended(), command: 'sleep', keeps: true } }),
      { mode: 0o600 },
    )
    await recover(using(trees, kernel))
    assert.equal(recordIn(trees).run, undefined)
    assert.equal(recordIn(trees).state, 'assigned')
  })

  it('has what is bound already, and leaves it bound', async () => {
    const { trees, plan, kernel, options } = ready()
    await assign(plan, { ...using(trees, kernel), journal: temporaryDirectory() })
    const bound = photographOf(trees)
    const run = await launch(planOn(trees, [NVME], { reset: 'none' }), options(['sleep', '1000']))
    assert.equal(recordIn(trees).devices[0]?.former.driver, 'vfio-pci')
    await run[Symbol.asyncDispose]()
    assert.deepEqual(photographOf(trees), bound)
  })

  it('that died is put in order by recover, and is nobody else’s until then', async () => {
    const { trees, plan, kernel, options } = ready()
    const journal = journalOf(trees)
    const asItWas = photographOf(trees)
    const child = program(trees, ['sleep', '1000'])
    const leader = await leaderIn(trees)
    // Without its guard nobody gives anything back.
    const guards = guardsOf(child)
    for (const pid of guards) process.kill(pid, 'SIGSTOP')
    child.kill('SIGKILL')
    await once(child, 'exit')
    for (const pid of guards) process.kill(pid, 'SIGKILL')
    await refused(launch(plan, options(['true'])), 'ERR_VFIO_IN_USE', /was left by "vfio run"/)
    const [left] = (await status({ journal })).assignments
    assert.equal(left?.abandoned, true)
    kernel.open.add(10)
    await refused(
      recover(using(trees, kernel)),
      'ERR_VFIO_NOT_RESTORED',
      new RegExp(`sleep \\(pid ${leader}\\) has outlived its "vfio run": "vfio recover --kill" ends it`),
    )
    assert.equal(recordIn(trees).state, 'assigned')
    kernel.open.delete(10)
    assert.deepEqual((await recover({ ...using(trees, kernel), only: ['02:00.0'] })).recovered, [])
    assert.deepEqual((await recover({ ...using(trees, kernel), only: ['01:00.0'], kill: true })).recovered, [
      NVME,
    ])
    assert.equal(isThere(leader), false)
    assert.deepEqual(photographOf(trees), asItWas)
  })

  it('that is killed has its command ended by its guard, also by one that took the place of another', async () => {
    const { trees } = ready()
    const child = program(trees, ['sh', '-c', 'sleep 1000 & wait'])
    const leader = await leaderIn(trees)
    const [first = 0] = guardsOf(child)
    process.kill(first, 'SIGKILL')
    let [second = first] = guardsOf(child)
    while (second === first) {
      await setTimeout(10)
      ;[second = first] = guardsOf(child)
    }
    child.kill('SIGKILL')
    await once(child, 'exit')
    while (isThere(leader)) await setTimeout(50)
    // What comes then takes a kernel: the lab has one.
    while (isThere(second)) await setTimeout(50)
  })
})
