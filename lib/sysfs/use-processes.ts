import { constants } from 'node:os'
import { readBatch } from './tree.js'
import { functionsOn, readNames } from './use-paths.js'

export interface Process {
  readonly pid: number
  /** The name that the kernel keeps of it: at most 15 bytes, chosen by the process. */
  readonly command: string
}

/** A device that a process has open. */
export interface OpenFile extends Process {
  /** Path below `/dev`; `null` for a VFIO device, which is a file without a name. */
  readonly node: string | null
  /** The function of such a file, where the kernel tells (since 6.18); else `null`. */
  readonly function: string | null
}

export interface ProcessFacts {
  /** `null`: no process was looked at. `false`: some belong to others, and could not be looked into. */
  readonly complete: boolean | null
  readonly open: readonly OpenFile[]
  /** A process of each mount namespace but the caller's. */
  readonly namespaces: readonly Process[]
}

export const NO_PROCESSES: ProcessFacts = { complete: null, open: [], namespaces: [] }

const VFIO_DEVICE = 'anon_inode:[vfio-device]'
const PF_KTHREAD = 0x200000

/**
 * Which processes have these nodes open, in one pass; one that ends meanwhile is left out.
 * @param wanted paths below `/dev`; those of VFIO always count
 */
export function readProcesses(proc: string, wanted: ReadonlySet<string>): ProcessFacts {
  const pids = (readNames(proc, ['.'])['.'] ?? []).filter((name) => /^\d{1,9}$/.test(name))
  if (pids.length === 0) return NO_PROCESSES
  const batch = readBatch(proc, ['self', ...pids], { files: ['stat'], links: ['ns/mnt'], lists: ['fd'] })
  const open: OpenFile[] = []
  const namespaces = new Map<string, Process>()
  // A process that cannot even be listed (hidepid) is the first one too.
  let complete = pids.includes('1')
  const own = batch.text(0, 'ns/mnt')
  for (const [index, pid] of pids.entries()) {
    const row = index + 1
    const { command, isKernelThread } = parseStat(batch.bytes(row, 'stat'))
    if (isKernelThread) continue
    const process = { pid: Number(pid), command }
    const namespace = batch.text(row, 'ns/mnt')
    if (namespace !== null && namespace !== own && !namespaces.has(namespace)) {
      namespaces.set(namespace, process)
    }
    const { EACCES, EPERM } = constants.errno
    if ([EACCES, EPERM].includes(batch.errno(row, 'fd'))) complete = false
    const descriptors = batch.text(row, 'fd')
    if (descriptors) open.push(...readOpenFiles(proc, process, descriptors.split('\n'), wanted))
  }
  return { complete, open, namespaces: [...namespaces.values()] }
}

/** `4711 (a name) S …`, the seventh field behind the name is the flags. */
function parseStat(bytes: Uint8Array | null): { command: string; isKernelThread: boolean } {
  const stat = Buffer.from(bytes ?? []).toString('utf8')
  const end = stat.lastIndexOf(')')
  const flags = Number(stat.slice(end + 2).split(' ')[6] ?? 0)
  return { command: stat.slice(stat.indexOf('(') + 1, end), isKernelThread: (flags & PF_KTHREAD) !== 0 }
}

function readOpenFiles(
  proc: string,
  process: Process,
  descriptors: readonly string[],
  wanted: ReadonlySet<string>,
): OpenFile[] {
  const batch = readBatch(proc, [`${process.pid}/fd`], { links: descriptors })
  const nodes = new Set<string>()
  const devices: string[] = []
  for (const descriptor of descriptors) {
    const target = batch.text(0, descriptor)
    if (target === null) continue
    if (target === VFIO_DEVICE) devices.push(descriptor)
    const node = nodeOf(target)
    if (node !== null && (wanted.has(node) || node.startsWith('vfio/'))) nodes.add(node)
  }
  return [
    ...Array.from(nodes, (node) => ({ ...process, node, function: null })),
    ...readVfioDevices(proc, process, devices),
  ]
}

/** The path may start with that of a jail, and end with a remark. */
function nodeOf(target: string): string | null {
  const at = target.lastIndexOf('/dev/')
  return at < 0 ? null : target.slice(at + '/dev/'.length).replace(/ \(deleted\)$/, '')
}

function readVfioDevices(proc: string, process: Process, descriptors: readonly string[]): OpenFile[] {
  if (descriptors.length === 0) return []
  const batch = readBatch(proc, [`${process.pid}/fdinfo`], { files: descriptors })
  const functions = descriptors.map((descriptor) => {
    const path = /^vfio-device-syspath:\s*(.+)$/m.exec(batch.text(0, descriptor) ?? '')?.[1]
    return functionsOn(path ?? null).at(-1) ?? null
  })
  return Array.from(new Set(functions), (name) => ({ ...process, node: null, function: name }))
}
