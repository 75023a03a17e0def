import { Records } from '../records.js'
import { isUuid, parseAddress, splitAddress } from '../sysfs/address.js'
import type { NodeState, Ownership } from './nodes.js'

/** One node that was granted: how it stood before, and to whom it was given. */
export interface GrantedNode {
  readonly path: string
  readonly former: NodeState
  readonly granted: Ownership
  /** To whom an earlier grant of the same device gave it: a crash may have left it so. */
  readonly earlier?: Ownership
}

/** What is needed to take a grant back, written before the first change. */
export interface GrantRecord {
  readonly version: 1
  readonly address: string
  /** Of the boot in which it was written: device nodes do not outlive it. */
  readonly bootId: string
  /** ISO 8601. */
  readonly since: string
  readonly nodes: readonly GrantedNode[]
}

/** What is granted, beside the journal of assignments. @param directory default `/run/vfio` */
export const grantsIn = (directory: string | undefined): Records<GrantRecord> =>
  new Records(directory, { prefix: 'grant-', parse: parseGrant, keyOf: ({ address }) => address })

const isFullAddress = (text: string) =>
  isUuid(text) || (splitAddress(text) !== null && parseAddress(text) === text)

/** Checks every field: a record decides whom nodes are given to. */
function parseGrant(text: string): GrantRecord {
  const record = object(JSON.parse(text), 'it')
  if (record.version !== 1) throw new Error('its version is unknown')
  const { address, bootId, since, nodes } = record
  if (typeof address !== 'string' || !isFullAddress(address))
    throw new Error('its address is missing or wrong')
  if (!isShort(bootId) || !isShort(since)) throw new Error('its boot or time is missing or wrong')
  if (!Array.isArray(nodes) || nodes.length > 8) throw new Error('its nodes are missing or too many')
  return { version: 1, address, bootId, since, nodes: nodes.map(parseNode) }
}

/** Only these nodes are ever granted, so only these are ever given back. */
const NODE = /^(?:\/[^\0]*)?\/(?:vfio\/(?:noiommu-)?\d{1,9}|vfio\/devices\/(?:noiommu-)?vfio\d{1,9}|iommu)$/

function parseNode(value: unknown): GrantedNode {
  const { path, former, granted, earlier } = object(value, 'a node')
  if (typeof path !== 'string' || path.length > 4096 || !NODE.test(path) || path.includes('/../')) {
    throw new Error('the path of a node is missing or wrong')
  }
  const before = object(former, 'a former owner')
  if (!isId(before.rdev)) throw new Error('the number of a node is missing or wrong')
  return {
    path,
    former: { ...ownership(before), rdev: before.rdev },
    granted: ownership(object(granted, 'an owner')),
    ...(earlier !== undefined && { earlier: ownership(object(earlier, 'an earlier owner')) }),
  }
}

function ownership({ uid, gid, mode }: Record<string, unknown>): Ownership {
  if (!isId(uid) || !isId(gid) || !isId(mode) || mode > 0o7777)
    throw new Error('an owner is missing or wrong')
  return { uid, gid, mode }
}

function object(value: unknown, what: string): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new Error(`${what} is no object`)
  return value as Record<string, unknown>
}

const isId = (value: unknown): value is number =>
  typeof value === 'number' && Number.isSafeInteger(value) && value >= 0 && value < 2 ** 32 - 1
const isShort = (value: unknown): value is string => typeof value === 'string' && value.length < 256
