import type { UseFacts } from '../sysfs/use.js'
import type { BlockDevice } from '../sysfs/use-block.js'
import type { Mount } from '../sysfs/use-mounts.js'
import type { OpenFile } from '../sysfs/use-processes.js'
import type { Share } from '../sysfs/use-shares.js'
import type { Finding } from './host-use.js'
import { DEEPEST, holders, several, stopping } from './uses-text.js'

/** A use of something that comes over the network. */
export interface Remote {
  /** Addresses of who has it, as far as they are known. */
  readonly servers: readonly string[]
  readonly finding: Finding
}

/** What rests on block devices, in both directions. */
export class Storage {
  readonly #use: UseFacts
  readonly #above = new Map<string, BlockDevice[]>()
  readonly #byName: ReadonlyMap<string, BlockDevice>
  readonly #byFunction = new Map<string, BlockDevice[]>()
  readonly #openers = new Map<string, OpenFile[]>()

  constructor(use: UseFacts) {
    this.#use = use
    this.#byName = new Map(use.blocks.map((block) => [block.name, block]))
    for (const block of use.blocks) {
      for (const below of block.restsOn) push(this.#above, below, block)
      if (block.partOf !== null) push(this.#above, block.partOf, block)
      else for (const address of new Set(block.functions)) push(this.#byFunction, address, block)
    }
    for (const file of use.processes.open) if (file.node !== null) push(this.#openers, file.node, file)
  }

  /** The disks that a function brings. */
  disksOf(address: string): readonly BlockDevice[] {
    return this.#byFunction.get(address) ?? []
  }

  /**
   * What of a function's disks may belong to a ZFS pool, by their nodes: ZFS has its members without a trace in sysfs or in
   * processes, and udev alone tells what is on a disk. A pool may be called otherwise than udev remembers.
   */
  maybeInPools(address: string): readonly string[] {
    const mounted = this.#use.mounts.flatMap(({ type, source }) =>
      type === 'zfs' ? [source.split('/')[0] ?? ''] : [],
    )
    const pools = [...new Set([...this.#use.pools, ...mounted])]
    if (pools.length === 0) return []
    const isPlaced = (pool: string) => this.#use.blocks.some(({ zfsPool }) => zfsPool === pool)
    const areAllPlaced = pools.every(isPlaced)
    const partsOf = ({ name }: BlockDevice) => this.#use.blocks.filter(({ partOf }) => partOf === name)
    return this.disksOf(address)
      .flatMap((disk) => (partsOf(disk).length > 0 ? partsOf(disk) : [disk]))
      .filter(
        ({ content, zfsPool }) =>
          content === null || (content === 'zfs_member' && zfsPool === null && !areAllPlaced),
      )
      .map(({ node }) => `/dev/${node}`)
  }

  usesOf(address: string): Finding[] {
    const findings: Finding[] = []
    const visited = new Map<string, boolean>()
    for (const disk of this.disksOf(address)) this.#visit(disk, [disk.label], visited, findings)
    for (const share of this.#use.shares) {
      if (share.functions.includes(address)) findings.push(...this.#usesOfShare(share))
    }
    return findings
  }

  /** What the host does with what comes over the network, and who has it. */
  remotes(): Remote[] {
    const disks = this.#use.blocks.flatMap((disk) => {
      if (disk.servers === null || disk.partOf !== null) return []
      const findings: Finding[] = []
      this.#visit(disk, [disk.label], new Map(), findings)
      return findings.map((finding) => ({ servers: disk.servers ?? [], finding }))
    })
    const mounts = this.#use.mounts.flatMap((mount): Remote[] => {
      if (mount.servers === null) return []
      const what = `${mount.source} is ${mounted([mount])}`
      const vital = isVital(mount) && { vital: true as const }
      return [{ servers: mount.servers, finding: { kind: 'mount', what, severity: 'blocks', ...vital } }]
    })
    return [...disks, ...mounts]
  }

  /** Is this device, or something above it, in use? Each is looked at once: links may meet again, or go in circles. */
  #visit(
    block: BlockDevice,
    chain: readonly string[],
    visited: Map<string, boolean>,
    findings: Finding[],
  ): boolean {
    const known = visited.get(block.name)
    if (known !== undefined) return known
    if (chain.length > DEEPEST) return false
    visited.set(block.name, false)
    const own = this.#usesOf(block, chain.join(' → '))
    findings.push(...own)
    let used = own.length > 0
    for (const above of this.#above.get(block.name) ?? []) {
      const isPartition = above.partOf === block.name
      const next = isPartition ? [above.label] : [...chain, above.label]
      used = this.#visit(above, next, visited, findings) || used
    }
    if (!used && block.layer !== null && chain.length > 1) {
      const what = `${chain.slice(0, -1).join(' → ')} is held by ${block.label} (${block.layer})`
      findings.push({ kind: 'holder', what, severity: 'blocks' })
      used = true
    }
    visited.set(block.name, used)
    return used
  }

  #usesOf(block: BlockDevice, lead: string): Finding[] {
    const findings: Finding[] = []
    const blocks = (kind: Finding['kind'], what: string, vital = false) =>
      findings.push({ kind, what, severity: 'blocks', ...(vital && { vital }) })
    const mounts = this.#mountsOf(block)
    if (mounts.length > 0) {
      const what = `${lead} ${block.btrfs === null ? 'is' : 'belongs to the btrfs'} ${mounted(mounts)}`
      blocks('mount', what, mounts.some(isVital))
    } else if (block.btrfs !== null)
      blocks('mount', `${lead} belongs to a live btrfs that no mount table in sight shows`)
    else if (block.fileSystem !== null) {
      blocks('mount', `${lead} holds a live ${block.fileSystem} that no mount table in sight shows`)
    }
    for (const { path, kind } of this.#use.swaps) {
      if (kind === 'device' && pathsOf(block).includes(path))
        blocks('swap', `${lead} is swap space in use`, true)
      const below = kind === 'file' ? this.#mountBelow(path) : undefined
      if (below && mounts.includes(below)) blocks('swap', `${lead} carries the swap file ${path}`, true)
    }
    if (block.zfsPool !== null) {
      const isOfPool = ({ type, source }: Mount) => type === 'zfs' && source.split('/')[0] === block.zfsPool
      const vital = this.#use.mounts.some((mount) => isOfPool(mount) && isVital(mount))
      blocks('holder', `${lead} belongs to the imported ZFS pool ${block.zfsPool}`, vital)
    }
    const held = this.#above.get(block.name)?.some(({ partOf }) => partOf !== block.name)
    if (block.bcache && !held) blocks('holder', `${lead} is registered as a bcache`)
    const openers = this.#openers.get(block.node) ?? []
    if (openers.length > 0) {
      const what = `${lead} is open in ${holders(openers)}`
      findings.push({ kind: 'holder', what, severity: 'blocks', ...stopping(openers, 'holder') })
    }
    return findings
  }

  #mountsOf(block: BlockDevice): Mount[] {
    const names = (block.btrfs ?? [block.name])
      .flatMap((name) => this.#byName.get(name) ?? [])
      .flatMap(pathsOf)
      .map((path) => path.slice('/dev/'.length))
    return this.#use.mounts.filter(
      ({ number, nodes }) =>
        (number !== '' && number === block.number) || nodes.some((node) => names.includes(node)),
    )
  }

  /** The mount that a path of the caller's lies in. */
  #mountBelow(path: string): Mount | undefined {
    let found: Mount | undefined
    for (const mount of this.#use.mounts) {
      const inside = path.startsWith(mount.point.endsWith('/') ? mount.point : `${mount.point}/`)
      // Of two at one place the later one hides the other.
      if (inside && mount.seenBy === null && mount.point.length >= (found?.point.length ?? 0)) found = mount
    }
    return found
  }

  #usesOfShare({ type, tag }: Share): Finding[] {
    const all = this.#use.mounts.filter((mount) => mount.type === type)
    const mounts = all.filter(({ source }) => tag === null || source === tag)
    const name = `the ${type} share${tag === null ? '' : ` "${tag}"`}`
    if (mounts.length > 0) {
      const what = `${name} is ${mounted(mounts)}`
      return [{ kind: 'mount', what, severity: 'blocks', ...(mounts.some(isVital) && { vital: true }) }]
    }
    const inSight = new Set(all.map(({ number }) => number)).size
    if (type !== '9p' || this.#use.shares9p <= inSight) return []
    // The lower layer of an overlay that was put together before the root file system was changed.
    const what = `${name} may carry a file system that no mount table in sight shows, like the lower layer of an overlay`
    return [{ kind: 'mount', what, severity: 'blocks' }]
  }
}

function push<K, V>(map: Map<K, V[]>, key: K, value: V): void {
  const known = map.get(key)
  if (known) known.push(value)
  else map.set(key, [value])
}

/** The device mapper has its links by name below `/dev/mapper`. */
export const pathsOf = ({ node, label, name }: BlockDevice) =>
  label === name ? [`/dev/${node}`] : [`/dev/${node}`, `/dev/mapper/${label}`]

/**
 * Where the programs and the settings of a host come from (file-hierarchy(7)), and what it boots from. Deep in /var are the data of
 * services: disks of pods and of virtual machines.
 */
const VITAL =
  /^\/(?:(?:usr|etc|boot|nix|gnu|sysroot|ostree|overlay|run\/rootfsbase)(?:\/.*)?|var(?:\/[^/]+)?)?$/

/** A mount namespace of another program is no host; that of the first process is. */
const isVital = ({ point, seenBy }: Mount) => VITAL.test(point) && (seenBy === null || seenBy.pid === 1)

function mounted(mounts: readonly Mount[]): string {
  const [{ seenBy = null } = {}] = mounts
  const points = several(mounts.map(({ point }) => point))
  return seenBy === null
    ? `mounted at ${points}`
    : `mounted at ${points} in the mount namespace of ${holders([seenBy])}`
}
