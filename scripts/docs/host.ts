import { rmSync } from 'node:fs'
import type { DeviceDescription } from '../../test/fixtures/host.js'
import { mountLine, UsedHost } from '../../test/fixtures/uses.js'
import { SYSTEMS, type SystemName } from './systems.js'

/** The trees of the host that the pages show, and what its root file system would be on each distribution. */
export interface ExampleHost {
  /** The directory that all of it is in. */
  readonly base: string
  readonly trees: Readonly<Record<'sysfs' | 'dev' | 'proc' | 'run' | 'modules' | 'pciIds', string>>
  readonly root: (system: SystemName) => string
  remove(): void
}

const NAMES = `10de  NVIDIA Corporation
\t1aef  GA102 High Definition Audio Controller
\t2204  GA102 [GeForce RTX 3090]
144d  Samsung Electronics Co Ltd
\ta808  NVMe SSD Controller SM981/PM981/PM983
8086  Intel Corporation
\t1521  I350 Gigabit Network Connection
\t1520  I350 Ethernet Controller Virtual Function
\t15bc  Ethernet Connection (7) I219-V
\t1901  6th-10th Gen Core Processor PCIe Controller (x16)
\t3e98  CoffeeLake-S GT2 [UHD Graphics 630]
\ta305  Z390 Chipset LPC/eSPI Controller
\ta340  Cannon Lake PCH PCI Express Root Port #17
\ta348  Cannon Lake PCH cAVS
C 01  Mass storage controller
\t08  Non-Volatile memory controller
\t\t02  NVM Express
C 02  Network controller
\t00  Ethernet controller
C 03  Display controller
\t00  VGA compatible controller
C 04  Multimedia controller
\t03  Audio device
C 06  Bridge
\t01  ISA bridge
\t04  PCI bridge
`

const INTEL = 0x8086
const ENDPOINT = [
  { kind: 'pm', noSoftReset: true },
  { kind: 'pcie', flr: true },
] as const
const PORT = [{ kind: 'pcie', type: 'root-port', linkActive: true }] as const

const rootPort = (
  address: string,
  device: number,
  group: number,
  secondaryBus: number,
): DeviceDescription => ({
  address,
  vendor: INTEL,
  device,
  group,
  driver: 'pcieport',
  headerType: 'bridge',
  secondaryBus,
  capabilities: PORT,
})

const disk = (address: string, group: number): DeviceDescription => ({
  address,
  vendor: 0x144d,
  device: 0xa808,
  class: 0x010802,
  group,
  driver: 'nvme',
  resetMethod: 'flr bus',
  capabilities: ENDPOINT,
  bars: [{ index: 0, address: 0xa1200000 + group * 0x4000, size: 0x4000, is64: true }],
})

/**
 * A desktop as people have it: a card for a guest beside the display of the board, two disks of which one has the root
 * file system, a network card with virtual functions, and the network interface that the host needs.
 */
const DEVICES: readonly DeviceDescription[] = [
  rootPort('0000:00:01.0', 0x1901, 1, 1),
  {
    address: '0000:00:02.0',
    vendor: INTEL,
    device: 0x3e98,
    class: 0x030000,
    group: 0,
    driver: 'i915',
    bootVga: true,
    resetMethod: 'flr',
    capabilities: ENDPOINT,
  },
  rootPort('0000:00:1b.0', 0xa340, 5, 2),
  rootPort('0000:00:1b.4', 0xa340, 6, 3),
  rootPort('0000:00:1c.0', 0xa340, 7, 4),
  {
    address: '0000:00:1f.0',
    vendor: INTEL,
    device: 0xa305,
    class: 0x060100,
    group: 10,
    multifunction: true,
  },
  {
    address: '0000:00:1f.3',
    vendor: INTEL,
    device: 0xa348,
    class: 0x040300,
    group: 10,
    multifunction: true,
    driver: 'snd_hda_intel',
  },
  {
    address: '0000:00:1f.6',
    vendor: INTEL,
    device: 0x15bc,
    class: 0x020000,
    group: 10,
    multifunction: true,
    driver: 'e1000e',
    resetMethod: 'flr',
    capabilities: ENDPOINT,
  },
  {
    address: '0000:01:00.0',
    vendor: 0x10de,
    device: 0x2204,
    class: 0x030000,
    group: 1,
    multifunction: true,
    driver: 'nouveau',
    resetMethod: 'bus',
    capabilities: [{ kind: 'pm', noSoftReset: true }, { kind: 'pcie' }],
    bars: [
      { index: 0, address: 0xa0000000, size: 0x1000000 },
      { index: 1, address: 0x90000000, size: 0x10000000, is64: true, prefetchable: true },
    ],
  },
  {
    address: '0000:01:00.1',
    vendor: 0x10de,
    device: 0x1aef,
    class: 0x040300,
    group: 1,
    multifunction: true,
    driver: 'snd_hda_intel',
    resetMethod: 'bus',
    capabilities: [{ kind: 'pm', noSoftReset: true }, { kind: 'pcie' }],
    bars: [{ index: 0, address: 0xa1080000, size: 0x4000 }],
  },
  disk('0000:02:00.0', 13),
  disk('0000:03:00.0', 14),
  {
    address: '0000:04:00.0',
    vendor: INTEL,
    device: 0x1521,
    class: 0x020000,
    group: 15,
    driver: 'igb',
    totalVfs: 7,
    resetMethod: 'flr',
    capabilities: [...ENDPOINT, { kind: 'sriov', totalVfs: 7, vfDevice: 0x1520 }],
  },
  ...[16, 17].map(
    (group, index): DeviceDescription => ({
      address: `0000:04:10.${4 * index}`,
      vendor: INTEL,
      device: 0x1520,
      class: 0x020000,
      group,
      physfn: '0000:04:00.0',
      resetMethod: 'flr',
      capabilities: ENDPOINT,
    }),
  ),
]

const UP = 0x1003

/** Writes the host into a directory of its own. */
export function exampleHost(): ExampleHost {
  const host = new UsedHost({
    kernel: '6.12.48+deb13-amd64',
    commandLine: 'BOOT_IMAGE=/vmlinuz root=/dev/nvme0n1p2 ro quiet intel_iommu=on',
    devices: DEVICES,
    pciIds: NAMES,
    modules: {
      vfio: { state: 'loaded', parameters: { enable_unsafe_noiommu_mode: 'N' } },
      vfio_iommu_type1: { state: 'loaded', parameters: { allow_unsafe_interrupts: 'N' } },
      vfio_pci: { state: 'loaded', parameters: { disable_denylist: 'N' } },
      ...Object.fromEntries(
        ['nouveau', 'snd_hda_intel', 'nvme', 'igb'].map((name) => [name, { state: 'loadable' }] as const),
      ),
    },
    aliases: [
      'alias pci:v000010DEd*sv*sd*bc03sc*i* nouveau',
      'alias pci:v*d*sv*sd*bc04sc03i00* snd_hda_intel',
      'alias pci:v*d*sv*sd*bc01sc08i02* nvme',
    ],
    memlock: ['unlimited', 'unlimited'],
  })
  const { tree } = host
  host.disk('nvme0n1', '0000:02:00.0', 259, 2)
  host.disk('nvme1n1', '0000:03:00.0', 260)
  host.mounts(
    mountLine('259:2', '/', 'ext4', '/dev/nvme0n1p2'),
    mountLine('259:1', '/boot/efi', 'vfat', '/dev/nvme0n1p1'),
  )
  // udev has a word for every disk without anything on it that it knows.
  for (const number of ['259:0', '259:1', '259:2', '260:0']) tree.file(`run/udev/data/b${number}`, 'I:1\n')
  host.network('eno1', '0000:00:1f.6', UP)
  host.network('enp4s0', '0000:04:00.0', UP)
  host.network('lo', null, 0x9)
  const head = 'Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT'
  const everything = `eno1\t00000000\t${'0'.repeat(8)}\t0001\t0\t0\t0\t00000000\t0\t0\t0`
  tree.file('proc/net/route', `${head}\n${everything}\n`)
  tree.file('proc/net/if_inet6', '')
  host.processes()
  // A process of the host itself, in no container, whatever this runs in.
  for (const [name, number] of Object.entries({ pid: 4026531836, uts: 4026531838, ipc: 4026531839 }))
    tree.link(`proc/self/ns/${name}`, `${name}:[${number}]`)
  for (const name of ['bind', 'unbind', 'new_id', 'remove_id'])
    tree.file(`sys/bus/pci/drivers/vfio-pci/${name}`, '')
  for (const [system, files] of Object.entries(SYSTEMS))
    for (const [path, content] of Object.entries(files)) tree.file(`roots/${system}/${path}`, content)
  return {
    base: tree.root,
    trees: {
      sysfs: tree.path('sys'),
      dev: tree.path('dev'),
      proc: tree.path('proc'),
      run: tree.path('run'),
      modules: tree.path('modules'),
      pciIds: tree.path('pci.ids'),
    },
    root: (system) => tree.path(`roots/${system}`),
    remove: () => rmSync(tree.root, { recursive: true, force: true }),
  }
}
