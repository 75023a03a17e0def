import { constants } from 'node:os'
import { isAddress, slotOf } from './address.js'
import { listNames } from './files.js'
import { readBatch } from './tree.js'

/**
 * The functions that verdicts about some addresses depend on: with whom they share groups, their PFs and VFs, and all
 * that hangs on the same slot of a root bus, since no reset and no removal reaches further; of what is in no group, those
 * whose drivers brought them none. Closed: it holds the neighbourhoods of its members. `null` where the tree has no paths
 * to tell by.
 */
export function neighbourhoodOf(sysfs: string, around: readonly string[]): readonly string[] | null {
  const found = new Set<string>()
  const entered = new Set<string>()
  let wanted = around
  while (wanted.length > 0) {
    const fresh = [...new Set(wanted)].filter((address) => !found.has(address))
    const paths = readBatch(`${sysfs}/bus/pci`, ['devices'], { links: fresh })
    const links = readBatch(`${sysfs}/bus/pci/devices`, fresh, {
      links: ['iommu_group', 'physfn'],
      lists: ['.'],
    })
    const next: string[] = []
    /** Visits each group and slot once. */
    const enter = (directory: string, list: () => readonly string[]) => {
      if (entered.has(directory)) return
      entered.add(directory)
      next.push(...list())
    }
    for (const [row, address] of fresh.entries()) {
      found.add(address)
      const path = paths.text(0, address)
      const group = links.linkName(row, 'iommu_group')
      next.push(...virtualFunctions(sysfs, address, links.names(row, '.')))
      const pf = links.linkName(row, 'physfn')
      if (pf !== null) next.push(pf)
      if (paths.errno(0, address) === constants.errno.ENOENT) continue
      const [, bus, top = ''] = ROOT.exec(path ?? '') ?? []
      if (bus === undefined || !isAddress(top)) return null
      const root = `${sysfs}/bus/pci/devices/${bus}`
      enter(`${root}/${slotOf(top)}`, () => hangingOn(root, slotOf(top)))
      if (group === null) enter('no group', () => leftWithoutGroup(sysfs))
      else {
        const members = `${sysfs}/kernel/iommu_groups/${group}/devices`
        enter(members, () => listEach(members, ['.']).flatMap(({ name }) => (isAddress(name) ? name : [])))
      }
    }
    wanted = next
  }
  return [...found]
}

/** Some IOMMUs show a group only once a driver has come: who has one and no group tells of its neighbours. */
function leftWithoutGroup(sysfs: string): string[] {
  if (listNames(`${sysfs}/class/iommu`).length === 0) return []
  const all = listNames(`${sysfs}/bus/pci/devices`).filter(isAddress)
  const links = readBatch(`${sysfs}/bus/pci/devices`, all, { links: ['driver', 'iommu_group'] })
  return all.filter(
    (_address, row) => links.text(row, 'driver') !== null && links.text(row, 'iommu_group') === null,
  )
}

/** A path from `bus/pci/devices`: the directory of the first root bus, and the function on it that the path leads through. */
const ROOT = /^(.*?\/pci[0-9a-f]{4,8}:[0-9a-f]{2})\/([^/]+)/

/** Another domain hangs on a function where that makes one up: Intel VMD. */
const isRootBus = (name: string) => /^pci[0-9a-f]{4,8}:[0-9a-f]{2}$/.test(name)

/** The functions of a slot of a root bus and all that is below them: each has the directories of the next in its own. */
function hangingOn(root: string, slot: string): string[] {
  const found = new Set<string>()
  let level = listEach(root, ['.']).filter(({ name }) => isAddress(name) && slotOf(name) === slot)
  while (level.length > 0) {
    // A tree that contradicts itself must not send the walk round in circles.
    const fresh = level.filter(({ name }) => !found.has(name))
    for (const { name } of fresh) found.add(name)
    level = listEach(
      root,
      fresh.map(({ path }) => path),
    ).filter(({ name }) => isAddress(name) || isRootBus(name))
  }
  return [...found].filter(isAddress)
}

/** A PF and its VFs may be different devices of one root bus. */
function virtualFunctions(sysfs: string, address: string, list: readonly string[]): string[] {
  const names = list.filter((name) => /^virtfn\d+$/.test(name))
  const links = readBatch(`${sysfs}/bus/pci/devices`, [address], { links: names })
  return names.flatMap((name) => links.linkName(0, name) ?? [])
}

/** The names in some directories, with their paths from the same root. */
function listEach(root: string, directories: readonly string[]): { name: string; path: string }[] {
  const batch = readBatch(root, directories, { lists: ['.'] })
  return directories.flatMap((directory, row) =>
    batch.names(row, '.').map((name) => ({ name, path: `${directory}/${name}` })),
  )
}
