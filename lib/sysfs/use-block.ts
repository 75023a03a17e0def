import { below, exists, listNames, readText } from './files.js'
import { readBatch } from './tree.js'
import { type Placed, readNames, readPlaces } from './use-paths.js'

/** A disk, a partition, or what the kernel builds on them (`class/block`). */
export interface BlockDevice {
  readonly name: string
  /** What people call it: the device mapper's name, else the kernel's. */
  readonly label: string
  /** Path below `/dev`. */
  readonly node: string
  /** `major:minor`, as mount tables name it. */
  readonly number: string | null
  /** PCI functions on the way to it; of all paths to it, where NVMe has several. */
  readonly functions: readonly string[]
  /** Of a disk that comes over the network the addresses of who has it, as far as they show; `null` for any other. */
  readonly servers: readonly string[] | null
  /** The disk of a partition. */
  readonly partOf: string | null
  /** The block devices below it: `slaves`, and what a loop or a zram device is backed by. */
  readonly restsOn: readonly string[]
  /** What it is, where it is built on others: `LVM volume`, `RAID`, … */
  readonly layer: string | null
  /** A bcache is registered on it. */
  readonly bcache: boolean
  /** The imported ZFS pool that it is a member of. */
  readonly zfsPool: string | null
  /** The kind of content that udev found on it, empty for none; `null`: udev tells nothing of it, or was not asked. */
  readonly content: string | null
  /** The kind of a file system that lives on it, mounted in sight or not (`fs/ext4/<name>`). */
  readonly fileSystem: string | null
  /** The members of a live btrfs on several devices, or of one; by their names. */
  readonly btrfs: readonly string[] | null
}

const FILES = ['dev', 'dm/name', 'dm/uuid', 'md/level', 'loop/backing_file', 'backing_dev']

/** File systems that have a directory for each live one in `/sys/fs`, named by its block device. */
const NAMED_BY_DEVICE = ['ext4', 'xfs', 'f2fs', 'erofs', 'nilfs2']

/**
 * @param run `/run`, for what udev found on the disks; `null`: not known
 * @param pools the ZFS pools that are imported
 */
export function readBlockDevices(
  { sysfs, run }: { sysfs: string; run: string | null },
  names: readonly string[],
  pools: readonly string[],
): BlockDevice[] {
  if (names.length === 0) return []
  const places = readPlaces(sysfs, 'class/block', names)
  const known = new Set(names)
  const batch = readBatch(`${sysfs}/class/block`, names, { files: FILES, lists: ['slaves', 'bcache'] })
  const byNode = new Map(names.map((name) => [name.replaceAll('!', '/'), name]))
  const partOf = new Map(places.map((place) => [place.name, diskOf(place, known)]))
  const functions = functionsOfDisks(sysfs, places)
  const servers = serversOfDisks(sysfs, places)
  const fileSystems = readFileSystems(sysfs, known)
  const btrfs = readBtrfs(sysfs)
  const numbers = names.map((_name, row) => batch.text(row, 'dev'))
  // Only ZFS leaves no trace in sysfs of what it has.
  const contents = pools.length === 0 ? new Map<string, Content>() : readContents(run, numbers)
  return names.map((name, row) => {
    const number = batch.text(row, 'dev')
    const backing = batch.text(row, 'loop/backing_file') ?? batch.text(row, 'backing_dev') ?? ''
    const backed = backing.startsWith('/dev/') ? byNode.get(backing.slice(5)) : undefined
    const slaves = batch.names(row, 'slaves').filter((slave) => known.has(slave))
    return {
      name,
      label: batch.text(row, 'dm/name') || name,
      node: name.replaceAll('!', '/'),
      number,
      functions: functions.get(partOf.get(name) ?? name) ?? [],
      servers: servers.get(partOf.get(name) ?? name) ?? null,
      partOf: partOf.get(name) ?? null,
      restsOn: backed === undefined ? slaves : [...slaves, backed],
      layer: layerOf(batch.text(row, 'dm/uuid'), batch.text(row, 'md/level'), name),
      bcache: batch.errno(row, 'bcache') === 0,
      zfsPool: poolOf(contents.get(number ?? ''), pools),
      content: contents.get(number ?? '')?.type ?? null,
      fileSystem: fileSystems.get(name) ?? null,
      btrfs: btrfs.get(name) ?? null,
    }
  })
}

/** A partition's directory lies in that of its disk. */
function diskOf({ path }: Placed, known: ReadonlySet<string>): string | null {
  const above = path?.split('/').at(-2) ?? ''
  return known.has(above) ? above : null
}

/** The prefix of a device mapper's uuid says who made it (lvm2, cryptsetup, multipath-tools, …). */
const DM_LAYERS: readonly [RegExp, string][] = [
  [/^LVM-/, 'LVM volume'],
  [/^CRYPT-/, 'encrypted volume'],
  [/^mpath-/, 'multipath device'],
  [/^DMRAID-/, 'RAID'],
  [/^part\d+-/, 'partition'],
]

function layerOf(dmUuid: string | null, mdLevel: string | null, name: string): string | null {
  if (dmUuid !== null) return DM_LAYERS.find(([prefix]) => prefix.test(dmUuid))?.[1] ?? 'device mapper'
  if (mdLevel !== null) return mdLevel === '' ? 'RAID' : mdLevel
  if (/^bcache\d/.test(name)) return 'bcache'
  if (/^loop\d/.test(name)) return 'loop device'
  return null
}

/** NVMe with native multipath has its disks below `devices/virtual`: their functions are those of the paths. */
function functionsOfDisks(sysfs: string, places: readonly Placed[]): Map<string, readonly string[]> {
  const functions = new Map(places.map((place) => [place.name, place.functions]))
  const controllers = new Map<string, readonly string[]>()
  for (const { name, path } of places) {
    const subsystem = /\/nvme-subsystem\/([^/]+)\//.exec(path ?? '')?.[1]
    const [, instance, namespace] = /^nvme(\d+)n(\d+)$/.exec(name) ?? []
    if (subsystem === undefined || namespace === undefined) continue
    const isPath = new RegExp(`^nvme${instance}c\\d+n${namespace}$`)
    const paths = places.filter((place) => isPath.test(place.name)).flatMap((place) => place.functions)
    if (paths.length === 0 && !controllers.has(subsystem)) {
      controllers.set(subsystem, functionsOfControllers(sysfs, subsystem))
    }
    functions.set(name, paths.length > 0 ? paths : (controllers.get(subsystem) ?? []))
  }
  return functions
}

/** Disks by NBD and RBD show no address of who has them in sysfs. */
const BY_NETWORK = /^(?:nbd|rbd)\d+$/
const ISCSI_SESSION = /\/session(\d+)\//
const FABRICS_CONTROLLER = /\/nvme-fabrics\/ctl\/(nvme\d+)(?:\/|$)/

/** Who has the disks that come over the network: by iSCSI, by NVMe over Fabrics, or by drivers that do not tell. */
function serversOfDisks(sysfs: string, places: readonly Placed[]): Map<string, readonly string[]> {
  const servers = new Map<string, readonly string[]>()
  let connections: readonly string[] | null = null
  for (const { name, path } of places) {
    if (BY_NETWORK.test(name)) servers.set(name, [])
    const session = ISCSI_SESSION.exec(path ?? '')?.[1]
    if (session !== undefined) {
      connections ??= readNames(sysfs, ['class/iscsi_connection'])['class/iscsi_connection']
      const ours = connections.filter((connection) => connection.startsWith(`connection${session}:`))
      const batch = readBatch(`${sysfs}/class/iscsi_connection`, ours, {
        files: ['address', 'persistent_address'],
      })
      const told = ours.map(
        (_name, row) => batch.text(row, 'address') || batch.text(row, 'persistent_address'),
      )
      servers.set(
        name,
        told.flatMap((address) => (address ? [address.replace(/^\[|\]$/g, '')] : [])),
      )
    }
    const controllers = fabricsOf(sysfs, name, path, places)
    if (controllers.length > 0) servers.set(name, addressesOf(sysfs, controllers))
  }
  return servers
}

/** The NVMe controllers on a fabric that a disk is reached by. */
function fabricsOf(sysfs: string, name: string, path: string | null, places: readonly Placed[]): string[] {
  const own = FABRICS_CONTROLLER.exec(path ?? '')?.[1]
  if (own !== undefined) return [own]
  const subsystem = /\/nvme-subsystem\/([^/]+)\//.exec(path ?? '')?.[1]
  const [, instance, namespace] = /^nvme(\d+)n(\d+)$/.exec(name) ?? []
  if (subsystem === undefined || namespace === undefined) return []
  const isPath = new RegExp(`^nvme${instance}c\\d+n${namespace}$`)
  const paths = places.filter((place) => isPath.test(place.name))
  const directory = `class/nvme-subsystem/${subsystem}`
  const names = paths.length > 0 ? [] : (readNames(sysfs, [directory])[directory] ?? [])
  const links = readPlaces(
    sysfs,
    directory,
    names.filter((entry) => /^nvme\d+$/.test(entry)),
  )
  return [...paths, ...links].flatMap((place) => FABRICS_CONTROLLER.exec(place.path ?? '')?.[1] ?? [])
}

/** `traddr=10.0.0.2,trsvcid=4420,src_addr=10.0.0.1` */
function addressesOf(sysfs: string, controllers: readonly string[]): string[] {
  const batch = readBatch(`${sysfs}/class/nvme`, controllers, { files: ['address'] })
  return controllers.flatMap(
    (_name, row) => /(?:^|,)traddr=([^,]+)/.exec(batch.text(row, 'address') ?? '')?.[1] ?? [],
  )
}

function functionsOfControllers(sysfs: string, subsystem: string): string[] {
  const directory = `class/nvme-subsystem/${subsystem}`
  const names = readNames(sysfs, [directory])[directory] ?? []
  const controllers = names.filter((name) => /^nvme\d+$/.test(name))
  return readPlaces(sysfs, directory, controllers).flatMap(({ functions }) => functions)
}

function readFileSystems(sysfs: string, known: ReadonlySet<string>): Map<string, string> {
  const live = new Map<string, string>()
  for (const [type, names] of Object.entries(readNames(`${sysfs}/fs`, NAMED_BY_DEVICE))) {
    for (const name of names) if (known.has(name)) live.set(name, type)
  }
  return live
}

/** Each live btrfs has a directory named by its UUID, with links to its devices. */
function readBtrfs(sysfs: string): Map<string, readonly string[]> {
  const members = new Map<string, readonly string[]>()
  const uuids = (readNames(`${sysfs}/fs`, ['btrfs']).btrfs ?? []).filter((name) =>
    /^[0-9a-f-]{36}$/.test(name),
  )
  const lists = readNames(
    `${sysfs}/fs/btrfs`,
    uuids.map((uuid) => `${uuid}/devices`),
  )
  for (const names of Object.values(lists)) for (const name of names) members.set(name, names)
  return members
}

/** The ZFS pools that are imported: each has a directory of statistics, beside files with those of the module. */
export const readPools = (proc: string | null): string[] =>
  listNames(below(proc, 'spl/kstat/zfs')).filter((name) => exists(`${proc}/spl/kstat/zfs/${name}/.`))

/** What udev found on a disk. */
interface Content {
  readonly type: string
  readonly label: string
}

/** By `major:minor`. */
function readContents(run: string | null, numbers: readonly (string | null)[]): Map<string, Content> {
  const contents = new Map<string, Content>()
  for (const number of numbers) {
    const record = number === null ? null : readText(below(run, `udev/data/b${number}`))
    if (record === null || number === null) continue
    const property = (name: string) => new RegExp(`^E:ID_FS_${name}=(.*)$`, 'm').exec(record)?.[1] ?? ''
    contents.set(number, { type: property('TYPE'), label: property('LABEL') })
  }
  return contents
}

const poolOf = (content: Content | undefined, pools: readonly string[]) =>
  content?.type === 'zfs_member' && pools.includes(content.label) ? content.label : null
