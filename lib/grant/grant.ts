import { lockedMemory, type Memlock, memoryBars } from '../assess/memlock.js'
import { lockGroups, lockGroupsWithin, NODE_OWNERS } from '../change/group-lock.js'
import { holdersOf } from '../change/holders.js'
import { bootId } from '../change/program.js'
import { VfioError } from '../errors.js'
import { SerialQueue } from '../queue.js'
import { badRecord, type Records } from '../records.js'
import { chooseName, parseName } from '../sysfs/address.js'
import type { PciDevice } from '../sysfs/devices.js'
import type { MediatedDevice } from '../sysfs/mediated.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import { findGid, findUid } from './accounts.js'
import { DeviceNode, type KnownNode, nodesOf, type Ownership } from './nodes.js'
import { type GrantedNode, type GrantRecord, grantsIn } from './records.js'

export interface GrantPlace {
  /** Directory of the records; default `/run/vfio`. */
  readonly journal?: string | undefined
  /** In place of `/sys`, where groups are locked. */
  readonly sysfs?: string | undefined
}

export interface GrantOptions extends GrantPlace {
  /** Whom the nodes go to, by name or uid. */
  readonly user: string | number
  /** A group that may open them too, by name or gid; without it the nodes are the user's alone. */
  readonly group?: string | number | undefined
  /** Guest memory in bytes: answers with the limit on locked memory that a VM of it needs. */
  readonly memory?: number | undefined
  /** Containers that map all of it: 1, or with a virtual IOMMU in the guest one for each group. */
  readonly containers?: number | undefined
  /** In place of `/dev`. */
  readonly dev?: string | undefined
}

/** What was given to whom. */
export interface Grant {
  /** Of a mediated device the UUID. */
  readonly address: string
  readonly uid: number
  /** `null`: the group of the nodes stays as it was. */
  readonly gid: number | null
  readonly nodes: readonly GrantedNode[]
  /** Where `memory` was given. */
  readonly memlock: Memlock | null
}

/**
 * Gives the nodes of a device that is bound to VFIO to a user, and only these: its group's, its own, `/dev/iommu`. How
 * they stood is recorded first. A node that devices share is given to one owner only.
 * @throws VfioError `ERR_VFIO_NO_DEVICE`, `ERR_VFIO_NO_GROUP`, `ERR_VFIO_NO_ACCOUNT`; `ERR_VFIO_BAD_NODE` where it has
 * no node, or something else is in its place; `ERR_VFIO_IN_USE` where a node is somebody else's through another grant
 * @throws VfioSystemError where the kernel refuses
 */
export async function grant(seen: Snapshot, address: string, options: GrantOptions): Promise<Grant> {
  const device = chosen(seen, address)
  const uid = await findUid(options.user)
  const gid = options.group === undefined ? null : await findGid(options.group)
  if (device.group === null) {
    throw new VfioError('ERR_VFIO_NO_GROUP', `${nameOf(device)} is in no IOMMU group`)
  }
  const { sysfs } = seen.host.paths
  using _lock = lockGroups(sysfs, [device.group])
  return await exclusively(sysfs, () => {
    const nodes = nodesOf(seen, device, options.dev ?? '/dev')
    return giveNodes(device, nodes, grantsIn(options.journal), { ...options, sysfs, uid, gid })
  })
}

/** A function by its address, or a mediated device by its UUID. */
function chosen(seen: Snapshot, name: string): PciDevice | MediatedDevice {
  const [device, ...others] = seen.named(name)
  // Which one, the error tells.
  return device === undefined || others.length > 0 ? seen.device(name) : device
}

const nameOf = (device: PciDevice | MediatedDevice) => ('uuid' in device ? device.uuid : device.address)

type Given = GrantOptions & Pick<Grant, 'uid' | 'gid'>

async function giveNodes(
  device: PciDevice | MediatedDevice,
  known: readonly KnownNode[],
  records: Records<GrantRecord>,
  options: Given,
): Promise<Grant> {
  const { uid, gid } = options
  const address = nameOf(device)
  await using open = await openAll(known)
  const [ofGroup, next] = known
  if (!open.nodes.some(({ path }) => path === ofGroup?.path || path === next?.path)) {
    throw new VfioError(
      'ERR_VFIO_BAD_NODE',
      `${ofGroup?.path} is not there although ${address} is bound to ${device.driver}: is ${options.dev ?? '/dev'} a devtmpfs?`,
    )
  }
  const memlock = options.memory === undefined ? null : memlockOf(options, options.memory, device, open.nodes)
  const { nodes: others, damaged } = otherGrants(records, address)
  const before = currentOnly(records.find(address))
  const nodes = open.nodes.map(({ path, state }) => {
    const shared = others.find((node) => node.path === path && node.former.rdev === state.rdev)
    const again = before?.nodes.find((node) => node.path === path && node.former.rdev === state.rdev)
    // The owner that another grant has set is not the former one.
    const former = again?.former ?? shared?.former ?? state
    // A node of a user without a readable grant may be granted by the record that is damaged.
    if (damaged && !again && !shared && state.uid !== 0) throw damaged
    const mode = former.mode | 0o600 | (gid === null ? 0 : 0o060)
    const granted = { uid, gid: gid ?? former.gid, mode }
    if (shared && !isSame(shared.granted, granted)) {
      throw new VfioError(
        'ERR_VFIO_IN_USE',
        `${path} belongs to uid ${shared.granted.uid} through the grant of another device: grant both to the same user and group`,
      )
    }
    return { path, former, granted, ...(again && { earlier: again.granted }) }
  })
  await records.write({
    version: 1,
    address,
    bootId: bootId(),
    since: new Date().toISOString(),
    nodes,
  })
  try {
    for (const [index, node] of nodes.entries()) await open.nodes[index]?.give(node.granted)
  } catch (error) {
    // All nodes or none: an earlier grant of the device ends too.
    await takeBack(records, address, options.sysfs)
    throw error
  }
  return { address, uid, gid, nodes, memlock }
}

/** What a revocation did. */
export interface Revocation {
  readonly address: string
  /** Nodes that are as before the grant again. */
  readonly restored: readonly string[]
  /** Nodes that another grant still needs, or that are gone with their device. */
  readonly kept: readonly string[]
  /** Nodes that somebody changed since: they are left alone, a sentence each. */
  readonly changed: readonly string[]
  /** Who still has the device open, a sentence each: what is open stays usable until it is closed. */
  readonly holders: readonly string[]
}

/**
 * Gives the nodes of a device back to whom they belonged before its grant.
 * @throws VfioError `ERR_VFIO_NOT_GRANTED` where nothing is known of a grant; `ERR_VFIO_BAD_JOURNAL`
 * @throws VfioSystemError where the kernel refuses
 */
export async function revoke(address: string, place: GrantPlace = {}): Promise<Revocation> {
  const records = grantsIn(place.journal)
  const full = chooseName(address, () => records.read().records.map((record) => record.address))
  const record = records.find(full)
  if (record) {
    const group = groupOf(record)
    using _lock = lockGroups(place.sysfs ?? '/sys', group === null ? [] : [group])
    const [revocation] = await revokeAll([full], place)
    if (revocation) return revocation
  }
  throw new VfioError(
    'ERR_VFIO_NOT_GRANTED',
    `nothing is known of a grant of ${full}, so nothing was changed: its nodes are as they are`,
  )
}

/**
 * Revokes the grants of these devices, those that there are: what a release does before it unbinds. Their groups are the
 * caller's to lock.
 * @throws VfioError, VfioSystemError as {@link revoke}
 */
export async function revokeAll(addresses: readonly string[], place: GrantPlace = {}): Promise<Revocation[]> {
  const records = grantsIn(place.journal)
  const revocations: Revocation[] = []
  for (const address of addresses.map(parseName)) {
    // What was never granted needs no lock.
    if (records.find(address) === null) continue
    const revocation = await exclusively(place.sysfs ?? '/sys', () => takeBack(records, address, place.sysfs))
    if (revocation) revocations.push(revocation)
  }
  return revocations
}

const turns = new SerialQueue()

/** How long another grant or revocation may take, in milliseconds: a few calls on a few files. */
const BRIEF = 5000

/**
 * One grant or revocation at a time, here and among programs, whatever journals they have: devices of several groups
 * share `/dev/iommu`.
 */
function exclusively<T>(sysfs: string, work: () => Promise<T>): Promise<T> {
  return turns.run(async () => {
    using _lock = await lockGroupsWithin(BRIEF, sysfs, [NODE_OWNERS])
    return await work()
  })
}

async function takeBack(
  records: Records<GrantRecord>,
  address: string,
  sysfs = '/sys',
): Promise<Revocation | null> {
  const record = records.find(address)
  if (record === null) return null
  const restored: string[] = []
  const kept: string[] = []
  const changed: string[] = []
  const { nodes: others } = otherGrants(records, address)
  for (const { path, former, granted, earlier } of currentOnly(record)?.nodes ?? []) {
    await using node = await DeviceNode.open(path)
    const isShared = others.some((other) => other.path === path && other.former.rdev === former.rdev)
    if (node === null || node.state.rdev !== former.rdev || isShared) kept.push(path)
    else if (isBetween(node.state, [former, granted, ...(earlier ? [earlier] : [])])) {
      if (!isSame(node.state, former)) await node.give(former)
      restored.push(path)
    } else {
      changed.push(`${path} belongs to uid ${node.state.uid} and gid ${node.state.gid} now, and is left so`)
    }
  }
  await records.remove(address)
  // Afterwards, when the former owner can open it no more.
  return { address, restored, kept, changed, holders: holdersOf(sysfs, address) }
}

const isSame = (a: Ownership, b: Ownership) => a.uid === b.uid && a.gid === b.gid && a.mode === b.mode

/** Is each part of it as in one of these? A crash leaves some of each. */
const isBetween = (now: Ownership, states: readonly Ownership[]) =>
  (['uid', 'gid', 'mode'] as const).every((part) => states.some((state) => now[part] === state[part]))

/** Device nodes do not survive a reboot, so a record of an earlier boot means nothing. */
const currentOnly = (record: GrantRecord | null) => (record?.bootId === bootId() ? record : null)

/** The nodes that other devices' grants gave; a record that cannot be read does not block the others. */
function otherGrants(
  records: Records<GrantRecord>,
  address: string,
): { nodes: GrantedNode[]; damaged: VfioError | null } {
  const { records: all, bad } = records.read()
  const others = all.filter((record) => record.address !== address)
  const [damaged] = bad.filter(({ path }) => path !== records.path(address))
  return {
    nodes: others.flatMap((record) => currentOnly(record)?.nodes ?? []),
    damaged: damaged ? badRecord(damaged) : null,
  }
}

const groupOf = ({ nodes }: GrantRecord) => {
  const number = nodes.map(({ path }) => /\/vfio\/(?:noiommu-)?(\d+)$/.exec(path)?.[1]).find(Boolean)
  return number === undefined ? null : Number(number)
}

async function openAll(known: readonly KnownNode[]): Promise<AsyncDisposable & { nodes: DeviceNode[] }> {
  const nodes: DeviceNode[] = []
  const close = async () => {
    for (const node of nodes) await node[Symbol.asyncDispose]()
  }
  try {
    for (const { path, number } of known) {
      const node = await DeviceNode.open(path, number)
      if (node) nodes.push(node)
    }
  } catch (error) {
    await close()
    throw error
  }
  return { nodes, [Symbol.asyncDispose]: close }
}

/** A node of its own means that the device can be opened through iommufd, as new hypervisors do. */
function memlockOf(
  { user, containers }: GrantOptions,
  memory: number,
  device: PciDevice | MediatedDevice,
  nodes: readonly DeviceNode[],
): Memlock {
  const iommufd = nodes.some(({ path }) => path.includes('/vfio/devices/'))
  return lockedMemory({
    memory,
    iommufd,
    bars: 'uuid' in device ? 0 : memoryBars([device]),
    user: String(user),
    ...(containers !== undefined && { containers }),
  })
}
