import assert from 'node:assert/strict'
import { assessUses, planAssignment } from 'vfio'
import { removeDirectories } from '../fixtures/host.js'
import { UsedHost } from '../fixtures/uses.js'

const GPU = '0000:01:00.0'
const DISK = '0000:02:00.0'
const VFIO = '0000:03:00.0'
const ID = '4f1e0c2d'.repeat(8)
const SHORT = ID.slice(0, 12)

/** A host on which one process, of such a control group, has something open. */
function host(cgroup: readonly string[], { node = '/dev/dri/card0', command = 'Xorg' } = {}): UsedHost {
  const used = new UsedHost({
    devices: [
      { address: GPU, class: 0x030000, driver: 'i915', group: 1 },
      { address: DISK, class: 0x010802, driver: 'nvme', group: 2 },
      { address: VFIO, driver: 'vfio-pci', group: 3 },
    ],
  })
  used.node('226:0', 'dri/card0', used.inside(GPU, 'drm/card0'))
  used.disk('nvme0n1', DISK, 259)
  used.processes({ pid: 1234, command, open: [node], cgroup })
  return used
}

function heldBy(cgroup: readonly string[], options?: Parameters<typeof host>[1]): string {
  const seen = host(cgroup, options).see()
  const uses = [GPU, DISK, VFIO].flatMap((address) => assessUses(seen, address))
  return uses.find(({ what }) => what.includes('pid 1234'))?.what ?? ''
}

function refusal(address: string, cgroup: readonly string[], options?: Parameters<typeof host>[1]): string {
  const { blockers } = planAssignment(host(cgroup, options).see(), [address])
  return blockers.find(({ reason }) => reason.includes('pid 1234'))?.reason ?? ''
}

/** As the kernel and the managers write them: cgroups(7), and the sources that are named. */
const OWNERS: readonly (readonly [what: string, lines: readonly string[], owner: string])[] = [
  ['a service, version 2', ['0::/system.slice/gdm.service'], 'service gdm.service'],
  [
    'a service, version 1',
    ['12:memory:/system.slice/sddm.service', '1:name=systemd:/system.slice/sddm.service', '0::/'],
    'service sddm.service',
  ],
  [
    'a service with control groups of its own below (Delegate=, systemd.resource-control(5))',
    ['0::/system.slice/ollama.service/other.service'],
    'service ollama.service',
  ],
  [
    'an instance in a slice of its template (systemd.slice(5))',
    ['0::/system.slice/system-getty.slice/getty@tty1.service'],
    'service getty@tty1.service',
  ],
  [
    'a name that the kernel has a file of (cg_escape)',
    ['0::/system.slice/_cgroup.x.service'],
    'service cgroup.x.service',
  ],
  // libvirt: virSystemdMakeScopeName, systemd's unit_name_escape.
  [
    'a machine of libvirt',
    ['0::/machine.slice/machine-qemu\\x2d1\\x2dvm.scope/libvirt/emulator'],
    'machine qemu-1-vm',
  ],
  [
    'a scope, as Proxmox makes one of each VM (qemu-server: systemd scope)',
    ['0::/qemu.slice/100.scope'],
    'scope 100.scope',
  ],
  // moby: cgroup driver systemd, and cgroupfs.
  ['Docker', [`0::/system.slice/docker-${ID}.scope`], `docker container ${SHORT}`],
  ['Docker without systemd', [`11:memory:/docker/${ID}`, '1:name=systemd:/'], `container ${SHORT}`],
  [
    'containerd below Kubernetes (containerd: cri, SystemdCgroup)',
    [`0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podab.slice/cri-containerd-${ID}.scope`],
    `containerd container ${SHORT}`,
  ],
  ['CRI-O', [`0::/kubepods.slice/crio-${ID}.scope/container`], `CRI-O container ${SHORT}`],
  ['Kubernetes without systemd', [`0::/kubepods/burstable/podab/${ID}`], `container ${SHORT}`],
  ['podman', [`0::/machine.slice/libpod-${ID}.scope/container`], `podman container ${SHORT}`],
  [
    'podman of a user',
    [`0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-${ID}.scope/container`],
    `podman container ${SHORT} of user 1000`,
  ],
  ['LXC (lxc.cgroup.dir.payload)', ['0::/lxc.payload.web-1/system.slice/nginx.service'], 'container web-1'],
  [
    'an application of a session (systemd: DESKTOP_ENVIRONMENTS)',
    ['0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-gnome-steam-77.scope'],
    'app-gnome-steam-77.scope of user 1000',
  ],
  ['a login (pam_systemd(8))', ['0::/user.slice/user-1000.slice/session-2.scope'], 'session 2 of user 1000'],
]

describe('who holds a device', () => {
  after(removeDirectories)

  for (const [what, lines, owner] of OWNERS) {
    it(`is named by ${what}`, () => {
      assert.equal(heldBy(lines), `/dev/dri/card0 is open in Xorg (pid 1234, ${owner})`)
    })
  }

  it('is named by its pid alone where its control group says nothing, or is not there', () => {
    for (const lines of [[], ['0::/'], ['0::/init.scope'], ['rubbish', '0::'], ['0::/some/directory']]) {
      assert.equal(heldBy(lines), '/dev/dri/card0 is open in Xorg (pid 1234)')
    }
  })

  it('can be ended by its service', () => {
    const lines = ['0::/system.slice/smartd.service']
    const open = { node: '/dev/nvme0n1', command: 'smartd' }
    assert.match(refusal(DISK, lines, open), /free it first \("systemctl stop smartd\.service"\), or accept/)
    assert.match(
      refusal(VFIO, ['0::/system.slice/my-vm.service'], { node: '/dev/vfio/3', command: 'qemu' }),
      /close it there first \("systemctl stop my-vm\.service"\), since unbinding it would hang/,
    )
  })

  // systemd.special(7): graphical.target has the display manager, multi-user.target does without.
  it('can be ended with all that is graphical, where it holds a display', () => {
    assert.match(
      refusal(GPU, ['0::/system.slice/gdm.service']),
      /"systemctl stop gdm\.service" or "systemctl isolate multi-user\.target"/,
    )
    const session = refusal(GPU, ['0::/user.slice/user-1000.slice/session-2.scope'])
    assert.match(session, /free it first \("systemctl isolate multi-user\.target"\)/)
    // It holds displays for sessions (sd_session_take_device), and no host does without it.
    const logind = refusal(GPU, ['0::/system.slice/systemd-logind.service'], { command: 'systemd-logind' })
    assert.doesNotMatch(logind, /stop systemd-logind/)
  })

  it('has no service to stop where it is a machine, a container, or what a user started', () => {
    const open = { node: '/dev/nvme0n1', command: 'qemu' }
    for (const lines of [
      ['0::/machine.slice/machine-qemu\\x2d1\\x2dvm.scope'],
      [`0::/system.slice/docker-${ID}.scope`],
      // Whoever has a manager may call his control groups as he likes.
      ['0::/user.slice/user-1000.slice/user@1000.service/app.slice/sshd.service'],
      ['0::/user.slice/user-1000.slice/session-2.scope/sshd.service'],
    ]) {
      assert.match(refusal(DISK, lines, open), /free it first, or accept/)
    }
  })

  it('steers no terminal and no shell by its name', () => {
    const evil = heldBy(['0::/system.slice/a\\x1b\\x5b31m.service'], { command: 'a\u001b[31m' })
    assert.equal(evil, '/dev/dri/card0 is open in a\\u001b[31m (pid 1234, service a\\u001b[31m.service)')
    for (const name of ['a;reboot.service', 'a$(reboot).service', 'a b.service', 'a\u001b.service']) {
      const reason = refusal(DISK, [`0::/system.slice/${name}`], { node: '/dev/nvme0n1' })
      assert.match(reason, /in Xorg \(pid 1234\): free it first, or accept/)
    }
    const quoted = refusal(DISK, ['0::/system.slice/dev-a\\x2db.service'], { node: '/dev/nvme0n1' })
    assert.match(quoted, /"systemctl stop 'dev-a\\x2db\.service'"/)
  })
})
