import { vitalWarning } from '../../assess/assessment.js'
import { harmsOf, isFree, isInfrastructure } from '../../assess/overview.js'
import { assessReset } from '../../assess/reset.js'
import {
  type Survey,
  type SurveyedDevice,
  type SurveyedGroup,
  type SurveyedMediated,
  survey,
} from '../../assess/survey.js'
import { isBridge, Topology } from '../../assess/topology.js'
import type { HostUse } from '../../assess/uses.js'
import { assessViability } from '../../assess/viability.js'
import { compareAddresses } from '../../sysfs/address.js'
import type { PciDevice } from '../../sysfs/devices.js'
import type { HostFacts } from '../../sysfs/facts.js'
import type { Snapshot } from '../../sysfs/snapshot.js'

/** What a function is in the tree. A `bridge` is one that is no PCI Express port. */
export type TopologyKind =
  | 'root-port'
  | 'upstream-port'
  | 'downstream-port'
  | 'bridge'
  | 'function'
  | 'virtual-function'

/** A PCI function with its place and its verdict. */
export interface TopologyDevice extends SurveyedDevice {
  readonly kind: TopologyKind
  /**
   * What it hangs on: the bridge above it; of a virtual function its physical function, and on a bus that a driver makes (Intel
   * VMD) the function of that driver. `null` on a root bus, or where that was not seen.
   */
  readonly below: string | null
  readonly numaNode: number | null
  /** A bridge or a part of the machine, which nobody gives away. */
  readonly infrastructure: boolean
  /** A sentence for each member of its group that blocks it, with the cure. */
  readonly blockers: readonly string[]
  /** How it can be reset, or why not: of itself, and together with others. */
  readonly resets: readonly string[]
}

/** Functions that can be reset only all at once. */
export interface TopologyReset {
  /** The slot that it goes through, or the bridge whose bus that is; `null` where neither was seen. */
  readonly through: string | null
  readonly members: readonly string[]
  /** Those of them that no other reset is left for. */
  readonly dependents: readonly string[]
  /** Is there such a reset now, will there be once all of it is bound to VFIO, or not even then? */
  readonly possible: 'now' | 'once bound' | 'no'
}

/** What a person looks for first: addresses, and of mediated devices UUIDs. */
export interface TopologyGlance {
  /** Can be given away, and nobody would miss it or what has to come along. */
  readonly free: readonly string[]
  /** Could be given away, but what the host does with it could not all be seen. */
  readonly unsure: readonly string[]
  /** Could be given away, and the host would lose something. */
  readonly inUse: readonly string[]
  readonly blocked: readonly string[]
  /** Groups of which several have to be given away, all or none. */
  readonly together: readonly { readonly group: number; readonly members: readonly string[] }[]
  /** What the host would lose. */
  readonly lost: readonly HostUse[]
}

/** A host as a tree, judged. */
export interface HostTopology {
  readonly host: {
    readonly kernel: string
    /** Is an IOMMU on? `null`: not known. */
    readonly iommu: boolean | null
    readonly noIommuMode: boolean | null
  }
  readonly glance: TopologyGlance
  readonly groups: readonly SurveyedGroup[]
  /** By address. */
  readonly devices: readonly TopologyDevice[]
  /** Only where there are any. */
  readonly mediated?: readonly SurveyedMediated[]
  readonly resets: readonly TopologyReset[]
}

/** A whole host as a tree: where each function hangs, what can be given away, what only together, what the host would lose. */
export function describeTopology(seen: Snapshot): HostTopology {
  const { devices, groups, mediated, host } = survey(seen)
  const placed = devices.map((device) => placeOf(seen, device))
  return {
    host: { kernel: host.kernel, iommu: iommuOf(host), noIommuMode: host.noIommuMode },
    glance: glanceOf(placed, mediated),
    groups,
    devices: placed,
    ...(mediated && { mediated }),
    resets: resetsOf(seen, placed),
  }
}

const iommuOf = ({ iommu }: HostFacts) => (iommu.present || iommu.known ? iommu.present : null)

function placeOf(seen: Snapshot, surveyed: SurveyedDevice): TopologyDevice {
  const { address, group, verdict, reason, uses, resetOnceBound } = surveyed
  const device = seen.device(address)
  const reset = assessReset(seen, address)
  const [own, hot] = [reset.function.reason, reset.hot.reason]
  const members = group === null ? [] : assessViability(seen, group).members
  // Each by its name: to copy all of them by `...` takes longer than to judge the device.
  const placed: { -readonly [name in keyof TopologyDevice]: TopologyDevice[name] } = {
    address,
    group,
    vendor: surveyed.vendor,
    device: surveyed.device,
    subsystemVendor: surveyed.subsystemVendor,
    subsystemDevice: surveyed.subsystemDevice,
    ids: surveyed.ids,
    subsystemIds: surveyed.subsystemIds,
    class: surveyed.class,
    revision: surveyed.revision,
    names: surveyed.names,
    driver: surveyed.driver,
    headerType: surveyed.headerType,
    verdict,
    // With what the host would not survive, which an overview leaves out.
    reason: `${reason}${vitalWarning(seen, { address, verdict }, uses ?? [])}`,
    toBind: surveyed.toBind,
    resetScope: surveyed.resetScope,
    kind: kindOf(device),
    below: belowWhat(seen, device),
    numaNode: device.numaNode,
    infrastructure: isInfrastructure(surveyed),
    blockers: members.filter(({ blocks }) => blocks).map((member) => member.reason),
    // What could not be judged has one reason for both.
    resets: own === hot ? [own] : [own, hot],
  }
  if (resetOnceBound !== undefined) placed.resetOnceBound = resetOnceBound
  if (uses !== undefined) placed.uses = uses
  return placed
}

const PORTS: ReadonlySet<string> = new Set(['root-port', 'upstream-port', 'downstream-port'])

function kindOf(device: PciDevice): TopologyKind {
  const { sriov, capabilities } = device
  if (sriov?.role === 'vf') return 'virtual-function'
  if (!isBridge(device)) return 'function'
  const type = capabilities.pcie?.type ?? ''
  return PORTS.has(type) ? (type as TopologyKind) : 'bridge'
}

function belowWhat(seen: Snapshot, { address, sriov, parent, madeBy }: PciDevice): string | null {
  const above = sriov?.role === 'vf' ? [sriov.pf, parent, madeBy] : [parent, madeBy]
  return above.find((name) => name !== null && name !== address && seen.has(name)) ?? null
}

function glanceOf(devices: readonly TopologyDevice[], mediated: Survey['mediated'] = []): TopologyGlance {
  const free: string[] = []
  const unsure: string[] = []
  const inUse: string[] = []
  const blocked: string[] = []
  const groups = new Map<number, Set<string>>()
  const lost = new Map<string, HostUse>()
  for (const device of devices) {
    const { infrastructure, verdict, address, group, toBind } = device
    if (infrastructure) continue
    if (verdict === 'blocked') {
      blocked.push(address)
      continue
    }
    const harms = harmsOf(device)
    for (const use of harms) lost.set(`${use.address} ${use.what}`, use)
    // Whether one of those is open is asked of it alone.
    if (isFree(device)) free.push(address)
    else (harms.length > 0 ? inUse : unsure).push(address)
    if (group === null) continue
    // With what has to come along, and what has come already.
    const members = groups.get(group) ?? new Set()
    groups.set(group, members.add(address))
    for (const other of toBind) members.add(other)
  }
  for (const { uuid, verdict } of mediated) (verdict === 'blocked' ? blocked : unsure).push(uuid)
  const together = [...groups]
    .filter(([, members]) => members.size > 1)
    .map(([group, members]) => ({ group, members: [...members].sort(compareAddresses) }))
    .sort((one, other) => one.group - other.group)
  return { free, unsure, inUse, blocked, together, lost: [...lost.values()] }
}

/** What a reset of the bus or slot reaches, where that is the only one that some function has. */
function resetsOf(seen: Snapshot, devices: readonly TopologyDevice[]): TopologyReset[] {
  // What one reset reaches is one list for all that it is the reset of.
  const byReach = new Map<object, TopologyDevice[]>()
  const reached = new Map<string, TopologyDevice[]>()
  for (const device of devices) {
    if (device.infrastructure || device.resetScope === 'function') continue
    const { affected } = assessReset(seen, device.address).hot
    if (affected.length < 2) continue
    const known = byReach.get(affected)
    if (known !== undefined) {
      known.push(device)
      continue
    }
    const key = affected.map(({ address }) => address).join(' ')
    const alike = reached.get(key) ?? []
    alike.push(device)
    byReach.set(affected, alike)
    reached.set(key, alike)
  }
  return [...reached].map(([key, dependents]) => ({
    through: throughOf(seen, dependents[0]?.address ?? ''),
    members: key.split(' '),
    dependents: dependents.map(({ address }) => address),
    possible: dependents.some(({ resetScope }) => resetScope === 'hot')
      ? 'now'
      : dependents.some(({ resetOnceBound }) => resetOnceBound)
        ? 'once bound'
        : 'no',
  }))
}

function throughOf(seen: Snapshot, address: string): string | null {
  const device = seen.device(address)
  return Topology.of(seen).bridgeOf(device)?.address ?? device.slot?.name ?? null
}
