import assert from 'node:assert/strict'
import { assessReset, type ResetCapability } from 'vfio'
import { type DeviceDescription, type HostDescription, removeDirectories } from '../fixtures/host.js'
import { seePlatform, x86Cpu } from '../fixtures/platform.js'
import { see } from './support.js'

const PORT: DeviceDescription = {
  address: '0000:00:01.0',
  headerType: 'bridge',
  secondaryBus: 1,
  driver: 'pcieport',
  group: 1,
  capabilities: [{ kind: 'pcie', type: 'root-port' }],
}
const DEVICE: DeviceDescription = { address: '0000:01:00.0', group: 2, driver: 'vfio-pci' }
const SECOND: DeviceDescription = { ...DEVICE, address: '0000:01:00.1' }

type Some = Omit<DeviceDescription, 'address'>

/** Judges 01:00.0 below a root port, with others beside it. */
function judge(
  device: Some,
  others: readonly DeviceDescription[] = [],
  host: HostDescription = {},
): ResetCapability {
  const devices = [PORT, { ...DEVICE, ...device }, ...others]
  return assessReset(see({ ...host, devices }), '01:00.0')
}

/** Judges a function on a root bus. */
const judgeOnRoot = (device: Some, kernel = '6.12.0') =>
  assessReset(see({ kernel, devices: [{ ...DEVICE, ...device, address: '0000:00:03.0' }] }), '00:03.0')

const hex = (value: number) => value.toString(16).padStart(4, '0')

describe('function reset', function () {
  this.timeout(20_000)
  afterEach(removeDirectories)

  for (const method of ['device_specific', 'acpi', 'flr', 'af_flr']) {
    it(`goes by ${method} wherever the kernel lists it`, () => {
      for (const { function: reset } of [
        judge({ resetMethod: method }, [SECOND]),
        judgeOnRoot({ resetMethod: method }),
      ]) {
        assert.equal(reset.supported, true)
        assert.deepEqual(reset.methods, [method])
        assert.match(
          reset.reason,
          new RegExp(`0000:0[01]:0[03]\\.0 can be reset by itself: .*\\(${method}\\)`),
        )
      }
    })
  }

  it("keeps the kernel's order, without what does not work", () => {
    const { function: reset, scope } = judge({ resetMethod: 'flr pm bus' }, [SECOND])
    assert.deepEqual(reset.methods, ['flr', 'pm'])
    assert.equal(scope, 'function')
  })

  it('is none where the kernel found no way', () => {
    const { function: reset } = judge({})
    assert.equal(reset.supported, false)
    assert.deepEqual(reset.methods, [])
    assert.match(reset.reason, /0000:01:00\.0 has no way to be reset by itself/)
  })

  describe('by pm', () => {
    const pm = (noSoftReset: boolean): Some => ({
      resetMethod: 'pm',
      capabilities: [{ kind: 'pm', noSoftReset }],
    })

    it('works where D3hot loses the state', () => {
      assert.deepEqual(judge(pm(false)).function.methods, ['pm'])
    })

    it('does not with NoSoftRst', () => {
      const { function: reset } = judge(pm(true))
      assert.equal(reset.supported, false)
      assert.match(reset.reason, /NoSoftRst/)
    })

    const unable: readonly [vendor: number, device: number, code: number][] = [
      [0x1002, 0x6818, 0x030000],
      [0x15b3, 0xcb84, 0x020700],
      [0x15b3, 0xcf6c, 0x020700],
      [0x15b3, 0xcf70, 0x020700],
      [0x15b3, 0xcf80, 0x020700],
    ]
    for (const [vendor, device, code] of unable) {
      const known = { ...pm(false), vendor, device, class: code }
      it(`does not on ${hex(vendor)}:${hex(device)}, but on a root bus`, () => {
        assert.equal(judge(known).function.supported, false)
        assert.equal(judgeOnRoot(known).function.supported, true)
      })
    }

    it('works on the audio function of an ATI card and on other Mellanox devices', () => {
      const audio = { ...pm(false), vendor: 0x1002, device: 0xaab0, class: 0x040300 }
      assert.equal(judge(audio).function.supported, true)
      assert.equal(judge({ ...pm(false), vendor: 0x15b3, device: 0x1017 }).function.supported, true)
    })
  })

  describe('by bus', () => {
    const bus: Some = { resetMethod: 'bus' }

    it('works while the device is alone', () => {
      const { function: reset } = judge(bus)
      assert.deepEqual([reset.supported, reset.methods], [true, ['bus']])
    })

    it('is stale with a second function, whatever its driver', () => {
      for (const driver of ['vfio-pci', 'snd_hda_intel', undefined]) {
        const second = { address: '0000:01:00.1', group: 2, ...(driver ? { driver } : {}) }
        const { function: reset } = judge(bus, [second])
        assert.equal(reset.supported, false)
        assert.match(reset.reason, /it shares its bus with 0000:01:00\.1/)
      }
    })

    it('is stale with a device in another slot', () => {
      assert.equal(judge(bus, [{ address: '0000:01:05.0' }]).function.supported, false)
    })

    it('counts neither the same bus of another domain nor the next bus', () => {
      const elsewhere = [
        { address: '0001:01:00.1' },
        { address: '0000:02:00.1' },
        { address: '0000:11:00.1' },
      ]
      assert.equal(judge(bus, elsewhere).function.supported, true)
    })

    it('names a few of many neighbours, and counts the rest', () => {
      const many = [1, 2, 3, 4, 5, 6].map((fn) => ({ address: `0000:01:00.${fn}` }))
      assert.match(judge(bus, many).function.reason, /0000:01:00\.1, 0000:01:00\.2, 0000:01:00\.3 and 3 more/)
    })

    it('does not work on a root bus', () => {
      const { function: reset } = judgeOnRoot(bus)
      assert.equal(reset.supported, false)
      assert.match(reset.reason, /root bus/)
    })

    it('does not work for a bridge', () => {
      const seen = see({
        devices: [
          PORT,
          { address: '0000:01:00.0', headerType: 'bridge', secondaryBus: 2, group: 1, resetMethod: 'bus' },
        ],
      })
      assert.equal(assessReset(seen, '01:00.0').function.supported, false)
    })

    it('does not work below a CXL port that masks it', () => {
      const below = (resetUnmasked: boolean) => {
        const capabilities = [
          { kind: 'pcie', type: 'root-port' },
          { kind: 'cxl-port', resetUnmasked },
        ] as const
        const devices = [
          { ...PORT, capabilities },
          { ...DEVICE, ...bus },
        ]
        return assessReset(see({ devices }), '01:00.0').function
      }
      assert.equal(below(true).supported, true)
      assert.equal(below(false).supported, false)
      assert.match(below(false).reason, /CXL/)
    })

    it('works since 7.0 below a CXL port whose link is one of PCIe alone', () => {
      const below = (kernel: string, status: number) => {
        const capabilities = [
          { kind: 'pcie', type: 'root-port' },
          { kind: 'cxl-port', resetUnmasked: false },
          { kind: 'cxl-flex-bus', status },
        ] as const
        const devices = [
          { ...PORT, capabilities },
          { ...DEVICE, ...bus },
        ]
        return assessReset(see({ kernel, devices }), '01:00.0').function.supported
      }
      const [IO, CACHE, MEM] = [0b10, 0b1, 0b100]
      assert.deepEqual(
        [IO, IO | CACHE, IO | MEM].map((status) => below('7.0.0', status)),
        [true, false, false],
      )
      assert.equal(below('6.18.0', IO), false)
    })

    it('goes through a CXL port that masks it by cxl_bus, and like bus only alone', () => {
      const masked = [
        { kind: 'pcie', type: 'root-port' },
        { kind: 'cxl-port', resetUnmasked: false },
      ] as const
      const below = (others: readonly DeviceDescription[]) => {
        const devices = [
          { ...PORT, capabilities: masked },
          { ...DEVICE, resetMethod: 'bus cxl_bus' },
          ...others,
        ]
        return assessReset(see({ devices }), '01:00.0').function
      }
      assert.deepEqual(below([]).methods, ['cxl_bus'])
      assert.equal(below([SECOND]).supported, false)
    })

    const broken: readonly (readonly [vendor: number, device: number])[] = [
      [0x10de, 0x22ce],
      [0x10de, 0x22d0],
      [0x10de, 0x2340],
      [0x10de, 0x235f],
      [0x10de, 0x237f],
      ...[0x0030, 0x0032, 0x0033, 0x0034, 0x003c, 0x003e].map((device) => [0x168c, device] as const),
      [0x177d, 0xa100],
      [0x104c, 0xb005],
      [0x1b21, 0x1164],
    ]
    for (const [vendor, device] of broken) {
      it(`breaks ${hex(vendor)}:${hex(device)}: no function reset by it, and no hot reset`, () => {
        const { function: reset, hot, scope } = judge({ ...bus, vendor, device })
        assert.deepEqual([reset.supported, hot.supported, scope], [false, false, 'none'])
        assert.match(hot.reason, /bus reset breaks 0000:01:00\.0/)
      })
    }

    for (const device of [0x1103, 0x1107, 0x0308]) {
      it(`breaks 17cb:${hex(device)} on a kernel that no longer lists it`, () => {
        const { hot } = judge({ vendor: 0x17cb, device, resetMethod: 'pm' })
        assert.match(hot.reason, /bus reset breaks 0000:01:00\.0/)
        const before = judge({ ...bus, vendor: 0x17cb, device })
        assert.deepEqual([before.function.supported, before.hot.supported], [true, true])
      })
    }

    it('breaks no other device of those vendors', () => {
      for (const [vendor, device] of [
        [0x10de, 0x2204],
        [0x10de, 0x233f],
        [0x10de, 0x2380],
        [0x168c, 0x0031],
      ] as const) {
        assert.equal(judge({ ...bus, vendor, device }).function.supported, true)
      }
    })
  })

  describe('through a hot-plug slot', () => {
    const neighbour = { address: '0000:01:01.0' }
    const slot = (module?: string) => ({
      slots: [{ name: '7', address: '0000:01:00', ...(module ? { module } : {}) }],
    })

    it('spares what else is on the bus, with pciehp', () => {
      assert.equal(judge({ resetMethod: 'bus' }, [neighbour], slot('pciehp')).function.supported, true)
    })

    it('is none with acpiphp, shpchp or nothing that serves it', () => {
      for (const module of ['acpiphp', 'shpchp', undefined]) {
        assert.equal(judge({ resetMethod: 'bus' }, [neighbour], slot(module)).function.supported, false)
      }
    })

    it('is none for one function of several', () => {
      const device = { resetMethod: 'bus', multifunction: true }
      assert.equal(judge(device, [SECOND], slot('pciehp')).function.supported, false)
    })
  })

  describe('before 5.15', () => {
    const kernel = '5.10.0-30-amd64'
    const old = (device: Some, others: readonly DeviceDescription[] = [SECOND]) =>
      judge({ resetMethod: 'something', ...device }, others, { kernel }).function

    it('is found in the capabilities', () => {
      assert.deepEqual(old({ capabilities: [{ kind: 'pcie', flr: true }] }).methods, ['flr'])
      assert.deepEqual(
        old({ capabilities: [{ kind: 'af', flr: true, transactionsPending: true }] }).methods,
        ['af_flr'],
      )
      assert.deepEqual(old({ capabilities: [{ kind: 'pm' }] }).methods, ['pm'])
      assert.deepEqual(old({}, []).methods, ['bus'])
      assert.deepEqual(old({ capabilities: [{ kind: 'pm' }, { kind: 'pcie', flr: true }] }, []).methods, [
        'flr',
        'pm',
        'bus',
      ])
    })

    it('needs all of what each capability asks for', () => {
      for (const capability of [
        { kind: 'pcie' },
        { kind: 'af', flr: true },
        { kind: 'af', transactionsPending: true },
        { kind: 'pm', noSoftReset: true },
        { kind: 'msi' },
      ] as const) {
        assert.equal(old({ capabilities: [capability] }).supported, false, JSON.stringify(capability))
      }
    })

    it('is none without the file reset, whatever the capabilities', () => {
      const { function: reset } = judge({ capabilities: [{ kind: 'pcie', flr: true }] }, [], { kernel })
      assert.equal(reset.supported, false)
    })

    const noFlr: readonly (readonly [number, number])[] = [
      ...[0x1487, 0x148c, 0x149c, 0x7901, 0x1502, 0x17f0].map((device) => [0x1022, device] as const),
      [0x8086, 0x1502],
      [0x8086, 0x1503],
      [0x14c3, 0x0616],
      [0x14c3, 0x7925],
    ]
    for (const [vendor, device] of noFlr) {
      it(`is not by FLR on ${hex(vendor)}:${hex(device)}`, () => {
        for (const capability of [
          { kind: 'pcie', flr: true },
          { kind: 'af', flr: true, transactionsPending: true },
        ] as const) {
          assert.equal(old({ vendor, device, capabilities: [capability] }).supported, false)
        }
      })
    }

    it('is not by FLR on the first revision of d063:1000', () => {
      const capabilities = [{ kind: 'pcie', flr: true }] as const
      const revisions = [1, 2].map((revision) =>
        old({ vendor: 0xd063, device: 0x1000, revision, capabilities }),
      )
      assert.deepEqual(
        revisions.map(({ supported }) => supported),
        [false, true],
      )
    })

    it('is a guess that says so without the privilege to read the capabilities', () => {
      const unprivileged = old({ capabilities: [{ kind: 'pcie', flr: true }], readable: 64 })
      assert.equal(unprivileged.supported, true)
      assert.match(unprivileged.reason, /at a guess.*only by root/)
      const nothing = old({ config: new Uint8Array(0) })
      assert.equal(nothing.supported, true)
      assert.match(nothing.reason, /at a guess/)
    })

    it('is told by the tree where the release is not known', () => {
      const seen = see({ kernel: '5.10.0', devices: [PORT, { ...DEVICE, resetMethod: 'x' }] })
      assert.equal(assessReset(seen, '01:00.0').function.supported, true)
      const copied = see({ kernel: null, devices: [PORT, { ...DEVICE, resetMethod: 'pm' }] })
      assert.deepEqual(assessReset(copied, '01:00.0').function.methods, ['pm'])
    })
  })

  it('needs no privilege where the kernel publishes its methods', () => {
    const { function: reset } = judge({
      resetMethod: 'flr',
      capabilities: [{ kind: 'pcie', flr: true }],
      readable: 64,
    })
    assert.deepEqual([reset.supported, reset.methods], [true, ['flr']])
  })
})

describe('hot reset', function () {
  this.timeout(20_000)
  afterEach(removeDirectories)

  const affected = ({ hot }: Pick<ResetCapability, 'hot'>) => hot.affected.map(({ address }) => address)

  it('takes the whole bus along', () => {
    const { hot, scope } = judge({}, [SECOND])
    assert.equal(hot.supported, true)
    assert.deepEqual(hot.affected, [
      { address: '0000:01:00.0', group: 2 },
      { address: '0000:01:00.1', group: 2 },
    ])
    assert.deepEqual(hot.blockers, [])
    assert.equal(scope, 'hot')
    assert.match(hot.reason, /0000:01:00\.0 .*together with 0000:01:00\.1 .*0000:00:01\.0/)
  })

  it('is of no use on a root bus', () => {
    const { hot, scope } = judgeOnRoot({})
    assert.deepEqual([hot.supported, hot.affected, hot.blockers, scope], [false, [], [], 'none'])
    assert.match(hot.reason, /0000:00:03\.0 is on a root bus/)
  })

  it('is not for a VF on a bus of its own', () => {
    const pf: DeviceDescription = { ...DEVICE, totalVfs: 8, capabilities: [{ kind: 'pcie', flr: true }] }
    const vf: DeviceDescription = {
      address: '0000:02:10.0',
      physfn: '0000:01:00.0',
      group: 3,
      resetMethod: 'flr',
    }
    const { hot, function: reset, scope } = assessReset(see({ devices: [PORT, pf, vf] }), '02:10.0')
    assert.deepEqual([hot.supported, hot.affected], [false, []])
    assert.match(hot.reason, /virtual function/)
    assert.deepEqual([reset.supported, scope], [true, 'function'])
  })

  for (const [what, other, because] of [
    ['on a host driver', { driver: 'snd_hda_intel', group: 2 }, /0000:01:00\.1.*snd_hda_intel.*vfio-pci/],
    ['on pci-stub, though that is viable', { driver: 'pci-stub', group: 2 }, /0000:01:00\.1.*pci-stub/],
    ['without a driver, though that is viable', { group: 2 }, /0000:01:00\.1.*not bound.*vfio-pci/],
    ['in another group', { driver: 'vfio-pci', group: 3 }, /0000:01:00\.1.*group 3/],
    ['in no group', { driver: 'vfio-pci' }, /0000:01:00\.1.*no IOMMU group/],
    [
      'a bridge',
      { driver: 'pcieport', group: 2, headerType: 'bridge', secondaryBus: 5 },
      /0000:01:00\.1.*bridge/,
    ],
  ] as const) {
    it(`is blocked by a function that is ${what}`, () => {
      const result = judge({}, [{ address: '0000:01:00.1', ...other }])
      assert.equal(result.hot.supported, false)
      assert.deepEqual(affected(result), ['0000:01:00.0', '0000:01:00.1'])
      assert.deepEqual(
        result.hot.blockers.map(({ address }) => address),
        ['0000:01:00.1'],
      )
      assert.match(result.hot.blockers[0]?.reason ?? '', because)
      assert.match(result.hot.reason, because)
    })
  }

  it('does not ask that the device itself is bound already', () => {
    const { hot } = assessReset(
      see({ devices: [PORT, { address: '0000:01:00.0', group: 2, driver: 'nvme' }] }),
      '01:00.0',
    )
    assert.deepEqual([hot.supported, hot.blockers], [true, []])
  })

  it('takes along all that is below a bridge on the bus', () => {
    const devices: DeviceDescription[] = [
      PORT,
      DEVICE,
      { address: '0000:01:01.0', headerType: 'bridge', secondaryBus: 2, group: 2 },
      { address: '0000:02:00.0', group: 2, driver: 'vfio-pci' },
      { address: '0000:02:01.0', headerType: 'bridge', secondaryBus: 3, group: 2 },
      { address: '0000:03:00.0', group: 2, driver: 'e1000' },
      { address: '0000:04:00.0', group: 9, driver: 'nvme' },
    ]
    const seen = see({ devices })
    const result = assessReset(seen, '01:00.0')
    assert.deepEqual(affected(result).sort(), [
      '0000:01:00.0',
      '0000:01:01.0',
      '0000:02:00.0',
      '0000:02:01.0',
      '0000:03:00.0',
    ])
    assert.deepEqual(result.hot.blockers.map(({ address }) => address).sort(), [
      '0000:01:01.0',
      '0000:02:01.0',
      '0000:03:00.0',
    ])
    assert.deepEqual(affected(assessReset(seen, '03:00.0')), ['0000:03:00.0'])
  })

  it('is refused for all where a bus reset breaks one of them, or the bridge', () => {
    const broken = { vendor: 0x168c, device: 0x0030 }
    const beside = judge({}, [{ ...SECOND, ...broken }])
    assert.deepEqual([beside.hot.supported, beside.hot.affected], [false, []])
    assert.match(beside.hot.reason, /0000:01:00\.1/)
    const deep = judge({}, [
      { address: '0000:01:01.0', headerType: 'bridge', secondaryBus: 2, group: 2 },
      { address: '0000:02:00.0', group: 2, ...broken },
    ])
    assert.match(deep.hot.reason, /bus reset breaks 0000:02:00\.0/)
    const below = assessReset(
      see({ devices: [{ ...PORT, vendor: 0x104c, device: 0xb005 }, DEVICE] }),
      '01:00.0',
    )
    assert.equal(below.hot.supported, false)
    assert.match(below.hot.reason, /0000:00:01\.0/)
  })

  it('goes through the slot on Linux on Z, whose hot-plug driver is built in and has no link', () => {
    const slots = [{ name: '00000010', address: '0001:00:00' }]
    const devices = [{ ...DEVICE, address: '0001:00:00.0', resetMethod: 'bus' }]
    const on = (cpuinfo: string) =>
      assessReset(seePlatform({ devices, slots, files: { 'proc/cpuinfo': cpuinfo } }), '0001:00:00.0')
    const z = on('vendor_id       : IBM/S390\n')
    assert.deepEqual([z.function.methods, z.hot.supported], [['bus'], true])
    assert.deepEqual(z.hot.affected, [{ address: '0001:00:00.0', group: 2 }])
    const elsewhere = on(x86Cpu('GenuineIntel'))
    assert.deepEqual([elsewhere.function.supported, elsewhere.hot.supported], [false, false])
  })

  it('gives each function on Linux on Z a slot of its own since 7.0', () => {
    const functions = ['0001:00:00.0', '0001:00:00.1', '0001:00:01.0']
    const slots = [
      { name: '00000010', address: '0001:00:00' },
      { name: '00000011', address: '0001:00:01' },
      { name: '00000012', address: '0001:00:08' },
    ]
    const devices = functions.map((address, group) => ({
      ...DEVICE,
      ...{ address, group, multifunction: true, resetMethod: 'bus' },
    }))
    const files = { 'proc/cpuinfo': 'vendor_id       : IBM/S390\n' }
    const seen = seePlatform({ kernel: '7.3.4', devices, slots, files })
    for (const [index, address] of functions.entries()) {
      const { function: reset, hot } = assessReset(seen, address)
      assert.deepEqual([reset.methods, hot.supported], [['bus'], true])
      assert.deepEqual(affected({ hot }), [address])
      assert.match(hot.reason, new RegExp(`slot 0000001${index}`))
    }
    const before = seePlatform({ kernel: '6.18.0', devices, slots, files })
    assert.equal(assessReset(before, '0001:00:00.0').function.supported, false)
  })

  it('takes all of the bus with the slot of pciehp since 7.0, which covers it', () => {
    const others = [SECOND, { ...DEVICE, address: '0000:01:10.0' }]
    const on = (kernel: string, module: string) =>
      judge({}, others, { kernel, slots: [{ name: '7', address: '0000:01:00', module }] })
    assert.deepEqual(affected(on('7.3.4', 'pciehp')), ['0000:01:00.0', '0000:01:00.1', '0000:01:10.0'])
    assert.match(on('7.3.4', 'pciehp').hot.reason, /slot 7/)
    assert.deepEqual(affected(on('6.18.0', 'pciehp')), ['0000:01:00.0', '0000:01:00.1'])
    // Others have a slot for each device.
    assert.deepEqual(affected(on('7.3.4', 'pnv_php')), ['0000:01:00.0', '0000:01:00.1'])
  })

  it('takes the slot alone where pciehp serves it, and the bus with acpiphp', () => {
    const neighbour = { address: '0000:01:01.0', group: 4, driver: 'nvme' }
    const slot = (module: string) => ({ slots: [{ name: '7', address: '0000:01:00', module }] })
    const bySlot = judge({}, [SECOND, neighbour], slot('pciehp'))
    assert.deepEqual(affected(bySlot), ['0000:01:00.0', '0000:01:00.1'])
    assert.equal(bySlot.hot.supported, true)
    assert.match(bySlot.hot.reason, /slot 7/)
    const byBus = judge({}, [SECOND, neighbour], slot('acpiphp'))
    assert.deepEqual(affected(byBus), ['0000:01:00.0', '0000:01:00.1', '0000:01:01.0'])
    assert.equal(byBus.hot.supported, false)
  })

  it('keeps domains with equal bus numbers apart', () => {
    const other: DeviceDescription[] = [
      { ...PORT, address: '10000:00:01.0', group: 11 },
      { ...DEVICE, address: '10000:01:00.0', group: 12 },
    ]
    const seen = see({ devices: [PORT, DEVICE, SECOND, ...other] })
    assert.deepEqual(affected(assessReset(seen, '10000:01:00.0')), ['10000:01:00.0'])
    assert.deepEqual(affected(assessReset(seen, '01:00.0')), ['0000:01:00.0', '0000:01:00.1'])
  })

  it('is asked for a device that is there', () => {
    assert.throws(() => assessReset(see({}), '01:00.0'), { code: 'ERR_VFIO_NO_DEVICE' })
    assert.throws(() => assessReset(see({}), 'x'), { code: 'ERR_VFIO_BAD_ADDRESS' })
  })
})
