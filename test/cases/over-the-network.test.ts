import assert from 'node:assert/strict'
import { endianness } from 'node:os'
import { planAssignment } from 'vfio'
import { removeDirectories } from '../fixtures/host.js'
import { UsedHost } from '../fixtures/uses.js'

const NIC = '0000:03:00.0'
const OTHER = '0000:04:00.0'
const UP = 0x1003
const DOWN = 0x1002

function asNumber(address: string): string {
  const bytes = address.split('.').map((byte) => Number(byte).toString(16).padStart(2, '0').toUpperCase())
  return (endianness() === 'LE' ? bytes.reverse() : bytes).join('')
}

interface Described {
  readonly mounts?: readonly string[]
  /** `[interface, destination, mask, gateway]` */
  readonly routes?: readonly (readonly [string, string, string, string?])[]
  /** The interfaces above `eno1`, and whether they are up. */
  readonly uppers?: Readonly<Record<string, number>>
  /** Interfaces that nothing in sysfs ties to a card. */
  readonly loose?: readonly string[]
}

const OWN = ['eno1', '10.0.0.0', '255.255.255.0'] as const
const DEFAULT = ['eno1', '0.0.0.0', '0.0.0.0', '10.0.0.1'] as const

/** Two cards: `eno1` as described, and `eno2`, which is down. */
function host({ mounts = [], routes = [OWN], uppers = {}, loose = [] }: Described): UsedHost {
  const made = new UsedHost({
    devices: [
      { address: NIC, group: 3, driver: 'igb', class: 0x020000 },
      { address: OTHER, group: 4, driver: 'igb', class: 0x020000 },
    ],
  })
  made.network('eno1', NIC, UP, Object.keys(uppers))
  made.network('eno2', OTHER, DOWN)
  for (const [name, flags] of Object.entries(uppers)) made.network(name, null, flags)
  for (const name of loose) made.network(name, null, UP)
  const lines = routes.map(
    ([name, destination, mask, gateway = '0.0.0.0']) =>
      `${name}\t${asNumber(destination)}\t${asNumber(gateway)}\t${gateway === '0.0.0.0' ? '0001' : '0003'}\t0\t0\t0\t${asNumber(mask)}\t0\t0\t0`,
  )
  made.tree.file('proc/net/route', `Iface\tDestination\n${lines.join('\n')}\n`)
  if (mounts.length > 0) made.mounts(...mounts)
  return made
}

const nfs = (point: string, server = '10.0.0.2') =>
  `22 1 0:20 / ${point} rw,relatime - nfs4 ${server}:/srv/root rw,vers=4.2,addr=${server}`

/** Is the host said to be unable to do without the card, once its network may go? */
const isVital = (made: UsedHost) =>
  planAssignment(made.see(), [NIC], { force: ['network', 'holder', 'other'] }).blockers.some(({ reason }) =>
    /the host cannot do without it/.test(reason),
  )

/** What of a host is elsewhere goes with the card that leads there. */
describe('what comes over the network', () => {
  after(removeDirectories)

  // Documentation/admin-guide/nfs/nfsroot.rst; LTSP, warewulf, Proxmox and Debian "diskless".
  it('is the root file system of a diskless host, which is more than its network', () => {
    const made = host({ mounts: [nfs('/')] })
    assert.match(made.uses(NIC).join(), /blocks mount: eno1 is the way to 10\.0\.0\.2: .* is mounted at \//)
    assert.ok(isVital(made))
    assert.deepEqual(made.uses(OTHER), [])
  })

  it('is found where only the older mount table was copied', () => {
    const made = host({})
    made.tree.remove('proc/self/mountinfo')
    made.tree.file('proc/mounts', '10.0.0.2:/srv/root / nfs rw,vers=3,addr=10.0.0.2 0 0\n')
    assert.ok(isVital(made))
  })

  it('is a home directory, which may be given up', () => {
    const made = host({ mounts: [nfs('/home')] })
    assert.match(made.uses(NIC).join(), /eno1 is the way to 10\.0\.0\.2/)
    assert.equal(isVital(made), false)
  })

  // kubelet mounts the volumes of pods there, Proxmox those of its storages below /mnt/pve.
  it('is the data of pods, which the host itself does without', () => {
    const volume = '/var/lib/kubelet/pods/1/volumes/kubernetes.io~nfs/data'
    assert.equal(isVital(host({ mounts: [nfs(volume)] })), false)
    assert.equal(isVital(host({ mounts: [nfs('/mnt/pve/nas')] })), false)
    assert.equal(isVital(host({ mounts: [nfs('/var/log')] })), true)
  })

  for (const [what, line] of [
    ['CIFS', '22 1 0:20 / /var rw - cifs //nas/var rw,addr=10.0.0.2,vers=3.1.1'],
    ['CephFS', '22 1 0:20 / /var rw - ceph 10.0.0.2:6789,10.0.0.3:6789:/ rw,name=admin,acl'],
    ['CephFS by its newer syntax', '22 1 0:20 / /var rw - ceph admin@f.fs=/ rw,mon_addr=10.0.0.2:6789'],
    ['sshfs by an address', '22 1 0:20 / /var rw - fuse.sshfs root@10.0.0.2:/var rw,user_id=0'],
  ] as const) {
    it(`is on ${what}`, () => {
      const made = host({ mounts: [line] })
      assert.match(made.uses(NIC).join(), /eno1 is the way to 10\.0\.0\.2/)
      assert.ok(isVital(made))
    })
  }

  it('goes by the default route, over a bond', () => {
    const made = host({
      mounts: [nfs('/', '192.0.2.7')],
      uppers: { bond0: UP },
      routes: [
        ['bond0', '10.0.0.0', '255.255.255.0'],
        ['bond0', '0.0.0.0', '0.0.0.0', '10.0.0.1'],
      ],
    })
    assert.match(made.uses(NIC).join(), /eno1 → bond0 is the way to 192\.0\.2\.7/)
    assert.ok(isVital(made))
  })

  it('is nothing of a card where the host serves it itself', () => {
    assert.doesNotMatch(
      host({ mounts: [nfs('/srv', '127.0.0.1')] })
        .uses(NIC)
        .join(),
      /way/,
    )
  })

  // A tunnel or the bridge of a virtual switch: sysfs has no link to the card below.
  it('may come by any card that is in use where the route leads to none', () => {
    const made = host({
      mounts: [nfs('/', '10.9.0.2')],
      loose: ['wg0'],
      routes: [OWN, ['wg0', '10.9.0.0', '255.255.255.0']],
    })
    assert.match(made.uses(NIC).join(), /eno1 may be the way by which this comes: .* is mounted at \//)
    assert.deepEqual(made.uses(OTHER), [])
  })

  const disk = (made: UsedHost, name: string, path: string) => {
    made.block({ name, path: `${path}/${name}`, number: '8:0' })
    made.mounts('22 1 8:0 / / rw - ext4 /dev/sda rw')
  }

  // drivers/scsi/scsi_transport_iscsi.c: the session is on the path of its disks, the address in its connection.
  it('is a disk by iSCSI', () => {
    const made = host({})
    const session = 'sys/devices/platform/host3/session1'
    disk(made, 'sda', `${session}/target3:0:0/3:0:0:1/block`)
    const connection = `${session}/connection1:0/iscsi_connection/connection1:0`
    made.tree.file(`${connection}/persistent_address`, '10.0.0.2\n')
    made.tree.linkTo('sys/class/iscsi_connection/connection1:0', connection)
    assert.match(made.uses(NIC).join(), /eno1 is the way to 10\.0\.0\.2: sda is mounted at \//)
    assert.ok(isVital(made))
  })

  // drivers/nvme/host/sysfs.c: "address" of a controller on a fabric.
  it('is a disk by NVMe over TCP, with native multipath or without', () => {
    for (const path of ['nvme-fabrics/ctl/nvme0', 'nvme-subsystem/nvme-subsys0']) {
      const made = host({})
      disk(made, 'nvme0n1', `sys/devices/virtual/${path}`)
      const controller = 'sys/devices/virtual/nvme-fabrics/ctl/nvme0'
      made.tree.file(`${controller}/address`, 'traddr=10.0.0.2,trsvcid=4420,src_addr=10.0.0.9\n')
      made.tree.linkTo('sys/class/nvme/nvme0', controller)
      made.tree.linkTo('sys/class/nvme-subsystem/nvme-subsys0/nvme0', controller)
      assert.match(made.uses(NIC).join(), /eno1 is the way to 10\.0\.0\.2/, path)
      assert.ok(isVital(made), path)
    }
  })

  it('is a disk by NBD, which does not tell from where', () => {
    const made = host({ routes: [OWN, DEFAULT] })
    disk(made, 'nbd0', 'sys/devices/virtual/block')
    assert.match(made.uses(NIC).join(), /eno1 may be the way by which this comes: nbd0 is mounted at \//)
  })

  it('is seen by a look around the card alone', () => {
    const made = host({ mounts: [nfs('/')] })
    const part = made.see({ around: [NIC] })
    const { blockers } = planAssignment(part, [NIC])
    assert.match(blockers.map(({ reason }) => reason).join(), /the host cannot do without it/)
  })

  // net/openvswitch/vport-netdev.c: ports are below the datapath, bridges of the host are not.
  it('is all of a host whose card is a port of Open vSwitch, though the datapath is down', () => {
    const made = host({
      uppers: { 'ovs-system': DOWN },
      loose: ['br-ex'],
      routes: [
        ['br-ex', '10.0.0.0', '255.255.255.0'],
        ['br-ex', '0.0.0.0', '0.0.0.0', '10.0.0.1'],
      ],
    })
    assert.match(made.uses(NIC).join(), /blocks network: eno1 is a port of ovs-system \(Open vSwitch\)/)
  })

  // PPPoE, tunnels: sysfs ties them to no card.
  it('may be all of a host whose default route nothing ties to a card', () => {
    const made = host({ loose: ['ppp0'], routes: [['ppp0', '0.0.0.0', '0.0.0.0']] })
    const { blockers } = planAssignment(made.see(), [NIC])
    assert.match(
      blockers.map(({ reason }) => reason).join(),
      /eno1 is up, without an address, and may be what ppp0 goes over.*accept the risk with --force network/,
    )
    assert.deepEqual(made.uses(OTHER), [])
  })

  // include/uapi/linux/if.h, IFF_PROMISC: bridges of other namespaces, macvtap, Suricata and Zeek at a mirror port.
  it('is what a capture takes in', () => {
    const made = host({ routes: [] })
    made.tree.file(made.inside(NIC, 'net/eno1/flags'), '0x1103\n')
    assert.match(made.uses(NIC).join(), /blocks network: eno1 takes in all packets \(promiscuous\)/)
  })

  it('is nothing of a bond that is down', () => {
    assert.deepEqual(host({ uppers: { bond0: DOWN }, routes: [] }).uses(NIC), [
      'warns network: eno1 is up, without an address',
    ])
  })
})
