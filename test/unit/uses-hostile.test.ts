import assert from 'node:assert/strict'
import fc from 'fast-check'
import { assessUses } from 'vfio'
import { removeDirectories } from '../fixtures/host.js'
import { UsedHost } from '../fixtures/uses.js'
import { runs, SEED } from './support.js'

const A = '0000:01:00.0'

/** A host with something of each kind, so that every file of it is read. */
function busy(): UsedHost {
  const host = new UsedHost({ devices: [{ address: A, group: 1, driver: 'vfio-pci', class: 0x030000 }] })
  host.disk('nvme0n1', A, 259, 1)
  host.network('eth0', A, 0x1003)
  host.node('226:0', 'dri/card0', host.inside(A, 'drm/card0'))
  host.tree.linkTo('sys/bus/virtio/devices/virtio0', host.inside(A, 'virtio0'))
  host.tree.linkTo(host.inside(A, 'virtio0/driver'), 'sys/bus/virtio/drivers/9pnet_virtio')
  host.tree.link('sys/class/bdi/9p-1', 'x')
  host.tree.directory('proc/spl/kstat/zfs/tank')
  host.processes({ pid: 7, command: 'x', open: ['anon_inode:[vfio-device]', '/dev/dri/card0'] })
  return host
}

/** Every file that says what is in use, with lines that it could have. */
const FILES: Readonly<Record<string, readonly string[]>> = {
  'proc/self/mountinfo': [
    '36 25 259:1 / /a\\040b rw shared:1 - ext4 /dev/nvme0n1p1 rw',
    '1 2 0:3 / / rw - btrfs /dev/nvme0n1 rw',
  ],
  'proc/1/mountinfo': ['36 25 259:0 / /\\777 rw - xfs /dev/x logdev=/dev/nvme0n1p1'],
  'proc/swaps': ['/dev/nvme0n1 partition 1 0 -2', '/a\\040b/file file 1 0 -2'],
  'proc/net/route': ['eth0 0007A8C0 00000000 0001 0 0 0 00FFFFFF 0 0 0'],
  'proc/net/ipv6_route': [`${'f'.repeat(32)} ff ${'0'.repeat(32)} 00 ${'0'.repeat(32)} 0 0 0 00000001 eth0`],
  'proc/net/if_inet6': [`${'fd'.repeat(16)} 02 40 00 80 eth0`],
  'proc/consoles': ['ttyS0 -W- (EC p a) 226:0'],
  'proc/self/environ': ['SSH_CONNECTION=1.2.3.4 5 6.7.8.9 22', 'SSH_CONNECTION=::1%x 1 fe80::1%eth0 2'],
  'proc/self/stat': ['1 (x) S 7 0 0 0 -1 0'],
  'proc/7/stat': ['7 (a) b) S 7 0 0 0 -1 4194304'],
  'proc/7/fdinfo/3': ['vfio-device-syspath: /sys/devices/pci0000:00/0000:01:00.0'],
  'run/udev/data/b259:1': ['E:ID_FS_TYPE=zfs_member', 'E:ID_FS_LABEL=tank'],
  'sys/class/vtconsole/vtcon0/name': ['(M) frame buffer device'],
  'sys/class/vtconsole/vtcon0/bind': ['1'],
}
const PATHS = Object.keys(FILES)
const LINES = Object.values(FILES).flat()

/** A line with parts of it doubled, swapped, cut out or replaced. */
const spoilt = fc
  .tuple(
    fc.constantFrom(...LINES),
    fc.array(
      fc.tuple(
        fc.nat(40),
        fc.oneof(fc.string(), fc.constantFrom('', ' ', '-', '\0', '999999999999', '/dev/')),
      ),
      { maxLength: 3 },
    ),
  )
  .map(([line, edits]) => {
    const words = line.split(' ')
    for (const [at, word] of edits) words.splice(at % (words.length + 1), at & 1, word)
    return words.join(' ')
  })

describe('uses of hostile hosts', () => {
  after(removeDirectories)

  it(`are answered whatever the files say (seed ${SEED})`, () => {
    const host = busy()
    const content = fc.array(spoilt, { maxLength: 5 }).map((lines) => lines.join('\n'))
    let found = 0
    fc.assert(
      fc.property(fc.dictionary(fc.constantFrom(...PATHS), content, { minKeys: 1 }), (files) => {
        for (const path of PATHS) host.tree.file(path, files[path] ?? FILES[path]?.join('\n') ?? '')
        const uses = assessUses(host.see(), A)
        for (const { what } of uses) assert.doesNotMatch(what, /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u)
        found += uses.length
      }),
      { numRuns: runs(300) },
    )
    // An answer that is always empty would pass too.
    assert.ok(found > runs(300))
  })

  it('end where block devices rest on each other in a circle', () => {
    const host = new UsedHost({ devices: [{ address: A, group: 1 }] })
    host.disk('sda', A, 8)
    host.tree.link(host.inside(A, 'block/sda/slaves/dm-1'), 'x')
    host.block({ name: 'dm-0', number: '253:0', slaves: ['sda', 'dm-0'], files: { 'dm/uuid': 'LVM-a' } })
    host.block({ name: 'dm-1', number: '253:1', slaves: ['dm-0'], files: { 'dm/uuid': 'LVM-b' } })
    assert.deepEqual(host.uses(A), ['blocks holder: sda → dm-0 is held by dm-1 (LVM volume)'])
  })

  it('do not pass for unused below a stack of any height', () => {
    const host = new UsedHost({ devices: [{ address: A, group: 1 }] })
    host.disk('sda', A, 8)
    for (let index = 0; index < 500; index++) {
      const slaves = [index === 0 ? 'sda' : `dm-${index - 1}`]
      host.block({ name: `dm-${index}`, number: `253:${index}`, slaves, files: { 'dm/uuid': 'x' } })
    }
    assert.match(
      host.uses(A)[0] ?? '',
      /^blocks holder: sda → dm-0 → .* is held by dm-\d+ \(device mapper\)$/,
    )
  })

  it('are answered where files are directories, and links lead nowhere', () => {
    const host = busy()
    for (const path of PATHS) {
      host.tree.remove(path)
      host.tree.directory(path)
    }
    host.tree.link('sys/class/block/sdz', 'nowhere')
    host.tree.link('sys/class/net/eth9', '../../../../../../..')
    host.tree.file('sys/class/drm', 'a file')
    assert.deepEqual(
      host.uses(A).map((use) => use.slice(0, use.indexOf(':'))),
      // The share, the interface, the console; what a process has open, what is mounted and what ZFS has is not known.
      ['blocks mount', 'warns network', 'blocks display', 'blocks other', 'blocks other', 'blocks other'],
    )
  })
})
