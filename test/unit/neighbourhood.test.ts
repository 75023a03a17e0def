import assert from 'node:assert/strict'
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { assess, Host, planAssignment, type Snapshot } from 'vfio'
import type { HostDescription, HostTrees } from '../fixtures/host.js'
import { makeHost, temporaryDirectory } from '../fixtures/host.js'
import { writeLargeHost } from '../fixtures/large-host.js'
import { sized } from '../fixtures/size.js'
import { SINGLE, THREE, TWINS } from './assign-hosts.js'

/** All that is said about a device, but for the host that it is on. */
function verdictsOn(seen: Snapshot, address: string): unknown {
  const device = seen.device(address)
  const group = device.group === null ? null : seen.group(device.group)
  const alone = planAssignment(seen, [address])
  const whole = planAssignment(seen, [address], { group: true })
  return { device, group, assessment: assess(seen, address), alone, whole }
}

/** @param every so that of a large host only some are looked at */
function sameForAll(trees: HostTrees, every = 1): Map<string, number> {
  const host = new Host(trees)
  const whole = host.snapshot()
  const sizes = new Map<string, number>()
  for (const [index, { address }] of whole.devices.entries()) {
    if (index % every !== 0) continue
    const around = host.snapshot({ around: [address] })
    assert.deepEqual(verdictsOn(around, address), verdictsOn(whole, address), address)
    sizes.set(address, around.devices.length)
  }
  return sizes
}

describe('a look around some devices', function () {
  this.timeout(600_000)

  it('says of every function of a large host what a look at all of it says, from a part of it', () => {
    const count = sized(200, 600)
    const sizes = sameForAll(writeLargeHost(temporaryDirectory(), count), sized(6, 1))
    assert.ok([...sizes.values()].every((size) => size < count))
    assert.ok(Math.min(...sizes.values()) <= 10)
  })

  for (const [name, host] of Object.entries({ SINGLE, THREE, TWINS }) as [string, HostDescription][]) {
    it(`says the same on the host ${name}`, () => {
      sameForAll(makeHost(host))
    })
  }

  it('takes along who is in the group, wherever it hangs, and what hangs there', () => {
    const port = { class: 0x060400, headerType: 'bridge', driver: 'pcieport' } as const
    const trees = makeHost({
      devices: [
        { ...port, address: '0000:00:01.0', secondaryBus: 1, group: 1 },
        { ...port, address: '0000:00:02.0', secondaryBus: 2, group: 2 },
        { ...port, address: '0000:00:03.0', secondaryBus: 3, group: 3 },
        { ...port, address: '0000:00:03.1', secondaryBus: 4, group: 3 },
        { address: '0000:01:00.0', group: 10 },
        { address: '0000:02:00.0', group: 10 },
        { address: '0000:02:00.1', group: 11 },
        { address: '0000:03:00.0', group: 12 },
      ],
    })
    const addresses = (...around: string[]) =>
      new Host(trees).snapshot({ around }).devices.map(({ address }) => address)
    const both = ['0000:00:01.0', '0000:00:02.0', '0000:01:00.0', '0000:02:00.0', '0000:02:00.1']
    assert.deepEqual(addresses('01:00.0'), both)
    assert.deepEqual(addresses('0000:02:00.1'), both)
    assert.deepEqual(addresses('0000:00:02.0'), both)
    assert.deepEqual(addresses('0000:03:00.0'), ['0000:00:03.0', '0000:00:03.1', '0000:03:00.0'])
    assert.deepEqual(addresses('0000:03:00.0', '0000:01:00.0').length, 8)
    sameForAll(trees)
  })

  it('takes along, of what is in no group, who has a driver that brought none either', () => {
    const devices = [
      { address: '0000:01:00.0' },
      { address: '0000:02:00.0' },
      { address: '0000:03:00.0', driver: 'igb', group: 1 },
    ]
    const host: HostDescription = { kernel: '6.12.9-arm64', iommu: 'virtio', devices }
    assert.deepEqual(sameForAll(makeHost(host)).get('0000:01:00.0'), 1)
    const uncovered = [...devices, { address: '0000:04:00.0', driver: 'nvme' }]
    assert.deepEqual(sameForAll(makeHost({ ...host, devices: uncovered })).get('0000:01:00.0'), 2)
  })

  it('takes along PF and VFs, which may be other devices of a root bus', () => {
    const pf = {
      totalVfs: 16,
      group: 1,
      capabilities: [{ kind: 'pcie' }, { kind: 'sriov', totalVfs: 16 }],
    } as const
    const trees = makeHost({
      devices: [
        { ...pf, address: '0000:00:05.0' },
        { address: '0000:00:06.0', physfn: '0000:00:05.0', group: 2 },
        { address: '0000:00:06.1', physfn: '0000:00:05.0', group: 3 },
        { address: '0000:00:07.0', group: 4 },
      ],
    })
    assert.deepEqual([...sameForAll(trees).values()], [3, 3, 3, 1])
  })

  it('follows a device that makes up a domain of its own', () => {
    const trees = makeHost({
      devices: [
        { address: '0000:00:0e.0', driver: 'vmd', group: 5 },
        { address: '0000:00:0f.0', group: 6 },
      ],
    })
    const bus = 'devices/pci0000:00/0000:00:0e.0/pci10000:00'
    const inner = makeHost({ devices: [{ address: '10000:00:01.0', group: 7, driver: 'nvme' }] })
    const link = (from: string, to: string) => symlinkSync(join(inner.sysfs, from), join(trees.sysfs, to))
    link('devices/pci10000:00', bus)
    // The link of the kernel, which leads through both domains.
    symlinkSync(`../../../${bus}/10000:00:01.0`, join(trees.sysfs, 'bus/pci/devices/10000:00:01.0'))
    const host = new Host(trees)
    const seen = host.snapshot({ around: ['0000:00:0e.0'] })
    assert.deepEqual(
      seen.devices.map(({ address }) => address),
      ['0000:00:0e.0', '10000:00:01.0'],
    )
    assert.equal(host.snapshot({ around: ['10000:00:01.0'] }).devices.length, 2)
  })

  it('looks at everything where the tree has no paths', () => {
    const sysfs = temporaryDirectory()
    for (const address of ['0000:01:00.0', '0000:02:00.0']) {
      const directory = join(sysfs, 'bus/pci/devices', address)
      mkdirSync(directory, { recursive: true })
      writeFileSync(join(directory, 'modalias'), 'pci:\n')
    }
    assert.equal(new Host({ sysfs }).snapshot({ around: ['0000:01:00.0'] }).devices.length, 2)
  })

  it('finds nothing where there is nothing, and refuses what is no address', () => {
    const host = new Host(makeHost(SINGLE))
    assert.throws(() => host.snapshot({ around: ['0000:05:00.0'] }).device('0000:05:00.0'), {
      code: 'ERR_VFIO_NO_DEVICE',
    })
    assert.throws(() => host.snapshot({ around: ['nvme0'] }), { code: 'ERR_VFIO_BAD_ADDRESS' })
    assert.equal(host.snapshot({ around: [] }).devices.length, 0)
  })

  it('ends on a tree that goes round in circles', () => {
    const trees = makeHost(SINGLE)
    const port = join(trees.sysfs, 'devices/pci0000:00/0000:00:01.0')
    symlinkSync('..', join(port, 'pci0000:00'))
    symlinkSync('.', join(port, '0000:00:01.0'))
    assert.equal(new Host(trees).snapshot({ around: ['0000:01:00.0'] }).devices.length, 2)
  })
})
