import { statfsSync } from 'node:fs'
import { constants } from 'node:os'
import { isUuid } from './address.js'
import { decode } from './bytes.js'
import { type Batch, readBatch } from './tree.js'
import { errnoOf, leavingOut, lookFailed } from './unseen.js'
import { functionsOn, readNames } from './use-paths.js'

export interface Process {
  readonly pid: number
  /** The name that the kernel keeps of it: at most 15 bytes, chosen by the process. */
  readonly command: string
  /** Its path in the control group hierarchy of its manager; only of processes that have a wanted node open. */
  readonly cgroup?: string
}

/** A device that a process has open. */
export interface OpenFile extends Process {
  /** Path below `/dev`; `null` for a VFIO device, which is a file without a name. */
  readonly node: string | null
  /** The function of such a file, or the UUID of its mediated device, where the kernel tells (since 6.18); else `null`. */
  readonly function: string | null
}

export interface ProcessFacts {
  /** `null`: no process was looked at. `false`: some could not be looked into, or are out of sight. */
  readonly complete: boolean | null
  /** Processes of other PID namespaces are out of sight. */
  readonly isolated: boolean
  readonly open: readonly OpenFile[]
  /** Each mount namespace but the caller's, and each jail in one. */
  readonly namespaces: readonly MountView[]
}

/** What some processes see mounted: any of them shows the same. */
export interface MountView {
  /** Tells it from others, in this process table. */
  readonly view: string
  readonly processes: readonly Process[]
}

export const NO_PROCESSES: ProcessFacts = { complete: null, isolated: false, open: [], namespaces: [] }

/** A device node that is looked for: an open file is recognised by its device number, whatever its path is. */
export interface WantedNode {
  /** Path below `/dev`. */
  readonly node: string
  /** As `readBatch` gives it: `c511:0`; `null` where it is not known. */
  readonly number: string | null
}

/** Opened by its group it has no name, opened by its own node it has one, which goes as soon as the kernel begins to take the device away. */
const VFIO_DEVICE = 'anon_inode:[vfio-device]'
const GONE_NODE = /\/vfio\/devices\/vfio\d+ \(deleted\)$/
const PF_KTHREAD = 0x200000
/** Of the PID namespace that the kernel starts with: `PROC_PID_INIT_INO` (include/uapi/linux/nsfs.h). */
const FIRST_PID_NAMESPACE = 'pid:[4026531836]'
const PROC_SUPER_MAGIC = 0x9fa0

/** Which processes have these nodes open, in one pass; one that ends meanwhile is left out. */
export function readProcesses(proc: string, wanted: readonly WantedNode[]): ProcessFacts {
  const pids = (readNames(proc, ['.'])['.'] ?? []).filter((name) => /^\d{1,9}$/.test(name))
  if (pids.length === 0) return NO_PROCESSES
  return new ProcessReader(proc, wanted).read(pids)
}

/** Who sees these mounts now, threads too: others may have come while those that were known ended. */
export function whoSees(proc: string, { view }: MountView): Process[] {
  const pids = (readNames(proc, ['.'])['.'] ?? []).filter((name) => /^\d{1,9}$/.test(name))
  const tasks = readBatch(proc, pids, { lists: ['task'] })
  const threads = pids.flatMap((pid, row) => tasks.names(row, 'task').map((tid) => `${pid}/task/${tid}`))
  const paths = [...pids, ...threads]
  const batch = readBatch(proc, paths, { files: ['stat'], links: VIEW, judged: VIEW })
  return paths.flatMap((path, row) => {
    for (const name of VIEW) {
      const errno = batch.errno(row, name)
      // The first pass has noted what other users hide.
      if (![0, EACCES, EPERM, ENAMETOOLONG].includes(errno))
        lookFailed('stat', errno, `${proc}/${path}/${name}`)
    }
    const { command } = parseStat(batch.bytes(row, 'stat'))
    const pid = Number(path.slice(path.lastIndexOf('/') + 1))
    return viewOf(batch, row) === view ? [{ pid, command }] : []
  })
}

/** One pass over a process table. */
class ProcessReader {
  readonly #proc: string
  readonly #nodes: OpenNodes
  readonly #namespaces = new Map<string, Process[]>()
  #complete = true
  #own = ''

  constructor(proc: string, wanted: readonly WantedNode[]) {
    this.#proc = proc
    this.#nodes = new OpenNodes(proc, wanted, (batch, path, names) => this.#judge(batch, 0, path, names))
  }

  read(pids: readonly string[]): ProcessFacts {
    const batch = readBatch(this.#proc, ['self', ...pids], {
      files: ['stat'],
      links: VIEW,
      lists: ['fd'],
      judged: JUDGED,
    })
    this.#own = viewOf(batch, 0)
    const isolated = this.#isIsolated(pids)
    for (const [index, pid] of pids.entries()) {
      const row = index + 1
      const { command, threads, isZombie, isKernelThread } = parseStat(batch.bytes(row, 'stat'))
      if (isKernelThread) continue
      const process = { pid: Number(pid), command }
      this.#take(batch, row, pid, process)
      // The first thread may have ended, and others may have files and mounts of their own.
      if (threads > 1) this.#readThreads(pid, process, isZombie ? [] : batch.names(row, 'fd'))
    }
    // First, because its reads may fail, and then the pass is not complete.
    const open = this.#withGroups()
    return {
      complete: this.#complete && !isolated,
      isolated,
      open,
      namespaces: Array.from(this.#namespaces, ([view, processes]) => ({ view, processes })),
    }
  }

  /** Control groups are for messages only: no verdict depends on them. */
  #withGroups(): OpenFile[] {
    const open = this.#nodes.found()
    const pids = [...new Set(open.map(({ pid }) => String(pid)))]
    if (pids.length === 0) return []
    const batch = leavingOut(() => readBatch(this.#proc, pids, { files: ['cgroup'] }))
    const groups = new Map(
      pids.map((pid, row) => [Number(pid), controlGroup(batch.text(row, 'cgroup') ?? '')]),
    )
    return open.map((file) => {
      const cgroup = groups.get(file.pid) ?? null
      return cgroup === null ? file : { ...file, cgroup }
    })
  }

  /** The first process is in the namespace that its table shows; kernels without such namespaces have no link for it. */
  #isIsolated(pids: readonly string[]): boolean {
    const batch = readBatch(this.#proc, ['1'], { links: ['ns/pid'], judged: ['ns/pid'] })
    this.#judge(batch, 0, '1', ['ns/pid'])
    // A process that cannot even be listed (hidepid) is the first one too.
    if (!pids.includes('1')) this.#complete = false
    const table = batch.text(0, 'ns/pid')
    return table !== null && table !== FIRST_PID_NAMESPACE
  }

  #take(batch: Batch, row: number, path: string, process: Process): void {
    this.#judge(batch, row, path, JUDGED)
    const view = viewOf(batch, row)
    if (view !== '' && view !== this.#own)
      this.#namespaces.set(view, [...(this.#namespaces.get(view) ?? []), process])
    const descriptors = batch.names(row, 'fd')
    if (descriptors.length > 0) this.#nodes.take(path, process, descriptors)
  }

  #readThreads(pid: string, process: Process, descriptors: readonly string[]): void {
    const directory = `${pid}/task`
    const list = readBatch(this.#proc, [directory], { lists: ['.'], judged: ['.'] })
    this.#judge(list, 0, directory, ['.'])
    const threads = list.names(0, '.').filter((name) => name !== pid)
    if (threads.length === 0) return
    const root = `${this.#proc}/${directory}`
    const batch = readBatch(root, threads, { links: VIEW, lists: ['fd'], judged: JUDGED })
    const seen = new Set([descriptors.join()])
    for (const [row, thread] of threads.entries()) {
      this.#judge(batch, row, `${directory}/${thread}`, JUDGED)
      const view = viewOf(batch, row)
      if (view !== '' && view !== this.#own && !this.#namespaces.has(view)) {
        this.#namespaces.set(view, [{ ...process, pid: Number(thread) }])
      }
      // Threads share their files unless they were told not to; then the numbers differ sooner or later.
      const names = batch.names(row, 'fd')
      if (names.length === 0 || seen.has(names.join())) continue
      seen.add(names.join())
      this.#nodes.take(`${directory}/${thread}`, process, names)
    }
  }

  /** Processes of other users may not be read: the pass is then not complete. Any other failure is an error of the look. */
  #judge(batch: Batch, row: number, path: string, names: readonly string[]): void {
    for (const name of names) {
      const errno = batch.errno(row, name)
      if (errno === EACCES || errno === EPERM) this.#complete = false
      else if (errno !== 0 && errno !== ENAMETOOLONG)
        lookFailed('stat', errno, `${this.#proc}/${path}/${name}`.replace('/./', '/'))
    }
  }
}

/**
 * The line of the hierarchy that systemd keeps: `1:name=systemd:/…` with version 1, `0::/…` with version 2. Without systemd
 * any other that leads somewhere (`12:memory:/docker/…`).
 */
function controlGroup(text: string): string | null {
  const lines = text.split('\n').flatMap((line) => {
    const [, controllers = '', path] = /^\d+:([^:]*):(\/.*)$/.exec(line) ?? []
    return path === undefined || path === '/' ? [] : [{ controllers, path }]
  })
  const found =
    lines.find(({ controllers }) => controllers === 'name=systemd') ??
    lines.find(({ controllers }) => controllers === '') ??
    lines[0]
  return found?.path ?? null
}

const { EACCES, EPERM, ENAMETOOLONG } = constants.errno

/** What says which mounts a process sees. */
const VIEW = ['ns/mnt', 'root']
const JUDGED = ['stat', ...VIEW, 'fd']

/** What mounts a process sees: its namespace, and from where. Empty where it is not known, or gone. */
function viewOf(batch: Batch, row: number): string {
  const namespace = batch.text(row, 'ns/mnt')
  // Anybody may make a path that is too long to be told.
  return namespace === null ? '' : `${namespace} ${batch.text(row, 'root') ?? '…'}`
}

/** `4711 (a name) S …`: behind the name, the first field is the state, the seventh the flags, the 18th counts threads. */
function parseStat(bytes: Uint8Array | null) {
  const stat = decode(bytes ?? new Uint8Array(0))
  const end = stat.lastIndexOf(')')
  const fields = stat.slice(end + 2).split(' ')
  return {
    command: stat.slice(stat.indexOf('(') + 1, end),
    isZombie: fields[0] === 'Z',
    isKernelThread: (Number(fields[6] ?? 0) & PF_KTHREAD) !== 0,
    threads: Number(fields[17] ?? 1),
  }
}

/** Judges the failed reads of the first row of a batch. */
type Judge = (batch: Batch, path: string, names: readonly string[]) => void

/** What the descriptors of one process or thread lead to. */
interface Opened {
  readonly process: Process
  /** Paths below `/proc` of those that may lead to a node. */
  readonly files: readonly string[]
  /** What the links of all say. */
  readonly targets: readonly (string | null)[]
  readonly devices: readonly OpenFile[]
}

/** What descriptors lead to. */
class OpenNodes {
  readonly #proc: string
  readonly #byNumber: ReadonlyMap<string, string>
  readonly #byPath: ReadonlySet<string>
  /** The links of a copied process table lead into another host, and only their texts tell. */
  readonly #isLive: boolean
  readonly #judge: Judge
  readonly #opened: Opened[] = []

  constructor(proc: string, wanted: readonly WantedNode[], judge: Judge) {
    this.#proc = proc
    this.#judge = judge
    this.#byNumber = new Map(wanted.flatMap(({ node, number }) => (number === null ? [] : [[number, node]])))
    this.#byPath = new Set(wanted.map(({ node }) => node))
    this.#isLive = isProcfs(proc)
  }

  /** @param path of a process or thread below `/proc` */
  take(path: string, process: Process, descriptors: readonly string[]): void {
    const root = `${this.#proc}/${path}`
    const batch = readBatch(root, ['fd'], { links: descriptors, judged: descriptors })
    const targets = descriptors.map((descriptor) => batch.text(0, descriptor))
    const devices = descriptors.filter((_descriptor, index) => {
      const target = targets[index] ?? ''
      return target === VFIO_DEVICE || GONE_NODE.test(target)
    })
    this.#judge(batch, `${path}/fd`, descriptors)
    // What has no path is no device: sockets, pipes, anonymous inodes. Anybody may make one that is too long to be told.
    const files = descriptors.filter((descriptor, index) => {
      return batch.errno(0, descriptor) === ENAMETOOLONG || targets[index]?.startsWith('/')
    })
    this.#opened.push({
      process,
      files: files.map((descriptor) => `${path}/fd/${descriptor}`),
      targets,
      devices: readVfioDevices(root, process, devices),
    })
  }

  /** Of all that was taken, what leads to a wanted node: by one call, which takes a process of its own without the addon. */
  found(): OpenFile[] {
    const numbers = this.#isLive ? this.#readNumbers() : null
    return this.#opened.flatMap(({ process, files, targets, devices }) => {
      const nodes = numbers
        ? files.map((file) => this.#byNumber.get(numbers.text(0, file) ?? '') ?? null)
        : targets.map((target) => this.#named(target))
      const distinct = new Set(nodes.filter((node) => node !== null))
      return [...Array.from(distinct, (node) => ({ ...process, node, function: null })), ...devices]
    })
  }

  #readNumbers(): Batch {
    const files = this.#opened.flatMap((opened) => opened.files)
    const batch = readBatch(this.#proc, ['.'], { nodes: files, judged: files })
    this.#judge(batch, '.', files)
    return batch
  }

  /** The path may start with that of a jail, and end with a remark. */
  #named(target: string | null): string | null {
    const at = target?.lastIndexOf('/dev/') ?? -1
    if (target === null || at < 0) return null
    const node = target.slice(at + '/dev/'.length).replace(/ \(deleted\)$/, '')
    return this.#byPath.has(node) || node.startsWith('vfio/') ? node : null
  }
}

function isProcfs(path: string): boolean {
  try {
    return statfsSync(path).type === PROC_SUPER_MAGIC
  } catch (error) {
    lookFailed('stat', errnoOf(error) ?? 0, path)
    return false
  }
}

function readVfioDevices(root: string, process: Process, descriptors: readonly string[]): OpenFile[] {
  if (descriptors.length === 0) return []
  // Without it, whose such a file is stays a guess.
  const batch = readBatch(root, ['fdinfo'], { files: descriptors })
  const functions = descriptors.map((descriptor) => {
    const path = /^vfio-device-syspath:\s*(.+)$/m.exec(batch.text(0, descriptor) ?? '')?.[1]
    const last = path?.slice(path.lastIndexOf('/') + 1) ?? ''
    return isUuid(last) ? last : (functionsOn(path ?? null).at(-1) ?? null)
  })
  return Array.from(new Set(functions), (name) => ({ ...process, node: null, function: name }))
}
