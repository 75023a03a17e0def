import { isAddress, isUuid } from '../sysfs/address.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import type { Unseen } from '../sysfs/unseen.js'
import { printable } from '../text.js'
import { several, unseenCure, unseenText } from './uses-text.js'

/** What a look was about: a function, a group, or the host. */
type Subject = { readonly address: string } | { readonly group: number } | 'host'

function subjectOf(seen: Snapshot, { path }: Unseen): Subject {
  const inSysfs = path.startsWith(`${seen.host.paths.sysfs}/`) ? path.slice(seen.host.paths.sysfs.length) : ''
  const [, address = '', file] = /^\/bus\/pci\/devices\/([^/]+)(?:\/(.*))?$/.exec(inSysfs) ?? []
  // Where it lies, and whose virtual function it is, concerns others too.
  if (isAddress(address)) return file === undefined || file === 'physfn' ? 'host' : { address }
  const [, uuid = '', part] = /^\/bus\/mdev\/devices\/([^/]+)(\/.)?/.exec(inSysfs) ?? []
  // What carries it is another device.
  if (isUuid(uuid) && part !== undefined) return { address: uuid }
  // What could be made concerns nothing that is there.
  if (/^\/class\/mdev_bus(?:\/|$)/.test(inSysfs)) return { address: 'what makes mediated devices' }
  const group = /^\/kernel\/iommu_groups\/(\d+)(?:\/|$)/.exec(inSysfs)?.[1]
  return group === undefined ? 'host' : { group: Number(group) }
}

/** Of these looks those that are about some functions or their groups, or with `host` about the host as a whole. */
export function unseenAbout(
  seen: Snapshot,
  all: readonly Unseen[],
  {
    addresses = [],
    groups = [],
    host = false,
  }: {
    readonly addresses?: readonly string[]
    readonly groups?: readonly (number | null)[]
    readonly host?: boolean
  },
): readonly Unseen[] {
  return all.filter((one) => {
    const subject = subjectOf(seen, one)
    if (subject === 'host') return host
    return 'address' in subject ? addresses.includes(subject.address) : groups.includes(subject.group)
  })
}

/** A sentence with the cure; `null` where all was seen. */
export const unseenSentence = (what: string, all: readonly Unseen[]): string | null =>
  all.length === 0
    ? null
    : `${what} could not be seen, since looking failed at ${printable(several(all.map(unseenText)))}: ${unseenCure(all)}`
