import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import {
  AssignError,
  assign,
  type JournalRecord,
  type Plan,
  recover,
  release,
  status,
  VfioError,
  VfioSystemError,
} from 'vfio'
import { type HostTrees, READY_MODULES, removeDirectories } from '../fixtures/host.js'
import { skip } from '../fixtures/skip.js'
import {
  CASES,
  type Case,
  journalOf,
  photographOf,
  planOn,
  prepare,
  SINGLE,
  THREE,
  TWINS,
  using,
} from './assign-hosts.js'
import { type Call, type Fault, makeKernelHost, SimulatedKernel } from './assign-kernel.js'
import { present, ROOT } from './support.js'

const NVME = '0000:01:00.0'

/** What a plan's steps come to for the kernel. */
const callsOf = ({ steps }: Plan): Call[] =>
  steps.map(({ action, path, value, address }) =>
    action === 'write'
      ? { kind: 'write', path, text: `${value}\n` }
      : { kind: action, path: action === 'load' ? path : present(address), text: value },
  )

async function rejection(work: Promise<unknown>): Promise<unknown> {
  let answer: unknown
  try {
    answer = await work
  } catch (error) {
    return error
  }
  throw new Error(`expected a rejection, and got ${JSON.stringify(answer)}`)
}

async function refused(work: Promise<unknown>, code: string, message: RegExp): Promise<void> {
  const error = await rejection(work)
  assert.ok(error instanceof VfioError, String(error))
  assert.equal(error.code, code, error.message)
  assert.match(error.message, message)
}

/** Two assignments at once, by a user who may look into no process but its own. */
const TWO_AT_ONCE = `
import { assign, Host, planAssignment } from 'vfio'
const [sysfs, journal] = process.argv.slice(1)
process.setgroups([])
process.setgid(65534)
process.setuid(65534)
const plan = planAssignment(new Host({ sysfs }).snapshot(), ['0000:01:00.0'], { force: ['other'], reset: 'none' })
const kernel = { write: () => new Promise(() => {}) }
const work = [1, 2].map(() => assign(plan, { journal, kernel }))
work[0].catch(() => {})
const error = await work[1].catch((error) => error)
console.log(error.code, error.message)
process.exit()
`

/** A run in which the calls with these numbers go wrong. */
const faulty = (trees: HostTrees, faults: ReadonlyMap<number, Fault>) =>
  new SimulatedKernel(trees, { at: (index) => faults.get(index) ?? null })

async function failing(
  trees: HostTrees,
  plan: Plan,
  faults: readonly (readonly [number, Fault])[],
  deadline?: number,
): Promise<{ error: AssignError; kernel: SimulatedKernel }> {
  const kernel = faulty(trees, new Map(faults))
  const error = await rejection(assign(plan, using(trees, kernel, { deadline })))
  assert.ok(error instanceof AssignError, String(error))
  return { error, kernel }
}

async function recordsOf(trees: HostTrees): Promise<readonly JournalRecord[]> {
  const { assignments, bad } = await status({ journal: journalOf(trees) })
  assert.deepEqual(bad, [])
  return assignments
}

const healthy = (trees: HostTrees) => using(trees, new SimulatedKernel(trees))

/** How many calls an undisturbed assignment makes. */
const callsIn = (one: Case) => prepare(one).plan.steps.length

describe('assign and release', function () {
  this.timeout(60_000)
  afterEach(removeDirectories)

  for (const one of CASES) {
    it(`does what was planned for ${one.name}, and nothing else, and puts all of it back`, async () => {
      const { trees, plan } = prepare(one)
      assert.deepEqual(plan.blockers, [])
      const before = photographOf(trees)
      const kernel = new SimulatedKernel(trees)
      const changes: string[] = []
      const options = using(trees, kernel, { onChange: (change) => changes.push(change) })
      const assignment = await assign(plan, options)
      assert.deepEqual(kernel.calls, callsOf(plan))
      assert.deepEqual(assignment.devices, plan.devices)
      const [record] = await recordsOf(trees)
      assert.deepEqual(record && { ...record, alive: 0, stale: 0, deviations: 0 }, {
        ...present(assignment.record),
        alive: 0,
        stale: 0,
        deviations: 0,
      })
      assert.equal(record?.state, 'assigned')
      assert.equal(record.pid, process.pid)
      assert.deepEqual(record.devices, [...plan.devices, ...plan.grabbed])
      assert.deepEqual(record.ids, plan.ids)
      assert.notDeepEqual(photographOf(trees), before)
      // One record before, one after, and for ids one that notes each.
      assert.equal(changes.length, plan.steps.length + 2 + plan.ids.length)
      await assignment.release()
      assert.deepEqual(photographOf(trees), before)
      await assignment.release()
      await assignment[Symbol.asyncDispose]()
      assert.deepEqual(photographOf(trees), before)
    })

    it(`puts ${one.name} back when any one call fails, before or after it took effect`, async () => {
      const count = callsIn(one)
      for (let index = 0; index < count; index++) {
        for (const fault of ['refuse', 'lie'] as const) {
          const { trees, plan } = prepare(one)
          const before = photographOf(trees)
          const { error } = await failing(trees, plan, [[index, fault]])
          const what = `${fault} ${index}`
          assert.deepEqual(error.failures, [], what)
          assert.deepEqual(error.step, plan.steps[index], what)
          assert.equal(error.code, 'EIO', what)
          assert.ok(error.cause instanceof VfioSystemError, what)
          assert.match(error.message, /everything was put back$/, what)
          assert.deepEqual(photographOf(trees), before, what)
          removeDirectories()
        }
      }
    })

    it(`tells what could not be put back of ${one.name}, and recover puts it back later`, async () => {
      let broken = 0
      let pairs = 0
      const count = callsIn(one)
      for (let first = 0; first < count; first++) {
        for (let second = first + 1; ; second++) {
          const { trees, plan } = prepare(one)
          const before = photographOf(trees)
          const { error, kernel } = await failing(trees, plan, [
            [first, 'lie'],
            [second, 'refuse'],
          ])
          // The rollback was over before the second call would have failed.
          if (kernel.calls.length <= second) break
          pairs++
          assert.deepEqual(error.step, plan.steps[first])
          assert.equal(error.failures.length, 1)
          assert.match(error.message, /this could not be undone: .*"vfio recover" tries again/)
          const [record, ...others] = await recordsOf(trees)
          assert.deepEqual(others, [])
          assert.equal(record?.state, 'broken')
          assert.deepEqual(record.failures, error.failures)
          broken++
          // What is half done keeps everybody else off.
          const again = await rejection(assign(plan, healthy(trees)))
          assert.ok(again instanceof VfioError)
          assert.equal(again.code, 'ERR_VFIO_IN_USE', again.message)
          assert.match(again.message, /left half done.*"vfio recover" puts it in order/)
          const report = await recover(healthy(trees))
          assert.deepEqual(
            report.recovered,
            record.devices.map(({ address }) => address),
          )
          assert.deepEqual(photographOf(trees), before, `${first}, then ${second}`)
          removeDirectories()
        }
        removeDirectories()
      }
      assert.equal(broken, pairs)
      assert.ok(pairs >= count)
    })

    it(`gives ${one.name} back although one call of the release fails, and recover does the rest`, async () => {
      for (let index = 0; ; index++) {
        const { trees, plan } = prepare(one)
        const before = photographOf(trees)
        const assignment = await assign(plan, healthy(trees))
        const kernel = faulty(trees, new Map([[index, 'refuse']]))
        const options = using(trees, kernel)
        const resets = kernel.calls.filter(({ kind }) => kind === 'reset').length
        const call = () => kernel.calls[index]
        try {
          const report = await release(plan.addresses, options)
          if (call() === undefined) {
            assert.ok(index > resets)
            assert.deepEqual(photographOf(trees), before)
            break
          }
          // A reset that fails keeps nothing from being given back.
          assert.equal(call()?.kind, 'reset')
          assert.equal(report.warnings.length, 1)
          assert.match(report.warnings[0] ?? '', /was not reset before it was given back: .*EIO/)
        } catch (error) {
          assert.ok(error instanceof VfioError, String(error))
          assert.equal(error.code, 'ERR_VFIO_NOT_RESTORED')
          const [record] = await recordsOf(trees)
          assert.equal(record?.state, 'broken')
          assert.equal(record.failures.length, 1)
          await recover(healthy(trees))
        }
        assert.deepEqual(photographOf(trees), before, `call ${index}`)
        assert.ok(assignment.record)
        removeDirectories()
      }
    })

    it(`leaves ${one.name} alone when aborted before, and puts it back when aborted between two steps`, async () => {
      const reason = new Error('enough')
      for (let count = 0; ; count++) {
        const { trees, plan } = prepare(one)
        const before = photographOf(trees)
        const kernel = new SimulatedKernel(trees)
        const controller = new AbortController()
        let seen = 0
        if (count === 0) controller.abort(reason)
        const onChange = () => {
          if (++seen === count) controller.abort(reason)
        }
        const options = using(trees, kernel, { signal: controller.signal, onChange })
        const last = plan.steps.length + plan.ids.length + 1
        if (count >= last) {
          // Behind the last step there is nothing left to abort.
          await assign(plan, options)
          break
        }
        assert.equal(await rejection(assign(plan, options)), reason)
        assert.deepEqual(photographOf(trees), before, `after ${count} changes`)
        if (count === 0) assert.deepEqual(kernel.calls, [])
        removeDirectories()
      }
    })

    it(`waits for the kernel no longer than the deadline, and recover repairs ${one.name} once it answered`, async () => {
      const count = callsIn(one)
      for (let index = 0; index < count; index++) {
        const { trees, plan } = prepare(one)
        const before = photographOf(trees)
        let ticks = 0
        // Turns of the loop, of which a busy machine has a thousand in that time too.
        const turn = () => {
          ticks++
          turning = setImmediate(turn)
        }
        let turning = setImmediate(turn)
        const { error, kernel } = await failing(trees, plan, [[index, 'hang']], 150)
        clearImmediate(turning)
        assert.ok(ticks > 3, 'the event loop went on')
        const what = `step ${index}: ${error.message}`
        assert.equal(error.code, 'ERR_VFIO_TIMEOUT', what)
        assert.deepEqual(error.step, plan.steps[index], what)
        assert.match(error.message, /has not answered for 0.15 s/, what)
        assert.equal(error.failures.length, 1, what)
        assert.match(error.failures[0] ?? '', /stays as it is, since the kernel is still busy/)
        const [record] = await recordsOf(trees)
        assert.equal(record?.state, 'broken', what)
        // It happens after all, when nobody waits for it any more.
        const answered = kernel.answered.length
        kernel.answerAll()
        await new Promise((resolve) => setImmediate(resolve))
        assert.equal(kernel.answered.length, answered + 1)
        await recover(healthy(trees))
        assert.deepEqual(photographOf(trees), before, what)
        removeDirectories()
      }
    })
  }

  it('gives back with a deadline too, and does not touch what the kernel still owes an answer for', async () => {
    const { trees, plan } = prepare({ host: THREE, addresses: ['02:00.0'], options: { group: true } })
    const before = photographOf(trees)
    await assign(plan, healthy(trees))
    const kernel = new SimulatedKernel(trees, {
      at: (_index, { kind }) => (kind === 'reset' ? 'hang' : null),
    })
    const error = await rejection(release('all', using(trees, kernel, { deadline: 30 })))
    assert.ok(error instanceof VfioError)
    assert.equal(error.code, 'ERR_VFIO_NOT_RESTORED')
    const touched = kernel.calls.filter(({ path, text }) => `${path}${text}`.includes('0000:02:00.0'))
    assert.deepEqual(
      touched.map(({ kind }) => kind),
      ['reset'],
    )
    kernel.answerAll()
    await new Promise((resolve) => setImmediate(resolve))
    await recover(healthy(trees))
    assert.deepEqual(photographOf(trees), before)
  })

  it('frees all functions of a slot before the first goes back to its driver, slot by slot', async () => {
    const devices = [...(SINGLE.devices ?? []), ...(THREE.devices ?? [])]
    for (const kind of ['release', 'undo', 'recover'] as const) {
      const trees = makeKernelHost({ devices })
      const before = photographOf(trees)
      const addresses = [NVME, '02:00.0', '02:00.1', '02:00.2']
      const plan = planOn(trees, addresses, { reset: 'none' })
      // The last write of an assignment fails, when all the others are bound.
      const last = plan.steps.length - 1
      const kernel = new SimulatedKernel(trees, {
        at: (index) => (kind === 'undo' && index === last ? 'lie' : null),
      })
      if (kind === 'undo') await rejection(assign(plan, using(trees, kernel)))
      else await assign(plan, using(trees, kernel))
      if (kind === 'release') await release('all', using(trees, kernel))
      if (kind === 'recover') {
        const [record] = await recordsOf(trees)
        const path = `${journalOf(trees)}/assignment-${present(record).id}.json`
        writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, 'utf8')), state: 'releasing' }))
        await recover(using(trees, kernel))
      }
      const given = kernel.calls
        .slice(plan.steps.length)
        .filter(({ path }) => /\/(un)?bind$/.test(path))
        .map(({ path, text }) => `${path.slice(path.lastIndexOf('/') + 1)} ${text.trim()}`)
      assert.deepEqual(
        given,
        [
          'unbind 0000:02:00.2',
          'unbind 0000:02:00.1',
          'unbind 0000:02:00.0',
          'bind 0000:02:00.1',
          'bind 0000:02:00.0',
          'unbind 0000:01:00.0',
          'bind 0000:01:00.0',
        ],
        kind,
      )
      assert.deepEqual(photographOf(trees), before)
    }
  })

  it('keeps USB controllers of a slot from their drivers while one of them is still with VFIO', async () => {
    const usb = (fn: number, driver: string, group: number) => ({
      address: `0000:00:1d.${fn}`,
      class: 0x0c0300,
      multifunction: true,
      files: { enable: '0\n' },
      driver,
      group,
    })
    const devices = [usb(0, 'uhci_hcd', 40), usb(7, 'ehci-pci', 41)]
    const trees = makeKernelHost({ devices })
    const before = photographOf(trees)
    const plan = planOn(trees, ['00:1d.0', '00:1d.7'], { reset: 'none' })
    const writes = plan.steps.map(({ path }) => path.slice(path.lastIndexOf('/') + 1))
    assert.deepEqual(writes.slice(-2), ['drivers_probe', 'drivers_probe'])
    await assign(plan, healthy(trees))
    const kernel = new SimulatedKernel(trees, {
      at: (_index, { path, text }) =>
        path.endsWith('/unbind') && text.trim() === '0000:00:1d.0' ? 'refuse' : null,
    })
    await refused(
      release('all', using(trees, kernel)),
      'ERR_VFIO_NOT_RESTORED',
      /0000:00:1d\.7 waits without a driver for 0000:00:1d\.0/,
    )
    assert.equal(
      kernel.calls.some(({ path }) => path.endsWith('/bind')),
      false,
    )
    await recover(healthy(trees))
    assert.deepEqual(photographOf(trees), before)
  })

  it('forgets with rescan what was gone before and stays gone', async () => {
    const { trees, plan } = prepare({ host: SINGLE, addresses: [NVME], options: { reset: 'none' } })
    await assign(plan, healthy(trees))
    await new SimulatedKernel(trees).write(`${trees.sysfs}/bus/pci/devices/${NVME}/remove`, '1\n')
    const kernel = new SimulatedKernel(trees, {
      at: (_index, { path }) => (path.endsWith('/rescan') ? 'refuse' : null),
    })
    await refused(release([NVME], healthy(trees)), 'ERR_VFIO_NOT_RESTORED', /is gone from the host: --rescan/)
    // A rescan that brings nothing back.
    const blind = { ...using(trees, kernel), rescan: true }
    const write = kernel.write.bind(kernel)
    kernel.write = (path, text) => (path.endsWith('/rescan') ? Promise.resolve() : write(path, text))
    assert.deepEqual((await release([NVME], blind)).released, [NVME])
    assert.deepEqual(await recordsOf(trees), [])
  })

  it('loads a missing driver first, and stops when that fails', async () => {
    const host = { ...SINGLE, modules: { ...READY_MODULES, vfio_pci: { state: 'loadable' } } } as const
    const trees = makeKernelHost(host, { drivers: [] })
    const plan = planOn(trees, [NVME])
    const before = photographOf(trees)
    const { error } = await failing(trees, plan, [[0, 'refuse']])
    assert.equal(error.step?.action, 'load')
    assert.deepEqual(photographOf(trees), before)
    const kernel = new SimulatedKernel(trees)
    await assign(plan, using(trees, kernel))
    assert.deepEqual(kernel.calls[0], { kind: 'load', path: '/sbin/modprobe', text: 'vfio-pci' })
    assert.deepEqual(kernel.calls, callsOf(plan))
  })

  it('notices a driver that does not take the device, and one that does not let it go', async () => {
    const { trees, plan } = prepare({ host: SINGLE, addresses: [NVME], options: {} })
    const before = photographOf(trees)
    class Deaf extends SimulatedKernel {
      readonly #file: string
      constructor(host: HostTrees, file: string) {
        super(host)
        this.#file = file
      }
      override async write(path: string, text: string): Promise<void> {
        if (!path.endsWith(this.#file)) await super.write(path, text)
      }
    }
    for (const [file, message] of [
      ['drivers_probe', /0000:01:00.0 is without a driver, and not bound to vfio-pci/],
      ['unbind', /0000:01:00.0 is still bound to nvme/],
    ] as const) {
      await refused(assign(plan, using(trees, new Deaf(trees, file))), 'ERR_VFIO_NOT_BOUND', message)
      assert.deepEqual(photographOf(trees), before)
    }
  })

  describe('refuses before it changes anything', () => {
    it('what another program is changing, though it may not look into all (proc(5): /proc/PID/fd takes ptrace access)', function () {
      if (process.getuid?.() !== 0) skip(this, 'becoming another user takes root')
      const trees = makeKernelHost(SINGLE)
      chmodSync(join(trees.sysfs, '..'), 0o755)
      chmodSync(`${trees.sysfs}/bus/pci/rescan`, 0o666)
      const args = ['--input-type=module', '-e', TWO_AT_ONCE, trees.sysfs, journalOf(trees)]
      const { stdout, stderr } = spawnSync(process.execPath, args, { cwd: ROOT, encoding: 'utf8' })
      // Of its own processes it sees all.
      const says =
        /^ERR_VFIO_LOCKED another program is changing group 10 right now \(node\S*, pid \d+\): wait until it is done$/
      assert.match(`${stdout.trim()}${stderr}`, says)
    })

    async function refusesUntouched(trees: HostTrees, plan: Plan, code: string, message: RegExp) {
      const before = photographOf(trees)
      const kernel = new SimulatedKernel(trees)
      await refused(assign(plan, using(trees, kernel)), code, message)
      assert.deepEqual(kernel.calls, [])
      assert.deepEqual(photographOf(trees), before)
    }

    it('a plan with blockers, with all of their reasons', async () => {
      const { trees, plan } = prepare({
        host: THREE,
        addresses: ['02:00.0'],
        options: { driver: 'nvme' },
      })
      assert.equal(plan.blockers.length, 2)
      await refusesUntouched(trees, plan, 'ERR_VFIO_BAD_ARGUMENT', /nvme is not a VFIO driver.*; .*02:00.1/)
    })

    it('a host that is no longer as it was: driver, override, a sibling, a newcomer, what ids would grab', async () => {
      const three = () => prepare({ host: THREE, addresses: ['02:00.0', '02:00.1'], options: {} })
      const changed = async (
        change: (kernel: SimulatedKernel, bus: string) => Promise<void>,
        text: RegExp,
      ) => {
        const { trees, plan } = three()
        assert.deepEqual(plan.blockers, [])
        await change(new SimulatedKernel(trees), `${trees.sysfs}/bus/pci`)
        await refusesUntouched(trees, plan, 'ERR_VFIO_HOST_CHANGED', text)
      }
      await changed(
        (kernel, bus) => kernel.write(`${bus}/drivers/e1000e/unbind`, '0000:02:00.0'),
        /02:00.0 is no longer .*driver e1000e, override none; now driver none, override none.*plan again/,
      )
      await changed(
        (kernel, bus) => kernel.write(`${bus}/devices/0000:02:00.0/driver_override`, 'pci-stub\n'),
        /now driver e1000e, override pci-stub/,
      )
      await changed(
        (kernel, bus) => kernel.write(`${bus}/devices/0000:02:00.2/driver_override`, 'pci-stub\n'),
        /0000:02:00.2 is no longer/,
      )
      await changed(async (_kernel, bus) => {
        symlinkSync('/', `${bus}/../../kernel/iommu_groups/20/devices/0000:02:00.3`)
      }, /0000:02:00.3 has come to group 20/)
      const { trees, plan } = prepare({ host: TWINS, addresses: ['03:00.0'], options: { ids: true } })
      await new SimulatedKernel(trees).write(`${trees.sysfs}/bus/pci/drivers/igb/bind`, '0000:04:00.0')
      await refusesUntouched(trees, plan, 'ERR_VFIO_HOST_CHANGED', /0000:04:00.0 is no longer/)
    })

    it('what another assignment holds, with who and since when', async () => {
      const { trees, plan } = prepare({ host: SINGLE, addresses: [NVME], options: {} })
      const { record } = await assign(plan, healthy(trees))
      const again = planOn(trees, [NVME], { driver: 'vfio-pci', reset: 'none' })
      assert.deepEqual(again.toBind, [])
      assert.equal((await assign(again, healthy(trees))).record, null)
      await refusesUntouched(
        trees,
        plan,
        'ERR_VFIO_IN_USE',
        new RegExp(
          `${NVME} is assigned already, by .* \\(pid ${process.pid}\\) since ${record?.since}: "vfio release`,
        ),
      )
    })

    it('what another assignment works on in the same process', async () => {
      const { trees, plan } = prepare({ host: SINGLE, addresses: [NVME], options: {} })
      let begin = () => {}
      const begun = new Promise<void>((resolve) => {
        begin = resolve
      })
      const slow = new SimulatedKernel(trees, { at: (index) => (index === 1 ? 'hang' : null) })
      const onChange = () => {
        if (slow.answered.length === 1) begin()
      }
      const first = assign(plan, using(trees, slow, { onChange }))
      await begun
      const before = photographOf(trees)
      await refused(
        assign(plan, healthy(trees)),
        'ERR_VFIO_LOCKED',
        new RegExp(`group 10 right now \\(.*pid ${process.pid}\\)`),
      )
      assert.deepEqual(photographOf(trees), before)
      await new Promise((resolve) => setImmediate(resolve))
      slow.answerAll()
      await (await first).release()
    })
  })

  describe('never takes what is not its own', () => {
    it('an id that the driver had before: it says so, and the id stays with the driver', async () => {
      const { trees, plan } = prepare({
        host: TWINS,
        addresses: ['03:00.0'],
        options: { ids: true, reset: 'none' },
      })
      const user = new SimulatedKernel(trees)
      const bus = `${trees.sysfs}/bus/pci`
      for (const address of ['0000:04:00.0']) {
        await user.write(`${bus}/drivers/vfio-pci/new_id`, '8086 1533')
        // The user took it back, and the id stays.
        await user.write(`${bus}/drivers/vfio-pci/unbind`, address)
      }
      const before = photographOf(trees)
      assert.ok(before.some((line) => line.includes('8086 1533"]}')))
      const { error } = await failing(trees, plan, [])
      assert.equal(error.code, 'EEXIST')
      assert.equal(error.step?.value, '8086 1533')
      assert.deepEqual(error.failures, [])
      assert.deepEqual(photographOf(trees), before)
    })

    it('a device that somebody else bound elsewhere meanwhile stays there until it is free', async () => {
      const { trees, plan } = prepare({ host: SINGLE, addresses: [NVME], options: { reset: 'none' } })
      const before = photographOf(trees)
      await assign(plan, healthy(trees))
      const user = new SimulatedKernel(trees)
      const bus = `${trees.sysfs}/bus/pci`
      mkdirSync(`${bus}/drivers/uio_pci_generic`)
      writeFileSync(`${bus}/drivers/uio_pci_generic/bind`, '')
      await user.write(`${bus}/drivers/vfio-pci/unbind`, NVME)
      await user.write(`${bus}/devices/${NVME}/driver_override`, 'uio_pci_generic\n')
      await user.write(`${bus}/drivers/uio_pci_generic/bind`, NVME)
      const theirs = photographOf(trees).filter((line) => !line.startsWith('journal'))
      for (const options of [{}, { rescan: true }]) {
        await refused(
          release([NVME], { ...healthy(trees), ...options }),
          'ERR_VFIO_NOT_RESTORED',
          /0000:01:00.0 is bound to uio_pci_generic now, by somebody else/,
        )
        assert.deepEqual(
          photographOf(trees).filter((line) => !line.startsWith('journal')),
          theirs,
        )
      }
      writeFileSync(`${bus}/drivers/uio_pci_generic/unbind`, '')
      await user.write(`${bus}/drivers/uio_pci_generic/unbind`, NVME)
      rmSync(`${bus}/drivers/uio_pci_generic`, { recursive: true })
      await recover(healthy(trees))
      assert.deepEqual(photographOf(trees), before)
    })

    it('a device that is open: neither released nor recovered, and nothing is written', async () => {
      const { trees, plan } = prepare({ host: SINGLE, addresses: [NVME], options: {} })
      await assign(plan, healthy(trees))
      const before = photographOf(trees)
      const kernel = new SimulatedKernel(trees)
      kernel.open.add(10)
      await refused(
        release('all', using(trees, kernel)),
        'ERR_VFIO_IN_USE',
        /0000:01:00.0 is open, and unbinding it would hang: group 10 is open in a program/,
      )
      assert.deepEqual(kernel.calls, [])
      assert.deepEqual(photographOf(trees), before)
      const path = `${journalOf(trees)}/assignment-${NVME}.json`
      const record = JSON.parse(readFileSync(path, 'utf8')) as JournalRecord
      writeFileSync(path, JSON.stringify({ ...record, state: 'releasing' }))
      await refused(
        recover(using(trees, kernel)),
        'ERR_VFIO_NOT_RESTORED',
        /0000:01:00.0 is open, and unbinding it would hang: group 10 is open in a program/,
      )
      assert.deepEqual(kernel.calls, [])
      await recover(healthy(trees))
    })

    it('an assignment that others released and made anew', async () => {
      const { trees, plan } = prepare({ host: SINGLE, addresses: [NVME], options: {} })
      const first = await assign(plan, healthy(trees))
      await release([NVME], healthy(trees))
      const second = await assign(plan, healthy(trees))
      assert.notEqual(second.record?.since, first.record?.since)
      await refused(first.release(), 'ERR_VFIO_NOT_ASSIGNED', /was released already/)
      assert.equal((await recordsOf(trees)).length, 1)
      await second.release()
    })
  })

  it('gives back a driver that another override would keep away, and the override with it', async () => {
    const [bridge, nvme] = SINGLE.devices ?? []
    const host = { devices: [present(bridge), { ...present(nvme), driverOverride: 'pci-stub' }] }
    const trees = makeKernelHost(host, { builtin: { nvme: ['144d a808'] } })
    const before = photographOf(trees)
    const assignment = await assign(planOn(trees, [NVME]), healthy(trees))
    await assignment.release()
    assert.deepEqual(photographOf(trees), before)
  })

  it('moves a device from one VFIO driver to another, and back', async () => {
    const [bridge, nvme] = SINGLE.devices ?? []
    const bound = {
      ...present(nvme),
      driver: 'vfio-pci',
      driverOverride: 'vfio-pci',
      files: { enable: '0\n' },
    }
    const trees = makeKernelHost(
      { devices: [present(bridge), bound] },
      { drivers: ['vfio-pci', 'some_vfio_pci'] },
    )
    const before = photographOf(trees)
    const plan = planOn(trees, [NVME], { driver: 'some_vfio_pci' })
    const opened = new SimulatedKernel(trees)
    opened.open.add(10)
    await refused(assign(plan, using(trees, opened)), 'ERR_VFIO_IN_USE', /unbinding it would hang/)
    assert.equal(
      opened.calls.some(({ path }) => path.endsWith('unbind')),
      false,
    )
    assert.deepEqual(photographOf(trees), before)
    const assignment = await assign(plan, healthy(trees))
    assert.equal((await recordsOf(trees)).length, 1)
    await assignment.release()
    assert.deepEqual(photographOf(trees), before)
  })

  it('with rescan lets the kernel find anew what cannot be bound again', async () => {
    const { trees, plan } = prepare({ host: SINGLE, addresses: [NVME], options: { reset: 'none' } })
    const before = photographOf(trees)
    await assign(plan, healthy(trees))
    const refusing = () =>
      new SimulatedKernel(trees, {
        at: (_index, { path }) => (path.endsWith('/nvme/bind') ? 'refuse' : null),
      })
    await refused(
      release([NVME], using(trees, refusing())),
      'ERR_VFIO_NOT_RESTORED',
      /EIO.*"vfio release --rescan"/,
    )
    const kernel = refusing()
    const { recovered } = await recover({ ...using(trees, kernel), rescan: true })
    assert.deepEqual(recovered, [NVME])
    const written = kernel.calls.map(({ path }) => path.slice(path.lastIndexOf('/') + 1))
    assert.deepEqual(written, ['bind', 'remove', 'rescan'])
    assert.deepEqual(photographOf(trees), before)
  })

  it('keeps what was without a driver without one, when the kernel finds it anew', async () => {
    const [bridge, nvme] = SINGLE.devices ?? []
    const { driver: _driver, ...free } = present(nvme)
    const trees = makeKernelHost(
      { devices: [present(bridge), { ...free, driverOverride: 'pci-stub' }] },
      { builtin: { nvme: ['144d a808'] } },
    )
    const before = photographOf(trees)
    await assign(planOn(trees, [NVME], { reset: 'none' }), healthy(trees))
    let refusals = 0
    const kernel = new SimulatedKernel(trees, {
      at: (_index, { path }) => (path.endsWith('/driver_override') && refusals++ === 0 ? 'refuse' : null),
    })
    await release([NVME], { ...using(trees, kernel), rescan: true })
    assert.deepEqual(photographOf(trees), before)
  })

  it('finds its journal again wherever the program has gone meanwhile', async () => {
    const { trees, plan } = prepare(present(CASES[0]))
    const before = photographOf(trees)
    const [home, there] = [process.cwd(), join(trees.sysfs, '..')]
    process.chdir(there)
    try {
      const journal = relative(there, journalOf(trees))
      const assignment = await assign(plan, using(trees, new SimulatedKernel(trees), { journal }))
      process.chdir(home)
      await assignment.release()
    } finally {
      process.chdir(home)
    }
    assert.deepEqual(photographOf(trees), before)
  })

  it('releases all that it can where one cannot be released', async () => {
    const trees = makeKernelHost({ devices: [...(SINGLE.devices ?? []), ...(TWINS.devices ?? [])] })
    for (const address of [NVME, '03:00.0', '05:00.0'])
      await assign(planOn(trees, [address], { reset: 'none' }), healthy(trees))
    const kernel = new SimulatedKernel(trees)
    kernel.open.add(30)
    await refused(
      release('all', using(trees, kernel)),
      'ERR_VFIO_IN_USE',
      /0000:03:00.0 is open, .*group 30 is open/,
    )
    assert.deepEqual(
      (await recordsOf(trees)).map(({ id }) => id),
      ['0000:03:00.0'],
    )
    kernel.open.clear()
    const { released, warnings } = await release('all', using(trees, kernel))
    assert.deepEqual([released, warnings], [['0000:03:00.0'], []])
    assert.equal(existsSync(journalOf(trees)), false)
  })

  it('says for which device nothing is known, and takes only addresses', async () => {
    const { trees } = prepare({ host: SINGLE, addresses: [NVME], options: {} })
    await refused(release([NVME], healthy(trees)), 'ERR_VFIO_NOT_ASSIGNED', /no assignment of 0000:01:00.0/)
    await refused(release(['../x'], healthy(trees)), 'ERR_VFIO_BAD_ADDRESS', /not a PCI address/)
    assert.deepEqual(await release('all', healthy(trees)), { released: [], warnings: [] })
    assert.deepEqual(await recover(healthy(trees)), {
      recovered: [],
      stale: [],
      busy: [],
      bad: [],
      warnings: [],
    })
  })
})
