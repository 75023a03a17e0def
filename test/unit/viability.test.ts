import assert from 'node:assert/strict'
import { assessViability } from 'vfio'
import { type DeviceDescription, removeDirectories } from '../fixtures/host.js'
import { see } from './support.js'

type Header = 'normal' | 'bridge' | 'cardbus'

/** What the kernel does with one member of a group, from the list of drivers with `.driver_managed_dma` and from 5.15's vfio.c. */
const MEMBERS: readonly [
  driver: string | null,
  header: Header,
  blocksNow: boolean,
  blockedBefore: boolean,
][] = [
  [null, 'normal', false, false],
  [null, 'bridge', false, false],
  ['vfio-pci', 'normal', false, false],
  ['mlx5_vfio_pci', 'normal', false, false],
  ['hisi-acc-vfio-pci', 'normal', false, false],
  ['hisi_acc_vfio_pci', 'normal', false, false],
  ['nvgrace-gpu-vfio-pci', 'normal', false, false],
  ['pds-vfio-pci', 'normal', false, false],
  ['qat_vfio_pci', 'normal', false, false],
  ['virtio-vfio-pci', 'normal', false, false],
  ['pci-stub', 'normal', false, false],
  ['pci-stub', 'bridge', false, false],
  ['pcieport', 'bridge', false, false],
  ['shpchp', 'bridge', true, false],
  ['yenta_cardbus', 'cardbus', true, false],
  ['pcieport', 'normal', false, true],
  ['uio_pci_generic', 'normal', true, true],
  ['lpc_ich', 'normal', true, true],
  ['i801_smbus', 'normal', true, true],
  ['snd_hda_intel', 'normal', true, true],
  ['xhci_hcd', 'normal', true, true],
  ['nvme', 'normal', true, true],
  ['igb_uio', 'normal', true, true],
  ['vfio-pci-not', 'normal', true, true],
  ['notvfio_pci', 'normal', true, true],
  ['vfio', 'normal', true, true],
]

const memberOf = (device: Omit<DeviceDescription, 'address'>, kernel: string) => {
  const seen = see({ kernel, devices: [{ address: '0000:07:00.0', group: 5, ...device }] })
  const { members, viable, rule } = assessViability(seen, 5)
  const [member] = members
  assert.ok(member)
  assert.equal(members.length, 1)
  assert.equal(viable, !member.blocks)
  return { ...member, rule }
}

describe('viability', function () {
  this.timeout(20_000)
  afterEach(removeDirectories)

  for (const [kernel, rule] of [
    ['5.10.0-30-amd64', 'driver-allowlist'],
    ['5.17.15', 'driver-allowlist'],
    ['4.19.0', 'driver-allowlist'],
    ['5.18.0-rc1', 'dma-ownership'],
    ['6.1.0-28-amd64', 'dma-ownership'],
    ['6.12.9+bpo-amd64', 'dma-ownership'],
    ['10.0.0', 'dma-ownership'],
  ] as const) {
    it(`of Linux ${kernel} goes by the rule ${rule}`, () => {
      assert.equal(memberOf({}, kernel).rule, rule)
    })
  }

  for (const [driver, headerType, blocksNow, blockedBefore] of MEMBERS) {
    const device = { headerType, secondaryBus: 0, ...(driver === null ? {} : { driver }) }
    const what = `${headerType === 'normal' ? 'a device' : `a ${headerType}`} on ${driver ?? 'no driver'}`
    for (const [kernel, blocks] of [
      ['5.17.0', blockedBefore],
      ['5.18.0', blocksNow],
      ['6.12.0', blocksNow],
    ] as const) {
      it(`of Linux ${kernel}: ${what} ${blocks ? 'blocks' : 'does not block'}`, () => {
        const member = memberOf(device, kernel)
        assert.equal(member.blocks, blocks)
        assert.equal(member.driver, driver)
        // A sentence about this device, that says what it is bound to and what to do.
        assert.match(member.reason, /^0000:07:00\.0 /)
        if (driver !== null) assert.ok(member.reason.includes(driver), member.reason)
        if (blocks) assert.match(member.reason, /unbind it|bind it to vfio-pci/)
        else assert.doesNotMatch(member.reason, /unbind it|bind it to vfio-pci/)
      })
    }
  }

  it('does not tell to bind a bridge to vfio-pci, which refuses it', () => {
    const { reason } = memberOf({ headerType: 'bridge', driver: 'shpchp' }, '6.12.0')
    assert.match(reason, /unbind it from shpchp/)
    assert.doesNotMatch(reason, /vfio-pci/)
  })

  it('takes a kernel of unknown release for a new one', () => {
    const seen = see({ kernel: null, devices: [{ address: '0000:07:00.0', group: 5, driver: 'nvme' }] })
    assert.equal(assessViability(seen, 5).rule, 'dma-ownership')
  })

  it('counts every member, and one that blocks is enough', () => {
    const seen = see({
      devices: [
        { address: '0000:07:00.0', group: 5, driver: 'vfio-pci' },
        { address: '0000:07:00.1', group: 5, driver: 'snd_hda_intel' },
        { address: '0000:07:00.2', group: 5 },
        { address: '0000:08:00.0', group: 6, driver: 'vfio-pci' },
      ],
    })
    const { viable, members, group } = assessViability(seen, 5)
    assert.equal(group, 5)
    assert.equal(viable, false)
    assert.deepEqual(
      members.map(({ address, blocks }) => [address, blocks]),
      [
        ['0000:07:00.0', false],
        ['0000:07:00.1', true],
        ['0000:07:00.2', false],
      ],
    )
    assert.equal(assessViability(seen, 6).viable, true)
  })

  it('counts members on other buses too', () => {
    const others = (driver?: string) => ({
      5: { others: [{ name: 'fff51000.dma', ...(driver ? { driver } : {}) }] },
    })
    const judge = (driver?: string) => {
      const seen = see({ devices: [{ address: '0000:07:00.0', group: 5 }], groups: others(driver) })
      const { viable, members } = assessViability(seen, 5)
      return { viable, other: members.find(({ address }) => address === 'fff51000.dma') }
    }
    assert.equal(judge().viable, true)
    assert.equal(judge('vfio-platform').viable, true)
    const { viable, other } = judge('pl330')
    assert.equal(viable, false)
    assert.equal(other?.driver, 'pl330')
    assert.match(other?.reason ?? '', /fff51000\.dma.*pl330.*unbind it/)
  })

  it('of an empty group is given', () => {
    assert.deepEqual(assessViability(see({ groups: { 5: {} } }), 5), {
      group: 5,
      viable: true,
      rule: 'dma-ownership',
      members: [],
    })
  })

  it('of no group is an error', () => {
    assert.throws(() => assessViability(see({}), 5), { code: 'ERR_VFIO_NO_GROUP' })
  })
})
