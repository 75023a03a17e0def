import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, existsSync, openSync, readdirSync, readFileSync } from 'node:fs'
import { release as kernelRelease } from 'node:os'
import { text } from 'node:stream/consumers'
import { assign, Host, type Plan, planAssignment, recover, release, VfioError } from 'vfio'
import { hostState, left, Program, place, spare, vfio } from './assign-host.js'
import { driverOf } from './binding.js'
import { modes } from './modes.js'

const host = new Host()

interface Ended {
  readonly status: number | null
  readonly said: string
}

/** A program in a mount namespace of its own. */
async function apart(script: string): Promise<Ended> {
  const child = spawn('unshare', ['-m', 'sh', '-c', script], { stdio: ['ignore', 'pipe', 'pipe'] })
  const [out, err, [status]] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, 'close') as Promise<[number | null]>,
  ])
  return { status, said: out + err }
}

/** A disk alone in its group. */
function disk(): Plan {
  const seen = host.snapshot()
  const alone = spare(seen).groups.filter((group) => group.length === 1)
  const found = alone
    .map(([address = '']) => planAssignment(seen, [address], { reset: 'none' }))
    .find(
      ({ blockers, addresses: [address = ''] }) =>
        blockers.length === 0 && seen.device(address).class === 0x010802 && driverOf(address) === 'nvme',
    )
  assert(found, 'the topology has a disk alone in its group')
  return found
}

describe(`nothing hangs and nothing is lost on ${kernelRelease()}`, function () {
  this.timeout(600_000)
  before(() => place('host'))
  after(() => place('none'))

  it('of two programs with journals of their own, in namespaces of their own, one gets a device', async () => {
    const before = hostState()
    const address = disk().addresses[0] ?? ''
    const bind = (round: number, one: number) =>
      `mount -t tmpfs none /run && mkdir /run/vfio && mount --bind /tmp/journal-${round}-${one} /run/vfio && exec node dist/cli/main.js bind ${address} --reset none`
    for (let round = 0; round < 3; round++) {
      for (const one of [1, 2]) await apart(`mkdir -p -m 700 /tmp/journal-${round}-${one}`)
      const both = await Promise.all([1, 2].map((one) => apart(bind(round, one))))
      const journals = [1, 2].map((one) => `/tmp/journal-${round}-${one}`)
      const records = journals.flatMap((journal) =>
        readdirSync(journal).map((name) => JSON.parse(readFileSync(`${journal}/${name}`, 'utf8'))),
      )
      // The loser may have come when it was all over.
      assert.equal(records.length, 1, JSON.stringify(both))
      assert.equal(records[0]?.devices[0]?.former.driver, 'nvme')
      for (const { status, said } of both) {
        if (status === 0) assert.match(said, /is bound to vfio-pci|bound to VFIO already/)
        else assert.match(said, /another program is changing group \d+ right now|is no longer as it was/)
      }
      for (const journal of journals) assert.equal(vfio('release', '--all', '--journal', journal).status, 0)
      assert.deepEqual(hostState(), before)
    }
  })

  it('a disk that is put to use after the plan was made is not taken', async () => {
    const plan = disk()
    const before = hostState()
    const node = host
      .snapshot()
      .use.blocks.find(
        ({ functions, partOf }) => functions.includes(plan.addresses[0] ?? '') && partOf === null,
      )
    assert(node)
    const file = openSync(`/dev/${node.node}`, 'r+')
    await assert.rejects(assign(plan), { code: 'ERR_VFIO_IN_USE' })
    closeSync(file)
    assert.deepEqual(hostState(), before)
    await (await assign(plan)).release()
    assert.deepEqual(hostState(), before)
  })

  for (const { name, backend } of modes)
    describe(`with a device that a program has open by ${name}`, () => {
      let plan: Plan
      let before: Record<string, string>
      let holder: Program
      const address = () => plan.addresses[0] ?? ''
      beforeEach(async () => {
        plan = disk()
        before = hostState()
        await assign(plan)
        holder = new Program()
        await holder.give({ do: 'hold', address: address(), backend })
        assert.equal(await holder.line(), 'done')
      })

      // Also where a test has failed: it would keep this program from ending.
      afterEach(() => holder.end())

      it('nobody releases it where its node is not to be seen', async () => {
        const held = hostState()
        const { status, said } = await apart(
          `mount -t tmpfs none /dev/vfio && exec node dist/cli/main.js release ${address()} --timeout 3`,
        )
        assert.equal(status, 1, said)
        assert.match(said, /^vfio: whether group \d+ is open in a program cannot be told, and unbinding/)
        assert.deepEqual(hostState(), held)
        await holder.end()
        assert.deepEqual((await release([address()])).released, [address()])
        assert.deepEqual(hostState(), before)
      })

      it('a program that unbinds it all the same ends at its deadline, and recover puts it right', async () => {
        const script = `import { release, VfioError } from 'vfio'
        const options = { deadline: 3000, kernel: { isOpen: () => false } }
        await release(['${address()}'], options).catch((error) => console.log(error.code, error.message))`
        const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
          stdio: ['ignore', 'pipe', 'inherit'],
        })
        const [said, [status]] = await Promise.all([text(child.stdout), once(child, 'close')])
        assert.equal(status, 0)
        assert.match(said, /^ERR_VFIO_NOT_RESTORED .*has not answered for 3 s: writing .*\/unbind/)
        assert.match(said, new RegExp(`\\b${holder.pid}\\b`))
        const [writer, ...others] = left()
        assert.ok(writer && others.length === 0, 'one write was left in the kernel')
        const stuck = vfio('recover')
        assert.equal(stuck.status, 1, stuck.stdout)
        assert.match(
          stuck.stderr,
          new RegExp(`vfio-write, pid ${writer}\\): what it wrote to .*/unbind is still`),
        )
        await assert.rejects(assign(plan), (error: unknown) => {
          assert(error instanceof VfioError)
          assert.equal(error.code, 'ERR_VFIO_LOCKED')
          return true
        })
        await holder.end()
        while (existsSync(`/proc/${writer}`)) await new Promise((resolve) => setTimeout(resolve, 50))
        assert.deepEqual((await recover()).recovered, [address()])
        assert.deepEqual(hostState(), before)
      })
    })

  for (const [signal, wanted] of [
    ['SIGINT', 130],
    ['SIGTERM', 143],
    ['SIGHUP', 129],
  ] as const) {
    it(`${signal} during bind leaves nothing: status ${wanted}`, async () => {
      const before = hostState()
      const address = disk().addresses[0] ?? ''
      const child = spawn(process.execPath, ['dist/cli/main.js', 'bind', address], {
        stdio: ['ignore', 'pipe', 'pipe'],
      })
      const said = text(child.stderr)
      const closed = once(child, 'close')
      // Its record is there before its first change.
      while (!existsSync(`/run/vfio/assignment-${address}.json`) && child.exitCode === null)
        await new Promise((resolve) => setTimeout(resolve, 5))
      child.kill(signal)
      assert.deepEqual(await closed, [wanted, null])
      assert.match(await said, new RegExp(`^vfio: ${signal}: putting back what was done`))
      assert.deepEqual(hostState(), before)
    })
  }
})
