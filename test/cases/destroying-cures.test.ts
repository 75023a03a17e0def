import assert from 'node:assert/strict'
import { assess, assessViability, exportQemu, planAssignment, survey } from 'vfio'
import { type DeviceDescription, removeDirectories } from '../fixtures/host.js'
import { mountLine, UsedHost } from '../fixtures/uses.js'

const VMD: DeviceDescription = { address: '0000:5d:05.5', class: 0x010400, driver: 'vmd', group: 30 }
const PORT: DeviceDescription = {
  address: '10000:00:02.0',
  behind: VMD.address,
  headerType: 'bridge',
  secondaryBus: 1,
  driver: 'pcieport',
  group: 30,
  capabilities: [{ kind: 'pcie', type: 'root-port' }],
}
const DISK: DeviceDescription = {
  address: '10000:01:00.0',
  class: 0x010802,
  driver: 'nvme',
  group: 30,
  resetMethod: 'flr',
}

const NIC: DeviceDescription = {
  address: '0000:03:00.0',
  class: 0x020000,
  driver: 'igb',
  group: 7,
  totalVfs: 4,
  files: { sriov_numvfs: '1\n' },
}
const VF: DeviceDescription = {
  address: '0000:03:10.0',
  class: 0x020000,
  physfn: NIC.address,
  driver: 'igbvf',
  group: 7,
}

/** Everything that is said about a device. */
function said(host: UsedHost, address: string): string {
  const seen = host.see()
  const plan = planAssignment(seen, [address])
  const { group } = seen.device(address)
  const members = group === null ? [] : assessViability(seen, group).members
  return [
    assess(seen, address).reason,
    ...plan.blockers.map(({ reason }) => reason),
    ...exportQemu(seen, [address]).notes,
    ...members
      .filter(({ blocks, address: other }) => blocks && other !== address)
      .map(({ reason }) => reason),
  ].join('\n')
}

describe('a cure never takes', () => {
  after(removeDirectories)

  // spdk/spdk#1360, spdk/spdk#1940; drivers/pci/controller/vmd.c: vmd_remove() takes its whole domain away.
  it('the controller that makes the disk that was asked for', () => {
    const host = new UsedHost({ devices: [VMD, PORT, DISK] })
    const { verdict, reason, toBind } = assess(host.see(), DISK.address)
    assert.deepEqual([verdict, toBind], ['blocked', []])
    assert.match(reason, /0000:5d:05\.5.*switch VMD off/)
    assert.doesNotMatch(said(host, DISK.address), /vfio bind|bind it to|unbind it/)
    const surveyed = survey(host.see()).devices.find(({ address }) => address === DISK.address)
    assert.equal(surveyed?.verdict, 'blocked')
    for (const addresses of [[DISK.address], [DISK.address, VMD.address]]) {
      const { blockers } = planAssignment(host.see(), addresses, { group: true })
      assert.ok(blockers.some((blocker) => blocker.address === DISK.address))
    }
  })

  it('what is behind a controller that is given away itself: it goes with its driver', () => {
    const host = new UsedHost({ devices: [VMD, PORT, DISK] })
    assert.deepEqual(assess(host.see(), VMD.address).toBind, [VMD.address])
    for (const group of [false, true]) {
      const plan = planAssignment(host.see(), [VMD.address], { group, force: ['other'] })
      assert.deepEqual([plan.toBind, plan.blockers], [[VMD.address], []])
    }
    // Without the force it is refused, since disks hang on it.
    const { blockers } = planAssignment(host.see(), [VMD.address])
    assert.match(blockers.map(({ reason }) => reason).join(), /10000:01:00\.0/)
  })

  it('the host its root, and what is blocked is not spoken of as if it could be had', () => {
    const { group: _, ...alone } = DISK
    const host = new UsedHost({ devices: [VMD, PORT, alone] })
    host.disk('nvme0n1', DISK.address, 259, 1)
    host.mounts(mountLine('259:1', '/', 'ext4', '/dev/nvme0n1p1'))
    const { verdict, reason } = assess(host.see(), DISK.address)
    assert.equal(verdict, 'blocked')
    assert.match(reason, /; besides, the host could not do without it: nvme0n1p1 is mounted at \/$/)
    assert.match(assess(host.see(), VMD.address).reason, /, and the host would not survive that: nvme0n1p1/)
  })

  // Linux, Documentation/PCI/pci-iov-howto.rst: without ACS a VF shares the group of its PF.
  it('the physical function of the virtual one that was asked for', () => {
    const host = new UsedHost({ devices: [NIC, VF] })
    const { verdict, toBind } = assess(host.see(), VF.address)
    assert.deepEqual([verdict, toBind], ['blocked', []])
    assert.doesNotMatch(said(host, VF.address), /sriov_numvfs|vfio vfs|bind it to|unbind it|vfio bind/)
    assert.match(said(host, VF.address), /ACS/)
  })

  it('virtual functions, where another member of their group was asked for', () => {
    const third: DeviceDescription = { address: '0000:03:00.1', driver: 'snd_hda_intel', group: 7 }
    const host = new UsedHost({ devices: [NIC, VF, third] })
    assert.equal(assess(host.see(), third.address).verdict, 'blocked')
    assert.match(said(host, third.address), /if nobody needs them/)
    assert.doesNotMatch(said(host, third.address), /03:00\.0[^\n]*(bind it to|unbind it)/)
  })

  const sharing: readonly DeviceDescription[] = [
    { address: '0000:02:00.0', class: 0x020000, driver: 'igb', group: 5 },
    { address: '0000:02:00.1', class: 0x010802, driver: 'nvme', group: 5 },
  ]

  /** The group of a network card that the host lives in. */
  const living: Readonly<Record<string, (host: UsedHost) => void>> = {
    'the root file system': (host) => host.mounts(mountLine('259:1', '/', 'ext4', '/dev/nvme0n1p1')),
    'what it boots from': (host) => host.mounts(mountLine('259:1', '/boot/efi', 'vfat', '/dev/nvme0n1p1')),
    'its programs': (host) => host.mounts(mountLine('259:1', '/usr', 'xfs', '/dev/nvme0n1p1')),
    'its swap': (host) => host.tree.file('proc/swaps', 'Filename\tType\tSize\n/dev/nvme0n1p1 partition 8\n'),
  }
  for (const [what, live] of Object.entries(living)) {
    it(`the disk with ${what}, to make a group whole`, () => {
      const host = new UsedHost({ devices: sharing })
      host.disk('nvme0n1', '0000:02:00.1', 259, 1)
      live(host)
      const text = said(host, '0000:02:00.0')
      assert.doesNotMatch(text, /name them as well|--group|--force|vfio bind|bind it to|unbind it/)
      assert.match(text, /nvme0n1p1/)
      // And for itself.
      const alone = planAssignment(host.see(), ['0000:02:00.1', '0000:02:00.0']).blockers
      assert.doesNotMatch(alone.map(({ reason }) => reason).join(), /--force/)
      assert.match(alone.map(({ reason }) => reason).join(), /cannot do without it/)
    })
  }

  it('nothing that a host may do without: there the usual ways are named', () => {
    const host = new UsedHost({ devices: sharing })
    host.disk('nvme0n1', '0000:02:00.1', 259, 1)
    host.mounts(mountLine('259:1', '/srv/media', 'ext4', '/dev/nvme0n1p1'))
    assert.match(said(host, '0000:02:00.0'), /--group/)
    const { blockers } = planAssignment(host.see(), ['0000:02:00.0', '0000:02:00.1'])
    assert.match(blockers.map(({ reason }) => reason).join(), /--force mount/)
  })

  /** Whose unbinding waits for whoever has a node open, and tells nobody. */
  const waiting: readonly (readonly [string, string, string])[] = [
    // NVIDIA/open-gpu-kernel-modules#1374 and #1119, kubevirt/kubevirt#8549: nv_pci_remove_helper().
    ['nvidia', 'nvidia0', 'display'],
    ['nvidia', 'dri/card1', 'display'],
    // drivers/i2c/i2c-core-base.c, i2c_del_adapter(): wait_for_completion(&adap->dev_released).
    ['amdgpu', 'i2c-5', 'holder'],
    // drivers/media/dvb-core/dvb_frontend.c: wait_event(fepriv->dvbdev->wait_queue, …users == -1).
    ['cx23885', 'dvb/adapter0/frontend0', 'holder'],
  ]
  for (const [driver, node, kind] of waiting) {
    it(`a hang for a cure: /dev/${node} of ${driver} is open`, () => {
      const device: DeviceDescription = { address: '0000:01:00.0', class: 0x030000, driver, group: 2 }
      const host = new UsedHost({ devices: [device] })
      if (node === 'nvidia0') {
        const path = 'proc/driver/nvidia/gpus/0000:01:00.0/information'
        host.tree.file(path, 'Model: \t\t NVIDIA GeForce RTX 3060\nDevice Minor: \t 0\n')
      } else host.node('89:5', node, host.inside(device.address, 'some/node'))
      host.processes({ pid: 1234, command: 'ddcutil', open: [`/dev/${node}`] })
      for (const force of [[], ['display', 'holder', 'other']] as const) {
        const { blockers } = planAssignment(host.see(), [device.address], { force: [...force] })
        const text = blockers.map(({ reason }) => reason).join()
        assert.match(text, /ddcutil.*hang/)
        assert.doesNotMatch(text, /--force/)
      }
      assert.ok(assess(host.see(), device.address).uses.some((use) => use.kind === kind && use.hangs))
    })
  }
})
