import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { Host, planPersistence, removePersistence, writePersistence } from 'vfio'
import { skip } from '../fixtures/skip.js'
import { driverOf, inUse, put } from './binding.js'

const used = inUse()
const run = (program: string, ...args: string[]) => execFileSync(program, args, { stdio: 'pipe' })

describe('boot configuration', () => {
  const seen = new Host().snapshot()
  const NVME = 0x010802
  const twins = seen.devices.filter((device) => device.class === NVME && !used.has(device.address))

  beforeEach(function () {
    if (twins.length < 2) skip(this, 'the topology has no two devices of a kind')
    try {
      for (const { address } of twins) put(address, 'none')
      // As at boot, when no driver is loaded yet.
      run('modprobe', '-r', 'nvme', 'vfio_pci')
      run('modprobe', '-n', 'vfio-pci')
    } catch {
      skip(this, 'this kernel has them built in')
    }
  })
  afterEach(async () => {
    await removePersistence()
    for (const { address } of twins) put(address, 'none')
    try {
      // Loaded anew: ids that it was given stay with a module for as long as it is loaded.
      run('modprobe', '-r', 'nvme', 'vfio_pci')
      run('modprobe', 'vfio-pci')
    } catch {
      // Built in.
    }
  })

  it('gives one of two identical devices to vfio-pci, whichever driver is asked for first', async () => {
    const [first, second] = twins
    assert(first && second)
    for (const chosen of [first, second]) {
      await writePersistence(planPersistence(seen, [chosen.address]))
      run('modprobe', 'nvme')
      for (const { address } of twins) {
        assert.equal(driverOf(address), address === chosen.address ? 'vfio-pci' : 'nvme', address)
      }
      for (const { address } of twins) put(address, 'none')
      run('modprobe', '-r', 'nvme', 'vfio_pci')
    }
  })

  it('gives both to vfio-pci by ids, as it warns', async () => {
    const [first] = twins
    assert(first)
    const plan = planPersistence(seen, [first.address], { by: 'ids' })
    await writePersistence(plan)
    run('modprobe', 'nvme')
    for (const { address } of twins) {
      const isNamed: boolean =
        address === first.address || plan.warnings.some((warning) => warning.includes(address))
      assert.equal(driverOf(address), isNamed ? 'vfio-pci' : 'nvme', address)
    }
  })
})
