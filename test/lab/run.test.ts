import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, openSync, readFileSync } from 'node:fs'
import { release as kernelRelease } from 'node:os'
import { text } from 'node:stream/consumers'
import { setTimeout } from 'node:timers/promises'
import { type LaunchBackend, launch, type Plan, type RunEvent, recover, status } from 'vfio'
import { hostState, place } from './assign-host.js'
import { READ } from './boot-sector.js'
import { asBefore, BOOTS, disk, HOLDS, makeBootable, opened, TEXT } from './run-host.js'

/** What this kernel opens devices by. */
const BACKENDS: readonly LaunchBackend[] = existsSync('/dev/iommu') ? ['iommufd', 'group'] : ['group']
const NOBODY = 65534
const CLI = 'dist/cli/main.js'

/** What is written to a file of the guest by a command, which is read afterwards. */
const OUT = '/tmp/run-test'

interface Ran {
  readonly status: number | null
  readonly said: string
  readonly events: readonly RunEvent[]
  readonly errors: string
}

function start(...args: readonly string[]): ChildProcess {
  return spawn(process.execPath, [CLI, 'run', '--json-events', '3', ...args], {
    stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
  })
}

async function outcome(child: ChildProcess): Promise<Ran> {
  const [said, errors, lines, [status]] = await Promise.all([
    text(child.stdio[1] as NodeJS.ReadableStream),
    text(child.stdio[2] as NodeJS.ReadableStream),
    text(child.stdio[3] as NodeJS.ReadableStream),
    once(child, 'close') as Promise<[number | null]>,
  ])
  const events = lines.split('\n').flatMap((line) => (line === '' ? [] : [JSON.parse(line) as RunEvent]))
  return { status, said, errors, events }
}

/** The pid of the command of a run that was started just now. */
async function leaderOf(address: string): Promise<number> {
  for (;;) {
    const { assignments } = await status()
    const record = assignments.find(({ id }) => id === address)
    if (record?.run?.leader) return record.run.leader.pid
    await setTimeout(50)
  }
}

describe(`vfio run on ${kernelRelease()}`, function () {
  this.timeout(600_000)
  let plan: Plan
  let address: string
  let asItWas: Record<string, string>

  before(() => {
    place('host')
    plan = disk()
    address = plan.addresses[0] ?? ''
    makeBootable(address)
    asItWas = hostState()
  })
  after(() => place('none'))
  afterEach(() => assert.deepEqual(hostState(), asItWas))

  for (const backend of BACKENDS) {
    it(`boots a machine of nobody from a disk that it has by ${backend}, and reads it`, async () => {
      const options = ['--user', 'nobody', '--memory', '64M', '--backend', backend, '--option', 'bootindex=0']
      const { status, said, errors, events } = await outcome(start(address, ...options, '--', ...BOOTS))
      assert.equal(status, READ, errors)
      assert.equal(said, TEXT)
      assert.deepEqual(
        events.filter(({ event }) => event !== 'device').map(({ event }) => event),
        ['bound', 'started', 'ended', 'released'],
      )
      assert.ok(events.some((event) => event.event === 'started' && event.backend === backend))
    })

    it(`gives a command nothing but what it is to have, by ${backend}`, async () => {
      const out = openSync(OUT, 'w+')
      const show =
        'cat /proc/self/status; grep "locked memory" /proc/self/limits; ls -l /proc/self/fd; echo "pid $$"; env; exit 5'
      await using run = await launch(plan, {
        command: ['sh', '-c', show],
        user: NOBODY,
        memory: 64 * 2 ** 20,
        backend,
        stdio: ['ignore', out, out],
      })
      assert.deepEqual(await run.exited, { status: 5, signal: null })
      await run.released
      const said = readFileSync(OUT, 'utf8')
      for (const name of ['Inh', 'Prm', 'Eff', 'Bnd', 'Amb']) {
        assert.match(said, new RegExp(`^Cap${name}:\\s0{16}$`, 'm'))
      }
      assert.match(said, /^NoNewPrivs:\s1$/m)
      assert.match(said, /^Uid:(\s65534){4}$/m)
      assert.match(said, /^Gid:(\s65534){4}$/m)
      assert.match(said, /^Groups:\s65534 $/m)
      const [, soft, hard] = /^Max locked memory\s+(\d+)\s+(\d+)/m.exec(said) ?? []
      assert.equal(soft, hard)
      assert.ok(Number(soft) >= 64 * 2 ** 20 + 2 ** 30 && Number(soft) < 3 * 2 ** 30, said)
      assert.match(said, new RegExp(`^VFIO_ADDRESSES=${address}$`, 'm'))
      const files = [...said.matchAll(/ (\d+) -> (\S+)$/gm)].map(([, fd, path]) => `${fd} ${path}`)
      // The last is what lists them.
      const passed = files.filter((file) => !/^[012] /.test(file) && !/ \/proc\//.test(file))
      if (backend === 'group') {
        assert.deepEqual(passed, [])
        assert.doesNotMatch(said, /^LISTEN_/m)
        return
      }
      assert.match(passed.join('\n'), /^3 \/dev\/iommu\n4 \/dev\/vfio\/devices\/vfio\d+$/)
      const [, pid] = /^pid (\d+)$/m.exec(said) ?? []
      assert.match(said, new RegExp(`^LISTEN_PID=${pid}$`, 'm'))
      assert.match(said, /^LISTEN_FDS=2$/m)
      assert.match(said, new RegExp(`^LISTEN_FDNAMES=iommufd:vfio-${address.replaceAll(':', '_')}$`, 'm'))
      assert.deepEqual(
        run.descriptors.map(({ fd }) => fd),
        [3, 4],
      )
    })
  }

  it('that cannot start its command has put everything back', async () => {
    await assert.rejects(launch(plan, { command: ['/no/such/program'] }), {
      code: 'ENOENT',
      request: 'command',
    })
    await assert.rejects(launch(plan, { command: ['/etc/passwd'] }), { code: 'EACCES', request: 'command' })
    await assert.rejects(launch(plan, { command: ['sh'], user: 'nobody-of-that-name' }), {
      code: 'ERR_VFIO_NO_ACCOUNT',
    })
  })

  it('gives everything back when its command is killed', async () => {
    const run = await launch(plan, { command: HOLDS })
    await opened(address)
    run.kill('SIGKILL')
    assert.deepEqual(await run.exited, { status: null, signal: 'SIGKILL' })
    await run.released
  })

  it('passes SIGTERM on, keeps others off meanwhile, and ends as its command did', async () => {
    const child = start(address, '--', ...HOLDS)
    const ended = outcome(child)
    await leaderOf(address)
    await opened(address)
    await assert.rejects(launch(plan, { command: ['true'] }), (error: Error) => {
      assert.match(error.message, new RegExp(`is with "vfio run" \\(pid ${child.pid}, for qemu`))
      return true
    })
    assert.deepEqual((await recover()).recovered, [])
    child.kill('SIGTERM')
    const { status, events } = await ended
    const end = events.find((one) => one.event === 'ended')
    // It ends by itself, with 0, where it has come so far that it hears of it.
    assert.ok(end && (end.status === 0 || end.signal === 'SIGTERM'), JSON.stringify(end))
    assert.equal(status, end.status ?? 143)
    assert.equal(events.at(-1)?.event, 'released')
  })

  it('that is killed is cleared up by its guard', async () => {
    const child = start(address, '--', ...HOLDS)
    const ended = outcome(child)
    const pid = await leaderOf(address)
    await opened(address)
    child.kill('SIGKILL')
    await ended
    await asBefore(asItWas)
    assert.equal(existsSync(`/proc/${pid}`), false)
  })

  it('ends what its command has left of itself', async () => {
    const run = await launch(plan, { command: ['sh', '-c', '"$@" & echo $! >/tmp/run-left', 'sh', ...HOLDS] })
    assert.deepEqual(await run.exited, { status: 0, signal: null })
    await run.released
    assert.equal(existsSync(`/proc/${readFileSync('/tmp/run-left', 'utf8').trim()}`), false)
  })

  it('says who has a device still that has gone off with it, and leaves the rest to recover', async () => {
    const enable = `/sys/bus/pci/devices/${address}/enable`
    const script = `"$@" & echo $! >/tmp/run-left; while [ "$(cat ${enable})" = 0 ]; do sleep 0.1; done`
    const run = await launch(plan, {
      command: ['sh', '-c', script, 'sh', 'setsid', ...HOLDS],
    })
    assert.deepEqual(await run.exited, { status: 0, signal: null })
    const pid = Number(readFileSync('/tmp/run-left', 'utf8'))
    await assert.rejects(run.released, (error: Error & { code?: string }) => {
      assert.equal(error.code, 'ERR_VFIO_IN_USE')
      assert.match(error.message, new RegExp(`\\b${pid}\\b`))
      return true
    })
    process.kill(pid, 'SIGKILL')
    while (existsSync(`/proc/${pid}`)) await setTimeout(50)
    assert.deepEqual((await recover()).recovered, [address])
  })
})
