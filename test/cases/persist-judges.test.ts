import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { Host, type PersistOptions, planPersistence, VfioError, writePersistence } from 'vfio'
import { type HostDescription, makeHost, removeDirectories, temporaryDirectory } from '../fixtures/host.js'
import { Tree } from '../fixtures/tree.js'
import { ROOT } from '../unit/support.js'

const NVME = {
  vendor: 0x144d,
  device: 0xa808,
  subsystem: [0x144d, 0xa801],
  class: 0x010802,
  driver: 'nvme',
} as const
const ALIASES = ['alias pci:v*d*sv*sd*bc01sc08i02* nvme', 'alias pci:v00008086d00001533sv*sd*bc*sc*i* igb']
const PCI = 'sys/devices/pci0000:00'
const ROOT_DISK = '0000:02:00.0'
const TWIN = '0000:03:00.0'

/** Two equal disks, each below a port of its own. */
const TWINS: HostDescription = {
  kernel: '6.8.12-4-pve',
  aliases: ALIASES,
  devices: [
    { address: '0000:00:1d.0', headerType: 'bridge', secondaryBus: 2, driver: 'pcieport', group: 5 },
    { address: '0000:00:1d.4', headerType: 'bridge', secondaryBus: 3, driver: 'pcieport', group: 6 },
    { address: ROOT_DISK, ...NVME, group: 15, resetMethod: 'flr bus' },
    { address: TWIN, ...NVME, group: 16, resetMethod: 'flr bus' },
  ],
}

type More = (tree: Tree) => void

function build(host: HostDescription, more: More = () => {}) {
  const trees = makeHost(host)
  more(new Tree(join(trees.sysfs, '..')))
  return { trees, seen: new Host(trees).snapshot() }
}

/** What a controller brings: a disk with partitions, of which the device mapper may have made more. */
const disk = (tree: Tree, directory: string, name: string, number: string, partitions: readonly number[]) => {
  tree.file(`${directory}/${name}/dev`, `${number}\n`)
  tree.linkTo(`sys/class/block/${name}`, `${directory}/${name}`)
  for (const index of partitions) {
    const part = `${name}${/\d$/.test(name) ? 'p' : ''}${index}`
    tree.file(`${directory}/${name}/${part}/dev`, `${number.split(':')[0]}:${index}\n`)
    tree.file(`${directory}/${name}/${part}/partition`, `${index}\n`)
    tree.linkTo(`sys/class/block/${part}`, `${directory}/${name}/${part}`)
  }
}
const NVME_DIRECTORY = `${PCI}/0000:00:1d.0/${ROOT_DISK}/nvme/nvme0`
const mounts = (tree: Tree, ...lines: readonly string[]) =>
  tree.file('proc/self/mountinfo', lines.map((line) => `${line}\n`).join(''))

const rootOnNvme: More = (tree) => {
  disk(tree, NVME_DIRECTORY, 'nvme0n1', '259:0', [2])
  mounts(tree, '22 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw')
}

const isCode = (code: string) => (error: unknown) => error instanceof VfioError && error.code === code

/** A boot that loses its root disk cannot be undone from the host that it does not bring up. */
describe('persist judges like bind', () => {
  after(removeDirectories)

  // Disks that the host needs, each another way (PVE-Tools/PVE-Tools-9#98, truenas/middleware#11397).
  const NEEDED: readonly [what: string, more: More, says: RegExp, kind: string][] = [
    ['the root file system', rootOnNvme, /nvme0n1p2 is mounted at \//, 'mount'],
    [
      '/boot alone',
      (tree) => {
        disk(tree, NVME_DIRECTORY, 'nvme0n1', '259:0', [1])
        mounts(tree, '30 22 259:1 / /boot/efi rw,relatime - vfat /dev/nvme0n1p1 rw')
      },
      /nvme0n1p1 is mounted at \/boot\/efi/,
      'mount',
    ],
    [
      '/usr on LVM',
      (tree) => {
        disk(tree, NVME_DIRECTORY, 'nvme0n1', '259:0', [3])
        const dm = 'sys/devices/virtual/block/dm-0'
        tree.file(`${dm}/dev`, '253:0\n')
        tree.file(`${dm}/dm/name`, 'vg-usr\n')
        tree.file(`${dm}/dm/uuid`, 'LVM-abc\n')
        tree.linkTo('sys/class/block/dm-0', dm)
        tree.linkTo(`${dm}/slaves/nvme0n1p3`, `${NVME_DIRECTORY}/nvme0n1/nvme0n1p3`)
        mounts(tree, '31 22 253:0 / /usr rw,relatime - ext4 /dev/mapper/vg-usr rw')
      },
      /nvme0n1p3 → vg-usr is mounted at \/usr/,
      'mount',
    ],
    [
      'swap',
      (tree) => {
        disk(tree, NVME_DIRECTORY, 'nvme0n1', '259:0', [4])
        tree.file(
          'proc/swaps',
          'Filename\tType\tSize\tUsed\tPriority\n/dev/nvme0n1p4 partition 8388604 0 -2\n',
        )
      },
      /nvme0n1p4 is swap space in use/,
      'swap',
    ],
    [
      'a member of a RAID that nobody has mounted',
      (tree) => {
        disk(tree, NVME_DIRECTORY, 'nvme0n1', '259:0', [1])
        const md = 'sys/devices/virtual/block/md0'
        tree.file(`${md}/dev`, '9:0\n')
        tree.file(`${md}/md/level`, 'raid1\n')
        tree.linkTo('sys/class/block/md0', md)
        tree.linkTo(`${md}/slaves/nvme0n1p1`, `${NVME_DIRECTORY}/nvme0n1/nvme0n1p1`)
      },
      /nvme0n1p1 is held by md0/,
      'holder',
    ],
  ]
  for (const [what, more, says, kind] of NEEDED) {
    it(`and refuses ${what}, unless it is forced by its kind`, async () => {
      const { seen } = build(TWINS, more)
      const plan = planPersistence(seen, [ROOT_DISK])
      assert.match(plan.warnings.join('\n'), says)
      const reasons = plan.blockers.map(({ reason }) => reason).join('\n')
      // What the host itself runs on is offered to nobody, as in bind.
      if (kind === 'holder')
        assert.match(reasons, /leave 0000:02:00\.0 out, or accept that with --force holder$/m)
      else assert.match(reasons, /; leave 0000:02:00\.0 out$/m)
      const root = temporaryDirectory()
      mkdirSync(`${root}/etc`)
      await assert.rejects(writePersistence(plan, { root }), isCode('ERR_VFIO_IN_USE'))
      assert.equal(existsSync(`${root}/etc/modprobe.d`), false)
      const forced = planPersistence(seen, [ROOT_DISK], { force: [kind as 'mount'] })
      assert.deepEqual(forced.blockers, [])
      assert.match(forced.warnings.join('\n'), says)
      assert.deepEqual(planPersistence(seen, [TWIN]).blockers, [])
    })
  }

  it('by ids too, of which the root disk has the same (HikariKnight/quickpassthrough#10)', () => {
    const { seen } = build(TWINS, rootOnNvme)
    const plan = planPersistence(seen, [TWIN], { by: 'ids' })
    assert.match(
      plan.blockers[0]?.reason ?? '',
      /^0000:02:00\.0 has the same ids .*mounted at \/.*use --by address/,
    )
    assert.deepEqual(planPersistence(seen, [TWIN], { by: 'ids', force: ['mount'] }).blockers, [])
    // Without a subsystem of its own the ids fit every disk of that kind.
    const { subsystem: _, ...plain } = NVME
    const devices = [...(TWINS.devices ?? []), { address: '0000:04:00.0', ...plain, group: 17 }]
    const { seen: wide } = build({ ...TWINS, devices }, rootOnNvme)
    assert.match(
      planPersistence(wide, ['04:00.0'], { by: 'ids' }).blockers[0]?.reason ?? '',
      /0000:02:00\.0.*mounted at \//,
    )
  })

  it('the only way to reach the host, and the console', () => {
    const host: HostDescription = {
      aliases: ALIASES,
      devices: [
        { address: '0000:05:00.0', vendor: 0x8086, device: 0x1533, class: 0x020000, driver: 'igb', group: 3 },
        { address: '0000:06:00.0', class: 0x030000, bootVga: true, driver: 'ast', group: 4 },
      ],
    }
    const { seen } = build(host, (tree) => {
      const net = 'sys/devices/pci0000:05/0000:05:00.0/net/enp5s0'
      tree.file(`${net}/flags`, '0x1003\n')
      tree.file(`${net}/ifindex`, '2\n')
      tree.file(`${net}/operstate`, 'up\n')
      tree.linkTo('sys/class/net/enp5s0', net)
      tree.linkTo(`${net}/device`, 'sys/devices/pci0000:05/0000:05:00.0')
      tree.file(
        'proc/net/route',
        'Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\nenp5s0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n',
      )
      const fb = 'sys/devices/pci0000:06/0000:06:00.0/graphics/fb0'
      tree.file(`${fb}/name`, 'astdrmfb\n')
      tree.file(`${fb}/dev`, '29:0\n')
      tree.linkTo('sys/class/graphics/fb0', fb)
      tree.linkTo(`${fb}/device`, 'sys/devices/pci0000:06/0000:06:00.0')
      const console = 'sys/devices/virtual/vtconsole/vtcon1'
      tree.file(`${console}/bind`, '1\n')
      tree.file(`${console}/name`, '(M) frame buffer device\n')
      tree.linkTo('sys/class/vtconsole/vtcon1', console)
    })
    assert.match(planPersistence(seen, ['05:00.0']).blockers[0]?.reason ?? '', /enp5s0.*--force network/)
    assert.match(planPersistence(seen, ['06:00.0']).blockers[0]?.reason ?? '', /fb0.*--force display/)
  })

  // AlbrechtL/openwrt-docker#38: the override keeps igb away, and vfio-pci refuses what has no group.
  it('a device in no IOMMU group, with the reason of check', () => {
    const host: HostDescription = {
      kernel: '6.12.22-v8-16k+',
      iommu: 'arm',
      interruptRemapping: null,
      devices: [{ address: '0001:01:00.0', vendor: 0x8086, device: 0x1533, class: 0x020000, driver: 'igb' }],
    }
    const plan = planPersistence(build(host).seen, ['0001:01:00.0'])
    assert.match(plan.warnings.join('\n'), /0001:01:00\.0 is in no IOMMU group/)
    assert.equal(plan.blockers[0]?.code, 'ERR_VFIO_NOT_VIABLE')
  })

  it('what shares a group with others, which --group takes along', () => {
    const host: HostDescription = {
      devices: [
        { address: '0000:09:00.0', class: 0x030000, driver: 'nouveau', group: 2 },
        { address: '0000:09:00.1', class: 0x040300, driver: 'snd_hda_intel', group: 2 },
      ],
    }
    const { seen } = build(host)
    assert.equal(planPersistence(seen, ['09:00.0']).blockers[0]?.code, 'ERR_VFIO_INCOMPLETE_GROUP')
    const whole = planPersistence(seen, ['09:00.0'], { group: true })
    assert.deepEqual([whole.blockers, whole.addresses], [[], ['0000:09:00.0', '0000:09:00.1']])
    // With VFIO now is not with VFIO after boot.
    const bound = build({
      devices: [
        { address: '0000:09:00.0', class: 0x030000, driver: 'vfio-pci', group: 2 },
        { address: '0000:09:00.1', class: 0x040300, driver: 'vfio-pci', group: 2 },
      ],
    })
    assert.match(
      planPersistence(bound.seen, ['09:00.0']).warnings.join('\n'),
      /group 2 also has 0000:09:00\.1/,
    )
  })

  it('what is behind Intel VMD, whose domain its own driver makes', () => {
    const vmd = '0000:00:0e.0'
    const child = '10000:e1:00.0'
    const { seen } = build({
      devices: [
        { address: vmd, vendor: 0x8086, device: 0x467f, class: 0x010400, driver: 'vmd', group: 9 },
        { address: child, behind: vmd, ...NVME, group: 9 },
      ],
    })
    const reasons = (address: string) =>
      planPersistence(seen, [address])
        .blockers.map(({ reason }) => reason)
        .join('\n')
    assert.match(reasons(child), /10000:e1:00\.0 is behind 0000:00:0e\.0.*switch VMD off/)
    assert.match(reasons(vmd), /10000:e1:00\.0.*--force other/)
  })

  it('what does not answer', () => {
    const dead = new Uint8Array(256).fill(0xff)
    const { seen } = build({ devices: [{ address: '0000:09:00.0', driver: 'nvme', group: 2, config: dead }] })
    assert.equal(planPersistence(seen, ['09:00.0']).blockers[0]?.code, 'ERR_VFIO_NOT_VIABLE')
  })

  it('what the module options that come along would allow', () => {
    const host: HostDescription = {
      interruptRemapping: false,
      devices: [{ address: '0000:09:00.0', driver: 'nvme', group: 2 }],
    }
    const { seen } = build(host)
    const plan = (options: PersistOptions) => planPersistence(seen, ['09:00.0'], options)
    assert.match(plan({}).blockers[0]?.reason ?? '', /interrupts are not remapped/)
    const allowed = plan({ moduleOptions: ['allow_unsafe_interrupts=1'] })
    assert.deepEqual(allowed.blockers, [])
    assert.match(allowed.files[0]?.content ?? '', /^options vfio_iommu_type1 allow_unsafe_interrupts=1$/m)
    assert.match(allowed.warnings.join('\n'), /may forge interrupts/)
  })

  it('not by who has it open through VFIO: that is what it is for', () => {
    const host: HostDescription = { devices: [{ address: '0000:09:00.0', driver: 'vfio-pci', group: 2 }] }
    const { seen } = build(host, (tree) => {
      tree.file('sys/devices/pci0000:09/0000:09:00.0/enable', '1\n')
    })
    assert.deepEqual(planPersistence(seen, ['09:00.0']).blockers, [])
  })

  it('a virtual function, and says how it can be done', () => {
    const { seen } = build({
      devices: [
        { address: '0000:60:00.0', driver: 'igb', group: 8, totalVfs: 4 },
        { address: '0000:60:10.0', group: 9, physfn: '0000:60:00.0' },
      ],
    })
    assert.throws(() => planPersistence(seen, ['60:10.0']), /vfio vfs 0000:60:00\.0 N.*service/)
  })

  it('only takes over an address for the device that has it now: a card more moves addresses', () => {
    const { seen } = build(TWINS)
    const [modprobe, udev] = planPersistence(seen, [TWIN]).files.map(({ content }) => content)
    assert.match(modprobe ?? '', /case \$a=\$v:\$i in 0000:03:00\.0=0x144d:0xa808\)/)
    assert.match(udev ?? '', /ATTR\{vendor\}=="0x144d", ATTR\{device\}=="0xa808", KERNEL=="0000:03:00\.0"/)
    // What the line does, done by a shell: the right device gets the override, another one at its place does not.
    const sysfs = temporaryDirectory()
    const line = /^install vfio-pci (.*?); \S*modprobe /.exec(modprobe ?? '')?.[1] ?? ''
    for (const [vendor, expected] of [
      ['0x144d', 'vfio-pci\n'],
      ['0x10de', '(null)\n'],
    ] as const) {
      const tree = new Tree(sysfs)
      tree.file(`${TWIN}/vendor`, `${vendor}\n`)
      tree.file(`${TWIN}/device`, '0xa808\n')
      tree.file(`${TWIN}/driver_override`, '(null)\n')
      const script = line.replaceAll('/sys/bus/pci/devices', sysfs)
      const { status, stdout } = spawnSync('sh', ['-c', `${script}; cat ${sysfs}/${TWIN}/driver_override`], {
        encoding: 'utf8',
      })
      assert.deepEqual([status, stdout], [0, expected])
    }
  })

  it('on the command line, with status 1 and the same --force', function () {
    this.timeout(60_000)
    const root = temporaryDirectory()
    mkdirSync(`${root}/etc`)
    const group = makeHost({
      devices: [
        { address: '0000:09:00.0', class: 0x030000, driver: 'nouveau', group: 2 },
        { address: '0000:09:00.1', class: 0x040300, driver: 'snd_hda_intel', group: 2 },
      ],
    })
    const run = (...args: string[]) =>
      spawnSync(
        process.execPath,
        [join(ROOT, 'dist/cli/main.js'), 'persist', ...args, '--sysfs', group.sysfs, '--root', root],
        { encoding: 'utf8' },
      )
    const { status, stdout, stderr } = run('09:00.0')
    assert.deepEqual([status, stdout], [1, ''])
    assert.match(stderr, /shares its group with 0000:09:00\.1/)
    assert.equal(run('09:00.0', '--write').status, 1)
    assert.equal(existsSync(`${root}/etc/modprobe.d`), false)
    const { status: judged, stdout: plan } = run('09:00.0', '--json')
    assert.deepEqual([judged, JSON.parse(plan).blockers.length], [1, 1])
    assert.equal(run('09:00', '--write').status, 0)
    assert.equal(run('09:00', '--force', 'all').status, 2)
  })
})
