import { rmSync } from 'node:fs'
import type { Snapshot } from 'vfio'
import type { DeviceDescription } from '../../test/fixtures/host.js'
import { mountLine, UsedHost } from '../../test/fixtures/uses.js'

const NAMES = `102b  Matrox Electronics Systems Ltd.
\t0536  Integrated Matrox G200eW3 Graphics Controller
1000  Broadcom / LSI
\tc030  PCIe Gen4 Switch
10de  NVIDIA Corporation
\t2235  GA102GL [A40]
144d  Samsung Electronics Co Ltd
\ta824  NVMe SSD Controller PM173X
15b3  Mellanox Technologies
\t101d  MT2892 Family [ConnectX-6 Dx]
\t101e  ConnectX Family mlx5Gen Virtual Function
8086  Intel Corporation
\t1521  I350 Gigabit Network Connection
\t09a2  Ice Lake Memory Map/VT-d
\t0998  Ice Lake IEH
\t347a  Ice Lake PCIe Root Port
C 01  Mass storage controller
\t08  Non-Volatile memory controller
C 02  Network controller
\t00  Ethernet controller
C 03  Display controller
\t00  VGA compatible controller
\t02  3D controller
C 06  Bridge
\t00  Host bridge
\t04  PCI bridge
C 08  Generic system peripheral
\t80  System peripheral
`

const ENDPOINT = [
  { kind: 'pm', noSoftReset: true },
  { kind: 'pcie', flr: true },
] as const

const hex = (value: number, digits = 2) => value.toString(16).padStart(digits, '0')

type Function = Omit<DeviceDescription, 'address' | 'group'>

const NIC: Function = {
  vendor: 0x15b3,
  device: 0x101d,
  class: 0x020000,
  driver: 'mlx5_core',
  totalVfs: 64,
  resetMethod: 'flr bus',
  capabilities: [...ENDPOINT, { kind: 'sriov', totalVfs: 64, vfDevice: 0x101e }],
}
const VF: Function = {
  vendor: 0x15b3,
  device: 0x101e,
  class: 0x020000,
  driver: 'mlx5_core',
  resetMethod: 'flr',
  capabilities: ENDPOINT,
}
const DISK: Function = {
  vendor: 0x144d,
  device: 0xa824,
  class: 0x010802,
  driver: 'nvme',
  resetMethod: 'flr bus',
  capabilities: ENDPOINT,
}
const GPU: Function = {
  vendor: 0x10de,
  device: 0x2235,
  class: 0x030200,
  driver: 'vfio-pci',
  resetMethod: 'flr bus',
  capabilities: ENDPOINT,
}
const BOARD_NIC: Function = {
  vendor: 0x8086,
  device: 0x1521,
  class: 0x020000,
  driver: 'igb',
  multifunction: true,
  resetMethod: 'bus',
  capabilities: [{ kind: 'pm', noSoftReset: true }, { kind: 'pcie' }],
}

/** One processor with what hangs on it. */
class Socket {
  readonly devices: DeviceDescription[] = []
  readonly #numa: number
  readonly #first: number
  #bus: number
  #slot = 0
  #group: number

  constructor(numa: number) {
    this.#numa = numa
    this.#first = numa * 0x80
    this.#bus = this.#first + 1
    this.#group = numa * 1000
  }

  #add(bus: number, slot: number, fn: number, device: Function, group = this.#group++): string {
    const address = `0000:${hex(bus)}:${hex(slot)}.${fn}`
    this.devices.push({ address, group, numaNode: this.#numa, ...device })
    return address
  }

  part(device: number): void {
    this.#add(this.#first, this.#slot++, 0, { vendor: 0x8086, device, class: 0x088000 })
  }

  #port(
    bus: number,
    slot: number,
    type: 'root-port' | 'upstream-port' | 'downstream-port',
    group?: number,
  ): number {
    const secondaryBus = this.#bus++
    const [vendor, device] = type === 'root-port' ? [0x8086, 0x347a] : [0x1000, 0xc030]
    this.#add(
      bus,
      slot,
      0,
      {
        vendor,
        device,
        class: 0x060400,
        headerType: 'bridge',
        driver: 'pcieport',
        secondaryBus,
        capabilities: [{ kind: 'pcie', type, linkActive: true }],
      },
      group,
    )
    return secondaryBus
  }

  rootPort(): number {
    return this.#port(this.#first, this.#slot++, 'root-port')
  }

  alone(device: Function): string {
    return this.#add(this.rootPort(), 0, 0, device)
  }

  nic(vfs: number): string {
    const bus = this.rootPort()
    const physfn = this.#add(bus, 0, 0, NIC)
    for (let at = 1; at <= vfs; at++) this.#add(bus, at >>> 3, at & 7, { ...VF, physfn })
    return physfn
  }

  /** @param isolates whether its ports keep apart what is below them */
  graphics(isolates: boolean): void {
    const up = this.#port(this.rootPort(), 0, 'upstream-port')
    const shared = isolates ? undefined : this.#group++
    for (let at = 0; at < 4; at++) this.#add(this.#port(up, at, 'downstream-port', shared), 0, 0, GPU, shared)
  }

  /** Two ports of one chip, which go and are reset together. */
  boardNic(): string {
    const bus = this.rootPort()
    const group = this.#group++
    this.#add(bus, 0, 1, BOARD_NIC, group)
    return this.#add(bus, 0, 0, BOARD_NIC, group)
  }
}

/** A server with two processors and 500 functions: network cards with virtual functions, disks, graphics behind switches. */
export function seeServer(): Snapshot {
  const sockets = [new Socket(0), new Socket(1)] as const
  const cards: string[] = []
  const disks: string[] = []
  for (const socket of sockets) {
    socket.part(0x09a2)
    socket.part(0x0998)
    for (let at = 0; at < 3; at++) cards.push(socket.nic(63))
    for (let at = 0; at < 20; at++) disks.push(socket.alone(DISK))
    socket.graphics(socket === sockets[0])
  }
  const [first, second] = sockets
  const board = first.boardNic()
  const display = { vendor: 0x102b, device: 0x0536, class: 0x030000, driver: 'mgag200', bootVga: true }
  first.alone({ ...display, capabilities: [{ kind: 'pm' }] })
  const devices = () => sockets.flatMap((socket) => socket.devices)
  second.part(0x0998)
  const host = new UsedHost({
    kernel: '6.12.48+deb13-amd64',
    devices: devices(),
    pciIds: NAMES,
    memlock: ['unlimited', 'unlimited'],
  })
  try {
    const [root = '', spare = ''] = disks
    host.disk('nvme0n1', root, 259, 2)
    host.disk('nvme1n1', spare, 260)
    host.mounts(mountLine('259:2', '/', 'ext4', '/dev/nvme0n1p2'))
    for (const number of ['259:0', '259:1', '259:2', '260:0'])
      host.tree.file(`run/udev/data/b${number}`, 'I:1\n')
    host.network('eno1', board, 0x1003)
    const head = 'Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT'
    const everything = `eno1\t00000000\t${'0'.repeat(8)}\t0001\t0\t0\t0\t00000000\t0\t0\t0`
    host.tree.file('proc/net/route', `${head}\n${everything}\n`)
    host.tree.file('proc/net/if_inet6', '')
    return host.see()
  } finally {
    rmSync(host.tree.root, { recursive: true, force: true })
  }
}
