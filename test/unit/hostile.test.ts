import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdirSync, renameSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { assess, diagnose, Host, type Snapshot, survey } from 'vfio'
import { type DeviceDescription, type HostTrees, makeHost, removeDirectories } from '../fixtures/host.js'
import { describeLargeHost } from '../fixtures/large-host.js'
import { everythingIn } from '../fixtures/tree.js'

const DEVICES: readonly DeviceDescription[] = [
  {
    address: '0000:00:01.0',
    headerType: 'bridge',
    secondaryBus: 1,
    driver: 'pcieport',
    group: 1,
    capabilities: [{ kind: 'pcie', type: 'root-port' }],
  },
  {
    address: '0000:01:00.0',
    vendor: 0x8086,
    device: 0x10fb,
    driver: 'vfio-pci',
    group: 2,
    totalVfs: 4,
    resetMethod: 'flr bus',
    capabilities: [{ kind: 'pm' }, { kind: 'pcie', flr: true }, { kind: 'sriov', totalVfs: 4 }],
    bars: [{ index: 0, address: 0xfe000000, size: 4096 }],
    vfioDevice: 'vfio0',
  },
  { address: '0000:01:10.0', physfn: '0000:01:00.0', group: 3, driver: 'ixgbevf', resetMethod: 'flr' },
  { address: '0000:00:02.0', class: 0x030000, bootVga: true, group: 4, driver: 'i915', resetMethod: 'pm' },
]

/** Looks, and judges all that there is to judge. */
function judgeAll(trees: HostTrees): Snapshot {
  const seen = new Host(trees).snapshot()
  const all = survey(seen)
  for (const device of all.devices) assert.equal(assess(seen, device.address).verdict, device.verdict)
  diagnose(seen)
  return seen
}

/** All regular files of a tree; links are not followed. */
function filesOf(directory: string): string[] {
  return everythingIn(directory).flatMap(({ path, entry }) => (entry.isFile() ? path : []))
}

/** Ways to put something unreadable or senseless in the place of a file. */
const REPLACEMENTS: Readonly<Record<string, (path: string) => void>> = {
  'a directory': (path) => mkdirSync(path),
  'a link to nowhere': (path) => symlinkSync('../nowhere', path),
  'a link to itself': (path) => symlinkSync(path, path),
  'a link out of the tree': (path) => symlinkSync('/etc/passwd', path),
  '/dev/zero': (path) => symlinkSync('/dev/zero', path),
  '/dev/null': (path) => symlinkSync('/dev/null', path),
  'nothing at all': () => {},
  'an empty file': (path) => writeFileSync(path, ''),
  zeros: (path) => writeFileSync(path, new Uint8Array(5000)),
  ones: (path) => writeFileSync(path, new Uint8Array(5000).fill(0xff)),
  'every byte there is': (path) =>
    writeFileSync(
      path,
      Uint8Array.from({ length: 4096 }, (_, at) => at * 7),
    ),
  'a line that does not end': (path) => writeFileSync(path, '0x'.repeat(50_000)),
  'numbers without end': (path) => writeFileSync(path, '99999999999999999999 -1 1e999 0x\n'.repeat(99)),
}

describe('a tree where every file is replaced by', function () {
  this.timeout(20_000)
  afterEach(removeDirectories)

  const replaceAll = (replace: (path: string) => void): HostTrees => {
    const trees = makeHost({ devices: DEVICES })
    const files = [trees.sysfs, trees.proc, trees.dev, trees.modules].flatMap(filesOf)
    for (const file of [...files, trees.pciIds]) {
      rmSync(file)
      replace(file)
    }
    return trees
  }

  for (const [what, replace] of Object.entries(REPLACEMENTS)) {
    it(`${what} still has its devices, with what their links tell`, () => {
      const seen = judgeAll(replaceAll(replace))
      assert.deepEqual(
        seen.devices.map(({ address, driver, group }) => [address, driver, group]),
        [
          ['0000:00:01.0', 'pcieport', 1],
          ['0000:00:02.0', 'i915', 4],
          ['0000:01:00.0', 'vfio-pci', 2],
          ['0000:01:10.0', 'ixgbevf', 3],
        ],
      )
    })
  }

  it('a FIFO does not hang', () => {
    const trees = makeHost({ devices: DEVICES })
    const files = [trees.sysfs, trees.proc, trees.dev, trees.modules].flatMap(filesOf)
    for (const file of [...files, trees.pciIds]) rmSync(file)
    execFileSync('mkfifo', [...files, trees.pciIds])
    assert.equal(judgeAll(trees).devices.length, 4)
  })
})

describe('a tree where every link is replaced by', function () {
  this.timeout(20_000)
  afterEach(removeDirectories)

  const linksOf = (directory: string) =>
    everythingIn(directory).flatMap(({ path, entry }) => (entry.isSymbolicLink() ? path : []))

  for (const [what, replace] of Object.entries(REPLACEMENTS)) {
    it(`${what} gives no error`, () => {
      const trees = makeHost({ devices: DEVICES })
      const links = linksOf(trees.sysfs)
      assert.ok(links.length > 20)
      for (const link of links) {
        rmSync(link)
        replace(link)
      }
      const seen = judgeAll(trees)
      for (const { driver, group } of seen.devices) assert.deepEqual([driver, group], [null, null])
    })
  }

  it('one to the directory of another function keeps every function apart', () => {
    const trees = makeHost({ devices: DEVICES })
    const path = join(trees.sysfs, 'bus/pci/devices/0000:00:02.0')
    rmSync(path)
    symlinkSync('../../../devices/pci0000:00/0000:00:01.0', path)
    const seen = judgeAll(trees)
    assert.equal(seen.device('00:02.0').address, '0000:00:02.0')
    assert.equal(seen.device('00:02.0').driver, 'pcieport')
  })
})

describe('what vanishes during the look', function () {
  this.timeout(20_000)
  afterEach(removeDirectories)

  it('is left out, and its group keeps the rest', () => {
    const trees = makeHost({
      devices: [
        ...DEVICES,
        { address: '0000:01:00.1', group: 2, driver: 'snd_hda_intel' },
        { address: '0000:05:00.0', group: 9, driver: 'nvme' },
      ],
    })
    const directory = join(trees.sysfs, 'devices/pci0000:00/0000:00:01.0/0000:01:00.1')
    renameSync(directory, `${directory}.gone`)
    const seen = judgeAll(trees)
    assert.equal(seen.has('0000:01:00.1'), false)
    assert.deepEqual(seen.group(2).members, ['0000:01:00.0'])
    assert.equal(assess(seen, '01:00.0').verdict, 'ready')
  })

  it('may be the last member of a group', () => {
    const trees = makeHost({ devices: [{ address: '0000:05:00.0', group: 9, driver: 'nvme' }] })
    rmSync(join(trees.sysfs, 'devices'), { recursive: true })
    const seen = judgeAll(trees)
    assert.deepEqual(seen.devices, [])
    assert.deepEqual(seen.group(9).members, [])
  })

  it('may be a PF before its VFs', () => {
    const trees = makeHost({ devices: DEVICES })
    rmSync(join(trees.sysfs, 'devices/pci0000:00/0000:00:01.0/0000:01:00.0'), { recursive: true })
    const seen = judgeAll(trees)
    assert.equal(seen.device('01:10.0').sriov, null)
  })

  it('may be a bridge before what is below it', () => {
    const trees = makeHost({ devices: DEVICES })
    rmSync(join(trees.sysfs, 'bus/pci/devices/0000:00:01.0'))
    assert.equal(judgeAll(trees).device('01:00.0').driver, 'vfio-pci')
  })

  it('may be the directory of devices, or all of sysfs', () => {
    const trees = makeHost({ devices: DEVICES })
    rmSync(join(trees.sysfs, 'bus/pci/devices'), { recursive: true })
    assert.deepEqual(judgeAll(trees).devices, [])
    assert.deepEqual(judgeAll({ ...trees, sysfs: '/nowhere' }).devices, [])
    assert.deepEqual(judgeAll({ ...trees, sysfs: trees.pciIds }).devices, [])
  })
})

describe('odd names', function () {
  this.timeout(20_000)
  afterEach(removeDirectories)

  it('in bus/pci/devices are no devices', () => {
    const trees = makeHost({ devices: DEVICES })
    const directory = join(trees.sysfs, 'bus/pci/devices')
    const odd = [
      '00:03.0',
      '0000:00:0A.0',
      '00000000:00:04.0',
      '0000:00:04.0:pcie001',
      'x',
      '0000:00:04.8',
      '\u{1f525}',
    ]
    for (const name of odd) symlinkSync('../../../devices/pci0000:00/0000:00:02.0', join(directory, name))
    assert.equal(judgeAll(trees).devices.length, DEVICES.length)
  })

  it('of files and of links to themselves there are no devices either', () => {
    const trees = makeHost({ devices: DEVICES })
    const directory = join(trees.sysfs, 'bus/pci/devices')
    writeFileSync(join(directory, '0000:00:05.0'), '')
    symlinkSync('0000:00:06.0', join(directory, '0000:00:06.0'))
    symlinkSync('/dev/zero', join(directory, '0000:00:07.0'))
    symlinkSync('../../../devices/pci0000:00/0000:00:08.0', join(directory, '0000:00:08.0'))
    assert.equal(judgeAll(trees).devices.length, DEVICES.length)
  })

  it('in iommu_groups are no groups', () => {
    const trees = makeHost({ devices: DEVICES })
    for (const name of ['x', '-1', '1e3', '9999999999', '0x10']) {
      mkdirSync(join(trees.sysfs, 'kernel/iommu_groups', name))
    }
    assert.deepEqual(
      judgeAll(trees).groups.map(({ group }) => group),
      [1, 2, 3, 4],
    )
  })

  it('of a group that a device links to make no group', () => {
    for (const target of ['-1', 'rubbish', '99999999999', '../../kernel/iommu_groups/']) {
      const trees = makeHost({ devices: [{ address: '0000:00:02.0' }] })
      symlinkSync(target, join(trees.sysfs, 'devices/pci0000:00/0000:00:02.0/iommu_group'))
      assert.equal(judgeAll(trees).device('00:02.0').group, null, target)
    }
  })

  it('of slots and modules do no harm', () => {
    const trees = makeHost({ devices: DEVICES })
    for (const name of ['\n', 'a b', '\u{1f525}', '__proto__']) {
      mkdirSync(join(trees.sysfs, 'bus/pci/slots', name))
      writeFileSync(join(trees.sysfs, 'bus/pci/slots', name, 'address'), '0000:01:00\n')
      mkdirSync(join(trees.sysfs, 'class/iommu', name))
      mkdirSync(join(trees.dev, 'vfio', name))
    }
    judgeAll(trees)
  })
})

describe('topologies that contradict themselves', function () {
  this.timeout(20_000)
  afterEach(removeDirectories)

  it('with bridges to each other end', () => {
    const bridge = (address: string, secondaryBus: number, below: string): DeviceDescription => ({
      address,
      below,
      secondaryBus,
      headerType: 'bridge',
      group: 1,
    })
    const trees = makeHost({
      devices: [
        { address: '0000:00:01.0', headerType: 'bridge', secondaryBus: 1, group: 1 },
        bridge('0000:01:00.0', 2, '0000:00:01.0'),
        bridge('0000:02:00.0', 1, '0000:01:00.0'),
        bridge('0000:02:01.0', 2, '0000:01:00.0'),
        bridge('0000:02:02.0', 0, '0000:01:00.0'),
        { address: '0000:02:03.0', group: 1, resetMethod: 'bus', below: '0000:01:00.0' },
      ],
    })
    const { affected } = assess(judgeAll(trees), '02:03.0').reset.hot
    assert.ok(affected.length > 0)
    assert.equal(new Set(affected.map(({ address }) => address)).size, affected.length)
  })

  it('with a function below itself end', () => {
    const trees = makeHost({
      devices: [{ address: '0000:00:01.0', group: 1, headerType: 'bridge', secondaryBus: 0 }],
    })
    const link = join(trees.sysfs, 'bus/pci/devices/0000:00:01.0')
    rmSync(link)
    mkdirSync(join(trees.sysfs, 'devices/pci0000:00/0000:00:01.0/0000:00:01.0'))
    writeFileSync(join(trees.sysfs, 'devices/pci0000:00/0000:00:01.0/0000:00:01.0/modalias'), '')
    symlinkSync('../../../devices/pci0000:00/0000:00:01.0/0000:00:01.0', link)
    assert.equal(judgeAll(trees).devices.length, 1)
  })

  it('with a PF that is its own VF end', () => {
    const trees = makeHost({ devices: [{ address: '0000:00:01.0', group: 1 }] })
    symlinkSync('../0000:00:01.0', join(trees.sysfs, 'devices/pci0000:00/0000:00:01.0/physfn'))
    assert.equal(judgeAll(trees).devices.length, 1)
  })
})

describe('a host of thousands of functions', function () {
  this.timeout(60_000)
  afterEach(removeDirectories)

  it('is seen and judged as a whole', () => {
    const described = describeLargeHost(2048)
    const seen = new Host(makeHost({ devices: described })).snapshot()
    const { devices, groups } = survey(seen)
    assert.equal(devices.length, 2048)
    assert.equal(new Set(described.map(({ group }) => group)).size, groups.length)
    const members = groups.reduce((sum, group) => sum + group.members.length, 0)
    assert.equal(members, 2048)
    for (const { address, group, driver, vendor, device } of described) {
      const found = seen.device(address)
      assert.deepEqual(
        { group: found.group, driver: found.driver, vendor: found.vendor, device: found.device },
        { group, driver: driver ?? null, vendor, device },
      )
    }
  })

  it('looks through one thread and two alike', () => {
    // The addon takes a helper thread from 64 directories on.
    const described = describeLargeHost(80)
    const all = new Host(makeHost({ devices: described })).snapshot()
    const few = new Host(makeHost({ devices: described.slice(0, 40) })).snapshot()
    for (const device of few.devices) {
      const { parent, modalias, bars, capabilities, driver, group } = all.device(device.address)
      assert.deepEqual(
        { parent, modalias, bars, capabilities, driver, group },
        {
          parent: device.parent,
          modalias: device.modalias,
          bars: device.bars,
          capabilities: device.capabilities,
          driver: device.driver,
          group: device.group,
        },
      )
    }
  })
})

describe('looking', function () {
  this.timeout(20_000)
  afterEach(removeDirectories)

  it('changes nothing', () => {
    const trees = makeHost({ devices: DEVICES })
    const state = () =>
      filesOf(join(trees.sysfs, '..'))
        .sort()
        .map((file) => [file, statSync(file, { bigint: true }).mtimeNs])
    const before = state()
    judgeAll(trees)
    assert.deepEqual(state(), before)
  })
})
