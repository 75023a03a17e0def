import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { release } from 'node:os'
import { assess, Host, planAssignment, type Snapshot } from 'vfio'
import { readCapabilities } from '../../lib/sysfs/config.js'
import { put } from './binding.js'
import { choose, isAlone } from './spare.js'

/** What is said about a device, but for who uses it, which may change from one look to the next. */
function verdictsOn(seen: Snapshot, address: string): unknown {
  const { steps, toBind, blockers, warnings, basis } = planAssignment(seen, [address], { group: true })
  const inUse = blockers.filter(({ code }) => code !== 'ERR_VFIO_IN_USE')
  const { group } = seen.device(address)
  return {
    device: seen.device(address),
    group: group === null ? null : seen.group(group),
    assessment: assess(seen, address),
    plan: { steps, toBind, blockers: inUse, warnings, basis },
  }
}

describe(`a look at this host (${release()})`, () => {
  it('around one device says of it what a look at everything says', () => {
    const host = new Host()
    const whole = host.snapshot()
    let smaller = 0
    for (const { address } of whole.devices) {
      const around = host.snapshot({ around: [address] })
      assert.deepEqual(verdictsOn(around, address), verdictsOn(whole, address), address)
      if (around.devices.length < whole.devices.length) smaller++
    }
    assert.ok(smaller > whole.devices.length / 2, `${smaller} of ${whole.devices.length} looks were smaller`)
  })

  it('takes of each config space what makes the same of it as all of it does', () => {
    const { devices } = new Host().snapshot()
    assert.ok(devices.length > 0)
    for (const { address, capabilities } of devices) {
      const config = readFileSync(`/sys/bus/pci/devices/${address}/config`)
      assert.deepEqual(capabilities, readCapabilities(config), address)
    }
    assert.ok(
      devices.some(({ capabilities }) => capabilities.readable === 4096 && capabilities.extended.length > 0),
    )
  })

  it('sees by one host what another sees at once, whatever happens to a device in between', () => {
    const device = choose('device of its own group', isAlone)
    const { address } = device
    const facts = (seen: Snapshot) =>
      seen.devices.map(({ address: at, driver, driverOverride, group, resetMethods, vfioDevice, parent }) =>
        JSON.stringify([at, driver, driverOverride, group, resetMethods, vfioDevice, parent]),
      )
    const groups = (seen: Snapshot) => seen.groups.map(({ group, members }) => `${group}: ${members.join()}`)
    const host = new Host()
    let former: readonly string[] = []
    const check = (what: string) => {
      const [again, anew] = [host.snapshot(), new Host().snapshot()]
      assert.deepEqual([facts(again), groups(again)], [facts(anew), groups(anew)], what)
      assert.notDeepEqual(facts(again), former, what)
      former = facts(again)
    }
    put(address, 'none')
    check('at first')
    put(address, 'vfio-pci')
    check('bound to vfio-pci')
    put(address, 'none')
    check('let go')
    writeFileSync(`/sys/bus/pci/devices/${address}/remove`, '1')
    check('taken away')
    writeFileSync('/sys/bus/pci/rescan', '1')
    check('found anew')
    put(address, 'none')
    assert.equal(host.snapshot().device(address).driver, null)
  })
})
