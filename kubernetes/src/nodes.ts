import { basename } from 'node:path'
import type { PciDevice, Snapshot } from 'vfio'
import type { Consumer } from './names.js'

/** What is handed to a container, or why that cannot be. Paths are those of the host. */
export type Nodes =
  | { readonly paths: readonly string[]; readonly missing: null }
  | { readonly missing: string }

/** The nodes of a group, as its consumer takes them. */
export function nodesFor(
  seen: Snapshot,
  group: number,
  functions: readonly PciDevice[],
  consumer: Consumer,
): Nodes {
  const byGroup = groupNodes(seen, group)
  const cdevs = functions.flatMap((device) => cdevOf(seen, device) ?? [])
  switch (consumer) {
    case 'kubevirt':
      // It opens groups, and takes nodes of devices where there are any.
      return byGroup.missing === null ? { ...byGroup, paths: [...byGroup.paths, ...cdevs] } : byGroup
    case 'plain':
    case 'kata': {
      if (byGroup.missing === null) return byGroup
      const byCdev = cdevNodes(seen, functions)
      return byCdev.missing === null ? byCdev : byGroup
    }
  }
}

/** All nodes by which somebody could open a device of a group, whether they are there or not. */
export const everyNode = (group: number, functions: readonly PciDevice[]): string[] => [
  `/dev/vfio/${group}`,
  ...functions.flatMap(({ vfioDevice }) => (vfioDevice === null ? [] : [`/dev/vfio/devices/${vfioDevice}`])),
]

function groupNodes({ host }: Snapshot, group: number): Nodes {
  const { container, groups } = host.nodes
  const node = `/dev/vfio/${group}`
  if (container === null) return { missing: 'there is no /dev/vfio/vfio here' }
  if (!groups.some(({ path }) => basename(path) === String(group)))
    return { missing: `there is no ${node} here, although the group is bound to VFIO` }
  return { paths: ['/dev/vfio/vfio', node], missing: null }
}

function cdevNodes(seen: Snapshot, functions: readonly PciDevice[]): Nodes {
  if (seen.host.nodes.iommu === null) return { missing: 'there is no /dev/iommu here' }
  const withVfio = functions.filter(({ vfioRegistered }) => vfioRegistered)
  const lacking = withVfio.find((device) => cdevOf(seen, device) === null)
  if (lacking !== undefined || withVfio.length === 0)
    return { missing: `${lacking?.address ?? 'no function'} has no node below /dev/vfio/devices here` }
  return { paths: ['/dev/iommu', ...withVfio.flatMap((device) => cdevOf(seen, device) ?? [])], missing: null }
}

/** The node of a device, where both the kernel and /dev have it. */
const cdevOf = ({ host }: Snapshot, { vfioDevice }: PciDevice): string | null =>
  vfioDevice !== null && host.nodes.devices.some(({ path }) => basename(path) === vfioDevice)
    ? `/dev/vfio/devices/${vfioDevice}`
    : null
