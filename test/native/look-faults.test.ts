import assert from 'node:assert/strict'
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, realpathSync, writeFileSync } from 'node:fs'
import { constants } from 'node:os'
import { join } from 'node:path'
import { planAssignment } from 'vfio'
import { removeDirectories, temporaryDirectory } from '../fixtures/host.js'
import { sized } from '../fixtures/size.js'
import { mountLine, UsedHost } from '../fixtures/uses.js'
import { ROOT } from './fake.js'
import { armHost, groupHost, guardedHost, placedHost } from './look-hosts.js'
import type { Findings, Look } from './look-program.js'

/**
 * What may go wrong with any call that looks, and every how manieth call it does in one run of the small size: which ones
 * is the seed's choice (VFIO_SEED repeats it).
 */
const ERRNOS = { EMFILE: 29, ENFILE: 29, ENOMEM: 29, EACCES: 13, EIO: 13, EPERM: 29, ELOOP: 29 } as const
/** The same without the addon, which makes more calls. */
const PLAIN_STEP = 128
const SEED = Number(process.env.VFIO_SEED ?? Date.now() % 2 ** 31)

const address = (bus: number, fn = 0) => `0000:${bus.toString(16).padStart(2, '0')}:00.${fn}`

/** Of every way in which a device may not be given away one that is only that, and one that is free. */
const WAYS: Readonly<Record<string, (host: UsedHost, address: string) => void>> = {
  free: () => {},
  mounted: (host, at) => host.disk('nvme0n1', at, 259, 1),
  'swap space': (host, at) => host.disk('sda', at, 8),
  'held by a volume': (host, at) => {
    host.disk('sdb', at, 9)
    host.block({
      name: 'dm-0',
      number: '253:0',
      slaves: ['sdb'],
      files: { 'dm/uuid': 'LVM-a', 'dm/name': 'vg-lv' },
    })
  },
  'open as a disk': (host, at) => host.disk('sdc', at, 10),
  'mounted elsewhere': (host, at) => host.disk('sdd', at, 11),
  'mounted out of sight': (host, at) => {
    host.disk('sde', at, 12)
    host.tree.directory('sys/fs/ext4/sde')
  },
  'a btrfs': (host, at) => {
    host.disk('sdf', at, 13)
    host.tree.directory('sys/fs/btrfs/01234567-0123-0123-0123-0123456789ab/devices/sdf')
  },
  'a bcache': (host, at) => {
    host.disk('sdg', at, 14)
    host.tree.directory(host.inside(at, 'block/sdg/bcache'))
  },
  'a ZFS': (host, at) => {
    host.disk('sdh', at, 15)
    host.tree.directory('proc/spl/kstat/zfs/tank')
    host.tree.file('run/udev/data/b15:0', 'E:ID_FS_TYPE=zfs_member\nE:ID_FS_LABEL=tank\n')
  },
  'a route': (host, at) => {
    host.network('eth0', at, 0x1003)
    host.tree.file('proc/net/route', 'Iface\neth0 0007A8C0 00000000 0001 0 0 0 00FFFFFF 0 0 0\n')
  },
  'an address': (host, at) => {
    host.network('eth1', at, 0x1003)
    host.tree.file('proc/net/if_inet6', `${'fd'.repeat(16)} 02 40 00 80 eth1\n`)
  },
  'part of a bridge': (host, at) => {
    host.network('eth2', at, 0x1003, ['br0'])
    host.network('br0', null, 0x1003)
  },
  'an interface elsewhere': (host, at) => host.tree.directory(host.inside(at, 'net')),
  'a frame buffer': (host, at) => {
    host.tree.linkTo('sys/class/graphics/fb0', host.inside(at, 'graphics/fb0'))
    host.tree.file('sys/class/vtconsole/vtcon1/name', '(M) frame buffer device\n')
    host.tree.file('sys/class/vtconsole/vtcon1/bind', '1\n')
  },
  'a console': (host, at) => {
    host.node('4:68', 'ttyS4', host.inside(at, 'tty/ttyS4'))
    host.tree.file('proc/consoles', 'ttyS4                -W- (EC  p a)    4:68\n')
  },
  'open as a node': (host, at) => host.node('226:0', 'dri/card0', host.inside(at, 'drm/card0')),
  'a share': (host, at) => {
    host.tree.linkTo('sys/bus/virtio/devices/virtio0', host.inside(at, 'virtio0'))
    host.tree.file(host.inside(at, 'virtio0/mount_tag'), 'dåta\0')
    host.tree.linkTo(host.inside(at, 'virtio0/driver'), 'sys/bus/virtio/drivers/9pnet_virtio')
  },
  'a mediated device that is open': (host, at) => {
    host.tree.linkTo(`sys/bus/mdev/devices/${OPEN}`, host.inside(at, OPEN))
    host.tree.linkTo(host.inside(at, `${OPEN}/iommu_group`), 'sys/kernel/iommu_groups/199')
    host.tree.linkTo(host.inside(at, `${OPEN}/driver`), 'sys/bus/mdev/drivers/some_mdev')
  },
  'virtual devices': (host, at) => host.tree.linkTo('sys/bus/mdev/devices/mdev0', host.inside(at, 'mdev0')),
}
const OPEN = '83b8f4f2-509f-382f-3c1e-e6bfe0fa1001'
const KINDS = Object.keys(WAYS)

/** Devices that the kernel would not let go, whoever uses them. */
const HELD = {
  'group is open': address(100),
  'enabled by VFIO': address(101),
  'shares its group': address(102),
  'has a region of the firmware': address(103),
  'has virtual functions': address(104),
  'a bridge': address(106),
  'on the denylist': address(107),
}

function everyUse(): UsedHost {
  const host = new UsedHost({
    devices: [
      ...KINDS.map((kind, index) => ({
        address: address(index + 1),
        group: index + 1,
        driver: 'some',
        class: kind === 'an interface elsewhere' ? 0x020000 : 0x00ff00,
        resetMethod: 'flr',
      })),
      { address: HELD['group is open'], group: 100, driver: 'vfio-pci' },
      { address: HELD['enabled by VFIO'], group: 101, driver: 'vfio-pci', files: { enable: '1\n' } },
      { address: HELD['shares its group'], group: 102, driver: 'vfio-pci' },
      { address: address(102, 1), group: 102, driver: 'nvme' },
      { address: HELD['has a region of the firmware'], group: 103, driver: 'vfio-pci' },
      { address: HELD['has virtual functions'], group: 104, driver: 'ixgbe', totalVfs: 2 },
      { address: address(105), group: 105, physfn: HELD['has virtual functions'] },
      { address: HELD['a bridge'], group: 106, headerType: 'bridge', secondaryBus: 120, driver: 'pcieport' },
      { address: HELD['on the denylist'], group: 107, vendor: 0x8086, device: 0x0435, driver: 'some' },
    ],
    groups: { 103: { reservedRegions: '0x0000000000000000 0x0000000000ffffff direct\n' } },
  })
  for (const [index, kind] of KINDS.entries()) WAYS[kind]?.(host, address(index + 1))
  host.mounts(mountLine('259:1', '/', 'ext4', '/dev/nvme0n1p1'), mountLine('0:50', '/mnt', '9p', 'dåta'))
  host.tree.file('proc/swaps', 'Filename Type Size Used Priority\n/dev/sda partition 1 0 -2\n')
  host.processes(
    { pid: 20, command: 'dd', open: ['/dev/sdc'] },
    { pid: 21, command: 'X', open: ['/dev/dri/card0'] },
    { pid: 22, command: 'qemu', open: ['/dev/vfio/100', 'anon_inode:[vfio-device]'] },
    { pid: 25, command: 'qemu', open: ['/dev/vfio/199'] },
    { pid: 23, command: 'crosvm', open: ['anon_inode:[vfio-device]'] },
    {
      pid: 24,
      command: 'box',
      namespace: 'mnt:[1]',
      mountinfo: [mountLine('11:0', '/x', 'vfat', '/dev/sdd')],
    },
  )
  return host
}

/** What the host of placed functions gives away, if need be after binding. */
const PERMITTED = [
  '0000:00:0e.0',
  '0000:06:00.0',
  '0000:06:00.1',
  '0000:07:00.4',
  '0000:08:00.0',
  '0000:08:00.1',
  '0000:09:00.0',
  '0000:0a:00.0',
  '10000:01:00.0',
]

/** What may come up between a plan and its execution. */
const CHANGES: readonly ((host: UsedHost) => void)[] = [
  (host) => host.tree.directory(`sys/kernel/iommu_groups/1/devices/${address(9)}`),
  (host) => host.tree.file(host.inside(address(1), 'driver_override'), 'other\n'),
  (host) => {
    host.disk('sda', address(1), 8)
    host.tree.file('proc/swaps', 'Filename Type Size Used Priority\n/dev/sda partition 1 0 -2\n')
  },
]

const PROGRAM = join(import.meta.dirname, 'look-program.js')

let shim: string | undefined

function shimPath(): string {
  if (shim === undefined) {
    mkdirSync(join(ROOT, 'build/test'), { recursive: true })
    shim = join(ROOT, 'build/test/failing-looks.so')
    const source = join(ROOT, 'test/native/failing-looks.c')
    execFileSync('cc', ['-shared', '-fPIC', '-O1', '-Wall', '-Wextra', '-o', shim, source, '-ldl'])
  }
  return shim
}

function lookWithFaults(
  trees: Readonly<Record<string, string>>,
  root: string,
  errno: number,
  step: number,
  { isPlain = false, ...look }: Look & { readonly isPlain?: boolean } = { look: 'whole' },
): Findings {
  const control = join(temporaryDirectory(), 'control')
  writeFileSync(control, Buffer.alloc(16))
  const output = execFileSync(process.execPath, [PROGRAM], {
    encoding: 'utf8',
    env: {
      // The program has parts of the library for itself, which look for the addon beside them.
      VFIO_ADDON: join(ROOT, 'build/Release/vfio.node'),
      ...process.env,
      ...(isPlain && { VFIO_ADDON: '', LOOK_PLAIN: 'yes' }),
      LD_PRELOAD: [process.env.LD_PRELOAD, shimPath()].filter(Boolean).join(':'),
      LOOK_ROOT: root,
      LOOK_CONTROL: control,
      LOOK_INPUT: JSON.stringify({ trees, control, errno, step, phase: SEED % step, ...look }),
    },
  })
  return JSON.parse(output) as Findings
}

function treesOf({ tree }: UsedHost): Record<string, string> {
  const names = { sysfs: 'sys', proc: 'proc', dev: 'dev', run: 'run', modules: 'modules' }
  return Object.fromEntries(Object.entries(names).map(([name, path]) => [name, tree.path(path)]))
}

const freeIn = ({ allowed }: Findings) =>
  allowed.filter((what) => what.endsWith(' free')).map((what) => what.slice(0, -' free'.length))

describe('a look of which one call fails', function () {
  this.timeout(sized(240_000, 1_200_000))
  after(removeDirectories)

  const errnoOf = (name: keyof typeof ERRNOS) => constants.errno[name]
  const faults = (
    host: UsedHost,
    name: keyof typeof ERRNOS,
    small: number,
    look?: Look & { readonly isPlain?: boolean },
  ) => lookWithFaults(treesOf(host), realpathSync(host.tree.root), errnoOf(name), sized(small, 1), look)

  for (const [name, step] of Object.entries(ERRNOS) as [keyof typeof ERRNOS, number][]) {
    it(`with ${name} permits nothing that it did not permit before (seed ${SEED})`, () => {
      const found = faults(everyUse(), name, step)
      assert.deepEqual(found.permitted, [])
      // One device is free, and every other one would be without what speaks against it.
      const expected = [address(1), HELD['shares its group'], address(102, 1), address(105)]
      assert.deepEqual(
        freeIn(found).filter((one) => !expected.includes(one)),
        [],
      )
      assert.ok(freeIn(found).includes(address(1)))
      assert.ok(found.calls > 500)
    })

    it(`with ${name} permits nothing without the addon either (seed ${SEED})`, () => {
      for (const [host, step] of [
        [everyUse(), PLAIN_STEP],
        [placedHost(), PLAIN_STEP / 4],
        [armHost(), PLAIN_STEP / 4],
      ] as const) {
        const found = faults(host, name, step, { look: 'whole', isPlain: true })
        assert.deepEqual(found.permitted, [])
        assert.deepEqual(found.allowed, faults(host, name, 10_000).allowed)
        assert.ok(found.calls > 100)
      }
    })

    it(`with ${name} at the place, the owner or the kind of machine permits nothing either (seed ${SEED})`, () => {
      for (const host of [placedHost(), armHost()]) {
        for (const look of ['whole', 'brief'] as const) {
          const found = faults(host, name, step, { look })
          assert.deepEqual([look, found.permitted], [look, []])
          assert.ok(found.calls > 30)
        }
      }
      const { allowed } = faults(placedHost(), name, 10_000)
      assert.deepEqual(
        allowed.filter((what) => what.endsWith(' verdict')),
        PERMITTED.map((one) => `${one} verdict`),
      )
    })

    it(`with ${name} calls no group closed that is not (seed ${SEED})`, () => {
      const closed = faults(guardedHost([]), name, 10_000, { look: 'guard', argument: 1 })
      assert.deepEqual(closed.allowed, ['group'])
      for (const [host, group] of [
        [guardedHost(['/dev/vfio/devices/vfio0']), 1],
        [groupHost(), 987_654],
      ] as const) {
        const found = faults(host, name, 1, { look: 'guard', argument: group })
        assert.deepEqual([found.allowed, found.permitted], [[], []])
        assert.ok(found.calls > 1)
      }
    })

    it(`with ${name} carries out no plan that another host was made of (seed ${SEED})`, () => {
      for (const change of CHANGES) {
        const host = new UsedHost({
          devices: [{ address: address(1), group: 1, driver: 'some', resetMethod: 'flr' }],
        })
        const argument = planAssignment(host.see(), [address(1)])
        assert.deepEqual(argument.blockers, [])
        const same = faults(host, name, 10_000, { look: 'recheck', argument })
        assert.deepEqual(same.allowed, ['plan'])
        change(host)
        const found = faults(host, name, step, { look: 'recheck', argument })
        assert.deepEqual([found.allowed, found.permitted], [[], []])
        assert.ok(found.calls > 1)
      }
    })
  }

  it('at the real process table permits nothing either', async () => {
    const host = new UsedHost({ devices: [{ address: address(1), group: 1, driver: 'some' }] })
    // In this host /dev/full belongs to a graphics card.
    host.node('1:7', 'dri/card0', host.inside(address(1), 'drm/card0'))
    const opener = spawn('sh', ['-c', 'exec 7</dev/full; echo ready; exec sleep 600'], {
      stdio: ['ignore', 'pipe', 'ignore'],
    })
    try {
      await once(opener.stdout, 'data')
      const trees = { sysfs: host.tree.path('sys'), proc: '/proc' }
      for (const name of ['EACCES', 'EIO', 'ENFILE'] as const) {
        const found = lookWithFaults(trees, '/proc/', errnoOf(name), 29)
        assert.deepEqual(found.permitted, [])
        assert.deepEqual(freeIn(found), [])
        assert.ok(found.calls > 50)
      }
    } finally {
      opener.kill()
    }
  })
})
