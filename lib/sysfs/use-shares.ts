import { below } from './files.js'
import { readBatch } from './tree.js'
import { type Placed, readNames, readPlaces } from './use-paths.js'

/** A file system that a virtio device brings from outside. */
export interface Share {
  readonly type: '9p' | 'virtiofs'
  /** The tag that it is mounted by; `null` where this kernel does not tell (virtiofs before 6.9). */
  readonly tag: string | null
  readonly functions: readonly string[]
}

const DRIVERS: Readonly<Record<string, Share['type']>> = { '9pnet_virtio': '9p', virtiofs: 'virtiofs' }

/** Drivers name themselves; a share without one cannot be mounted. */
export function readShares(sysfs: string, names: readonly string[]): Share[] {
  if (names.length === 0) return []
  const directory = 'bus/virtio/devices'
  const batch = readBatch(below(sysfs, directory) ?? '', names, { files: ['mount_tag'], links: ['driver'] })
  const tags = readVirtiofsTags(sysfs)
  return readPlaces(sysfs, directory, names).flatMap(({ name, functions }, row) => {
    const type = DRIVERS[batch.linkName(row, 'driver') ?? '']
    if (type === undefined || functions.length === 0) return []
    // The tag of 9p may end with the byte that ends it in config space.
    const tag = type === '9p' ? batch.text(row, 'mount_tag')?.replaceAll('\0', '') : tags.get(name)
    return [{ type, tag: tag ?? null, functions }]
  })
}

/** By the name of the virtio device, which each `fs/virtiofs/<N>/device` leads to. */
function readVirtiofsTags(sysfs: string): Map<string, string> {
  const root = `${sysfs}/fs/virtiofs`
  const names = readNames(`${sysfs}/fs`, ['virtiofs']).virtiofs
  const batch = readBatch(root, names, { files: ['tag'], links: ['device'] })
  return new Map(
    names.map((_name, row) => [batch.linkName(row, 'device') ?? '', batch.text(row, 'tag') ?? '']),
  )
}

/** What functions carry virtual devices of: mediated devices and vDPA devices. */
export function readVirtualDevices(
  sysfs: string,
  mdev: readonly string[],
  vdpa: readonly string[],
): Placed[] {
  return [
    ...readPlaces(sysfs, 'bus/mdev/devices', mdev),
    ...readPlaces(sysfs, 'bus/vdpa/devices', vdpa),
  ].filter(({ functions }) => functions.length > 0)
}
