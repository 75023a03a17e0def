import { constants } from 'node:os'
import { isUuid } from './address.js'
import { readBatch } from './tree.js'
import { functionsOn } from './use-paths.js'

/** A device that the driver of another one makes, and lends parts of that to (Documentation/driver-api/vfio-mediated-device). */
export interface MediatedDevice {
  /** It names the device, in sysfs form. */
  readonly uuid: string
  /** What it is a part of, by its name in sysfs: a PCI function, a subchannel, or a device that only a driver knows; `null` where its path does not tell. */
  readonly parent: string | null
  /** The PCI function that carries it; `null` where its parent is on none. */
  readonly function: string | null
  /** The id of its type, like `i915-GVTg_V5_4`; `null` where it cannot be told. */
  readonly type: string | null
  /** As what a VMM has to drive it: `vfio-pci`, `vfio-ccw`, `vfio-ap`, …; `null` where the type does not tell, or in brief. */
  readonly deviceApi: string | null
  /** IOMMU group number, `null` where it is in none: no driver has given it to VFIO, or this VFIO has no groups. */
  readonly group: number | null
  /** The bound driver: one that its parent's brings, before Linux 5.19 often vfio_mdev; `null` for none. */
  readonly driver: string | null
  /** Its driver has given it to VFIO. */
  readonly vfioRegistered: boolean
  /** Name of the VFIO character device below `/dev/vfio/devices`, where the kernel has made one. */
  readonly vfioDevice: string | null
}

/** One kind of mediated device that a parent can make. */
export interface MdevType {
  /** The driver's name and its own: `mtty-1`, `nvidia-63`. */
  readonly id: string
  /** `null`: the driver gives none, here and below. */
  readonly name: string | null
  readonly description: string | null
  readonly deviceApi: string | null
  /** How many more can be made now; types of one parent share what there is. `null` where it could not be read. */
  readonly available: number | null
  /** Those that there are, by UUID. */
  readonly devices: readonly string[]
}

/** A device whose driver makes mediated devices. */
export interface MdevParent {
  /** As it is called in sysfs: `0000:00:02.0`, `mtty`. */
  readonly name: string
  /** The PCI function that it is, or that carries it; `null` for none. */
  readonly function: string | null
  readonly types: readonly MdevType[]
}

export interface MediatedFacts {
  readonly devices: readonly MediatedDevice[]
  readonly parents: readonly MdevParent[]
}

/** @internal */
export const NO_MEDIATED: MediatedFacts = Object.freeze({
  devices: Object.freeze([]),
  parents: Object.freeze([]),
})

/** Where the kernel has the mediated devices, and links to all parents. */
const BUS = 'bus/mdev/devices'
const PARENTS = 'class/mdev_bus'
const TYPES = 'mdev_supported_types'

interface MediatedOptions {
  /** Without what types tell: see `SnapshotOptions`. */
  readonly brief: boolean
  /** Only those that concern a part of the host; `null`: all. */
  readonly concerns: ((uuid: string, functions: readonly string[]) => boolean) | null
}

/** Reads the mediated devices and what can make more of them, ordered by name. */
export function readMediated(sysfs: string, { brief, concerns }: MediatedOptions): MediatedFacts {
  const names = readBatch(sysfs, ['.'], { lists: [BUS, PARENTS] })
  const uuids = names.names(0, BUS).filter(isUuid)
  const all = names.names(0, PARENTS)
  if (uuids.length + all.length === 0) return NO_MEDIATED
  const devices = readDevices(sysfs, uuids, brief, concerns)
  const paths = readBatch(`${sysfs}/${PARENTS}`, ['.'], { links: all })
  const parents = all.flatMap((name) => {
    const functions = functionsOn(paths.text(0, name))
    const isWanted =
      concerns === null || concerns('', functions) || devices.some(({ parent }) => parent === name)
    return isWanted ? [{ name, function: functions.at(-1) ?? null }] : []
  })
  return Object.freeze({ devices: Object.freeze(devices), parents: readTypes(sysfs, parents, brief) })
}

const { ENOENT, ENODEV, ENOTDIR, ELOOP } = constants.errno
const GONE: ReadonlySet<number> = new Set([ENOENT, ENODEV, ENOTDIR, ELOOP])

function readDevices(
  sysfs: string,
  uuids: readonly string[],
  brief: boolean,
  concerns: MediatedOptions['concerns'],
): MediatedDevice[] {
  const root = `${sysfs}/${BUS}`
  const paths = readBatch(root, ['.'], { links: uuids })
  const wanted = uuids.filter((uuid) => concerns === null || concerns(uuid, functionsOn(paths.text(0, uuid))))
  const batch = readBatch(root, wanted, {
    files: brief ? [] : ['mdev_type/device_api'],
    links: ['driver', 'iommu_group', 'mdev_type'],
    lists: ['.', 'vfio-dev'],
  })
  const registered = wanted.map((_uuid, row) => batch.names(row, 'vfio-dev')[0] ?? null)
  const nodes = readBatch(
    root,
    wanted.map((uuid, row) => `${uuid}/vfio-dev/${registered[row]}`),
    { files: ['dev'] },
  )
  return wanted.flatMap((uuid, row) => {
    // One that was removed since its name was listed.
    if (GONE.has(batch.errno(row, '.'))) return []
    const path = paths.text(0, uuid)
    const group = batch.linkName(row, 'iommu_group')
    const driver = batch.linkName(row, 'driver')
    const number = group !== null && /^\d{1,9}$/.test(group) ? Number(group) : null
    const isRegistered = registered[row] !== null
    return Object.freeze({
      uuid,
      parent: path?.split('/').at(-2) ?? null,
      function: functionsOn(path).at(-1) ?? null,
      type: batch.linkName(row, 'mdev_type'),
      deviceApi: brief ? null : batch.text(row, 'mdev_type/device_api'),
      group: number,
      driver,
      // The directory is there since 6.1; on this bus whoever has a driver and a group got them by being registered.
      vfioRegistered: isRegistered || (driver !== null && number !== null),
      vfioDevice: isRegistered && nodes.text(row, 'dev') !== null ? (registered[row] ?? null) : null,
    })
  })
}

const TYPE_FILES = ['name', 'description', 'device_api', 'available_instances']

function readTypes(
  sysfs: string,
  parents: readonly Omit<MdevParent, 'types'>[],
  brief: boolean,
): readonly MdevParent[] {
  const root = `${sysfs}/${PARENTS}`
  const lists = readBatch(root, brief ? [] : parents.map(({ name }) => name), { lists: [TYPES] })
  const ids = parents.map((_parent, row) => (brief ? [] : lists.names(row, TYPES)))
  const batch = readBatch(
    root,
    parents.flatMap(({ name }, row) => (ids[row] ?? []).map((id) => `${name}/${TYPES}/${id}`)),
    { files: TYPE_FILES, lists: ['devices'] },
  )
  let row = -1
  return Object.freeze(
    parents.map((parent, at) => {
      const types = (ids[at] ?? []).map((id): MdevType => {
        row++
        const count = batch.text(row, 'available_instances')
        return Object.freeze({
          id,
          name: batch.text(row, 'name') || null,
          description: batch.text(row, 'description') || null,
          deviceApi: batch.text(row, 'device_api') || null,
          available: count !== null && /^\d{1,9}$/.test(count) ? Number(count) : null,
          devices: Object.freeze(batch.names(row, 'devices').filter(isUuid)),
        })
      })
      return Object.freeze({ ...parent, types: Object.freeze(types) })
    }),
  )
}
