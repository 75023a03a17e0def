import { constants } from 'node:os'
import type { Growing } from '../growing.js'
import { compareAddresses, isAddress } from './address.js'
import type { PciDevice } from './devices.js'
import type { MediatedDevice } from './mediated.js'
import { type Batch, beginBatch, readBatch, recording, type Wanted } from './tree.js'

/** A range of I/O virtual addresses that the group may not use freely; `end` is the last byte. */
export interface ReservedRegion {
  readonly start: bigint
  readonly end: bigint
  /** `direct`, `direct-relaxable`, `reserved` or `msi` (Documentation/ABI/testing/sysfs-kernel-iommu_groups). */
  readonly type: string
}

/** One IOMMU group: the smallest set of devices that the hardware can keep apart from others. */
export interface IommuGroup {
  readonly group: number
  /** Type of the default domain, for instance `DMA-FQ` or `identity`; `null` where the kernel does not say. */
  readonly type: string | null
  /** A group of VFIO's no-IOMMU mode: nothing protects the host from its devices. */
  readonly noIommu: boolean
  /** Made for a mediated device, which reaches memory through its driver alone; only where it is so. */
  readonly emulated?: true
  /** PCI functions, by address. */
  readonly members: readonly string[]
  /** Members on other buses than PCI, or out of sight there, with their drivers. */
  readonly others: readonly { readonly name: string; readonly driver: string | null }[]
  readonly reservedRegions: readonly ReservedRegion[]
}

const FILES = ['reserved_regions', 'type']
const LISTS = ['devices']
const ASKED = [...FILES, ...LISTS]
const NONE: readonly never[] = Object.freeze([])

const isGone = (errno: number) => errno === constants.errno.ENOENT || errno === constants.errno.ENODEV

/** The name that VFIO gives to a group without an IOMMU, those of mediated devices too; no other group has one (`vfio_noiommu_group_alloc`). */
export const NO_IOMMU_GROUP = 'vfio-noiommu'

/** A reading of groups that goes on beside. */
export interface BegunGroups {
  readonly brief: boolean
  readonly listed: readonly number[]
  readonly read: () => Batch
}

/** The numbers of all groups that there are, in order. */
export const listGroups = (sysfs: string): readonly number[] => listNumbers(rootOf(sysfs))

/**
 * Begins to read groups; those of devices that are not among them are read when the devices are known.
 * @param brief only what verdicts need: see `SnapshotOptions`
 */
export const beginGroups = (sysfs: string, brief: boolean, listed: readonly number[]): BegunGroups => ({
  brief,
  listed,
  read: beginBatch(rootOf(sysfs), listed.map(String), wanted(brief)),
})

const rootOf = (sysfs: string) => `${sysfs}/kernel/iommu_groups`

const wanted = (brief: boolean): Wanted => ({
  files: brief ? FILES : [...FILES, 'name'],
  lists: LISTS,
})

/** The groups of a look, with all that they were made of: the next look that reads the same has the same. */
export interface GroupsSeen {
  readonly groups: IommuGroup[]
  readonly devices: readonly PciDevice[]
  readonly listed: readonly number[]
  readonly batch: Batch
  /** No more was read for them, and nothing but functions was asked about. */
  readonly isAll: boolean
}

/**
 * The groups of a sysfs tree, ordered by number; members come from both ends of the links.
 * @param last the look before this at the same tree; `null` for none
 */
export function readGroups(
  sysfs: string,
  { brief, listed, read }: BegunGroups,
  devices: readonly PciDevice[],
  mediated: readonly MediatedDevice[],
  last: GroupsSeen | null,
): GroupsSeen {
  const batch = read()
  const isSame =
    last?.isAll &&
    mediated.length === 0 &&
    devices === last.devices &&
    listed.length === last.listed.length &&
    listed.every((group, row) => group === last.listed[row]) &&
    batch.equals(last.batch)
  if (isSame) return last
  const { seen: groups, batches } = recording(() =>
    makeGroups(sysfs, { brief, listed, batch }, devices, mediated),
  )
  return { groups, devices, listed, batch, isAll: mediated.length === 0 && batches.length === 0 }
}

function makeGroups(
  sysfs: string,
  { brief, listed, batch: main }: Pick<BegunGroups, 'brief' | 'listed'> & { readonly batch: Batch },
  devices: readonly PciDevice[],
  mediated: readonly MediatedDevice[],
): IommuGroup[] {
  const members = new Map<number, string[]>()
  for (const device of devices) {
    if (device.group === null) continue
    const known = members.get(device.group)
    if (known) known.push(device.address)
    else members.set(device.group, [device.address])
  }
  const emulated = new Set(mediated.flatMap(({ group }) => group ?? []))
  const known = new Set(listed)
  const others = [...new Set([...members.keys(), ...emulated])].filter((group) => !known.has(group))
  const root = rootOf(sysfs)
  const groupsIn = (numbers: readonly number[], batch: Batch) => {
    // Where no IOMMU speaks for a group it has no regions: only such a one can be of the no-IOMMU mode, on or off by now.
    const bare = brief ? numbers.filter((_group, row) => !batch.text(row, 'reserved_regions')) : numbers
    const names = brief ? readBatch(root, bare.map(String), { files: ['name'] }) : batch
    const named = new Set(bare.filter((_group, row) => names.text(row, 'name') === NO_IOMMU_GROUP))
    const regionsIn = batch.ofText('reserved_regions', (text) => parseReservedRegions(text ?? ''))
    return numbers.flatMap((group, row) => {
      const seen = members.get(group) ?? []
      // Gone since it was listed, and nobody is said to be in it.
      if (seen.length === 0 && !emulated.has(group) && ASKED.every((name) => isGone(batch.errno(row, name))))
        return []
      const list = batch.names(row, 'devices')
      const isWhole = list.length === 1 && list[0] === seen[0]
      const isEmulated = emulated.has(group)
      const made: Growing<IommuGroup> = {
        group,
        type: batch.text(row, 'type'),
        noIommu: named.has(group) && !isEmulated,
        members: seen.length > 1 ? seen.sort(compareAddresses) : seen,
        others: isWhole ? NONE : readOthers(`${root}/${group}/devices`, list, seen),
        reservedRegions: regionsIn(row),
      }
      if (isEmulated) made.emulated = true
      return Object.freeze(made)
    })
  }
  const groups = groupsIn(listed, main)
  if (others.length > 0) groups.push(...groupsIn(others, readBatch(root, others.map(String), wanted(brief))))
  return groups.sort((a, b) => a.group - b.group)
}

const NUMBER = /^\d{1,9}$/

function listNumbers(root: string): number[] {
  const names = readBatch(root, ['.'], { lists: ['.'] }).unsortedNames(0, '.')
  // By their value, without a comparison of our own for each two of thousands.
  const numbers = Uint32Array.from(names.filter((name) => NUMBER.test(name)).map(Number)).sort()
  return [...new Set(numbers)]
}

/** A function that the group names and `bus/pci` did not show is one of them, unless it is gone. */
function readOthers(
  directory: string,
  list: readonly string[],
  members: readonly string[],
): IommuGroup['others'] {
  const names = list.filter((name) => !members.includes(name))
  if (names.length === 0) return NONE
  const batch = readBatch(directory, names, { links: ['driver'], lists: ['.'] })
  return names.flatMap((name, row) =>
    isAddress(name) && batch.errno(row, '.') !== 0 ? [] : [{ name, driver: batch.linkName(row, 'driver') }],
  )
}

/** Lines of `0x<start> 0x<end> <type>`; what does not read like that is left out. */
function parseReservedRegions(text: string): readonly ReservedRegion[] {
  const regions: ReservedRegion[] = []
  for (const line of text.split('\n')) {
    const match = /^(0x[0-9a-f]{1,16}) (0x[0-9a-f]{1,16}) (\S+)/i.exec(line)
    const [, start, end, type] = match ?? []
    if (start && end && type) regions.push({ start: BigInt(start), end: BigInt(end), type })
  }
  return Object.freeze(regions)
}
