import { symlinkSync } from 'node:fs'
import { READY_MODULES } from '../fixtures/host.js'
import { UsedHost } from '../fixtures/uses.js'

const ONES = new Uint8Array(256).fill(0xff)

/** Functions whose verdict rests on what another function, a path or the kind of machine says. */
export function placedHost(): UsedHost {
  const host = new UsedHost({
    kernel: '6.12.0-amd64',
    modules: {
      ...READY_MODULES,
      vfio: { state: 'loaded', parameters: { enable_unsafe_noiommu_mode: 'Y' } },
    },
    devices: [
      // Intel VMD: the driver of the first one makes the bus of the second.
      { address: '0000:00:0e.0', driver: 'vmd', class: 0x010400, group: 1 },
      { address: '10000:01:00.0', behind: '0000:00:0e.0', driver: 'nvme', class: 0x010802, group: 2 },
      // A port that is dead, with a function whose own config space nobody may read.
      { address: '0000:00:01.0', headerType: 'bridge', secondaryBus: 1, driver: 'pcieport', group: 3 },
      {
        address: '0000:01:00.0',
        headerType: 'bridge',
        secondaryBus: 2,
        driver: 'pcieport',
        group: 4,
        below: '0000:00:01.0',
        config: ONES,
      },
      { address: '0000:02:00.0', below: '0000:01:00.0', driver: 'vfio-pci', group: 5, readable: 0 },
      // In a group that cannot be given away, on a host that gives away what is in none.
      { address: '0000:00:05.0', driver: 'igb', class: 0x020000, group: 6 },
      // One bus that is reset as one, for two groups.
      {
        address: '0000:00:06.0',
        headerType: 'bridge',
        secondaryBus: 6,
        subordinateBus: 6,
        driver: 'pcieport',
        group: 7,
        capabilities: [{ kind: 'pcie', type: 'root-port' }],
      },
      {
        address: '0000:06:00.0',
        below: '0000:00:06.0',
        driver: 'vfio-pci',
        group: 8,
        resetMethod: 'bus',
        multifunction: true,
      },
      {
        address: '0000:06:00.1',
        below: '0000:00:06.0',
        driver: 'snd_hda_intel',
        group: 9,
        resetMethod: 'bus',
      },
      // Given to VFIO by drivers that have no name of VFIO: one with a profile, one without, one with a registered device.
      { address: '0000:07:00.0', driver: 'nvidia', group: 10, totalVfs: 2 },
      {
        address: '0000:07:00.4',
        physfn: '0000:07:00.0',
        driver: 'nvidia',
        group: 11,
        files: { 'nvidia/current_vgpu_type': '600\n' },
      },
      {
        address: '0000:07:00.5',
        physfn: '0000:07:00.0',
        driver: 'nvidia',
        group: 12,
        files: { 'nvidia/current_vgpu_type': '0\n' },
      },
      { address: '0000:08:00.0', driver: 'odd', group: 13, vfioDevice: 'vfio3' },
      { address: '0000:08:00.1', driver: 'igb', class: 0x020000, group: 13 },
      // Displays: one whose memory the firmware's frame buffer holds, and the one that booted.
      {
        address: '0000:09:00.0',
        driver: 'some',
        class: 0x038000,
        group: 14,
        bars: [{ index: 0, address: 0x78_0000_0000, size: 0x1000_0000, is64: true, prefetchable: true }],
      },
      { address: '0000:0a:00.0', driver: 'i915', class: 0x030000, group: 15, bootVga: true },
    ],
    groups: { 6: { reservedRegions: '0x0000000000000000 0x0000000000ffffff direct\n' } },
    memory: [
      '7800000000-780fffffff : PCI Bus 0000:09',
      '  7800000000-780fffffff : 0000:09:00.0',
      '    7800000000-780086ffff : BOOTFB',
    ],
  })
  host.tree.file('sys/devices/platform/simple-framebuffer.0/graphics/fb0/name', 'simpledrmdrmfb\n')
  host.tree.linkTo('sys/class/graphics/fb0', 'sys/devices/platform/simple-framebuffer.0/graphics/fb0')
  host.tree.file('sys/class/vtconsole/vtcon1/name', '(M) frame buffer device\n')
  host.tree.file('sys/class/vtconsole/vtcon1/bind', '1\n')
  host.processes({ pid: 30, command: 'vmm', open: ['/dev/vfio/devices/vfio3'] })
  return host
}

/** Where the kind of machine decides: interrupts that nothing isolates, and a host bridge that no IOMMU covers. */
export function armHost(): UsedHost {
  const host = new UsedHost({
    kernel: '6.12.9-arm64',
    iommu: 'arm',
    devices: [
      { address: '0000:01:00.0', class: 0x010802, driver: 'vfio-pci', group: 1 },
      { address: '0001:01:00.0', class: 0x010802 },
    ],
  })
  const { tree } = host
  tree.file('proc/cpuinfo', 'CPU implementer\t: 0x41\n')
  tree.file('proc/interrupts', ' CPU0\n 50: 0 GICv2m-PCI-MSI-0000:01:00.0 0 Edge nvme0q0\n')
  const node = 'sys/firmware/devicetree/base/pcie@1'
  tree.file(`${node}/compatible`, 'pci-host-ecam-generic\0')
  tree.link('sys/devices/of_node', '../firmware/devicetree/base/pcie@1')
  return host
}

/** A group whose device a program may have open, on a kernel that has no groups in VFIO. */
export function guardedHost(open: readonly string[]): UsedHost {
  const host = new UsedHost({
    devices: [{ address: '0000:01:00.0', driver: 'vfio-pci', group: 1, vfioDevice: 'vfio0' }],
  })
  host.processes({ pid: 30, command: 'vmm', open })
  return host
}

/** The same group, with VFIO's own file of it: its node is there, and no group of this machine has the number. */
export function groupHost(): UsedHost {
  const host = new UsedHost({ devices: [{ address: '0000:01:00.0', driver: 'vfio-pci', group: 987_654 }] })
  host.tree.file('sys/class/vfio/987654/dev', '1:3\n')
  host.tree.remove('dev/vfio/987654')
  symlinkSync('/dev/null', host.tree.path('dev/vfio/987654'))
  return host
}
