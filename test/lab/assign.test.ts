import assert from 'node:assert/strict'
import { release as kernelRelease } from 'node:os'
import {
  assess,
  assign,
  Host,
  type Plan,
  type PlanOptions,
  planAssignment,
  recover,
  release,
  type Snapshot,
  VfioError,
} from 'vfio'
import { sized } from '../fixtures/size.js'
import { hostState, left, Program, place, spare, vfio } from './assign-host.js'
import { driverOf } from './binding.js'
import { modes } from './modes.js'
import { since } from './spare.js'

const host = new Host()

/**
 * How the rounds are divided, 50 of them at full size. In some, each device that needs no other one is assigned and released by itself, and
 * then each group, at the small size on old kernels from other drivers than on new ones; in the rest all groups at once,
 * as one assignment, since an emulated processor takes its time.
 */
const ROUNDS: readonly {
  drivers: 'none' | 'host'
  reset: 'none' | 'before-and-after'
  by: 'one by one' | 'all at once'
  count: number
}[] = [
  { drivers: 'none', reset: 'none', by: 'one by one', count: sized(0, 1) },
  { drivers: 'none', reset: 'none', by: 'all at once', count: sized(2, 32) },
  { drivers: 'none', reset: 'before-and-after', by: 'one by one', count: sized(since(6, 1) ? 1 : 0, 1) },
  { drivers: 'host', reset: 'none', by: 'all at once', count: sized(1, 13) },
  { drivers: 'host', reset: 'before-and-after', by: 'all at once', count: sized(1, 2) },
  { drivers: 'host', reset: 'none', by: 'one by one', count: sized(since(6, 1) ? 0 : 1, 1) },
]

/** All that can be assigned in this host. */
function plansOf(seen: Snapshot, by: (typeof ROUNDS)[number]['by'], options: PlanOptions): Plan[] {
  const { devices, groups } = spare(seen)
  const whole = { ...options, group: true }
  const isPossible = ({ blockers }: Plan) => blockers.length === 0
  const byGroup = groups.map(([first = '']) => planAssignment(seen, [first], whole)).filter(isPossible)
  if (by === 'all at once') {
    return [
      planAssignment(
        seen,
        byGroup.flatMap(({ addresses }) => addresses),
        whole,
      ),
    ]
  }
  const alone = devices.map((address) => planAssignment(seen, [address], options)).filter(isPossible)
  return [...alone, ...byGroup.filter((plan) => plan.devices.length > 1)]
}

describe(`assignments on ${kernelRelease()}`, function () {
  this.timeout(600_000)
  before(() => place('none'))
  after(() => place('none'))

  describe('bind and release every device and every group', () => {
    const assigned = new Set<string>()
    let rounds = 0
    for (const { drivers, reset, by, count } of ROUNDS.filter((one) => one.count > 0)) {
      const from = drivers === 'host' ? 'from the drivers of the host' : 'without other drivers'
      it(`${by}, ${from}, reset ${reset}: ${count} times`, async () => {
        place(drivers)
        const seen = host.snapshot()
        const before = hostState()
        const plans = plansOf(seen, by, { reset })
        const began = performance.now()
        for (let round = 0; round < count; round++) {
          for (const plan of plans) {
            const assignment = await assign(plan)
            for (const { address, driver } of plan.devices) assert.equal(driverOf(address), driver)
            if (round === 0) assert.notDeepEqual(hostState(), before)
            await assignment.release()
            for (const { address } of plan.devices) assigned.add(address)
          }
          assert.deepEqual(hostState(), before)
          rounds++
        }
        const seconds = (performance.now() - began) / 1000
        console.log(`      ${count} × ${plans.length} assignments in ${seconds.toFixed(1)} s`)
      })
    }
    const all = ROUNDS.reduce((sum, { count }) => sum + count, 0)
    it(`${all} of them, of everything that this topology can spare`, () => {
      assert.equal(rounds, all)
      const seen = host.snapshot()
      const { devices } = spare(seen)
      const rest = devices.filter((address) => !assigned.has(address))
      const reasons = rest.map((address) => assess(seen, address).reason)
      // Behind a hot-plug bridge whose driver claims the group for the host.
      for (const reason of reasons) assert.match(reason, /is a bridge bound to shpchp/)
      console.log(`      ${assigned.size} devices; not ${rest.join(', ') || 'one more'}`)
      assert.ok(assigned.size >= 20)
    })
  })

  for (const { name, backend } of modes)
    describe(`a device that another program has open by ${name}`, () => {
      let plan: Plan
      before(() => {
        place('none')
        const seen = host.snapshot()
        const { groups } = spare(seen)
        const alone = groups.filter((group) => group.length === 1)
        const found = alone
          .map(([address = '']) => planAssignment(seen, [address], { reset: 'none' }))
          .find(
            ({ blockers, addresses: [address = ''] }) =>
              blockers.length === 0 && seen.device(address).class === 0x010802,
          )
        assert(found, 'the topology has a disk alone in its group')
        plan = found
      })
      const address = () => plan.addresses[0] ?? ''

      it('is neither released nor bound anew: the program is named, at once', async () => {
        const before = hostState()
        await assign(plan)
        const holder = new Program()
        await holder.give({ do: 'hold', address: address(), backend })
        assert.equal(await holder.line(), 'done')
        const held = hostState()
        // Whoever waited for this deadline would not be back before the test's own limit.
        await assert.rejects(release([address()], { deadline: 3_600_000 }), (error: unknown) => {
          assert(error instanceof VfioError)
          assert.equal(error.code, 'ERR_VFIO_IN_USE')
          assert.match(error.message, new RegExp(`\\b${holder.pid}\\b`))
          return true
        })
        for (const args of [
          ['release', address()],
          ['release', '--all'],
          ['bind', address()],
          ['bind', address(), '--force', 'other', '--force', 'holder'],
        ]) {
          const { status, stderr } = vfio(...args)
          assert.equal(status, 1, stderr)
          assert.match(stderr, new RegExp(`\\b${holder.pid}\\b`))
        }
        assert.deepEqual(hostState(), held)
        await holder.end()
        assert.deepEqual((await release([address()])).released, [address()])
        assert.deepEqual(hostState(), before)
      })

      it('is not waited for beyond the deadline where the check came too early: it is named, and recover does the rest', async () => {
        const before = hostState()
        await assign(plan)
        const holder = new Program()
        await holder.give({ do: 'hold', address: address(), backend })
        assert.equal(await holder.line(), 'done')
        let ticks = 0
        const ticking = setInterval(() => ticks++, 20)
        // Sees nobody, as if the device were opened just behind the check.
        const kernel = { isOpen: () => false }
        const options = { kernel, deadline: 5000 }
        await assert.rejects(release([address()], options), (error: unknown) => {
          assert(error instanceof VfioError)
          assert.equal(error.code, 'ERR_VFIO_NOT_RESTORED')
          assert.match(error.message, /has not answered for 5 s: writing .*\/unbind/)
          assert.match(error.message, new RegExp(`\\b${holder.pid}\\b`))
          return true
        })
        clearInterval(ticking)
        assert.ok(ticks > 5, `the event loop went on (${ticks})`)
        const { status, stdout } = vfio('status')
        assert.equal(status, 1)
        assert.match(stdout, /broken/)
        await holder.end()
        // Old kernels look only every ten seconds whether it was closed.
        while (left().length > 0) await new Promise(setImmediate)
        assert.deepEqual((await recover()).recovered, [address()])
        assert.deepEqual(hostState(), before)
      })
    })
})
