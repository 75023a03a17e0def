import { below, readText } from './files.js'
import type { Process } from './use-processes.js'

/** A mounted file system that may rest on a device (`/proc/<pid>/mountinfo`). */
export interface Mount {
  /** `major:minor` of what it is on; major 0 where the file system made it up, `?` where the table has no numbers. */
  readonly number: string
  readonly point: string
  readonly type: string
  readonly source: string
  /** Paths below `/dev` of further devices that it names: members of one without a number, an external log. */
  readonly nodes: readonly string[]
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

/** The kernel writes white space and backslashes in octal, so that a line keeps its fields. */
export const unescapeOctal = (text: string) =>
  text.replace(/\\([0-3][0-7]{2})/g, (_all, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 8)),
  )

/** @param others a process of each further mount namespace */
export function readMounts(proc: string | null, others: readonly Process[]): Mount[] {
  const own = readText(below(proc, 'self/mountinfo'))
  // Of a caller in a jail, the first process sees more.
  const first = readText(below(proc, '1/mountinfo'))
  const mounts = own === null && first === null ? readTable(proc) : parseMounts(own ?? '', null)
  if (first !== null && first !== own) addUnseen(mounts, parseMounts(first, { pid: 1, command: 'init' }))
  for (const other of others) {
    addUnseen(mounts, parseMounts(readText(below(proc, `${other.pid}/mountinfo`)) ?? '', other))
  }
  return mounts
}

/** Where `mountinfo` was not copied: the same mounts by their source, without numbers. */
const TABLES = ['self/mounts', 'mounts', '1/mounts']

/** `/dev/sda2 / ext4 rw,relatime 0 0` (fstab(5)). */
function readTable(proc: string | null): Mount[] {
  const text = TABLES.map((name) => readText(below(proc, name))).find((table) => table !== null) ?? ''
  return text.split('\n').flatMap((line) => {
    const [source = '', point, type, options] = line.split(' ')
    if (point === undefined || type === undefined || options === undefined) return []
    const isOnDevice = source.startsWith('/dev/') || WITHOUT_NUMBER.has(type.split('.')[0] ?? '')
    if (!isOnDevice) return []
    const nodes = nodesIn([...source.split(':'), ...valuesOf(options)]).flatMap((node) =>
      node === 'root' ? rootNode(proc) : node,
    )
    return {
      number: '?',
      point: unescapeOctal(point),
      type,
      source: unescapeOctal(source),
      nodes,
      seenBy: null,
    }
  })
}

/** A kernel that mounted the root itself calls its device `/dev/root`: the command line has the name. */
const rootNode = (proc: string | null) =>
  /(?:^|\s)root=\/dev\/(\S+)/.exec(readText(below(proc, 'cmdline')) ?? '')?.[1] ?? []

const valuesOf = (options: string) =>
  options.split(',').map((option) => option.slice(option.indexOf('=') + 1))

const nodesIn = (names: readonly string[]) =>
  names.filter((name) => name.startsWith('/dev/')).map((name) => unescapeOctal(name.slice('/dev/'.length)))

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
    if (number.startsWith('0:') && !WITHOUT_NUMBER.has(type.split('.')[0] ?? '')) continue
    // With a number, the source is only what somebody called it once; the options may name a log device.
    const named = [...(number.startsWith('0:') ? source.split(':') : []), ...valuesOf(options)]
    mounts.push({
      number,
      point: unescapeOctal(point),
      type,
      source: unescapeOctal(source),
      nodes: nodesIn(named),
      seenBy,
    })
  }
  return mounts
}

export function readSwaps(proc: string | null): Swap[] {
  const swaps: Swap[] = []
  for (const line of (readText(below(proc, 'swaps')) ?? '').split('\n')) {
    const [path = '', type = ''] = line.split(/\s+/)
    if (!path.startsWith('/') || (type !== 'partition' && type !== 'file')) continue
    swaps.push({ path: unescapeOctal(path), kind: type === 'file' ? 'file' : 'device' })
  }
  return swaps
}
