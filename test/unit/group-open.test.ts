import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { removeDirectories } from '../fixtures/host.js'
import { skip } from '../fixtures/skip.js'
import { type ProcessDescription, UsedHost } from '../fixtures/uses.js'
import { ROOT } from './support.js'

/** No group of this machine has that number. */
const GROUP = 987_654
const ADDRESS = '0000:01:00.0'
const HOLDER = { pid: 30, command: 'libvirtd', open: ['/dev/vfio/devices/vfio0'] }

const mayUnshare =
  process.geteuid?.() === 0 && spawnSync('unshare', ['-m', 'true'], { stdio: 'ignore' }).status === 0

/** Asks in a mount namespace where the group's node is one that anybody may open at any time. */
function ask(host: UsedHost): string {
  const { tree } = host
  tree.file(`sys/class/vfio/${GROUP}/dev`, '1:3\n')
  const trees = { sysfs: tree.path('sys'), proc: tree.path('proc'), dev: '/dev' }
  const program = `import { isGroupOpen } from './build/ts/lib/change/group-open.js'
    try {
      console.log(isGroupOpen(${GROUP}, ${JSON.stringify(trees)}))
    } catch ({ code, message }) {
      console.log(code ?? message)
    }`
  // The trees of the tests may lie in /dev/shm.
  const script = `mount -t tmpfs none /mnt && mkdir /mnt/shm /mnt/vfio && mount --bind /dev/shm /mnt/shm &&
    mknod /mnt/vfio/${GROUP} c 1 3 && mount --rbind /mnt /dev && exec "$@"`
  const args = ['-m', 'sh', '-c', script, 'sh', process.execPath, '--input-type=module', '-e', program]
  const { stdout, stderr } = spawnSync('unshare', args, {
    cwd: ROOT,
    encoding: 'utf8',
    env: { ...process.env, VFIO_ADDON: join(ROOT, 'build/Release/vfio.node') },
  })
  assert.equal(stderr, '')
  return stdout.trim()
}

/** The first process is that of all, or one of a PID namespace that shows it alone. */
function hostWith(vfioDevice: string | null, holder: ProcessDescription | null): UsedHost {
  const device = { address: ADDRESS, driver: 'vfio-pci', group: GROUP, ...(vfioDevice && { vfioDevice }) }
  const host = new UsedHost({ devices: [device] })
  if (holder) host.processes(holder)
  else host.process({ pid: 1, command: 'init', parent: 0, pidNamespace: 'pid:[4026532000]' })
  return host
}

describe('whether a group is open that nobody has open as a group', function () {
  this.timeout(60_000)
  before(function () {
    if (!mayUnshare) skip(this, 'no mount namespace can be made here')
  })
  after(removeDirectories)

  it('it is where a process has a node of a device open, bound to an iommufd or not yet', () => {
    assert.equal(ask(hostWith('vfio0', HOLDER)), 'true')
  })

  it('it is not where all processes are in sight and none has', () => {
    assert.equal(ask(hostWith('vfio0', { ...HOLDER, open: ['/dev/vfio/devices/vfio1'] })), 'false')
  })

  it('it is not known where some processes are out of sight', () => {
    assert.equal(ask(hostWith('vfio0', null)), 'ERR_VFIO_BAD_NODE')
  })

  it('it is not where nothing of VFIO is open on the machine, whoever is out of sight', () => {
    const held = (refcnt: number, holders: readonly string[]) => {
      const host = hostWith('vfio0', null)
      host.tree.file('sys/module/vfio/refcnt', `${refcnt}\n`)
      for (const holder of holders) host.tree.link(`sys/module/vfio/holders/${holder}`, `../../${holder}`)
      return ask(host)
    }
    const HOLDERS = ['vfio_pci_core', 'vfio_iommu_type1']
    assert.equal(held(2, HOLDERS), 'false')
    // Since 6.10 there is one more while a device is bound.
    assert.equal(held(3, HOLDERS), 'false')
    // Some node is open, or nothing says who holds the module.
    assert.equal(held(4, HOLDERS), 'ERR_VFIO_BAD_NODE')
    assert.equal(held(0, []), 'ERR_VFIO_BAD_NODE')
    assert.equal(held(-1, HOLDERS), 'ERR_VFIO_BAD_NODE')
  })

  it('it is told by another process table that is mounted, where that is the one of the host', () => {
    for (const [node, open] of [
      ['vfio0', 'true'],
      ['vfio1', 'false'],
    ] as const) {
      const outside = new UsedHost({})
      outside.processes({ ...HOLDER, open: [`/dev/vfio/devices/${node}`] })
      const host = hostWith('vfio0', null)
      const point = outside.tree.path('proc')
      const line = (root: string) => `40 30 0:22 ${root} ${point} rw,nosuid - proc proc rw\n`
      host.tree.file('proc/self/mountinfo', line('/'))
      assert.equal(ask(host), open)
      host.tree.file('proc/self/mountinfo', line('/sys'))
      assert.equal(ask(host), 'ERR_VFIO_BAD_NODE')
    }
  })

  it('no process matters where devices have no nodes', () => {
    const host = hostWith(null, null)
    host.tree.file(host.inside(ADDRESS, 'vfio-dev/vfio0/uevent'), '')
    assert.equal(ask(host), 'false')
  })
})
