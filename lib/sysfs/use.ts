import { isWithVfio, type PciDevice } from './devices.js'
import type { HostPaths } from './facts.js'
import { exists } from './files.js'
import type { MediatedDevice } from './mediated.js'
import { type Batch, beginBatch, readBatch } from './tree.js'
import { noting, type Unseen } from './unseen.js'
import { type BlockDevice, readBlockDevices, readPools } from './use-block.js'
import { type DisplayFacts, readDisplay } from './use-display.js'
import { type MemoryFacts, NO_MEMORY, readMemory } from './use-memory.js'
import { type Mount, readMounts, readSwaps, type Swap } from './use-mounts.js'
import { type NetworkFacts, readNetwork } from './use-network.js'
import { type DeviceNode, type KernelConsole, readNodes } from './use-nodes.js'
import { type Concerns, type Placed, readNames, readPlaces } from './use-paths.js'
import { NO_PROCESSES, type ProcessFacts, readProcesses } from './use-processes.js'
import { readShares, readVirtualDevices, type Share } from './use-shares.js'

/** What the host does with its devices, as the kernel publishes it in sysfs and `/proc`. */
export interface UseFacts {
  /** `false`: nothing of this was looked at, as in a brief snapshot. */
  readonly looked: boolean
  readonly blocks: readonly BlockDevice[]
  /** The ZFS pools that are imported (`/proc/spl/kstat/zfs`). */
  readonly pools: readonly string[]
  /** What of this could be read at all: where it is `false`, empty says nothing. */
  readonly known: { readonly mounts: boolean; readonly swaps: boolean; readonly network: boolean }
  readonly mounts: readonly Mount[]
  readonly swaps: readonly Swap[]
  readonly shares: readonly Share[]
  /** How many 9p file systems live, in mount tables or not (`class/bdi/9p-*`). */
  readonly shares9p: number
  readonly network: NetworkFacts
  readonly display: DisplayFacts
  /** Who holds the memory of functions besides their drivers. */
  readonly memory: MemoryFacts
  readonly nodes: readonly DeviceNode[]
  readonly consoles: readonly KernelConsole[]
  readonly processes: ProcessFacts
  /** Mediated devices and vDPA devices by the functions that carry them. */
  readonly virtualDevices: readonly Placed[]
  /** Functions bound to VFIO that are enabled: VFIO enables a device when it is opened, and disables it after. */
  readonly enabled: readonly string[]
  /** The functions that the path to a function leads through, where bus numbers do not tell: Intel VMD. */
  readonly behind: Readonly<Record<string, readonly string[]>>
  /** Functions with network interfaces that are in another network namespace, and so out of sight. */
  readonly interfacesElsewhere: readonly string[]
  /** What could not be looked at, of all this. */
  readonly unseen: readonly Unseen[]
}

/** Nothing was looked at. */
export const NO_USE: UseFacts = deepFreeze({
  looked: false,
  blocks: [],
  pools: [],
  known: { mounts: false, swaps: false, network: false },
  mounts: [],
  swaps: [],
  shares: [],
  shares9p: 0,
  network: { interfaces: [], routes: [], ssh: null, sshIsKnown: true },
  display: { frameBuffers: [], terminals: [], screens: [] },
  memory: NO_MEMORY,
  nodes: [],
  consoles: [],
  processes: NO_PROCESSES,
  virtualDevices: [],
  enabled: [],
  behind: {},
  interfacesElsewhere: [],
  unseen: [],
})

const DIRECTORIES = [
  'bus/auxiliary/devices',
  'bus/mdev/devices',
  'bus/usb/devices',
  'bus/vdpa/devices',
  'bus/virtio/devices',
  'class/bdi',
  'class/block',
  'class/drm',
  'class/graphics',
  'class/net',
  'class/vtconsole',
  'dev/char',
] as const

interface UseOptions {
  /** The kernel's release; empty where `/proc` does not tell even that. */
  readonly kernel: string
  /** The host has other functions: what is on those alone decides nothing about these, and is not looked into. */
  readonly isPartial: boolean
  readonly mediated: readonly MediatedDevice[]
}

/** A reading of what many functions have that goes on beside. */
export interface BegunUse {
  /** Network cards, in the order of what is read of them. */
  readonly cards: readonly string[]
  readonly interfaces: () => Batch
}

const NETWORK_CLASS = 0x02

/** Begins with what is to be read of each function, while other things are put together. */
export function beginUse(sysfs: string, devices: readonly PciDevice[]): BegunUse {
  const found = devices.filter((device) => device.class >>> 16 === NETWORK_CLASS && device.driver !== null)
  const cards = found.map(({ address }) => address)
  return { cards, interfaces: beginBatch(`${sysfs}/bus/pci/devices`, cards, { lists: ['net'] }) }
}

/**
 * Looks at what is in use. Total: what is missing or makes no sense leaves its facts out, and what could not be looked at
 * is told.
 */
export function readUse(
  paths: HostPaths,
  devices: readonly PciDevice[],
  begun: BegunUse,
  options: UseOptions,
): UseFacts {
  const { seen, unseen } = noting(() => readAll(paths, devices, begun, options))
  return deepFreeze({ ...seen, unseen })
}

function readAll(
  paths: HostPaths,
  devices: readonly PciDevice[],
  begun: BegunUse,
  { kernel, isPartial, mediated }: UseOptions,
): Omit<UseFacts, 'unseen'> {
  const { sysfs, proc } = paths
  const procIsWhole = kernel !== ''
  const addresses = new Set(devices.map(({ address }) => address))
  const concerns: Concerns = isPartial
    ? (functions) => functions.some((address) => addresses.has(address))
    : (functions) => functions.length > 0
  const names = readNames(sysfs, DIRECTORIES)
  const pools = readPools(proc)
  // What is built on a disk needs all that is built on disks.
  const everyBlock = readBlockDevices(paths, names['class/block'], pools)
  const isWanted = everyBlock.some(({ functions, servers }) => servers !== null || concerns(functions))
  const blocks = !isPartial || isWanted ? everyBlock : []
  const { nodes, consoles, vfio } = readNodes(sysfs, proc, names['dev/char'], blocks, concerns)
  const bound = devices.filter(isWithVfio).map(({ address }) => address)
  const shares = readShares(sysfs, names['bus/virtio/devices']).filter(({ functions }) => concerns(functions))
  const wanted = [
    ...blocks.map(({ node, number }) => ({ node, number: number === null ? null : `b${number}` })),
    ...nodes,
    ...vfio,
  ]
  // Looking into every process is dear: only for what there is to find.
  const isNeeded = blocks.length + nodes.length + bound.length + shares.length + mediated.length > 0
  const processes = proc !== null && isNeeded ? readProcesses(proc, wanted) : null
  const mounts = readMounts(proc, processes?.namespaces ?? [])
  const swaps = readSwaps(proc, procIsWhole)
  const network = readNetwork(sysfs, proc, names['class/net'], concerns)
  return {
    looked: true,
    blocks,
    pools,
    known: {
      mounts: mounts !== null,
      swaps: swaps !== null,
      network: procIsWhole || (proc !== null && exists(`${proc}/net/route`)),
    },
    mounts: mounts ?? [],
    swaps: swaps ?? [],
    shares,
    shares9p: names['class/bdi'].filter((name) => name.startsWith('9p')).length,
    network,
    display: readDisplay(sysfs, {
      graphics: names['class/graphics'],
      vtconsole: names['class/vtconsole'],
      drm: names['class/drm'],
    }),
    memory: readMemory(proc, devices),
    nodes,
    consoles,
    processes: processes ?? NO_PROCESSES,
    virtualDevices: readVirtualDevices(sysfs, names['bus/mdev/devices'], names['bus/vdpa/devices']),
    enabled: readEnabled(sysfs, bound),
    behind: readBehind(sysfs, devices),
    interfacesElsewhere: readInterfacesElsewhere(sysfs, begun, names),
  }
}

const NETWORK_BUSES = ['bus/auxiliary/devices', 'bus/usb/devices', 'bus/virtio/devices'] as const

/** A device keeps its directory `net` while it has interfaces, and those of other network namespaces do not show in it. */
function readInterfacesElsewhere(
  sysfs: string,
  { cards, interfaces }: BegunUse,
  names: Readonly<Record<(typeof NETWORK_BUSES)[number], readonly string[]>>,
): string[] {
  const isEmpty = (batch: Batch, row: number) =>
    batch.errno(row, 'net') === 0 && batch.names(row, 'net').length === 0
  const own = interfaces()
  const found = new Set(cards.filter((_address, row) => isEmpty(own, row)))
  for (const bus of NETWORK_BUSES) {
    const batch = readBatch(`${sysfs}/${bus}`, names[bus], { lists: ['net'] })
    const hidden = names[bus].filter((_name, row) => isEmpty(batch, row))
    for (const { functions } of readPlaces(sysfs, bus, hidden)) {
      const address = functions.at(-1)
      if (address !== undefined) found.add(address)
    }
  }
  return [...found]
}

/** `enable` counts who asked for the function to be enabled. */
function readEnabled(sysfs: string, addresses: readonly string[]): string[] {
  const batch = readBatch(`${sysfs}/bus/pci/devices`, addresses, { files: ['enable'] })
  return addresses.filter((_address, row) => Number(batch.text(row, 'enable') ?? 0) > 0)
}

const SHORT = 'dddd:bb:dd.f'

/** Domains beyond 16 bits are made up by a function of another domain, which the path alone tells. */
function readBehind(sysfs: string, devices: readonly PciDevice[]): Record<string, readonly string[]> {
  const wide = devices.map(({ address }) => address).filter((address) => address.length > SHORT.length)
  const places = readPlaces(sysfs, 'bus/pci/devices', wide)
  return Object.fromEntries(places.map(({ name, functions }) => [name, functions]))
}

function deepFreeze<T extends object>(value: T): T {
  for (const item of Object.values(value)) if (typeof item === 'object' && item !== null) deepFreeze(item)
  return Object.freeze(value)
}
