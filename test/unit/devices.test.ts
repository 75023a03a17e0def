import assert from 'node:assert/strict'
import { Host, VfioError } from 'vfio'
import { type DeviceDescription, makeHost, removeDirectories } from '../fixtures/host.js'
import { seePlatform } from '../fixtures/platform.js'
import { see } from './support.js'

const seeOne = (device: Omit<DeviceDescription, 'address'>, kernel?: string) =>
  see({ devices: [{ address: '0000:00:03.0', ...device }], ...(kernel ? { kernel } : {}) }).device('00:03.0')

const I210: DeviceDescription = {
  address: '0000:02:00.0',
  vendor: 0x8086,
  device: 0x1533,
  subsystem: [0x15d9, 0x1533],
  class: 0x020000,
  revision: 3,
  driver: 'igb',
  group: 14,
  numaNode: 1,
  multifunction: true,
  resetMethod: 'flr bus',
  bars: [
    { index: 0, address: 0xdf000000, size: 0x80000 },
    { index: 2, address: 0xe000, size: 0x20, io: true },
    { index: 3, address: 0x3800_0000_0000, size: 0x4000, prefetchable: true, is64: true },
    { index: 'rom', address: 0xdf080000, size: 0x80000 },
  ],
  capabilities: [{ kind: 'pm' }, { kind: 'pcie', flr: true }],
}

const PORT: DeviceDescription = {
  address: '0000:00:1c.4',
  vendor: 0x8086,
  device: 0xa114,
  headerType: 'bridge',
  driver: 'pcieport',
  group: 9,
  secondaryBus: 2,
  capabilities: [{ kind: 'pcie', type: 'root-port', slot: true, hotplug: true, linkActive: false }],
}

describe('a device', function () {
  this.timeout(20_000)
  afterEach(removeDirectories)

  it('has all that its directory tells', () => {
    const aliases = [
      'alias pci:v00008086d00001533sv*sd*bc*sc*i* igb',
      'alias pci:v*d*sv*sd*bc02sc00i* any_network',
      'alias pci:v00008086d00001534sv*sd*bc*sc*i* other',
      'alias vfio_pci:v00008086d00001533sv*sd*bc*sc*i* igb_vfio_pci',
      'alias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci',
    ]
    const device = see({ devices: [PORT, I210], aliases }).device('02:00.0')
    assert.deepEqual(
      { ...device, capabilities: null },
      {
        address: '0000:02:00.0',
        group: 14,
        vendor: 0x8086,
        device: 0x1533,
        ids: '8086:1533',
        subsystemIds: '15d9:1533',
        subsystemVendor: 0x15d9,
        subsystemDevice: 0x1533,
        class: 0x020000,
        revision: 3,
        names: {
          vendor: 'Intel Corporation',
          device: 'I210 Gigabit Network Connection',
          subsystem: 'Super Micro I210',
          class: 'Ethernet controller',
        },
        driver: 'igb',
        driverOverride: null,
        modules: ['igb', 'any_network'],
        variantDrivers: ['igb_vfio_pci'],
        modalias: 'pci:v00008086d00001533sv000015D9sd00001533bc02sc00i00',
        headerType: 'normal',
        multifunction: true,
        numaNode: 1,
        parent: '0000:00:1c.4',
        secondaryBus: null,
        slot: null,
        sriov: null,
        bootVga: false,
        resetMethods: ['flr', 'bus'],
        resettable: true,
        bars: [
          { index: 0, kind: 'memory', address: 0xdf000000, size: 0x80000, prefetchable: false, is64: false },
          { index: 2, kind: 'io', address: 0xe000, size: 0x20, prefetchable: false, is64: false },
          {
            index: 3,
            kind: 'memory',
            address: 0x3800_0000_0000,
            size: 0x4000,
            prefetchable: true,
            is64: true,
          },
          {
            index: 'rom',
            kind: 'memory',
            address: 0xdf080000,
            size: 0x80000,
            prefetchable: true,
            is64: false,
          },
        ],
        capabilities: null,
        vfioRegistered: false,
        vfioDevice: null,
        vgpuType: null,
        answers: true,
        powerState: 'D0',
        rootBus: 'pci0000:00',
        madeBy: null,
      },
    )
  })

  it('is found by the address that people type, and not by another', () => {
    const seen = see({ devices: [PORT, I210] })
    assert.equal(seen.device('02:00.0'), seen.device('0000:02:00.0'))
    assert.equal(seen.has('0000:02:00.0'), true)
    assert.equal(seen.has('0000:02:00.1'), false)
    assert.throws(() => seen.device('02:00.1'), { code: 'ERR_VFIO_NO_DEVICE', message: /0000:02:00\.1/ })
    assert.throws(() => seen.device('nonsense'), { code: 'ERR_VFIO_BAD_ADDRESS' })
    assert.throws(
      () => seen.device('02:00.1'),
      (error) => error instanceof VfioError,
    )
  })

  it('is frozen, as the list of devices is', () => {
    const seen = see({ devices: [I210] })
    assert.throws(() => Object.assign(seen.device('02:00.0'), { driver: 'other' }), TypeError)
    assert.throws(() => Reflect.apply(Array.prototype.push, seen.devices, [1]), TypeError)
    assert.throws(() => Object.assign(seen, { devices: [] }), TypeError)
  })

  it('comes in the order of addresses, wide domains last', () => {
    const addresses = ['10000:01:00.0', '0000:ff:00.0', '0001:00:00.0', '0000:00:00.1', '0000:00:00.0']
    const seen = see({ devices: addresses.map((address) => ({ address })) })
    assert.deepEqual(
      seen.devices.map(({ address }) => address),
      ['0000:00:00.0', '0000:00:00.1', '0000:ff:00.0', '0001:00:00.0', '10000:01:00.0'],
    )
  })

  it('reads driver_override, which says (null) where there is none', () => {
    assert.equal(seeOne({ driverOverride: 'vfio-pci' }).driverOverride, 'vfio-pci')
    assert.equal(seeOne({}).driverOverride, null)
    assert.equal(seeOne({ files: { driver_override: '\n' } }).driverOverride, null)
  })

  it('has no NUMA node where sysfs says -1', () => {
    assert.equal(seeOne({ numaNode: -1 }).numaNode, null)
    assert.equal(seeOne({ numaNode: 0 }).numaNode, 0)
  })

  it('is the boot display only where the firmware used it', () => {
    assert.equal(seeOne({ class: 0x030000, bootVga: true }).bootVga, true)
    assert.equal(seeOne({ class: 0x030000 }).bootVga, false)
  })

  it('names its character device where it is bound to VFIO', () => {
    assert.equal(seeOne({ driver: 'vfio-pci', group: 1, vfioDevice: 'vfio0' }).vfioDevice, 'vfio0')
    assert.equal(seeOne({ driver: 'vfio-pci', group: 1 }).vfioDevice, null)
  })

  it('has bridge, cardbus and normal headers', () => {
    assert.equal(seeOne({ headerType: 'cardbus', secondaryBus: 5 }).headerType, 'cardbus')
    assert.equal(seeOne({ headerType: 'cardbus', secondaryBus: 5 }).secondaryBus, 5)
    const bridge = seeOne({
      headerType: 'bridge',
      secondaryBus: 7,
      capabilities: [{ kind: 'bridge-subsystem', vendor: 0x15d9, device: 0x95d }],
    })
    assert.equal(bridge.headerType, 'bridge')
    assert.equal(bridge.secondaryBus, 7)
    assert.equal(seeOne({ config: new Uint8Array(64).fill(0xff) }).headerType, 'unknown')
  })

  it('knows its reset methods: of kernels before 5.15 only that there are some', () => {
    const methods = (device: Omit<DeviceDescription, 'address'>, kernel: string) => {
      const { resetMethods, resettable } = seeOne(device, kernel)
      return { resetMethods, resettable }
    }
    assert.deepEqual(methods({ resetMethod: 'acpi pm' }, '6.1.0'), {
      resetMethods: ['acpi', 'pm'],
      resettable: true,
    })
    assert.deepEqual(methods({}, '6.1.0'), { resetMethods: [], resettable: false })
    assert.deepEqual(methods({ resetMethod: 'pm' }, '5.15.0'), { resetMethods: ['pm'], resettable: true })
    assert.deepEqual(methods({ resetMethod: 'pm' }, '5.10.0'), { resetMethods: null, resettable: true })
    assert.deepEqual(methods({}, '5.10.0'), { resetMethods: null, resettable: false })
  })

  it('is in the slot that covers it, with the module that serves the slot', () => {
    const seen = see({
      devices: [PORT, I210, { ...I210, address: '0000:02:00.1' }],
      slots: [
        { name: '3', address: '0000:02:00', module: 'pciehp' },
        { name: '4', address: '0000:00:1c' },
        { name: '5', address: '0001:02:00', module: 'acpiphp' },
      ],
    })
    assert.deepEqual(seen.device('02:00.0').slot, { name: '3', driver: 'pciehp' })
    assert.deepEqual(seen.device('02:00.1').slot, { name: '3', driver: 'pciehp' })
    assert.deepEqual(seen.device('00:1c.4').slot, { name: '4', driver: null })
  })

  it('has its ids from files of their own where modalias has none', () => {
    const seen = see({ devices: [{ ...I210, files: { modalias: 'pci:v*\n' } }] })
    const { vendor, device, subsystemVendor, subsystemDevice, modalias, class: code } = seen.device('02:00.0')
    assert.deepEqual(
      [vendor, device, subsystemVendor, subsystemDevice, code],
      [0x8086, 0x1533, 0x15d9, 0x1533, 0x020000],
    )
    assert.equal(modalias, 'pci:v*')
  })

  it('has its revision without config space too', () => {
    assert.equal(seeOne({ revision: 0xa1, config: new Uint8Array(0) }).revision, 0xa1)
  })
})

describe('several domains', function () {
  this.timeout(20_000)
  afterEach(removeDirectories)

  const tree = (domain: string): DeviceDescription[] => [
    { address: `${domain}:00:01.0`, headerType: 'bridge', secondaryBus: 1, driver: 'pcieport', group: 1 },
    { address: `${domain}:01:00.0`, resetMethod: 'bus', group: 2 },
  ]

  it('with the same bus numbers are kept apart', () => {
    const devices = ['0000', '0001', '10000'].flatMap(tree)
    const seen = see({ devices })
    for (const domain of ['0000', '0001', '10000']) {
      assert.equal(seen.device(`${domain}:01:00.0`).parent, `${domain}:00:01.0`)
    }
    assert.equal(seen.devices.length, 6)
  })

  it('may be wider than 16 bits, as those of Intel VMD are', () => {
    const seen = see({
      devices: [
        { address: '10000:e0:06.0', headerType: 'bridge', secondaryBus: 0xe1, group: 3 },
        { address: '10000:e1:00.0', vendor: 0x144d, device: 0xa808, group: 3, driver: 'nvme' },
      ],
    })
    assert.equal(seen.device('10000:e1:00.0').parent, '10000:e0:06.0')
    assert.equal(seen.device('00010000:E1:00.0').names.vendor, 'Samsung Electronics Co Ltd')
    assert.deepEqual(seen.group(3).members, ['10000:e0:06.0', '10000:e1:00.0'])
  })
})

describe('SR-IOV', function () {
  this.timeout(20_000)
  afterEach(removeDirectories)

  const PF: DeviceDescription = {
    address: '0000:03:00.0',
    vendor: 0x8086,
    device: 0x10fb,
    totalVfs: 63,
    group: 20,
    capabilities: [
      { kind: 'pcie' },
      { kind: 'sriov', totalVfs: 64, numVfs: 2, vfOffset: 128, vfStride: 2, vfDevice: 0x10ed },
    ],
  }
  const ROOT_PORT: DeviceDescription = { address: '0000:00:02.0', headerType: 'bridge', secondaryBus: 3 }
  const VFS: DeviceDescription[] = [
    { address: '0000:03:10.0', physfn: '0000:03:00.0', group: 21 },
    { address: '0000:04:10.0', physfn: '0000:03:00.0', group: 22 },
  ]

  it('tells a PF with its VFs, the count that the driver allows first', () => {
    const seen = see({ devices: [ROOT_PORT, PF, ...VFS] })
    const { sriov, capabilities } = seen.device('03:00.0')
    assert.deepEqual(sriov, {
      role: 'pf',
      totalVfs: 63,
      numVfs: 2,
      vfs: ['0000:03:10.0', '0000:04:10.0'],
    })
    assert.deepEqual(capabilities.sriov, {
      totalVfs: 64,
      numVfs: 2,
      vfOffset: 128,
      vfStride: 2,
      vfDevice: 0x10ed,
    })
    assert.deepEqual(seen.device('03:10.0').sriov, { role: 'vf', pf: '0000:03:00.0' })
  })

  it('tells a PF without VFs', () => {
    const { sriov } = see({ devices: [PF] }).device('03:00.0')
    assert.deepEqual(sriov, { role: 'pf', totalVfs: 63, numVfs: 0, vfs: [] })
  })

  it('hangs a VF on a bus of its own below the bridge of its PF', () => {
    const seen = see({ devices: [ROOT_PORT, PF, ...VFS] })
    assert.equal(seen.device('04:10.0').parent, '0000:00:02.0')
  })

  it('is seen without the privilege to read config space', () => {
    const { sriov } = see({ devices: [{ ...PF, readable: 64 }] }).device('03:00.0')
    assert.deepEqual(sriov, { role: 'pf', totalVfs: 63, numVfs: 0, vfs: [] })
  })

  it('gives no VF a PF that is not there', () => {
    const seen = see({ devices: [{ address: '0000:03:10.0', physfn: '0000:03:00.0' }] })
    assert.equal(seen.device('03:10.0').sriov, null)
  })
})

describe('names', function () {
  this.timeout(20_000)
  afterEach(removeDirectories)

  const named = (pciIds: string | null, device: Partial<DeviceDescription> = {}) =>
    see({ devices: [{ ...I210, ...device }], pciIds }).device('02:00.0').names

  it('are null where pci.ids is not installed', () => {
    assert.deepEqual(named(null), { vendor: null, device: null, subsystem: null, class: null })
  })

  it('are as far as pci.ids knows', () => {
    const text = '8086  Intel Corporation\n\t1234  Other\n\nC 02  Network controller\n\t01  Token ring\n'
    assert.deepEqual(named(text), {
      vendor: 'Intel Corporation',
      device: null,
      subsystem: null,
      class: 'Network controller',
    })
  })

  it('are not taken from the device of another vendor, or the subsystem of another device', () => {
    const text =
      '8085  Before\n\t1533  Wrong\n8086  Intel Corporation\n\t1532  Near\n\t\t15d9 1533  Wrong too\n' +
      '\t1533  Right\n\t\t15d8 1533  Wrong again\n8087  Behind\n\t1533  Wrong\n'
    assert.deepEqual(named(text), {
      vendor: 'Intel Corporation',
      device: 'Right',
      subsystem: null,
      class: null,
    })
  })

  it('are read in UTF-8, with comments and blank lines between', () => {
    const text = '# head\n8086  Интел\n# a comment\n\n\t# another\n\t1533  Gigabit™\n'
    const { vendor, device } = named(text)
    assert.equal(vendor, 'Интел')
    assert.equal(device, 'Gigabit™')
  })
})

describe('modules', function () {
  this.timeout(20_000)
  afterEach(removeDirectories)

  const candidates = (aliases: string[], builtinInfo: string[] = []) => {
    const { modules, variantDrivers } = see({ devices: [I210], aliases, builtinInfo }).device('02:00.0')
    return { modules, variantDrivers }
  }

  it('match by each field or a star', () => {
    const match = (pattern: string) => candidates([`alias pci:${pattern} it`]).modules.length === 1
    assert.ok(match('v00008086d00001533sv000015D9sd00001533bc02sc00i00'))
    assert.ok(match('v00008086d*sv*sd*bc*sc*i*'))
    assert.ok(match('v*d*sv*sd*bc02sc00i00*'))
    assert.ok(!match('v00008086d00001533sv000015D8sd*bc*sc*i*'))
    assert.ok(!match('v00008086d00001533sv*sd00001534bc*sc*i*'))
    assert.ok(!match('v*d*sv*sd*bc01sc*i*'))
    assert.ok(!match('v*d*sv*sd*bc02sc80i*'))
    assert.ok(!match('v*d*sv*sd*bc02sc00i02*'))
    assert.ok(!match('v00008087d*sv*sd*bc*sc*i*'))
  })

  it('are each named once, those built in too', () => {
    const star = 'pci:v00008086d*sv*sd*bc*sc*i*'
    assert.deepEqual(
      candidates([`alias ${star} igb`, `alias ${star} igb`, `alias ${star} e1000e`], [`ahci.alias=${star}`]),
      { modules: ['igb', 'e1000e', 'ahci'], variantDrivers: [] },
    )
  })

  it('tell variant drivers from vfio-pci itself', () => {
    const star = 'alias vfio_pci:v00008086d*sv*sd*bc*sc*i*'
    assert.deepEqual(candidates([`${star} vfio_pci`, `${star} vfio-pci`, `${star} qat_vfio_pci`]), {
      modules: [],
      variantDrivers: ['qat_vfio_pci'],
    })
  })

  it('are none where the kernel has no list', () => {
    const trees = makeHost({ devices: [I210] })
    const seen = new Host({ ...trees, modules: '/nowhere' }).snapshot()
    assert.deepEqual(seen.device('02:00.0').modules, [])
  })

  it('knows the size of BARs that Linux on Z does not map, and takes a token for no address', () => {
    const lines = [
      // What 6.12 shows of an NVMe controller: 16 KiB.
      '0x4001000000000000 0x4001000000003fff 0x0000000000140204',
      '0x0000000000000000 0x0000000000000000 0x0000000000000000',
      '0x8001000000000000 0x8001ffffffffffff 0x0000000000040200',
      // Rubbish: the end in another mapping, before the beginning, an address that no bus has.
      '0x8002000000000000 0x8003000000000fff 0x0000000000040200',
      '0x8004000000000fff 0x8004000000000000 0x0000000000040200',
      '0x2005000000000000 0x2005000000000fff 0x0000000000040200',
    ]
    const address = '0001:00:00.0'
    const seen = seePlatform({
      devices: [{ address, group: 0 }],
      files: { [`sys/bus/pci/devices/${address}/resource`]: lines.join('\n') },
    })
    assert.deepEqual(
      seen.device(address).bars.map(({ index, address, size }) => [index, address, size]),
      [
        [0, null, 0x4000],
        [2, null, 2 ** 48],
      ],
    )
  })
})
