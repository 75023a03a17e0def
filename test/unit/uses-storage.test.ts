import assert from 'node:assert/strict'
import { assess } from 'vfio'
import { noting } from '../../lib/sysfs/unseen.js'
import { readMounts } from '../../lib/sysfs/use-mounts.js'
import { removeDirectories } from '../fixtures/host.js'
import { mountLine, UsedHost } from '../fixtures/uses.js'

const A = '0000:01:00.0'
const B = '0000:02:00.0'

/** Two storage controllers in groups of their own, one disk each with partitions. */
function storage(partitions = 2): UsedHost {
  const host = new UsedHost({
    devices: [
      { address: A, group: 1, driver: 'nvme' },
      { address: B, group: 2, driver: 'nvme' },
    ],
  })
  host.disk('nvme0n1', A, 259, partitions)
  host.disk('nvme1n1', B, 260, partitions)
  return host
}

/** What udev found: a member of the pool tank on the one disk, of another pool on the other. */
function recordContents(host: UsedHost, other: string): void {
  const member = (pool: string) => `S:disk/x\nE:ID_FS_LABEL=${pool}\nE:ID_FS_TYPE=zfs_member\n`
  host.tree.file('run/udev/data/b259:1', member('tank'))
  host.tree.file('run/udev/data/b260:1', member(other))
  for (const number of ['259:2', '260:2']) host.tree.file(`run/udev/data/b${number}`, 'S:disk/x\n')
}

/** Device mapper volumes are numbered 253:N. */
const volume = (host: UsedHost, index: number, name: string, uuid: string, slaves: readonly string[]) =>
  host.block({
    name: `dm-${index}`,
    number: `253:${index}`,
    slaves,
    files: { 'dm/name': `${name}\n`, 'dm/uuid': `${uuid}\n` },
  })

describe('uses of storage', () => {
  after(removeDirectories)

  it('finds nothing on a disk that nobody uses', () => {
    const host = storage()
    host.mounts(mountLine('8:1', '/', 'ext4', '/dev/sda1'))
    assert.deepEqual(host.uses(A), [])
  })

  it('names a mounted partition, and the disk of that one alone', () => {
    const host = storage()
    host.mounts(mountLine('259:2', '/', 'ext4', '/dev/root'))
    assert.deepEqual(host.uses(A), ['blocks mount: nvme0n1p2 is mounted at /'])
    assert.deepEqual(host.uses(B), [])
  })

  it('names a disk that is mounted whole, at all places', () => {
    const host = storage()
    host.mounts(...['/a', '/b', '/c', '/d', '/e'].map((point) => mountLine('259:0', point, 'xfs', '/dev/x')))
    assert.deepEqual(host.uses(A), ['blocks mount: nvme0n1 is mounted at /a, /b, /c and 2 more'])
  })

  it('reads mount points that the kernel escaped, and prints none that would steer a terminal', () => {
    const host = storage()
    host.mounts(mountLine('259:1', '/my\\040disk\\134\\011\u001b[31m', 'vfat', '/dev/nvme0n1p1'))
    assert.deepEqual(host.uses(A), ['blocks mount: nvme0n1p1 is mounted at /my disk\\\\u0009\\u001b[31m'])
  })

  it('follows LVM over encryption', () => {
    const host = storage()
    volume(host, 0, 'luks-1', 'CRYPT-LUKS2-1', ['nvme0n1p2'])
    volume(host, 1, 'vg0-root', 'LVM-abc', ['dm-0'])
    volume(host, 2, 'vg0-swap', 'LVM-def', ['dm-0'])
    host.mounts(mountLine('253:1', '/', 'ext4', '/dev/mapper/vg0-root'))
    host.tree.file('proc/swaps', 'Filename\tType\tSize\tUsed\tPriority\n/dev/dm-2 partition 1048572 0 -2\n')
    assert.deepEqual(host.uses(A), [
      'blocks mount: nvme0n1p2 → luks-1 → vg0-root is mounted at /',
      'blocks swap: nvme0n1p2 → luks-1 → vg0-swap is swap space in use',
    ])
  })

  it('says what holds a disk, where nothing above is in use', () => {
    const host = storage()
    volume(host, 0, 'vg0-pool_tdata', 'LVM-abc-tdata', ['nvme0n1p1'])
    volume(host, 1, 'vg0-pool', 'LVM-abc-tpool', ['dm-0'])
    volume(host, 2, 'own', '', ['nvme1n1'])
    assert.deepEqual(host.uses(A), [
      'blocks holder: nvme0n1p1 → vg0-pool_tdata is held by vg0-pool (LVM volume)',
    ])
    assert.deepEqual(host.uses(B), ['blocks holder: nvme1n1 is held by own (device mapper)'])
  })

  it('counts a RAID against each of its members', () => {
    const host = storage()
    host.block({
      name: 'md0',
      number: '9:0',
      slaves: ['nvme0n1p1', 'nvme1n1p1'],
      files: { 'md/level': 'raid1\n' },
    })
    assert.deepEqual(host.uses(A), ['blocks holder: nvme0n1p1 is held by md0 (raid1)'])
    host.mounts(mountLine('9:0', '/srv', 'ext4', '/dev/md0'))
    assert.deepEqual(host.uses(A), ['blocks mount: nvme0n1p1 → md0 is mounted at /srv'])
    assert.deepEqual(host.uses(B), ['blocks mount: nvme1n1p1 → md0 is mounted at /srv'])
  })

  it('tells of one volume once, though it rests on one disk twice', () => {
    const host = storage()
    volume(host, 0, 'vg0-big', 'LVM-abc', ['nvme0n1p1', 'nvme0n1p2'])
    host.mounts(mountLine('253:0', '/big', 'ext4', '/dev/mapper/vg0-big'))
    assert.deepEqual(host.uses(A), ['blocks mount: nvme0n1p1 → vg0-big is mounted at /big'])
  })

  it('follows bcache, and knows one that is only registered', () => {
    const host = storage()
    host.block({ name: 'bcache0', number: '252:0', slaves: ['nvme0n1p1'] })
    host.tree.directory(host.inside(A, 'block/nvme0n1/nvme0n1p1/bcache'))
    host.tree.directory(host.inside(B, 'block/nvme1n1/bcache'))
    assert.deepEqual(host.uses(A), ['blocks holder: nvme0n1p1 is held by bcache0 (bcache)'])
    assert.deepEqual(host.uses(B), ['blocks holder: nvme1n1 is registered as a bcache'])
  })

  it('follows a loop device over a partition, and swap that zram writes back', () => {
    const host = storage()
    host.block({ name: 'loop0', number: '7:0', files: { 'loop/backing_file': '/dev/nvme0n1p1\n' } })
    host.block({ name: 'zram0', number: '250:0', files: { backing_dev: '/dev/nvme1n1\n' } })
    host.tree.file('proc/swaps', 'Filename Type Size Used Priority\n/dev/zram0 partition 1 0 100\n')
    assert.deepEqual(host.uses(A), ['blocks holder: nvme0n1p1 is held by loop0 (loop device)'])
    assert.deepEqual(host.uses(B), ['blocks swap: nvme1n1 → zram0 is swap space in use'])
  })

  it('finds the disk below a swap file', () => {
    const host = storage()
    host.mounts(
      mountLine('260:1', '/', 'ext4', '/dev/nvme1n1p1'),
      mountLine('259:1', '/var', 'ext4', '/dev/nvme0n1p1'),
    )
    host.tree.file('proc/swaps', 'Filename Type Size Used Priority\n/var/my\\040swap file 1 0 -2\n')
    assert.deepEqual(host.uses(A), [
      'blocks mount: nvme0n1p1 is mounted at /var',
      'blocks swap: nvme0n1p1 carries the swap file /var/my swap',
    ])
    assert.deepEqual(host.uses(B), ['blocks mount: nvme1n1p1 is mounted at /'])
  })

  it('knows all devices of a btrfs, whichever the mount table names', () => {
    const host = storage()
    const fs = 'sys/fs/btrfs/11111111-2222-3333-4444-555555555555'
    host.tree.link(`${fs}/devices/nvme0n1p1`, '../x')
    host.tree.link(`${fs}/devices/nvme1n1p1`, '../x')
    assert.deepEqual(host.uses(B), [
      'blocks mount: nvme1n1p1 belongs to a live btrfs that no mount table in sight shows',
    ])
    host.mounts(mountLine('0:45', '/data', 'btrfs', '/dev/nvme0n1p1'))
    assert.deepEqual(host.uses(A), ['blocks mount: nvme0n1p1 belongs to the btrfs mounted at /data'])
    assert.deepEqual(host.uses(B), ['blocks mount: nvme1n1p1 belongs to the btrfs mounted at /data'])
  })

  it('knows the members that a mount names in its source and its options', () => {
    const host = storage()
    host.mounts(
      mountLine('0:46', '/many', 'bcachefs', '/dev/nvme0n1p1:/dev/nvme0n1p2'),
      mountLine('8:1', '/fast', 'xfs', '/dev/sda1', 'rw,attr2,logdev=/dev/nvme1n1p2,noquota'),
    )
    assert.deepEqual(host.uses(A), [
      'blocks mount: nvme0n1p1 is mounted at /many',
      'blocks mount: nvme0n1p2 is mounted at /many',
    ])
    assert.deepEqual(host.uses(B), ['blocks mount: nvme1n1p2 is mounted at /fast'])
  })

  it('asks udev which disks an imported ZFS pool is on', () => {
    const host = storage()
    recordContents(host, 'old')
    host.tree.directory('proc/spl/kstat/zfs/tank')
    assert.deepEqual(host.uses(A), ['blocks holder: nvme0n1p1 belongs to the imported ZFS pool tank'])
    assert.deepEqual(host.uses(B), [])
  })

  const NOT_KNOWN =
    'belongs to a ZFS pool that is imported is not known, since udev does not tell: see "zpool status"'

  // Alpine and others have mdev in place of udev: nothing tells what is on a disk.
  it('does not take a disk for free that may be of an imported ZFS pool: no udev', () => {
    const host = storage()
    host.tree.file('proc/spl/kstat/zfs/arcstats', '')
    assert.deepEqual(host.uses(B), [])
    host.tree.directory('proc/spl/kstat/zfs/tank')
    assert.deepEqual(host.uses(B), [`blocks other: whether /dev/nvme1n1p1 and /dev/nvme1n1p2 ${NOT_KNOWN}`])
  })

  it('does not take a disk for free that may be of an imported ZFS pool: mounts of it alone were copied', () => {
    const host = storage()
    host.mounts(mountLine('0:25', '/', 'zfs', 'rpool/ROOT/pve-1'))
    assert.deepEqual(host.uses(B), [`blocks other: whether /dev/nvme1n1p1 and /dev/nvme1n1p2 ${NOT_KNOWN}`])
  })

  // zpool-import(8): a pool may be given a new name, and udev is not told.
  it('does not take a disk for free that may be of an imported ZFS pool: one of a pool with another name', () => {
    const host = storage()
    recordContents(host, 'old')
    host.tree.directory('proc/spl/kstat/zfs/tank')
    host.tree.directory('proc/spl/kstat/zfs/new')
    assert.deepEqual(host.uses(B), [`blocks other: whether /dev/nvme1n1p1 ${NOT_KNOWN}`])
  })

  it('sees a file system that lives after its mount was taken out of sight', () => {
    const host = storage()
    host.tree.directory('sys/fs/ext4/nvme0n1p1')
    host.tree.directory('sys/fs/ext4/features')
    assert.deepEqual(host.uses(A), [
      'blocks mount: nvme0n1p1 holds a live ext4 that no mount table in sight shows',
    ])
  })

  it('sees mounts of other namespaces, and says whose', () => {
    const host = storage()
    host.mounts(mountLine('260:1', '/', 'ext4', '/dev/nvme1n1p1'))
    host.processes({
      pid: 812,
      command: 'a (con)tainer',
      namespace: 'mnt:[4026532000]',
      mountinfo: [
        mountLine('259:1', '/data', 'ext4', '/dev/nvme0n1p1'),
        mountLine('260:1', '/etc/hosts', 'ext4', '/dev/nvme1n1p1'),
      ],
    })
    assert.deepEqual(host.uses(A), [
      'blocks mount: nvme0n1p1 is mounted at /data in the mount namespace of a (con)tainer (pid 812)',
    ])
    assert.deepEqual(host.uses(B), ['blocks mount: nvme1n1p1 is mounted at /'])
  })

  it('asks who came when all that shared its mounts have ended, and knows them gone where nobody did', () => {
    const host = storage()
    const mine = [mountLine('259:1', '/data', 'ext4', '/dev/nvme0n1p1')]
    host.mounts(mountLine('259:2', '/', 'ext4', '/dev/nvme0n1p2'))
    host.processes({ pid: 813, command: 'late', namespace: 'mnt:[2]', mountinfo: mine })
    const ended = { pid: 812, command: 'ended' }
    const look = (view: string) =>
      noting(() => readMounts(host.tree.path('proc'), [{ view, processes: [ended] }]))
    const points = ({ seen }: ReturnType<typeof look>) => (seen ?? []).map(({ point }) => point)
    const late = look('mnt:[2] /')
    assert.deepEqual([points(late), late.unseen], [['/', '/data'], []])
    const gone = look('mnt:[3] /')
    assert.deepEqual([points(gone), gone.unseen], [['/'], []])
    // Somebody has them, and does not tell.
    host.tree.remove('proc/813/mountinfo')
    assert.deepEqual(
      look('mnt:[2] /').unseen.map(({ code }) => code),
      ['ESRCH'],
    )
  })

  it('sees with the first process what a caller in a jail does not', () => {
    const host = storage()
    host.mounts(mountLine('0:30', '/', 'tmpfs', 'jail'))
    host.tree.file('proc/1/mountinfo', `${mountLine('259:1', '/', 'ext4', '/dev/nvme0n1p1')}\n`)
    assert.deepEqual(host.uses(A), [
      'blocks mount: nvme0n1p1 is mounted at / in the mount namespace of init (pid 1)',
    ])
  })

  it('counts a disk with several paths against each of the controllers that reach it', () => {
    const host = new UsedHost({
      devices: [A, B].map((address, index) => ({ address, group: index, driver: 'nvme' })),
    })
    const subsystem = 'sys/devices/virtual/nvme-subsystem/nvme-subsys0'
    host.block({ name: 'nvme0n1', path: `${subsystem}/nvme0n1`, number: '259:0' })
    host.block({ name: 'nvme0n2', path: `${subsystem}/nvme0n2`, number: '259:1' })
    host.block({ name: 'nvme0c0n1', path: host.inside(A, 'nvme/nvme0/nvme0c0n1'), number: '' })
    host.block({ name: 'nvme0c1n1', path: host.inside(B, 'nvme/nvme1/nvme0c1n1'), number: '' })
    host.block({ name: 'nvme0c1n2', path: host.inside(B, 'nvme/nvme1/nvme0c1n2'), number: '' })
    host.mounts(mountLine('259:0', '/both', 'ext4', '/dev/x'), mountLine('259:1', '/one', 'ext4', '/dev/y'))
    assert.deepEqual(host.uses(A), ['blocks mount: nvme0n1 is mounted at /both'])
    assert.deepEqual(host.uses(B), [
      'blocks mount: nvme0n1 is mounted at /both',
      'blocks mount: nvme0n2 is mounted at /one',
    ])
  })

  it('takes the controllers of the subsystem where no path shows', () => {
    const host = new UsedHost({ devices: [{ address: A, group: 1, driver: 'nvme' }] })
    const subsystem = 'sys/devices/virtual/nvme-subsystem/nvme-subsys0'
    host.block({ name: 'nvme0n1', path: `${subsystem}/nvme0n1`, number: '259:0' })
    host.tree.linkTo('sys/class/nvme-subsystem/nvme-subsys0', subsystem)
    host.tree.linkTo(`${subsystem}/nvme0`, host.inside(A, 'nvme/nvme0'))
    host.mounts(mountLine('259:0', '/', 'ext4', '/dev/x'))
    assert.deepEqual(host.uses(A), ['blocks mount: nvme0n1 is mounted at /'])
  })

  it('names who has a disk or a volume open, each process once', () => {
    const host = storage()
    volume(host, 0, 'vg0-vm', 'LVM-abc', ['nvme0n1p1'])
    host.processes(
      { pid: 20, command: 'dd', open: ['/dev/nvme0n1', '/dev/nvme0n1', 'socket:[12]'] },
      { pid: 21, command: 'qemu-system-x86', open: ['/dev/null', '/dev/dm-0'] },
      { pid: 22, command: 'smartd', open: ['/srv/jail/dev/nvme0n1 (deleted)'] },
      { pid: 23, command: 'kworker/0:1', open: ['/dev/nvme1n1'], flags: 0x4208060 },
    )
    assert.deepEqual(host.uses(A), [
      'blocks holder: nvme0n1 is open in dd (pid 20) and smartd (pid 22)',
      'blocks holder: nvme0n1p1 → vg0-vm is open in qemu-system-x86 (pid 21)',
    ])
    assert.deepEqual(host.uses(B), [])
  })

  it('refuses what could not be seen, whatever else speaks against it', () => {
    const host = storage()
    host.process({ pid: 20, command: 'sh' })
    host.mounts(mountLine('259:1', '/', 'ext4', '/dev/nvme0n1p1'))
    assert.deepEqual(host.uses(A), [
      'blocks mount: nvme0n1p1 is mounted at /',
      'blocks other: who has /dev/nvme0n1 and /dev/ng0n1 open could not be seen: root sees it',
    ])
    assert.deepEqual(host.uses(B), [
      'blocks other: who has /dev/nvme1n1 and /dev/ng1n1 open could not be seen: root sees it',
    ])
  })

  it('counts a disk against every bridge and controller on the way to it', () => {
    const host = new UsedHost({
      devices: [
        { address: '0000:00:0e.0', group: 1, driver: 'vmd' },
        { address: '10000:e1:00.0', group: 1, driver: 'nvme' },
      ],
    })
    const inner = host.inside('0000:00:0e.0', 'pci10000:e0/10000:e0:01.0/10000:e1:00.0')
    host.tree.file(`${inner}/vendor`, '0x8086\n')
    host.tree.remove('sys/bus/pci/devices/10000:e1:00.0')
    host.tree.linkTo('sys/bus/pci/devices/10000:e1:00.0', inner)
    host.block({ name: 'nvme0n1', path: `${inner}/nvme/nvme0/nvme0n1`, number: '259:0' })
    host.mounts(mountLine('259:0', '/', 'ext4', '/dev/nvme0n1'))
    assert.deepEqual(host.uses('0000:00:0e.0'), [
      'blocks mount: nvme0n1 is mounted at /',
      'blocks other: other functions hang on it: 10000:e1:00.0',
    ])
    assert.deepEqual(host.uses('10000:e1:00.0'), ['blocks mount: nvme0n1 is mounted at /'])
  })

  it('adds the uses of every member that must come along', () => {
    const host = new UsedHost({
      devices: [
        { address: '0000:03:00.0', group: 3 },
        { address: '0000:03:00.1', group: 3, driver: 'nvme' },
      ],
    })
    host.disk('nvme0n1', '0000:03:00.1', 259)
    host.mounts(mountLine('259:0', '/', 'ext4', '/dev/nvme0n1'))
    const { uses, verdict } = assess(host.see(), '0000:03:00.0')
    const what = 'nvme0n1 is mounted at /'
    assert.deepEqual(uses, [
      { address: '0000:03:00.1', kind: 'mount', what, severity: 'blocks', vital: true },
    ])
    assert.equal(verdict, 'bindable')
  })
})

describe('uses of shares', () => {
  after(removeDirectories)

  function shares(driver: string, tag: string | null): UsedHost {
    const host = new UsedHost({ devices: [{ address: A, group: 1, driver: 'virtio-pci' }] })
    const path = host.inside(A, 'virtio0')
    host.tree.linkTo(`${path}/driver`, `sys/bus/virtio/drivers/${driver}`)
    if (tag !== null) host.tree.file(`${path}/mount_tag`, `${tag}\0`)
    host.tree.linkTo('sys/bus/virtio/devices/virtio0', path)
    return host
  }

  it('finds what is mounted from a 9p share by its tag', () => {
    const host = shares('9pnet_virtio', 'lab_root')
    host.mounts(mountLine('0:24', '/other', '9p', 'another', 'ro,trans=virtio'))
    assert.deepEqual(host.uses(A), [])
    host.mounts(mountLine('0:24', '/lab', '9p', 'lab_root', 'ro,trans=virtio'))
    assert.deepEqual(host.uses(A), ['blocks mount: the 9p share "lab_root" is mounted at /lab'])
  })

  it('does not miss the 9p below an overlay, which no mount table shows', () => {
    const host = shares('9pnet_virtio', 'lab_root')
    host.mounts(mountLine('0:26', '/', 'overlay', 'lab_root', 'rw,lowerdir=/lower'))
    host.tree.link('sys/class/bdi/9p-1', '../../devices/virtual/bdi/9p-1')
    assert.deepEqual(host.uses(A), [
      'blocks mount: the 9p share "lab_root" may carry a file system that no mount table in sight shows, like the lower layer of an overlay',
    ])
  })

  it('finds a virtiofs, with its tag where the kernel tells', () => {
    const host = shares('virtiofs', null)
    host.mounts(mountLine('0:50', '/share', 'virtiofs', 'myfs'))
    assert.deepEqual(host.uses(A), ['blocks mount: the virtiofs share is mounted at /share'])
    host.tree.file('sys/fs/virtiofs/0/tag', 'theirs\n')
    host.tree.linkTo('sys/fs/virtiofs/0/device', host.inside(A, 'virtio0'))
    assert.deepEqual(host.uses(A), [])
    host.mounts(mountLine('0:50', '/share', 'virtiofs', 'theirs'))
    assert.deepEqual(host.uses(A), ['blocks mount: the virtiofs share "theirs" is mounted at /share'])
  })
})
