import assert from 'node:assert/strict'
import { dirname, join } from 'node:path'
import { assess, assessUses, diagnose, Host, kernelParameters } from 'vfio'
import { removeDirectories } from '../fixtures/host.js'
import { checkOf, makePlatform, type PlatformDescription, seePlatform } from '../fixtures/platform.js'
import { Tree } from '../fixtures/tree.js'

/** Not known is not absent: what was not copied, or is laid out in another way, is never told of as if it were not there. */
const GPU = '0000:01:00.0'
const devices = [{ address: GPU, group: 2, driver: 'nvidia' }]

describe('what is not known', function () {
  this.timeout(20_000)
  afterEach(removeDirectories)

  it('of a copy of /sys alone fails no check (the sysfs trees of open-mpi/hwloc)', () => {
    const { sysfs } = makePlatform({ devices, modules: {} })
    const { ready, checks } = diagnose(new Host({ sysfs }).snapshot())
    assert.equal(ready, true)
    for (const { name, status } of checks) assert.equal(status, 'ok', name)
    const unknown = checks.filter(({ detail }) => /not known|unknown/.test(detail)).map(({ name }) => name)
    assert.deepEqual(unknown, [
      'kernel',
      'interrupt remapping',
      'module vfio',
      'module vfio_iommu_type1',
      'module vfio_pci',
      'device node',
      'group nodes',
      'locked memory',
    ])
  })

  it('of a copy of /sys alone without an IOMMU still fails: sysfs shows that there is none', () => {
    const { sysfs } = makePlatform({ iommu: 'none', devices: [{ address: GPU }] })
    const seen = new Host({ sysfs }).snapshot()
    const { ready } = diagnose(seen)
    assert.equal(ready, false)
    // The command line was not copied: the parameter may be there.
    assert.deepEqual(kernelParameters(seen), { add: [], remove: [] })
    assert.doesNotMatch(checkOf(seen, 'iommu').cure, /boot with/)
  })

  it('of a copy that has no IOMMU directories is whether there is one (hwloc-gather-topology takes bus/pci and class)', () => {
    const { sysfs } = makePlatform({
      iommu: 'none',
      devices: [{ address: GPU }],
      without: ['sys/class/iommu', 'sys/kernel/iommu_groups'],
    })
    const seen = new Host({ sysfs }).snapshot()
    const { ready, checks } = diagnose(seen)
    assert.equal(ready, true)
    for (const name of ['iommu', 'groups']) assert.match(checkOf(seen, name).detail, /^not known/)
    assert.ok(checks.every(({ status }) => status === 'ok'))
    const { verdict, reason } = assess(seen, GPU)
    assert.equal(verdict, 'blocked')
    assert.match(reason, /groups were not copied/)
  })

  it('of a copy that has the links of its devices alone is enough to see groups', () => {
    const trees = makePlatform({ iommu: 'none', devices, without: ['sys/class/iommu'] })
    // The links lead nowhere, as in a copy of bus/pci and devices alone.
    new Tree(dirname(trees.sysfs)).remove('sys/kernel/iommu_groups')
    const seen = new Host({ sysfs: trees.sysfs }).snapshot()
    assert.equal(seen.host.iommu.present, true)
    assert.equal(checkOf(seen, 'iommu').status, 'ok')
    assert.equal(assess(seen, GPU).verdict, 'bindable')
  })

  const missing: readonly (readonly [what: string, without: readonly string[]])[] = [
    ['without /proc', ['proc']],
    ['without /proc/interrupts', ['proc/interrupts']],
    ['without /proc/self/limits', ['proc/self']],
    ['without /dev/vfio', []],
    ['without the list of modules', ['modules']],
  ]
  for (const [what, without] of missing) {
    it(`of a host ${what} makes no verdict more permissive`, () => {
      const whole = seePlatform({ devices, interruptRemapping: false })
      assert.equal(assess(whole, GPU).verdict, 'blocked')
      const seen = seePlatform({ devices: [{ address: GPU }], iommu: 'none', without })
      assert.equal(assess(seen, GPU).verdict, 'blocked')
    })
  }

  const layouts: readonly (readonly [
    what: string,
    files: Readonly<Record<string, string>>,
    states: readonly string[],
  ])[] = [
    [
      'modules.builtin.modinfo alone (5.2 and newer; Android, embedded kernels)',
      {
        'modules/modules.builtin.modinfo': 'vfio.license=GPL\0vfio_pci.license=GPL\0',
        'modules/modules.dep': '',
      },
      ['builtin', 'missing', 'builtin'],
    ],
    [
      'modules.order alone: depmod never ran (Kbuild)',
      {
        'modules/modules.order':
          'kernel/drivers/vfio/vfio.ko\nkernel/drivers/vfio/vfio_iommu_type1.ko\nkernel/drivers/vfio/pci/vfio-pci.ko\n',
        'modules/modules.builtin': '',
      },
      ['loadable', 'loadable', 'loadable'],
    ],
    [
      'modules.builtin alone: what is not built in may still be loadable',
      { 'modules/modules.builtin': 'kernel/drivers/vfio/vfio.ko\n' },
      ['builtin', 'unknown', 'unknown'],
    ],
    [
      'compressed modules (.ko.zst, .ko.xz, .ko.gz)',
      {
        'modules/modules.dep':
          'kernel/drivers/vfio/vfio.ko.zst:\nkernel/drivers/vfio/vfio_iommu_type1.ko.xz: kernel/drivers/vfio/vfio.ko.zst\nkernel/drivers/vfio/pci/vfio-pci.ko.gz:\n',
        'modules/modules.builtin': '',
      },
      ['loadable', 'loadable', 'loadable'],
    ],
    ['a directory without any list', {}, ['unknown', 'unknown', 'unknown']],
    [
      'the directory of all kernels (a copy of /lib/modules)',
      {
        'modules/6.12.0-amd64/modules.dep': 'kernel/drivers/vfio/pci/vfio-pci.ko:\n',
        'modules/6.12.0-amd64/modules.builtin': 'kernel/drivers/vfio/vfio.ko\n',
      },
      ['builtin', 'missing', 'loadable'],
    ],
    [
      'a root file system (merged /usr)',
      {
        'modules/lib/modules/6.12.0-amd64/modules.dep': 'kernel/drivers/vfio/pci/vfio-pci.ko:\n',
        'modules/lib/modules/6.12.0-amd64/modules.builtin': '',
      },
      ['missing', 'missing', 'loadable'],
    ],
  ]
  for (const [what, files, states] of layouts) {
    it(`of modules is told by ${what}`, () => {
      const trees = makePlatform({
        devices,
        modules: {},
        nodes: { 'vfio/vfio': 0o666 },
        without: ['modules'],
      })
      const tree = new Tree(dirname(trees.sysfs))
      tree.directory('modules')
      for (const [path, text] of Object.entries(files)) tree.file(path, text)
      const seen = new Host({ ...trees, modules: join(trees.sysfs, '..', 'modules') }).snapshot()
      const { vfio, vfio_iommu_type1: type1, vfio_pci: pci } = seen.host.modules
      assert.deepEqual([vfio, type1, pci], states)
      const { status } = checkOf(seen, 'module vfio_pci')
      // A directory that was given and has no list is worth a word: the update of a running kernel takes it away.
      assert.equal(
        status,
        { builtin: 'ok', loadable: 'fail', unknown: 'warn', missing: 'fail' }[pci as 'builtin'],
      )
    })
  }

  it('of modules whose directory an update took away says so, with the cure (Arch, openSUSE)', () => {
    const seen = seePlatform({ devices, modules: {}, nodes: { 'vfio/vfio': 0o666 }, without: ['modules'] })
    const { status, detail, cure } = checkOf(seen, 'module vfio')
    assert.equal(status, 'warn')
    assert.match(detail, /not known whether this kernel has it/)
    assert.match(cure, /reboot/)
  })

  describe('of mounts', () => {
    const DISK = '0000:00:17.0'
    const ATA = `sys/devices/pci0000:00/${DISK}/ata1/block/sda`
    const host = (files: Readonly<Record<string, string>>, commandLine = 'ro'): PlatformDescription => ({
      commandLine,
      mountTable: false,
      devices: [{ address: DISK, class: 0x010601, group: 6, driver: 'ahci' }],
      files: {
        [`${ATA}/dev`]: '8:0\n',
        [`${ATA}/sda2/dev`]: '8:2\n',
        [`${ATA}/sda2/partition`]: '2\n',
        ...files,
      },
      links: { 'sys/class/block/sda': ATA, 'sys/class/block/sda2': `${ATA}/sda2` },
    })
    const mounted = (described: PlatformDescription) =>
      assessUses(seePlatform(described), DISK).map(({ kind, what }) => `${kind}: ${what}`)

    const copies: readonly (readonly [what: string, host: PlatformDescription, uses: readonly string[]])[] = [
      [
        '/proc/mounts (hwloc gathers it so)',
        host({ 'proc/mounts': '/dev/sda2 / ext4 rw,relatime 0 0\n' }),
        ['mount: sda2 is mounted at /'],
      ],
      [
        '/proc/self/mounts',
        host({ 'proc/self/mounts': '/dev/sda2 /srv/a\\040b xfs rw 0 0\n' }),
        ['mount: sda2 is mounted at /srv/a b'],
      ],
      [
        'a table whose root is called /dev/root',
        host({ 'proc/mounts': '/dev/root / ext4 rw 0 0\n' }, 'root=/dev/sda2 ro'),
        ['mount: sda2 is mounted at /'],
      ],
      [
        'a table with an external log',
        host({ 'proc/mounts': '/dev/sdb1 /srv xfs rw,logdev=/dev/sda2 0 0\n' }),
        ['mount: sda2 is mounted at /srv'],
      ],
      [
        'a table of other disks',
        host({ 'proc/mounts': '/dev/sdb1 / ext4 rw 0 0\nproc /proc proc rw 0 0\nbad\n' }),
        [],
      ],
      [
        'mountinfo, which knows better',
        host({
          'proc/self/mountinfo': '1 2 8:16 / / rw - ext4 /dev/sdb rw\n',
          'proc/mounts': '/dev/sda2 / ext4 rw 0 0\n',
        }),
        [],
      ],
    ]
    for (const [what, described, uses] of copies) {
      it(`is told by ${what}`, () => {
        assert.deepEqual(mounted(described), uses)
      })
    }
  })
})
