import assert from 'node:assert/strict'
import { assessUses } from 'vfio'
import { type DeviceDescription, removeDirectories } from '../fixtures/host.js'
import { UsedHost } from '../fixtures/uses.js'

const A = '0000:01:00.0'

const one = (device: Partial<DeviceDescription>) =>
  new UsedHost({ devices: [{ address: A, group: 74, ...device }] })
const enabled = { files: { enable: '1\n' } }
const idle = { files: { enable: '0\n' } }

describe('uses through VFIO', () => {
  after(removeDirectories)

  it('finds nothing where nobody has it open', () => {
    const host = one({ driver: 'vfio-pci', ...idle })
    host.processes({ pid: 4711, command: 'qemu-system-x86', open: ['/dev/vfio/vfio', '/dev/vfio/75'] })
    assert.deepEqual(host.uses(A), [])
  })

  it('names who has the group open', () => {
    const host = one({ driver: 'vfio-pci', ...enabled })
    host.processes(
      {
        pid: 4711,
        command: 'qemu-system-x86',
        open: ['/dev/vfio/vfio', '/dev/vfio/74', 'anon_inode:[vfio-device]'],
      },
      { pid: 4712, command: 'other', open: ['/dev/vfio/7'] },
    )
    assert.deepEqual(host.uses(A), ['blocks vfio: group 74 is open in qemu-system-x86 (pid 4711)'])
  })

  it('knows groups without an IOMMU, and members of an open group that are not bound', () => {
    const host = one({ driver: 'nvme' })
    host.processes({ pid: 30, command: 'dpdk-testpmd', open: ['/dev/vfio/noiommu-74'] })
    host.tree.link('sys/dev/char/1:3', '../../devices/virtual/mem/null')
    host.node('250:0', 'nvme0', host.inside(A, 'nvme/nvme0'))
    assert.deepEqual(host.uses(A), ['blocks vfio: group 74 is open in dpdk-testpmd (pid 30)'])
  })

  it('names who has the character device of the device open', () => {
    const host = one({ driver: 'vfio-pci', vfioDevice: 'vfio3' })
    host.processes({ pid: 31, command: 'cloud-hyperviso', open: ['/dev/iommu', '/dev/vfio/devices/vfio3'] })
    assert.deepEqual(host.uses(A), ['blocks vfio: vfio3 is open in cloud-hyperviso (pid 31)'])
  })

  it('takes the word of the kernel on whose a nameless file is', () => {
    const host = one({ driver: 'vfio-pci', ...enabled })
    host.processes({
      pid: 32,
      command: 'crosvm',
      open: ['anon_inode:[vfio-device]'],
      info: `pos:\t0\nflags:\t02\nvfio-device-syspath: /sys/devices/pci0000:00/0000:00:01.0/${A}\n`,
    })
    assert.deepEqual(host.uses(A), ['blocks vfio: it is open through VFIO in crosvm (pid 32)'])
  })

  it('knows who has a device open by its own node after that is gone, which is before the device is let go', () => {
    const gone = { pid: 35, command: 'vmm', open: ['/dev/vfio/devices/vfio3 (deleted)', '/dev/iommu'] }
    const told = one({ driver: 'vfio-pci', ...enabled })
    const info = `vfio-device-syspath: /sys/devices/pci0000:00/0000:00:01.0/${A}\n`
    told.processes({ ...gone, info })
    assert.deepEqual(told.uses(A), ['blocks vfio: it is open through VFIO in vmm (pid 35)'])
    const other = one({ driver: 'vfio-pci', ...idle })
    other.processes({ ...gone, info: info.replace(A, '0000:02:00.0') })
    assert.deepEqual(other.uses(A), [])
    // Older kernels do not tell whose it was.
    const guessed = one({ driver: 'vfio-pci', ...enabled })
    guessed.processes(gone)
    assert.deepEqual(guessed.uses(A), ['blocks vfio: it is open through VFIO, it seems in vmm (pid 35)'])
  })

  it('guesses whose a nameless file is only of a device that is enabled', () => {
    const nameless = { pid: 33, command: 'crosvm', open: ['anon_inode:[vfio-device]'] }
    const open = one({ driver: 'vfio-pci', ...enabled })
    open.processes(nameless)
    assert.deepEqual(open.uses(A), ['blocks vfio: it is open through VFIO, it seems in crosvm (pid 33)'])
    const closed = one({ driver: 'vfio-pci', ...idle })
    closed.processes(nameless)
    assert.deepEqual(closed.uses(A), [])
  })

  it('refuses a device that is enabled by a process out of sight', () => {
    const host = one({ driver: 'vfio-pci', ...enabled })
    host.process({ pid: 34, command: 'sh' })
    assert.deepEqual(host.uses(A), [
      'blocks vfio: it is open through VFIO in a process that could not be seen: root sees more',
    ])
  })

  it('only warns of a device that is enabled when all processes were seen', () => {
    const host = one({ driver: 'vfio-pci', ...enabled })
    host.processes()
    assert.deepEqual(host.uses(A), [
      'warns vfio: it is enabled as if it were open through VFIO, though no process in sight has it open',
    ])
  })

  it('thinks nothing of a device that its host driver enabled', () => {
    const host = one({ driver: 'e1000e', ...enabled })
    host.processes()
    assert.deepEqual(host.uses(A), [])
  })
})

describe('uses of device nodes', () => {
  after(removeDirectories)

  for (const [node, expected] of [
    ['dri/card0', 'blocks display: /dev/dri/card0 is open in X (pid 40)'],
    ['dri/renderD128', 'blocks display: /dev/dri/renderD128 is open in X (pid 40)'],
    ['snd/pcmC0D3p', 'blocks holder: /dev/snd/pcmC0D3p is open in X (pid 40)'],
    ['ttyS4', 'blocks holder: /dev/ttyS4 is open in X (pid 40)'],
    ['bus/usb/001/002', 'blocks holder: /dev/bus/usb/001/002 is open in X (pid 40)'],
    ['input/event3', 'warns holder: /dev/input/event3 is open in X (pid 40)'],
  ]) {
    it(`names who has /dev/${node} open`, () => {
      const host = one({ driver: 'some' })
      host.node('226:0', node ?? '', host.inside(A, 'deep/down/node'))
      host.processes(
        { pid: 40, command: 'X', open: [`/dev/${node}`] },
        { pid: 41, command: 'Y', open: ['/dev/null'] },
      )
      assert.deepEqual(host.uses(A), [expected])
    })
  }

  it('knows an open node by a link that a copy of the host made relative', () => {
    const host = one({ driver: 'some' })
    host.node('226:0', 'dri/card0', host.inside(A, 'drm/card0'))
    host.processes({ pid: 40, command: 'X', open: ['../../../dev/dri/card0'] })
    assert.equal(host.uses(A).length, 1)
    assert.match(host.uses(A)[0] ?? '', /card0 is open in X/)
  })

  it("finds the nodes of NVIDIA's driver past sysfs", () => {
    const host = one({ driver: 'nvidia' })
    host.tree.file(`proc/driver/nvidia/gpus/${A}/information`, 'Model: \t\t RTX\nDevice Minor: \t 1\n')
    host.processes(
      { pid: 42, command: 'Xorg', open: ['/dev/nvidia1'] },
      { pid: 43, command: 'x', open: ['/dev/nvidia0'] },
    )
    assert.deepEqual(host.uses(A), ['blocks display: /dev/nvidia1 is open in Xorg (pid 42)'])
  })

  it('finds the raw node of an NVMe disk with several paths', () => {
    const host = one({ driver: 'nvme' })
    host.block({
      name: 'nvme0n1',
      path: 'sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1',
      number: '259:0',
    })
    host.block({ name: 'nvme0c0n1', path: host.inside(A, 'nvme/nvme0/nvme0c0n1'), number: '' })
    host.processes({ pid: 44, command: 'nvme', open: ['/dev/ng0n1'] })
    assert.deepEqual(host.uses(A), ['blocks holder: /dev/ng0n1 is open in nvme (pid 44)'])
  })

  it('lists many processes by the first few', () => {
    const host = one({ driver: 'some' })
    host.node('226:0', 'dri/card0', host.inside(A, 'drm/card0'))
    host.processes(
      ...[1, 2, 3, 4, 5].map((n) => ({ pid: 50 + n, command: `p${n}`, open: ['/dev/dri/card0'] })),
    )
    assert.deepEqual(
      host.uses(A).map((use) => use.replace(/p\d \(pid 5\d\)/g, 'P')),
      ['blocks display: /dev/dri/card0 is open in P, P, P and 2 more'],
    )
  })
})

describe('uses as a display', () => {
  after(removeDirectories)

  const graphics = (bootVga: boolean) => one({ class: 0x030000, bootVga, driver: 'i915' })

  function terminal(host: UsedHost, index: number, name: string, bound: boolean): void {
    host.tree.file(`sys/class/vtconsole/vtcon${index}/name`, `${name}\n`)
    host.tree.file(`sys/class/vtconsole/vtcon${index}/bind`, bound ? '1\n' : '0\n')
  }

  it('warns of the boot display', () => {
    const host = graphics(true)
    terminal(host, 0, '(S) dummy device', true)
    assert.deepEqual(host.uses(A), ['warns display: it is the boot display'])
    assert.deepEqual(graphics(false).uses(A), [])
  })

  it('refuses the one that shows the terminals as text', () => {
    const host = graphics(true)
    terminal(host, 0, '(S) VGA+', true)
    assert.deepEqual(host.uses(A), [
      'blocks display: the boot display shows the terminals of the host (VGA+)',
    ])
  })

  it('refuses the first frame buffer under the terminals, and warns of another', () => {
    const host = new UsedHost({
      devices: [A, '0000:02:00.0'].map((address, index) => ({
        address,
        group: index,
        class: 0x030000,
        bootVga: index === 0,
      })),
    })
    host.tree.linkTo('sys/class/graphics/fb1', host.inside('0000:02:00.0', 'graphics/fb1'))
    host.tree.linkTo('sys/class/graphics/fb0', host.inside(A, 'graphics/fb0'))
    host.tree.linkTo('sys/class/graphics/fbcon', 'sys/devices/virtual/graphics/fbcon')
    terminal(host, 0, '(S) dummy device', false)
    terminal(host, 1, '(M) frame buffer device', true)
    assert.deepEqual(host.uses(A), ['blocks display: fb0 shows the terminals of the host'])
    assert.deepEqual(host.uses('0000:02:00.0'), ['warns display: it has the frame buffer fb1'])
    terminal(host, 1, '(M) frame buffer device', false)
    assert.deepEqual(host.uses(A), ['warns display: it has the frame buffer fb0'])
  })

  it("counts the firmware's frame buffer against the boot display", () => {
    const host = graphics(true)
    host.tree.linkTo('sys/class/graphics/fb0', 'sys/devices/platform/efi-framebuffer.0/graphics/fb0')
    terminal(host, 1, '(M) frame buffer device', true)
    assert.deepEqual(host.uses(A), ['blocks display: fb0 shows the terminals of the host'])
  })

  it('warns of a screen with a picture', () => {
    const host = graphics(false)
    for (const [name, state] of [
      ['card0-HDMI-A-1', 'enabled'],
      ['card0-DP-1', 'disabled'],
    ]) {
      host.tree.file(`${host.inside(A, `drm/card0/${name}`)}/enabled`, `${state}\n`)
      host.tree.linkTo(`sys/class/drm/${name}`, host.inside(A, `drm/card0/${name}`))
    }
    assert.deepEqual(host.uses(A), ['warns display: it shows a picture at HDMI-A-1'])
  })

  it('refuses the serial port that the kernel writes to', () => {
    const host = one({ driver: 'serial' })
    host.node('4:68', 'ttyS4', host.inside(A, 'tty/ttyS4'))
    host.node('4:69', 'ttyS5', host.inside(A, 'tty/ttyS5'))
    host.tree.file(
      'proc/consoles',
      'tty0                 -WU (EC  p  )    4:1\nttyS4                -W- (EC  p a)    4:68\n',
    )
    assert.deepEqual(host.uses(A), ['blocks display: ttyS4 is a console of the kernel'])
  })
})

describe('uses by others', () => {
  after(removeDirectories)

  it('counts what hangs on a bridge, at any depth', () => {
    const host = new UsedHost({
      devices: [
        { address: '0000:00:01.0', headerType: 'bridge', secondaryBus: 1, subordinateBus: 2 },
        { address: '0000:01:00.0', headerType: 'bridge', secondaryBus: 2 },
        ...[0, 1, 2, 3].map((fn) => ({ address: `0000:02:00.${fn}` })),
        { address: '0000:00:02.0', headerType: 'bridge', secondaryBus: 3 },
      ],
    })
    assert.deepEqual(host.uses('0000:00:01.0'), [
      'blocks other: other functions hang on it: 0000:01:00.0, 0000:02:00.0, 0000:02:00.1 and 2 more',
    ])
    assert.deepEqual(host.uses('0000:00:02.0'), [])
    assert.deepEqual(host.uses('0000:02:00.0'), [])
  })

  it('counts virtual functions against their PF', () => {
    const host = new UsedHost({
      devices: [
        { address: A, group: 1, totalVfs: 4 },
        { address: '0000:01:10.0', group: 2, physfn: A },
      ],
    })
    assert.deepEqual(host.uses(A), ['blocks other: there are virtual functions of it: 0000:01:10.0'])
    assert.deepEqual(host.uses('0000:01:10.0'), [])
  })

  for (const bus of ['mdev', 'vdpa']) {
    it(`counts devices of the bus ${bus}`, () => {
      const host = one({ driver: 'some' })
      host.tree.linkTo(`sys/bus/${bus}/devices/virtual0`, host.inside(A, 'virtual0'))
      assert.deepEqual(host.uses(A), ['blocks other: there are virtual devices on it: virtual0'])
    })
  }

  it('takes short addresses, and refuses what is none or not there', () => {
    const host = one({})
    assert.deepEqual(assessUses(host.see(), '01:00.0'), [])
    assert.throws(() => host.uses('nonsense'), { code: 'ERR_VFIO_BAD_ADDRESS' })
    assert.throws(() => host.uses('0000:09:00.0'), { code: 'ERR_VFIO_NO_DEVICE' })
  })
})
