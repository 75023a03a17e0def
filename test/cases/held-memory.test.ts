import assert from 'node:assert/strict'
import { assessUses, planAssignment } from 'vfio'
import { type DeviceDescription, type HostDescription, removeDirectories } from '../fixtures/host.js'
import { UsedHost } from '../fixtures/uses.js'

const VGA: DeviceDescription = {
  address: '0000:0a:00.0',
  class: 0x030000,
  group: 25,
  bars: [
    { index: 0, address: 0xfb000000, size: 0x1000000 },
    { index: 1, address: 0x7800000000, size: 0x400000000, is64: true, prefetchable: true },
  ],
}

const iomem = (name: string, inner?: string) => [
  '00001000-0009ffff : System RAM',
  '7800000000-7bffffffff : PCI Bus 0000:0a',
  '  7800000000-7bffffffff : 0000:0a:00.0',
  `    7800000000-780086ffff : ${name}`,
  ...(inner === undefined ? [] : [`      7800000000-780086ffff : ${inner}`]),
  'fb000000-fbffffff : 0000:0a:00.0',
]

/** What is said of a device's screen, by severity. */
function uses(host: HostDescription, device: DeviceDescription): { blocks: string; warns: string } {
  const all = assessUses(new UsedHost({ ...host, devices: [device] }).see(), device.address)
  const of = (severity: string) =>
    all
      .filter((use) => use.kind === 'display' && use.severity === severity)
      .map(({ what }) => what)
      .join('\n')
  return { blocks: of('blocks'), warns: of('warns') }
}

describe('who holds the memory of a display', () => {
  after(removeDirectories)

  // harvester/pcidevices#81, cosminmocan/vfio-single-amdgpu-passthrough#3: "BAR 1: can't reserve".
  it('the frame buffer of the firmware, below a GPU that is with vfio-pci already', () => {
    const found = uses(
      { kernel: '5.15.108-1-pve', memory: iomem('BOOTFB') },
      { ...VGA, driver: 'vfio-pci', bootVga: true },
    )
    assert.match(found.blocks, /BOOTFB.*0x7800000000–0x780086ffff of its BAR 1.*unbind simple-framebuffer\.0/)
  })

  // drivers/video/fbdev/efifb.c, vesafb.c; drivers/gpu/drm/tiny/ofdrm.c: each under its own name.
  for (const name of ['efifb', 'vesafb', 'simplefb', 'ofdrm', 'efidrm', 'vesadrm', 'efi-framebuffer.0']) {
    it(`${name}, below a GPU that no driver has, before 6.0`, () => {
      assert.match(uses({ kernel: '5.10.0-32-amd64', memory: iomem(name) }, VGA).blocks, new RegExp(name))
    })
  }

  // vfio_pci_vga_init() since 6.0: aperture_remove_conflicting_pci_devices() for class 0300 alone.
  it('warns where vfio-pci takes it off itself', () => {
    const found = uses({ kernel: '6.12.0-amd64', memory: iomem('BOOTFB', 'simpledrm') }, VGA)
    assert.equal(found.blocks, '')
    assert.match(found.warns, /until vfio-pci binds/)
  })

  // siderolabs/talos#14356: an APU of class 0380 has no boot_vga, and no driver takes simpledrm off it.
  for (const code of [0x038000, 0x030200, 0x030100]) {
    it(`blocks for a display of class ${code.toString(16).padStart(6, '0')}, on every kernel`, () => {
      const found = uses(
        { kernel: '6.18.48-talos', memory: iomem('BOOTFB', 'simpledrm') },
        { ...VGA, class: code },
      )
      assert.match(found.blocks, /simpledrm.*initcall_blacklist=simpledrm_platform_driver_init/)
    })
  }

  it('is nobody where its own driver has it', () => {
    for (const name of ['amdgpu', 'nvidia', '0000:0a:00.0']) {
      const found = uses({ memory: iomem(name) }, { ...VGA, driver: 'amdgpu' })
      assert.deepEqual(found, { blocks: '', warns: '' })
    }
  })

  // siderolabs/talos#14356 without /proc/iomem: boot_vga is of class 0300 alone (drivers/pci/pci-sysfs.c).
  it('may be the frame buffer of the firmware on any display, where nothing says on which', () => {
    const displays = [
      { ...VGA, class: 0x038000 },
      { ...VGA, address: '0000:0b:00.0', group: 26, class: 0x030000, bars: [] },
    ]
    const nic: DeviceDescription = { address: '0000:0c:00.0', class: 0x020000, group: 27 }
    const see = (description: HostDescription) => {
      const host = new UsedHost({ devices: [...displays, nic], ...description })
      const frame = 'sys/devices/platform/simple-framebuffer.0/graphics/fb0'
      host.tree.file(`${frame}/name`, 'simpledrmdrmfb\n')
      host.tree.linkTo('sys/class/graphics/fb0', frame)
      return host.see()
    }
    const lost = (description: HostDescription) => {
      const seen = see(description)
      return seen.devices.flatMap(({ address }) =>
        assessUses(seen, address).some(({ kind, unknown }) => kind === 'display' && unknown) ? address : [],
      )
    }
    const both = displays.map(({ address }) => address)
    assert.deepEqual(lost({}), both)
    assert.deepEqual(lost({ memory: ['00000000-00000000 : PCI Bus 0000:0a'] }), both)
    assert.deepEqual(lost({ memory: iomem('BOOTFB') }), [])
    const [first, second] = displays
    assert.ok(first && second)
    assert.deepEqual(lost({ devices: [first, { ...second, bootVga: true }] }), [])
    const { blockers } = planAssignment(see({}), [first.address])
    assert.match(
      blockers.map(({ reason }) => reason).join(),
      /frame buffer \(fb0\).*\/proc\/iomem.*--force display/,
    )
    assert.deepEqual(planAssignment(see({}), [first.address], { force: ['display'] }).blockers, [])
  })

  // The kernel shows zeros to who has no CAP_SYS_ADMIN (kernel/resource.c, r_show()).
  it('is not known to who is not root, which is said', () => {
    const hidden = iomem('BOOTFB').map((line) => line.replace(/[0-9a-f]+-[0-9a-f]+ :/, '00000000-00000000 :'))
    assert.match(uses({ memory: hidden }, VGA).warns, /could not be seen/)
    assert.equal(uses({ memory: hidden }, { ...VGA, class: 0x020000 }).warns, '')
  })
})
