import { basename } from 'node:path'
import { askerOfVfToken, exportCdi, type PciDevice, type Snapshot, VfioError } from 'vfio'
import type { Resource } from './config.js'

/** What is handed to a container, or why that cannot be. Paths are those of the host. */
export type Nodes =
  | { readonly paths: readonly string[]; readonly missing: null }
  | { readonly paths: readonly never[]; readonly missing: string }

/** The nodes of a whole group, as its consumer takes them, by the rules by which other containers get them. */
export function nodesFor(
  seen: Snapshot,
  primary: PciDevice,
  functions: readonly PciDevice[],
  { name, consumer }: Pick<Resource, 'name' | 'consumer'>,
): Nodes {
  const asker = consumer === 'kubevirt' ? tokenAsked(seen, functions) : null
  if (asker !== null) return { paths: [], missing: asker }
  try {
    const { specification, devices } = exportCdi(seen, [primary.address], {
      ...(consumer === 'kata' ? { consumer, kind: name } : { consumer: 'plain' }),
      // KubeVirt opens groups.
      ...(consumer === 'kubevirt' && { backend: 'group' }),
    })
    const shared = specification.containerEdits?.deviceNodes?.map(({ path }) => path) ?? []
    const own = devices.flatMap(({ nodes }) => nodes)
    const cdevs = consumer === 'kubevirt' ? functions.flatMap((device) => cdevOf(seen, device) ?? []) : []
    return { paths: [...shared, ...own, ...cdevs], missing: null }
  } catch (error) {
    if (error instanceof VfioError) return { paths: [], missing: error.message }
    throw error
  }
}

/** Kata's are refused by the library, and a program in a container may know the token. */
function tokenAsked(seen: Snapshot, functions: readonly PciDevice[]): string | null {
  for (const device of functions) {
    const asker = askerOfVfToken(seen, device)
    if (asker !== null)
      return `whoever opens ${device.address} must give a VF token, since its physical function ${asker} is bound to vfio-pci too, and KubeVirt gives none: bind ${asker} to its own driver instead`
  }
  return null
}

/** All nodes by which somebody could open a device of a group, whether they are there or not. */
export const everyNode = (group: number | null, functions: readonly PciDevice[]): string[] => [
  ...(group === null ? [] : [`/dev/vfio/${group}`]),
  ...functions.flatMap(({ vfioDevice }) => (vfioDevice === null ? [] : [`/dev/vfio/devices/${vfioDevice}`])),
]

/** The node of a device, where both the kernel and /dev have it. */
const cdevOf = ({ host }: Snapshot, { vfioDevice }: PciDevice): string | null =>
  vfioDevice !== null && host.nodes.devices.some(({ path }) => basename(path) === vfioDevice)
    ? `/dev/vfio/devices/${vfioDevice}`
    : null
