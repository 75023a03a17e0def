import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import type { Binding, NativeTask } from '../../lib/native/binding.js'
import { skip } from '../fixtures/skip.js'
import { ROOT } from './fake.js'

const { Process, Guard, findUser } = createRequire(import.meta.url)(
  process.env.VFIO_ADDON || join(ROOT, 'build/Release/vfio.node'),
) as Binding

const EXITED = 1
const KILLED = 2
const STOPPED = 5
const ENOENT = 2
/** Whatever the sanitizers need comes along. */
const ENVIRONMENT = Object.entries(process.env).map(([name, value]) => `${name}=${value}`)

describe('a process', function () {
  this.timeout(60_000)
  let directory: string
  let nothing: number
  before(() => {
    directory = mkdtempSync(join(tmpdir(), 'vfio-process-'))
    nothing = openSync('/dev/null', 'r+')
  })
  after(() => {
    closeSync(nothing)
    rmSync(directory, { recursive: true })
  })

  const task = (script: string, more: Partial<NativeTask> = {}): NativeTask => ({
    file: '/bin/sh',
    arguments: ['sh', '-c', script],
    environment: ENVIRONMENT,
    listen: false,
    descriptors: [nothing, nothing, nothing],
    terminal: null,
    memlock: null,
    user: null,
    ...more,
  })

  /** Runs a script to its end; what it prints. */
  async function printed(script: string, more: (out: number) => Partial<NativeTask> = () => ({})) {
    const file = join(directory, 'out')
    const out = openSync(file, 'w')
    const child = Process.start(task(script, { descriptors: [nothing, out, out], ...more(out) }))
    assert.equal(await child.proceed(), null)
    assert.deepEqual(await child.wait(), { code: EXITED, status: 0 })
    assert.equal(child.reap(), true)
    child.closeNow()
    closeSync(out)
    return { said: readFileSync(file, 'utf8'), pid: child.pid }
  }

  it('waits at its gate, with nothing open, and leads a group of its own', async () => {
    const mark = join(directory, 'mark')
    const child = Process.start(task(`touch ${mark}`))
    const field = () =>
      readFileSync(`/proc/${child.pid}/stat`, 'utf8')
        .replace(/^.*\) /s, '')
        .split(' ')
    assert.equal(Number(field()[2]), child.pid)
    assert.throws(() => child.signal(-1))
    assert.equal(existsSync(mark), false)
    await child.proceed()
    await child.wait()
    assert.equal(existsSync(mark), true)
    child.reap()
  })

  it('ends at its gate where nobody lets it go on', async () => {
    const mark = join(directory, 'never')
    const child = Process.start(task(`touch ${mark}`))
    const other = Process.open(child.pid)
    child.closeNow()
    await other.ended()
    other.closeNow()
    assert.equal(existsSync(mark), false)
    assert.throws(() => child.reap(), { code: 'ERR_VFIO_CLOSED' })
  })

  it('tells which call failed', async () => {
    const child = Process.start(task('', { file: '/no/such/program' }))
    assert.deepEqual(await child.proceed(), { syscall: 'execve', errno: ENOENT })
    await child.wait()
    child.reap()
  })

  it('takes empty arguments, and none that would be cut short', async () => {
    const words = ['sh', '-c', 'printf "[%s]" "$@"', 'sh', 'one', '', 'two']
    const { said } = await printed('', () => ({ arguments: words }))
    assert.equal(said, '[one][][two]')
    for (const wrong of ['a\0b', 1, null, undefined, {}])
      assert.throws(() => Process.start(task('', { arguments: ['sh', wrong as string] })), {
        code: 'ERR_VFIO_BAD_ARGUMENT',
      })
    assert.throws(() => Process.start(task('', { arguments: 'sh' as unknown as string[] })), {
      code: 'ERR_VFIO_BAD_ARGUMENT',
    })
  })

  it('is told when it stops and how it ends', async () => {
    const child = Process.start(task('kill -STOP $$; sleep 1000'))
    await child.proceed()
    assert.deepEqual(await child.wait(), { code: STOPPED, status: 19 })
    child.signal(18)
    child.signal(9)
    assert.deepEqual(await child.wait(), { code: KILLED, status: 9 })
    assert.equal(child.signal(15), true, 'its end was not taken yet')
    assert.equal(child.reap(), true)
    assert.equal(child.signal(15), false)
  })

  it('gets its descriptors in their places, also those that are each other’s', async () => {
    const texts = ['zero', 'one', 'two', 'three', 'four'].map((text, index) => {
      const file = join(directory, `in-${index}`)
      execFileSync('sh', ['-c', `echo ${text} > ${file}`])
      return openSync(file, 'r')
    })
    const { said, pid } = await printed(
      'cat <&3; cat <&4; cat <&5; ls /proc/self/fd; echo "$LISTEN_PID"',
      (out) => ({
        descriptors: [nothing, out, out, ...texts.slice(0, 3).reverse()],
        listen: true,
      }),
    )
    assert.equal(said, `two\none\nzero\n0\n1\n2\n3\n4\n5\n6\n${pid}\n`)
    for (const file of texts) closeSync(file)
  })

  it('has no signal blocked and none ignored', async () => {
    const { said } = await printed('grep -E "^Sig(Blk|Ign|Cgt)" /proc/self/status')
    assert.match(said, /^SigBlk:\s0+$/m)
    assert.match(said, /^SigIgn:\s0+$/m)
  })

  it('becomes a user without anything that it could do', async function () {
    if (process.getuid?.() !== 0) skip(this, 'only root may become another user')
    const user = await findUser('nobody')
    assert(user)
    const { said } = await printed('cat /proc/self/status; grep "locked memory" /proc/self/limits', () => ({
      user: { ...user, groups: [...user.groups, 27] },
      memlock: 123 * 4096,
    }))
    for (const name of ['Inh', 'Prm', 'Eff', 'Bnd', 'Amb'])
      assert.match(said, new RegExp(`^Cap${name}:\\s0{16}$`, 'm'))
    assert.match(said, /^NoNewPrivs:\s1$/m)
    assert.match(said, new RegExp(`^Uid:(\\s${user.uid}){4}$`, 'm'))
    assert.match(said, new RegExp(`^Groups:\\s27 ${user.gid} $`, 'm'))
    assert.match(said, /^Max locked memory\s+503808\s+503808/m)
  })

  it('is looked up as a user by name and by number', async () => {
    const root = await findUser('root')
    assert.deepEqual(
      [root?.uid, root?.name, root?.home.startsWith('/'), root?.groups.includes(0)],
      [0, 'root', true, true],
    )
    assert.deepEqual(await findUser('0'), root)
    assert.equal(await findUser('4294967290'), null)
  })

  it('is guarded until it is dismissed', async () => {
    const mark = join(directory, 'guarded')
    const guard = Guard.start(['/bin/sh', '-c', `touch ${mark}`], ENVIRONMENT)
    while (readFileSync(`/proc/${guard.pid}/comm`, 'utf8') !== 'vfio-guard\n') await setTimeout(5)
    process.kill(guard.pid, 'SIGTERM')
    guard.dismiss()
    await guard.ended()
    assert.equal(existsSync(mark), false)
  })

  it('is guarded by one that executes its program when it has died, with nothing of its own', async () => {
    const mark = join(directory, 'died')
    const source = `
      const { Guard } = require(${JSON.stringify(process.env.VFIO_ADDON || join(ROOT, 'build/Release/vfio.node'))})
      const env = Object.entries(process.env).map(([name, value]) => name + '=' + value)
      globalThis.guard = Guard.start(['/bin/sh', '-c', 'ls -l /proc/self/fd > ${mark}.new; mv ${mark}.new ${mark}'], env)
      process.kill(process.pid, 'SIGKILL')`
    assert.throws(() => execFileSync(process.execPath, ['-e', source], { stdio: 'ignore' }))
    while (!existsSync(mark)) await setTimeout(10)
    const files = [...readFileSync(mark, 'utf8').matchAll(/ (\d+) -> (\S+)$/gm)].map(
      ([, fd, to]) => `${fd} ${to}`,
    )
    assert.deepEqual(files.slice(0, 3), ['0 /dev/null', `1 ${mark}.new`, '2 /dev/null'])
    // The last is what lists them.
    assert.equal(files.length, 4)
  })
})
