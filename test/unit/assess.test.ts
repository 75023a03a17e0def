import assert from 'node:assert/strict'
import { assess, assessGroup, assessReset, assessViability, survey } from 'vfio'
import {
  type DeviceDescription,
  type HostDescription,
  READY_MODULES,
  removeDirectories,
} from '../fixtures/host.js'
import { see } from './support.js'

const DEVICE: DeviceDescription = { address: '0000:07:00.0', group: 5, driver: 'vfio-pci' }
const ADDRESS = DEVICE.address

/** Judges 07:00.0 as it is described here, with others beside it. */
const judge = (
  device: Partial<DeviceDescription>,
  others: readonly DeviceDescription[] = [],
  host: HostDescription = {},
) => assess(see({ ...host, devices: [{ ...DEVICE, ...device }, ...others] }), '07:00.0')

const unbound = (): DeviceDescription => ({ address: ADDRESS, group: 5 })

const withParameter = (module: string, parameter: string, value: string) => ({
  modules: { ...READY_MODULES, [module]: { state: 'loaded', parameters: { [parameter]: value } } as const },
})

describe('assess', function () {
  this.timeout(20_000)
  afterEach(removeDirectories)

  it('has the shape that others build on', () => {
    const seen = see({ devices: [DEVICE] })
    const assessment = assess(seen, '07:00.0')
    assert.deepEqual(assessment, {
      address: ADDRESS,
      group: 5,
      verdict: 'ready',
      reason: `${ADDRESS} is bound to vfio-pci and its group is viable`,
      toBind: [],
      viability: assessViability(seen, 5),
      reset: assessReset(seen, ADDRESS),
      uses: [],
    })
  })

  describe('ready', () => {
    for (const driver of ['vfio-pci', 'mlx5_vfio_pci']) {
      it(`is what is bound to ${driver} in a viable group`, () => {
        const { verdict, reason } = judge({ driver })
        assert.equal(verdict, 'ready')
        assert.ok(reason.includes(ADDRESS) && reason.includes(driver), reason)
      })
    }

    it('is a device beside unbound ones, pci-stub and bridges', () => {
      const { verdict } = judge({}, [
        { address: '0000:07:00.1', group: 5 },
        { address: '0000:07:00.2', group: 5, driver: 'pci-stub' },
        { address: '0000:06:00.0', group: 5, driver: 'pcieport', headerType: 'bridge', secondaryBus: 7 },
      ])
      assert.equal(verdict, 'ready')
    })

    it('does not depend on who blocks other groups', () => {
      assert.equal(judge({}, [{ address: '0000:08:00.0', group: 6, driver: 'nvme' }]).verdict, 'ready')
    })
  })

  describe('bindable', () => {
    it('is a device on its host driver or on none', () => {
      for (const device of [unbound(), { ...DEVICE, driver: 'nvme' }, { ...DEVICE, driver: 'pci-stub' }]) {
        const { verdict, toBind, reason } = assess(see({ devices: [device] }), ADDRESS)
        assert.equal(verdict, 'bindable')
        assert.deepEqual(toBind, [ADDRESS])
        assert.match(reason, /0000:07:00\.0 can be given away once it is bound to vfio-pci/)
      }
    })

    it('names all that must come along, and nothing else', () => {
      const { verdict, toBind, reason } = judge({ driver: 'nouveau' }, [
        { address: '0000:07:00.1', group: 5, driver: 'snd_hda_intel' },
        { address: '0000:07:00.2', group: 5 },
        { address: '0000:07:00.3', group: 5, driver: 'xhci_hcd' },
        { address: '0000:08:00.0', group: 6, driver: 'nvme' },
      ])
      assert.equal(verdict, 'bindable')
      assert.deepEqual(toBind, [ADDRESS, '0000:07:00.1', '0000:07:00.3'])
      assert.match(reason, /0000:07:00\.0, 0000:07:00\.1, 0000:07:00\.3.*vfio-pci.*group 5/)
    })

    it('is a bound device whose group others keep from being viable', () => {
      const { verdict, toBind, viability } = judge({}, [
        { address: '0000:07:00.1', group: 5, driver: 'snd_hda_intel' },
      ])
      assert.equal(verdict, 'bindable')
      assert.deepEqual(toBind, ['0000:07:00.1'])
      assert.equal(viability?.viable, false)
    })
  })

  describe('blocked', () => {
    const isBlocked = (assessment: ReturnType<typeof assess>, why: RegExp) => {
      assert.equal(assessment.verdict, 'blocked')
      assert.deepEqual(assessment.toBind, [])
      assert.match(assessment.reason, why)
    }

    it('is all on a host without an IOMMU', () => {
      const assessment = assess(
        see({ iommu: 'none', devices: [{ address: ADDRESS, driver: 'nvme', resetMethod: 'flr' }] }),
        ADDRESS,
      )
      isBlocked(assessment, /0000:07:00\.0 is in no IOMMU group: this host has no IOMMU.*vfio doctor/)
      assert.equal(assessment.group, null)
      assert.equal(assessment.viability, null)
      assert.equal(assessment.reset.function.supported, true)
    })

    it('is a device that the IOMMU does not cover', () => {
      const seen = see({ devices: [{ address: ADDRESS, driver: 'nvme' }] })
      isBlocked(assess(seen, ADDRESS), /0000:07:00\.0 is in no IOMMU group: the IOMMU does not cover it/)
    })

    it('is a bridge', () => {
      for (const headerType of ['bridge', 'cardbus'] as const) {
        isBlocked(judge({ driver: 'pcieport', headerType, secondaryBus: 8 }), /0000:07:00\.0 is a bridge/)
      }
    })

    it('is a PF with VFs, until they are gone', () => {
      const pf: Partial<DeviceDescription> = {
        driver: 'ixgbe',
        totalVfs: 63,
        capabilities: [{ kind: 'pcie' }, { kind: 'sriov', totalVfs: 63 }],
      }
      const vf: DeviceDescription = { address: '0000:07:10.0', physfn: ADDRESS, group: 6, driver: 'ixgbevf' }
      isBlocked(judge(pf, [vf]), /0000:07:00\.0 has 1 virtual functions? enabled.*vfio vfs/)
      assert.equal(judge(pf).verdict, 'bindable')
      assert.equal(judge({ ...pf, driver: 'vfio-pci' }, [vf]).verdict, 'ready')
      const { verdict } = assess(see({ devices: [{ ...DEVICE, ...pf }, vf] }), '07:10.0')
      assert.equal(verdict, 'bindable')
    })

    it('is no virtual function for want of a token, but its reason says that it takes one', () => {
      const pf = (driver: string): DeviceDescription => ({
        address: '0000:07:00.1',
        group: 6,
        driver,
        totalVfs: 8,
        capabilities: [{ kind: 'pcie' }, { kind: 'sriov', totalVfs: 8 }],
      })
      const vf = { physfn: '0000:07:00.1' }
      const token =
        /physical function 0000:07:00\.1 is bound to vfio-pci too.*VF token.*owner of 0000:07:00\.1/
      const bound = judge(vf, [pf('vfio-pci')])
      assert.equal(bound.verdict, 'ready')
      assert.match(bound.reason, token)
      const unbound = judge({ ...vf, driver: 'ixgbevf' }, [pf('vfio-pci')])
      assert.equal(unbound.verdict, 'bindable')
      assert.match(unbound.reason, token)
      for (const other of [judge(vf, [pf('ixgbe')]), judge(vf)]) {
        assert.equal(other.verdict, 'ready')
        assert.doesNotMatch(other.reason, /token/)
      }
    })

    const denied = [0x0435, 0x0443, 0x37c8, 0x37c9, 0x19e2, 0x19e3, 0x0b25, 0x0cfe]
    for (const device of denied) {
      it(`is 8086:${device.toString(16).padStart(4, '0')} of the denylist, unless that is off`, () => {
        const qat = { vendor: 0x8086, device, driver: 'c6xx' }
        isBlocked(judge(qat), /0000:07:00\.0.*denylist.*disable_denylist=1/)
        isBlocked(judge(qat, [], { modules: {} }), /denylist/)
        assert.equal(judge(qat, [], withParameter('vfio_pci', 'disable_denylist', 'Y')).verdict, 'bindable')
        assert.equal(judge({ ...qat, driver: 'vfio-pci' }).verdict, 'ready')
      })
    }

    it('is what has a member that cannot be bound', () => {
      const pf: DeviceDescription = {
        address: '0000:07:00.1',
        group: 5,
        driver: 'ixgbe',
        totalVfs: 8,
        capabilities: [{ kind: 'pcie' }, { kind: 'sriov', totalVfs: 8 }],
      }
      const vf: DeviceDescription = { address: '0000:07:10.1', physfn: pf.address, group: 6 }
      isBlocked(judge({}, [pf, vf]), /0000:07:00\.1 has 1 virtual/)
      isBlocked(
        judge({}, [{ address: '0000:07:00.1', group: 5, vendor: 0x8086, device: 0x37c8, driver: 'c6xx' }]),
        /0000:07:00\.1.*denylist/,
      )
    })

    it('is what shares its group with a bridge that blocks: binding is no cure, unbinding is', () => {
      const bridge: DeviceDescription = {
        address: '0000:06:00.0',
        group: 5,
        driver: 'shpchp',
        headerType: 'bridge',
        secondaryBus: 7,
      }
      isBlocked(judge({}, [bridge]), /0000:06:00\.0 is a bridge bound to shpchp.*unbind it/)
      assert.equal(judge({}, [bridge], { kernel: '5.17.0' }).verdict, 'ready')
    })

    it('is what shares its group with a busy device of another bus', () => {
      const groups = { 5: { others: [{ name: 'fff51000.dma', driver: 'pl330' }] } }
      isBlocked(judge({}, [], { groups }), /fff51000\.dma.*pl330.*unbind/)
    })

    it('is a group that the firmware maps, but for ranges that may be relaxed', () => {
      const regions = (reservedRegions: string) => ({ groups: { 5: { reservedRegions } } })
      const direct = judge({}, [], regions('0xa8000000 0xacffffff direct\n'))
      isBlocked(direct, /group 5.*0xa8000000.*0xacffffff/)
      assert.equal(direct.viability?.viable, true)
      const relaxed = regions('0xa8000000 0xacffffff direct-relaxable\n0xfee00000 0xfeefffff msi\n')
      assert.equal(judge({}, [], relaxed).verdict, 'ready')
    })

    it('is all where interrupts are not remapped, unless that is accepted', () => {
      const off = { interruptRemapping: false }
      isBlocked(judge({}, [], off), /interrupt.*allow_unsafe_interrupts=1/)
      isBlocked(judge({}, [], { ...off, modules: {} }), /allow_unsafe_interrupts=1/)
      const accepted = withParameter('vfio_iommu_type1', 'allow_unsafe_interrupts', 'Y')
      assert.equal(judge({}, [], { ...off, ...accepted }).verdict, 'ready')
      assert.equal(judge({}, [], { interruptRemapping: null }).verdict, 'ready')
    })
  })

  it('lets a group of the no-IOMMU mode be, which asks for neither', () => {
    const { verdict } = judge({}, [], {
      iommu: 'none',
      interruptRemapping: false,
      groups: { 5: { noIommu: true, reservedRegions: '0xa8000000 0xacffffff direct\n' } },
    })
    assert.equal(verdict, 'ready')
  })

  it('goes by the old rule before 5.18', () => {
    const bridge: DeviceDescription = {
      address: '0000:06:00.0',
      group: 5,
      driver: 'shpchp',
      headerType: 'bridge',
      secondaryBus: 7,
    }
    for (const [kernel, verdict, rule] of [
      ['5.10.0', 'ready', 'driver-allowlist'],
      ['5.17.0', 'ready', 'driver-allowlist'],
      ['5.18.0', 'blocked', 'dma-ownership'],
      ['6.12.0', 'blocked', 'dma-ownership'],
    ] as const) {
      const found = judge({}, [bridge], { kernel })
      assert.deepEqual([found.verdict, found.viability?.rule], [verdict, rule], kernel)
    }
  })

  it('says why in one sentence that names the device or its group', () => {
    const hosts: HostDescription[] = [
      { devices: [unbound()] },
      { devices: [DEVICE] },
      { devices: [{ ...DEVICE, driver: 'nvme' }], interruptRemapping: true },
      { devices: [{ ...DEVICE, headerType: 'bridge', secondaryBus: 8 }] },
      { devices: [DEVICE], groups: { 5: { reservedRegions: '0x1000 0x1fff direct\n' } } },
    ]
    for (const host of hosts) {
      const { reason, viability, reset } = assess(see(host), ADDRESS)
      assert.match(reason, /0000:07:00\.0|group 5/)
      for (const text of [
        reason,
        reset.function.reason,
        reset.hot.reason,
        ...(viability?.members ?? []).map((member) => member.reason),
      ]) {
        assert.doesNotMatch(text, /\n|undefined|null|\.$/)
      }
    }
  })

  it('is asked for an address', () => {
    assert.throws(() => assess(see({}), '07:00.0'), { code: 'ERR_VFIO_NO_DEVICE' })
    assert.throws(() => assess(see({}), '07:00.8'), { code: 'ERR_VFIO_BAD_ADDRESS' })
  })
})

describe('assessGroup', function () {
  this.timeout(20_000)
  afterEach(removeDirectories)

  const devices: DeviceDescription[] = [
    { address: '0000:06:00.0', group: 5, driver: 'pcieport', headerType: 'bridge', secondaryBus: 7 },
    DEVICE,
    { address: '0000:07:00.1', group: 5, driver: 'snd_hda_intel' },
  ]

  it('judges each member that could be assigned', () => {
    const seen = see({ devices })
    assert.deepEqual(assessGroup(seen, 5), [assess(seen, '07:00.0'), assess(seen, '07:00.1')])
  })

  it('judges none of a group of bridges, or of an empty one', () => {
    const seen = see({ devices: devices.slice(0, 1), groups: { 6: {} } })
    assert.deepEqual([assessGroup(seen, 5), assessGroup(seen, 6)], [[], []])
  })

  it('is asked for a group that is there', () => {
    assert.throws(() => assessGroup(see({}), 5), { code: 'ERR_VFIO_NO_GROUP' })
  })
})

describe('survey', function () {
  this.timeout(20_000)
  afterEach(removeDirectories)

  it('says of each device what assess says of it', () => {
    const seen = see({
      devices: [
        { address: '0000:06:00.0', group: 4, driver: 'pcieport', headerType: 'bridge', secondaryBus: 7 },
        { ...DEVICE, driver: 'nouveau' },
        { address: '0000:07:00.1', group: 5, driver: 'snd_hda_intel' },
        { address: '0000:09:00.0', driver: 'nvme' },
      ],
    })
    const { host, devices, groups } = survey(seen)
    assert.equal(host, seen.host)
    for (const device of devices) {
      const { verdict, reason, toBind, reset } = assess(seen, device.address)
      const { address, group, driver, names, vendor, device: id, headerType } = seen.device(device.address)
      assert.deepEqual(
        [device.verdict, device.reason, device.toBind, device.resetScope],
        [verdict, reason, toBind, reset.scope],
      )
      assert.deepEqual(
        [device.address, device.group, device.driver, device.names, device.vendor, device.device],
        [address, group, driver, names, vendor, id],
      )
      assert.equal(device.headerType, headerType)
    }
    assert.deepEqual(
      groups.map(({ group, viable, blockers }) => [group, viable, blockers.map(({ address }) => address)]),
      [
        [4, true, []],
        [5, false, [ADDRESS, '0000:07:00.1']],
      ],
    )
  })
})
