import { rmdir } from 'node:fs/promises'
import { basename, dirname, resolve } from 'node:path'
import { VfioError } from '../errors.js'
import { SafeDirectory } from '../records.js'
import { parseAddress, splitAddress } from '../sysfs/address.js'
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

/** Where grants are remembered. Keys are addresses in full. */
export interface GrantRecords {
  /**
   * Keeps other programs from granting and revoking: devices of several groups share `/dev/iommu`.
   * @throws VfioError `ERR_VFIO_LOCKED` where one does so now
   */
  lock(): Promise<AsyncDisposable>
  keys(): Promise<string[]>
  /** `null` where there is none. */
  read(key: string): Promise<GrantRecord | null>
  write(key: string, record: GrantRecord): Promise<void>
  remove(key: string): Promise<void>
}

const PREFIX = 'grant-'
const SUFFIX = '.json'

/** Records as JSON files beside the journal of assignments, each written whole and readable by its owner alone. */
export class GrantFiles implements GrantRecords {
  readonly #directory: string

  constructor(directory: string) {
    this.#directory = resolve(directory)
  }

  async lock(): Promise<AsyncDisposable> {
    for (;;) {
      const directory = await this.#open(true)
      if (directory === null) throw new Error(`${this.#directory} was not made`)
      try {
        if (!directory.tryLock()) {
          throw new VfioError(
            'ERR_VFIO_LOCKED',
            `another program grants or revokes at this moment (it has ${this.#directory} locked): try again when it is done`,
          )
        }
        // Who emptied it may have removed it meanwhile.
        if (await directory.isInPlace()) return this.#held(directory)
      } catch (error) {
        await directory[Symbol.asyncDispose]()
        throw error
      }
      await directory[Symbol.asyncDispose]()
    }
  }

  #held(directory: SafeDirectory): AsyncDisposable {
    const letGo = async () => {
      // What was made for the lock alone goes with it.
      await rmdir(this.#directory).catch(() => {})
      await directory[Symbol.asyncDispose]()
    }
    return { [Symbol.asyncDispose]: letGo }
  }

  async keys(): Promise<string[]> {
    await using directory = await this.#open(false)
    const names = directory ? await directory.names() : []
    return names
      .filter((name) => name.startsWith(PREFIX) && name.endsWith(SUFFIX))
      .map((name) => name.slice(PREFIX.length, -SUFFIX.length))
      .filter(isFullAddress)
      .sort()
  }

  async read(key: string): Promise<GrantRecord | null> {
    await using directory = await this.#open(false)
    const file = await directory?.read(nameOf(key))
    if (!file) return null
    const refuse = (why: string, cause?: unknown) =>
      new VfioError(
        'ERR_VFIO_BAD_JOURNAL',
        `${this.#directory}/${nameOf(key)} is no record of a grant (${why}): look at it, and take it away`,
        { cause },
      )
    const self = process.geteuid?.() ?? 0
    // What others can write decides over nothing here.
    if (file.uid !== 0 && file.uid !== self) throw refuse(`it belongs to user ${file.uid}`)
    if ((file.mode & 0o022) !== 0) throw refuse('others may write it')
    let record: GrantRecord
    try {
      record = parseGrant(file.text)
    } catch (error) {
      throw refuse(error instanceof Error ? error.message : String(error), error)
    }
    if (record.address !== key) throw refuse('it carries the name of another device')
    return record
  }

  async write(key: string, record: GrantRecord): Promise<void> {
    await using directory = await this.#open(true)
    const text = `${JSON.stringify(record, null, 2)}\n`
    const uid = process.geteuid?.() ?? 0
    await directory?.write(nameOf(key), { text, mode: 0o600, uid, gid: process.getegid?.() ?? 0 })
  }

  async remove(key: string): Promise<void> {
    await using directory = await this.#open(false)
    await directory?.remove(nameOf(key))
  }

  #open(create: boolean): Promise<SafeDirectory | null> {
    return SafeDirectory.open(dirname(this.#directory), basename(this.#directory), { create, mode: 0o700 })
  }
}

const nameOf = (key: string) => `${PREFIX}${parseAddress(key)}${SUFFIX}`
const isFullAddress = (text: string) => splitAddress(text) !== null && parseAddress(text) === text

/** Checks every field: a record decides whom nodes are given to. */
export function parseGrant(text: string): GrantRecord {
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
const NODE = /^(?:\/[^\0]*)?\/(?:vfio\/(?:noiommu-)?\d{1,9}|vfio\/devices\/vfio\d{1,9}|iommu)$/

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
