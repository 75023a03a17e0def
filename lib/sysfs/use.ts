import { isWithVfio, type PciDevice } from './devices.js'
import type { HostPaths } from './facts.js'
import { readBatch } from './tree.js'
import { type BlockDevice, readBlockDevices } from './use-block.js'
import { type DisplayFacts, readDisplay } from './use-display.js'
import { type MemoryFacts, NO_MEMORY, readMemory } from './use-memory.js'
import { type Mount, readMounts, readSwaps, type Swap } from './use-mounts.js'
import { type NetworkFacts, readNetwork } from './use-network.js'
import { type DeviceNode, type KernelConsole, readNodes } from './use-nodes.js'
import { type Placed, readNames, readPlaces } from './use-paths.js'
import { NO_PROCESSES, type ProcessFacts, readProcesses } from './use-processes.js'
import { readShares, readVirtualDevices, type Share } from './use-shares.js'

/** What the host does with its devices, as the kernel publishes it in sysfs and `/proc`. */
export interface UseFacts {
  readonly blocks: readonly BlockDevice[]
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
}

/** A host that does nothing. */
export const NO_USE: UseFacts = deepFreeze({
  blocks: [],
  mounts: [],
  swaps: [],
  shares: [],
  shares9p: 0,
  network: { interfaces: [], routes: [], ssh: null },
  display: { frameBuffers: [], terminals: [], screens: [] },
  memory: NO_MEMORY,
  nodes: [],
  consoles: [],
  processes: NO_PROCESSES,
  virtualDevices: [],
  enabled: [],
  behind: {},
})

const DIRECTORIES = [
  'bus/mdev/devices',
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

/** Looks at what is in use. Total: what is missing or makes no sense leaves its facts out. */
export function readUse(paths: HostPaths, devices: readonly PciDevice[]): UseFacts {
  const { sysfs, proc } = paths
  const names = readNames(sysfs, DIRECTORIES)
  const blocks = readBlockDevices(paths, names['class/block'])
  const { nodes, consoles } = readNodes(sysfs, proc, names['dev/char'], blocks)
  const bound = devices.filter(isWithVfio).map(({ address }) => address)
  const wanted = new Set([...blocks, ...nodes].map(({ node }) => node))
  // Looking into every process is dear: only for what there is to find.
  const processes =
    proc === null || (wanted.size === 0 && bound.length === 0) ? null : readProcesses(proc, wanted)
  return deepFreeze({
    blocks,
    mounts: readMounts(proc, processes?.namespaces ?? []),
    swaps: readSwaps(proc),
    shares: readShares(sysfs, names['bus/virtio/devices']),
    shares9p: names['class/bdi'].filter((name) => name.startsWith('9p')).length,
    network: readNetwork(sysfs, proc, names['class/net']),
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
  })
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
