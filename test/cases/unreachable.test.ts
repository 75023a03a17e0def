import assert from 'node:assert/strict'
import { assess, diagnose, planAssignment, survey } from 'vfio'
import { type DeviceDescription, makeHost, removeDirectories } from '../fixtures/host.js'
import { checkOf } from '../fixtures/platform.js'
import { UsedHost } from '../fixtures/uses.js'

/** What a processor reads where nothing answers. */
const ONES = new Uint8Array(256).fill(0xff)
const DEAD = { config: ONES } as const

const PORT: DeviceDescription = {
  address: '0000:00:01.0',
  headerType: 'bridge',
  secondaryBus: 1,
  subordinateBus: 3,
  driver: 'pcieport',
  group: 1,
  capabilities: [{ kind: 'pcie', type: 'root-port' }],
}
const GPU: DeviceDescription = {
  address: '0000:01:00.0',
  class: 0x030000,
  driver: 'vfio-pci',
  group: 2,
  resetMethod: 'flr bus',
}

/** Every look at a device has to say the same. */
function isUnreachable(devices: readonly DeviceDescription[], address: string, why: RegExp): void {
  const host = new UsedHost({ devices })
  const seen = host.see()
  const assessment = assess(seen, address)
  assert.equal(assessment.verdict, 'blocked')
  assert.deepEqual(assessment.toBind, [])
  assert.match(assessment.reason, /does not answer/)
  assert.match(assessment.reason, why)
  const { reset } = assessment
  assert.deepEqual([reset.function.supported, reset.hot.supported, reset.scope], [false, false, 'none'])
  assert.match(reset.function.reason, /does not answer/)
  assert.deepEqual(seen.device(address).capabilities.standard, [])
  const surveyed = survey(seen).devices.find((device) => device.address === address)
  assert.deepEqual([surveyed?.verdict, surveyed?.resetScope], ['blocked', 'none'])
  const { blockers } = planAssignment(seen, [address])
  assert.match(blockers.map(({ reason }) => reason).join(), /does not answer/)
  const { status, detail, cure, ready } = checkOf(seen, 'devices')
  assert.deepEqual([status, ready], ['warn', true])
  assert.ok(detail.includes(address))
  assert.match(detail, /not answer/)
  // The uppermost is it that has to come back, in each of these hosts.
  assert.match(cure, /vfio rescan 0000:01:00\.0/)
}

describe('a device that does not answer', () => {
  after(removeDirectories)

  // ellyq/coreboot#4, pciutils/pciutils#91: "Unknown header type 7f", QEMU: "Unknown PCI header type 127".
  it('a GPU that fell off its bus when its VM stopped', () => {
    isUnreachable([PORT, { ...GPU, ...DEAD }], GPU.address, /vfio rescan 0000:01:00\.0/)
  })

  // The same, with the 64 bytes that an ordinary user may read.
  it('tells it to who is not root, too', () => {
    isUnreachable([PORT, { ...GPU, ...DEAD, readable: 64 }], GPU.address, /off and on/)
  })

  // Documentation/power/pci.rst: a function in D3cold has no power for its config space.
  it('a GPU that sleeps in D3cold and is not woken', () => {
    isUnreachable(
      [PORT, { ...GPU, ...DEAD, files: { power_state: 'D3cold\n' } }],
      GPU.address,
      /D3cold; wake it with "echo on > .*power\/control".*disable_idle_d3=1/,
    )
  })

  // ellyq/coreboot#4 (1002:1478 reads ff): the switch on the card of a GPU.
  it('a GPU behind a switch that is dead: the uppermost is named', () => {
    const up: DeviceDescription = {
      address: '0000:01:00.0',
      class: 0x060400,
      driver: 'pcieport',
      group: 2,
      below: '0000:00:01.0',
      ...DEAD,
    }
    const down: DeviceDescription = { ...up, address: '0000:02:00.0', below: up.address, group: 3 }
    const gpu: DeviceDescription = { ...GPU, address: '0000:03:00.0', below: down.address, group: 4, ...DEAD }
    isUnreachable([PORT, up, down, gpu], gpu.address, /the bridge 0000:01:00\.0 above it/)
    const seen = new UsedHost({ devices: [PORT, up, down, gpu] }).see()
    // What is below says what the bridge does not any more.
    assert.equal(seen.device(down.address).secondaryBus, 3)
    assert.equal(seen.device(up.address).secondaryBus, 2)
  })

  // pci_iov_add_virtfn(): a virtual function has its config space from the same device.
  it('a virtual function: its physical function is to be looked at', () => {
    const pf: DeviceDescription = { ...GPU, class: 0x020000, driver: 'ice', totalVfs: 4, ...DEAD }
    const vf: DeviceDescription = {
      address: '0000:01:01.0',
      physfn: pf.address,
      class: 0x020000,
      group: 3,
      driver: 'vfio-pci',
      ...DEAD,
    }
    isUnreachable([PORT, pf, vf], vf.address, /physical function 0000:01:00\.0/)
  })

  it('is told of one that would have to come along', () => {
    const audio: DeviceDescription = {
      address: '0000:01:00.1',
      class: 0x040300,
      driver: 'snd_hda_intel',
      group: 2,
      ...DEAD,
    }
    const seen = new UsedHost({ devices: [PORT, GPU, audio] }).see()
    const { verdict, reason } = assess(seen, GPU.address)
    assert.equal(verdict, 'blocked')
    assert.match(reason, /0000:01:00\.1 does not answer/)
  })

  it('is not a virtual function whose ids read as ones, nor one that could not be read', () => {
    const config = new Uint8Array(256)
    config.fill(0xff, 0, 4)
    const vf: DeviceDescription = { ...GPU, config }
    assert.equal(new UsedHost({ devices: [PORT, vf] }).see().device(GPU.address).answers, true)
    const hidden: DeviceDescription = { ...GPU, readable: 0 }
    const seen = new UsedHost({ devices: [PORT, hidden] }).see()
    assert.equal(seen.device(GPU.address).answers, null)
    assert.equal(assess(seen, GPU.address).verdict, 'ready')
  })

  it('changes nothing for its neighbours', () => {
    const other: DeviceDescription = { address: '0000:00:02.0', driver: 'vfio-pci', group: 9 }
    const { sysfs } = makeHost({ devices: [PORT, { ...GPU, ...DEAD }, other] })
    assert.ok(sysfs)
    const seen = new UsedHost({ devices: [PORT, { ...GPU, ...DEAD }, other] }).see()
    assert.equal(assess(seen, other.address).verdict, 'ready')
    assert.ok(
      !diagnose(new UsedHost({ devices: [PORT, other] }).see()).checks.some(({ name }) => name === 'devices'),
    )
  })
})
