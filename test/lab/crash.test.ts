import assert from 'node:assert/strict'
import { release as kernelRelease } from 'node:os'
import { assign, Host, type Plan, planAssignment, recover, release, type Snapshot } from 'vfio'
import { sized } from '../fixtures/size.js'
import { hostState, Program, place, spare, vfio } from './assign-host.js'
import { driverOf } from './binding.js'

const host = new Host()

describe(`after a crash at every change on ${kernelRelease()}, vfio recover makes the host as it was`, function () {
  this.timeout(600_000)
  after(() => place('none'))

  /** A device alone in its group, and a group of three, each with drivers of the host among them. */
  function choose(seen: Snapshot, members: number): Plan {
    const found = spare(seen)
      .groups.filter((group) => group.length === members && group.some((one) => driverOf(one) === 'nvme'))
      .map(([first = '']) => planAssignment(seen, [first], { group: true }))
      .find(({ blockers }) => blockers.length === 0)
    assert(found, `the topology has a group of ${members} with a disk`)
    return found
  }

  /**
   * Kills programs after one change, after two, … until one comes to its end; each next one is started ahead. Some of the
   * changes at the small size: the unit suite has all of them, on a simulated kernel.
   */
  const stepOf = (members: number) => sized(Math.max(2, members), 1)
  const FIRST = 1
  /** Returns behind how many changes the last was killed. */
  async function crash(task: 'assign' | 'release', members: number): Promise<number> {
    place('host')
    const plan = choose(host.snapshot(), members)
    const before = hostState()
    let program = new Program()
    let last = 0
    for (let dieAfter = FIRST; ; dieAfter += stepOf(members)) {
      const next = new Program()
      if (task === 'release') await assign(plan)
      await program.give({ do: task, plan, dieAfter })
      const said = await program.line()
      const [, signal] = await program.ended
      if (signal === null) {
        await next.end()
        assert.equal(said, 'done')
        if (task === 'assign') await release(plan.addresses)
        assert.deepEqual(hostState(), before)
        return last
      }
      assert.equal(signal, 'SIGKILL')
      last = dieAfter
      program = next
      // The first time as a person does it, which starts another Node.
      if (dieAfter === FIRST) {
        const { status, stderr } = vfio('recover')
        assert.equal(status, 0, stderr)
      } else {
        await recover()
      }
      // Behind its last change an assignment stands.
      if (hostState()[plan.addresses[0] ?? ''] !== before[plan.addresses[0] ?? '']) {
        assert.equal(dieAfter, plan.steps.length + 2)
        await release(plan.addresses)
      }
      assert.deepEqual(hostState(), before, `${task}, ${dieAfter} changes`)
    }
  }

  for (const [name, members] of [
    ['a single device', 1],
    ['a group of three', 3],
  ] as const) {
    for (const task of ['assign', 'release'] as const) {
      it(`${task} of ${name}`, async () => {
        const last = await crash(task, members)
        console.log(`      killed after every ${stepOf(members)} changes, the last time after ${last}`)
        assert.ok(last >= (members === 1 ? 5 : 10), `${last} changes`)
      })
    }
  }
})
