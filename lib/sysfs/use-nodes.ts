import { below, listNames, readText } from './files.js'
import { readBatch } from './tree.js'
import type { BlockDevice } from './use-block.js'
import { type Concerns, readPlaces } from './use-paths.js'
import type { WantedNode } from './use-processes.js'

/** A character device that a PCI function brings: a DRM node, a sound card, a serial port, … */
export interface DeviceNode {
  /** Path below `/dev`. */
  readonly node: string
  /** `c` and `major:minor`: `c226:0`; `null` where it is not known. */
  readonly number: string | null
  readonly functions: readonly string[]
}

/** A console that the kernel writes to (`/proc/consoles`). */
export interface KernelConsole {
  readonly name: string
  readonly functions: readonly string[]
}

/**
 * @param names the entries of `dev/char`: `major:minor`
 * @param blocks for the nodes that are theirs: NVMe with native multipath has those past any function
 */
export function readNodes(
  sysfs: string,
  proc: string | null,
  names: readonly string[],
  blocks: readonly BlockDevice[],
  concerns: Concerns,
): { nodes: DeviceNode[]; consoles: KernelConsole[]; vfio: WantedNode[] } {
  const places = readPlaces(sysfs, 'dev/char', names)
  const onPci = places.filter(({ functions }) => concerns(functions))
  const batch = readBatch(
    `${sysfs}/dev/char`,
    onPci.map(({ name }) => name),
    { files: ['uevent'] },
  )
  const nodes = onPci.flatMap(({ name, functions }, row) => {
    const node = /^DEVNAME=(.+)$/m.exec(batch.text(row, 'uevent') ?? '')?.[1]
    return node === undefined ? [] : [{ node, number: `c${name}`, functions }]
  })
  const byNumber = new Map(places.map(({ name, functions }) => [name, functions]))
  const known = new Set(nodes.map(({ node }) => node))
  const generic = blocks
    .filter(({ name, functions }) => /^nvme\d+n\d+$/.test(name) && functions.length > 0)
    .map(({ name, functions }) => ({ node: name.replace('nvme', 'ng'), functions }))
    .filter(({ node }) => !known.has(node))
    .map(({ node, functions }) => {
      const place = places.find(({ path }) => path?.endsWith(`/${node}`))
      return { node, number: place === undefined ? null : `c${place.name}`, functions }
    })
  // Groups are below no function, and mediated devices need not be. Without an IOMMU groups have another name.
  const vfio = places.flatMap(({ name, path }) => {
    const group = /\/virtual\/vfio\/((?:noiommu-)?\d+)$/.exec(path ?? '')?.[1]
    if (group !== undefined) return [{ node: `vfio/${group}`, number: `c${name}` }]
    const device = /\/vfio-dev\/(vfio\d+)$/.exec(path ?? '')?.[1]
    return device === undefined ? [] : [{ node: `vfio/devices/${device}`, number: `c${name}` }]
  })
  return {
    nodes: [...nodes, ...generic, ...readNvidia(proc).filter(({ functions }) => concerns(functions))],
    consoles: readConsoles(proc, byNumber),
    vfio,
  }
}

/** `ttyS0                -W- (EC  p a)    4:64` */
function readConsoles(
  proc: string | null,
  byNumber: ReadonlyMap<string, readonly string[]>,
): KernelConsole[] {
  const lines = (readText(below(proc, 'consoles')) ?? '').split('\n')
  return lines.flatMap((line) => {
    const [, name, number] = /^(\S+)\s.*\s(\d+:\d+)$/.exec(line) ?? []
    const functions = byNumber.get(number ?? '') ?? []
    return name === undefined || functions.length === 0 ? [] : [{ name, functions }]
  })
}

/** `NV_MAJOR_DEVICE_NUMBER` of NVIDIA's driver. */
const NVIDIA_MAJOR = 195

/** NVIDIA's own driver registers its nodes past sysfs, and tells their numbers in `/proc`. */
function readNvidia(proc: string | null): DeviceNode[] {
  const directory = below(proc, 'driver/nvidia/gpus')
  return listNames(directory).flatMap((address) => {
    const text = readText(below(directory, `${address}/information`)) ?? ''
    const minor = /^Device Minor:\s*(\d+)/m.exec(text)?.[1]
    return minor === undefined
      ? []
      : [{ node: `nvidia${minor}`, number: `c${NVIDIA_MAJOR}:${minor}`, functions: [address.toLowerCase()] }]
  })
}
