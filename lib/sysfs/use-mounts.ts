import { asBytes, decodeField } from './bytes.js'
import { below, readBytes, readText } from './files.js'
import { noteUnseen } from './unseen.js'
import { type MountView, type Process, whoSees } from './use-processes.js'

/** A mounted file system that may rest on a device (`/proc/<pid>/mountinfo`). */
export interface Mount {
  /** `major:minor` of what it is on; major 0 where the file system made it up; empty where the table does not tell. */
  readonly number: string
  readonly point: string
  readonly type: string
  readonly source: string
  /** Paths below `/dev` of further devices that it names: members of one without a number, an external log. */
  readonly nodes: readonly string[]
  /** Of one that comes over the network the addresses of who has it, as far as they show; `null` for any other. */
  readonly servers: readonly string[] | null
  /** A process that sees it, where the caller does not. */
  readonly seenBy: Process | null
}

/** An area to swap to (`/proc/swaps`): a block device or a file. */
export interface Swap {
  readonly path: string
  readonly kind: 'device' | 'file'
}

/** File systems without a block device of their own that live on a device all the same. */
const WITHOUT_NUMBER = new Set(['btrfs', 'bcachefs', 'zfs', '9p', 'virtiofs', 'ubifs'])

/** File systems that come over the network, in the kernel or by a program of their own (`fuse.sshfs`). */
const REMOTE =
  /^(?:nfs4?|cifs|smb3?|smbfs|ceph|afs|lustre|beegfs|gpfs|ocfs2_dlmfs|orangefs|coda|ncpfs|fuse\.(?:sshfs|glusterfs|ceph\S*|s3fs|curlftpfs|rclone|davfs2?|moosefs|seaweedfs|juicefs))$/

/** What of these the kernel mounts without a block device. */
const isKept = (type: string) => WITHOUT_NUMBER.has(type.split('.')[0] ?? '') || REMOTE.test(type)

const ADDRESS = /^(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9a-f:]*:[0-9a-f:.]*)$/i

/** `addr=10.0.0.2`, `mon_addr=10.0.0.2:6789/10.0.0.3:6789`, or in the source: `10.0.0.2:/srv`, `//10.0.0.2/share`, `[fd00::2]:/srv`. */
function serversOf(type: string, source: string, options: string): readonly string[] | null {
  if (!REMOTE.test(type)) return null
  const named = options
    .split(',')
    .flatMap((option) => /^(?:mon_)?addr=(.+)$/.exec(option)?.[1]?.split('/') ?? [])
  const of = source.replace(/^\/\//, '').replace(/:?\/.*$/, '')
  const all = (named.length > 0 ? named : of.split(/[,@=]/)).map((text) =>
    text.replace(/^\[(.*)\](?::\d+)?$/, '$1').replace(/^([\d.]+):\d+$/, '$1'),
  )
  return all.filter((text) => ADDRESS.test(text))
}

/**
 * @param others each further view of the mounts
 * @returns `null`: nothing tells what is mounted
 */
export function readMounts(proc: string | null, others: readonly MountView[]): readonly Mount[] | null {
  const own = readTable(proc, 'self/mountinfo')
  if (own === null || proc === null) {
    // A copy of a host often has but the older table.
    const old = OLD_TABLES.map((name) => readTable(proc, name)).find((table) => table !== null) ?? null
    return old === null ? null : parseOldMounts(old, rootNode(proc))
  }
  // Of a caller in a jail, the first process sees more.
  const first = readTable(proc, '1/mountinfo') ?? ''
  const mounts = parseMounts(own, null)
  if (first !== own) addUnseen(mounts, parseMounts(first, { pid: 1, command: 'init' }))
  for (const other of others) {
    const seen = readOneOf(proc, other)
    if (seen) addUnseen(mounts, parseMounts(seen.table, seen.process))
  }
  return mounts
}

const readTable = (proc: string | null, path: string) => {
  const bytes = readBytes(below(proc, path), 'mounts')
  return bytes === null ? null : asBytes(bytes)
}

/** A process may end meanwhile while others keep its mounts; with the last of them the mounts have gone. */
function readOneOf(proc: string, view: MountView): { table: string; process: Process } | null {
  const first = tableOfOne(proc, view.processes)
  if (first !== null) return first
  const later = whoSees(proc, view)
  const second = tableOfOne(proc, later)
  if (second === null && later.length > 0) noteUnseen(`${proc}/${later[0]?.pid}/mountinfo`, 'ESRCH')
  return second
}

function tableOfOne(proc: string, processes: readonly Process[]): { table: string; process: Process } | null {
  for (const process of processes) {
    const table = readTable(proc, `${process.pid}/mountinfo`)
    if (table !== null) return { table, process }
  }
  return null
}

function addUnseen(mounts: Mount[], more: readonly Mount[]): void {
  const key = ({ number, source }: Mount) => `${number} ${source}`
  const seen = new Set(mounts.map(key))
  for (const mount of more) if (!seen.has(key(mount))) mounts.push(mount)
}

/** `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`; other lines are left out. */
function parseMounts(text: string, seenBy: Process | null): Mount[] {
  const mounts: Mount[] = []
  for (const line of text.split('\n')) {
    const fields = line.split(' ')
    // Optional fields end with a lone hyphen.
    const end = fields.indexOf('-', 6)
    const [, , number = '', , point = ''] = fields
    const [type = '', source = '', options = ''] = end < 0 ? [] : fields.slice(end + 1)
    if (!/^\d+:\d+$/.test(number) || type === '') continue
    if (number.startsWith('0:') && !isKept(type)) continue
    // With a number, the source is only what somebody called it once; the options may name a log device.
    const named = [number.startsWith('0:') ? source.split(':') : [], optionsOf(options)]
    const servers = serversOf(type, decodeField(source), options)
    mounts.push({ ...described(point, type, source), number, nodes: nodesOf(named.flat()), servers, seenBy })
  }
  return mounts
}

/** Where `mountinfo` was not copied: the same mounts by their source, without numbers. */
const OLD_TABLES = ['self/mounts', 'mounts', '1/mounts']

/** A kernel that mounted the root itself calls its device `/dev/root`: the command line has the name. */
const rootNode = (proc: string | null) =>
  /(?:^|\s)root=\/dev\/(\S+)/.exec(readText(below(proc, 'cmdline')) ?? '')?.[1] ?? null

/** `/dev/sda2 / ext4 rw,relatime 0 0`: the source is all that tells what it is on. */
function parseOldMounts(text: string, root: string | null): Mount[] {
  const mounts: Mount[] = []
  for (const line of text.split('\n')) {
    const [source = '', point = '', type = '', options = ''] = line.split(' ')
    if (type === '' || (!source.startsWith('/dev/') && !isKept(type))) continue
    const named = nodesOf([...source.split(':'), ...optionsOf(options)])
    const nodes = named.map((node) => (node === 'root' && root !== null ? root : node))
    const servers = serversOf(type, decodeField(source), options)
    mounts.push({ ...described(point, type, source), number: '', nodes, servers, seenBy: null })
  }
  return mounts
}

const described = (point: string, type: string, source: string) => ({
  point: decodeField(point),
  type: decodeField(type),
  source: decodeField(source),
})

const optionsOf = (options: string) =>
  options.split(',').map((option) => option.slice(option.indexOf('=') + 1))

const nodesOf = (names: readonly string[]) =>
  names.filter((name) => name.startsWith('/dev/')).map((name) => decodeField(name.slice('/dev/'.length)))

/**
 * @param isWhole the rest of `/proc` is there: a kernel that cannot swap has no such file
 * @returns `null`: nothing tells where is swapped to
 */
export function readSwaps(proc: string | null, isWhole: boolean): readonly Swap[] | null {
  const table = readTable(proc, 'swaps')
  if (table === null) return isWhole ? [] : null
  const swaps: Swap[] = []
  for (const line of table.split('\n')) {
    const [name = '', type = ''] = line.split(/\s+/)
    if (!name.startsWith('/') || (type !== 'partition' && type !== 'file')) continue
    // The node may have been removed since.
    const path = decodeField(name).replace(/ \(deleted\)$/, '')
    swaps.push({ path, kind: type === 'file' ? 'file' : 'device' })
  }
  return swaps
}
