import assert from 'node:assert/strict'
import { release as kernelRelease } from 'node:os'
import { Host, launch, type RunEvent, status } from 'vfio'
import { place } from './assign-host.js'
import { isPresent } from './binding.js'
import { Monitor } from './monitor.js'
import { disk, HOLDS, opened } from './run-host.js'

describe(`a device that is unplugged while a command has it on ${kernelRelease()}`, function () {
  this.timeout(300_000)
  before(() => place('host'))
  after(() => place('none'))

  it('is asked for in one line, goes when the command ends, and leaves nothing behind', async () => {
    const seen = new Host().snapshot()
    const isPlugged = (address: string) => {
      const { parent } = seen.device(address)
      return parent !== null && seen.device(parent).capabilities.pcie?.hotplug === true
    }
    const plan = disk(isPlugged)
    const [address = ''] = plan.addresses
    await using monitor = await Monitor.open()
    const names = await monitor.addresses()
    const id = [...names.keys()].find((name) => names.get(name) === address)
    assert(id)
    const events: RunEvent[] = []
    let hear = () => {}
    const asked = new Promise<void>((resolve) => {
      hear = resolve
    })
    const run = await launch(plan, {
      command: HOLDS,
      onEvent: (event) => {
        events.push(event)
        if (event.event === 'device' && event.kind === 'release-requested') hear()
      },
    })
    await opened(address)
    const removed = monitor.remove(id)
    await asked
    assert.equal(isPresent(address), true, 'the kernel waits for the command')
    run.kill()
    await run.exited
    await removed
    await run.released
    assert.equal(isPresent(address), false)
    assert.deepEqual(events.at(-1), { event: 'released', devices: [], gone: [address] })
    assert.deepEqual((await status()).assignments, [])
  })
})
