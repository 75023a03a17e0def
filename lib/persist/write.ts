import { builtin } from '../builtin.js'
import { VfioError } from '../errors.js'
import { Directory, type FileContent, fileError } from '../records.js'
import { compareAddresses } from '../sysfs/address.js'
import { detectInitramfs, type RootTree } from './boot-system.js'
import { INITRAMFS, INITRAMFS_FILES } from './initramfs.js'
import { MADE_FROM } from './made-from.js'
import { MODPROBE_FILE, type PersistFile, type PersistPlan, UDEV_FILE } from './plan.js'

/** What was done to the boot configuration. Paths are as in the plan, from the root of the tree. */
export interface PersistReport {
  readonly written: readonly string[]
  readonly removed: readonly string[]
  readonly unchanged: readonly string[]
  /** Copies of what others had in a file before it was first written, beside it. */
  readonly backups: readonly string[]
  /** Devices that lasted over boot so far and do not any more. */
  readonly dropped: readonly string[]
  /** The command that makes it take effect, where anything changed. */
  readonly rebuild: string | null
}

/**
 * Writes the boot configuration of a plan, which replaces what an earlier call wrote. Looks at every file first: nothing
 * is written where one of them is not ours.
 * @throws VfioError the code of the plan's first blocker; `ERR_VFIO_BAD_FILE` where nothing that is written would stay, or a file is somebody else's, changed by hand, or a symbolic link
 * @throws VfioSystemError where the file system refuses
 */
export async function writePersistence(plan: PersistPlan, tree: RootTree = {}): Promise<PersistReport> {
  const [blocker] = plan.blockers
  if (blocker) throw new VfioError(blocker.code, plan.blockers.map(({ reason }) => reason).join('; '))
  const made = MADE_FROM[plan.initramfs]
  if (made) {
    throw new VfioError(
      'ERR_VFIO_BAD_FILE',
      `nothing is written: ${made.source}; "vfio persist" without --write prints what belongs there`,
    )
  }
  return apply(plan.files, plan.addresses, plan.rebuild, tree)
}

/**
 * Takes away what {@link writePersistence} wrote, and puts back what was there before.
 * @throws VfioError, VfioSystemError as {@link writePersistence}
 */
export async function removePersistence(tree: RootTree = {}): Promise<PersistReport> {
  return apply([], [], INITRAMFS[detectInitramfs(tree)]?.rebuild ?? null, tree)
}

/** Every file that a plan can have: those of an earlier one that are not wanted any more must go. */
const PLACES: readonly Pick<PersistFile, 'path' | 'kind'>[] = [
  { path: MODPROBE_FILE, kind: 'file' },
  { path: UDEV_FILE, kind: 'file' },
  ...INITRAMFS_FILES,
]

async function apply(
  files: readonly PersistFile[],
  addresses: readonly string[],
  rebuild: string | null,
  { root = '/' }: RootTree,
): Promise<PersistReport> {
  const wanted = new Map(files.map((file) => [file.path, file]))
  const changes: Change[] = []
  for (const place of PLACES) {
    const { path } = place
    // A shared file that gets no lines of ours needs no check.
    const isShared = place.kind === 'block' && !wanted.has(path)
    const present = readIn(root, path, isShared)
    changes.push(planChange({ ...place, text: wanted.get(path)?.content ?? null }, addresses, present))
  }
  for (const change of changes) {
    if (change.action === 'keep') continue
    await perform(root, change).catch((error: unknown) => {
      throw fileError(error, change.path)
    })
  }
  const paths = (action: Change['action']) =>
    changes.filter((change) => change.action === action).map(({ path }) => path)
  const before = new Set(changes.flatMap(({ former }) => former))
  return {
    written: paths('write'),
    removed: [...paths('remove'), ...paths('restore')],
    unchanged: paths('keep').filter((path) => wanted.has(path)),
    backups: changes.filter(({ isFirst }) => isFirst).map(({ path }) => backupOf(path)),
    dropped: [...before].filter((address) => !addresses.includes(address)),
    rebuild: changes.some(({ action }) => action !== 'keep') ? rebuild : null,
  }
}

interface Change {
  readonly path: string
  /** `remove` takes the file away, `restore` only our lines in it. */
  readonly action: 'write' | 'remove' | 'restore' | 'keep'
  readonly text: string
  /** Nothing of ours was in it: what is there is kept aside first. */
  readonly isFirst: boolean
  readonly present: PresentFile | null
  /** The devices that it was for until now. */
  readonly former: readonly string[]
}

function planChange(
  { path, kind, text }: Pick<PersistFile, 'path' | 'kind'> & { text: string | null },
  addresses: readonly string[],
  present: PresentFile | null,
): Change {
  const found = present ? findOurs(present.text, path, kind) : null
  const change = { path, present, former: found?.addresses ?? [], isFirst: false }
  const rest = kind === 'block' ? (found?.before ?? present?.text ?? '') : ''
  const after = kind === 'block' ? (found?.after ?? '') : ''
  if (text === null) {
    const left = rest + after
    if (!found) return { ...change, action: 'keep', text: left }
    return { ...change, action: left === '' ? 'remove' : 'restore', text: left }
  }
  const glue = rest === '' || rest.endsWith('\n') ? '' : '\n'
  const next = `${rest}${glue}${mark(text, addresses)}${after}`
  if (next === present?.text) return { ...change, action: 'keep', text: next }
  return { ...change, action: 'write', text: next, isFirst: present !== null && found === null }
}

const BEGIN = '# begin "vfio persist"'
const END = '# end "vfio persist"'
const MARKED =
  /^# begin "vfio persist" for ([0-9a-f:. ]+) sha256:([0-9a-f]{64})\n([\s\S]*?)^# end "vfio persist"\n/m

const digest = (text: string) => builtin('node:crypto').createHash('sha256').update(text).digest('hex')

/** Our lines between two marks, with a digest that tells whether a person changed them. */
function mark(text: string, addresses: readonly string[]): string {
  return `${BEGIN} for ${addresses.join(' ')} sha256:${digest(text)}\n${text}${END}\n`
}

interface Ours {
  readonly before: string
  readonly after: string
  readonly addresses: readonly string[]
}

/** Our lines in a file, `null` where a shared file has none. A file that ought to be ours, and is not, is refused. */
function findOurs(text: string, path: string, kind: PersistFile['kind']): Ours | null {
  const refuse = (why: string) => new VfioError('ERR_VFIO_BAD_FILE', `${path} is left alone: ${why}`)
  const match = MARKED.exec(text)
  if (!match) {
    if (kind === 'block' && !text.includes(BEGIN) && !text.includes(END)) return null
    throw refuse(
      text.includes(BEGIN)
        ? 'the marks of "vfio persist" in it were changed by hand; take its lines away yourself'
        : 'it is not from "vfio persist"; move it away, or merge it by hand with what is printed without --write',
    )
  }
  const [whole, addresses = '', sum, body = ''] = match
  const before = text.slice(0, match.index)
  const after = text.slice(match.index + whole.length)
  const isAlone = before === '' && after === ''
  if (digest(body) !== sum || (kind === 'file' && !isAlone) || after.includes(BEGIN)) {
    throw refuse('it was changed by hand since "vfio persist" wrote it; move the change to a file of its own')
  }
  return { before, after, addresses: addresses.split(' ') }
}

/** The devices that our files in a tree are for, with their drivers; and why a file is not to be trusted. */
export function persistedIn(read: (path: string) => string | null): {
  devices: { address: string; driver: string }[]
  problems: string[]
} {
  const devices = new Map<string, string>()
  const problems: string[] = []
  for (const { path, kind } of PLACES) {
    const text = read(path)
    if (text === null) continue
    try {
      // Reading leaves the last line end away.
      const ours = findOurs(`${text}\n`, path, kind)
      for (const address of ours?.addresses ?? []) {
        const rule = text.split('\n').find((line) => line.includes(`KERNEL=="${address}"`))
        const driver = /driver_override\}="([\w-]+)"/.exec(rule ?? '')?.[1]
        devices.set(address, driver ?? devices.get(address) ?? 'vfio-pci')
      }
    } catch (error) {
      problems.push((error as Error).message)
    }
  }
  const sorted = [...devices].sort(([a], [b]) => compareAddresses(a, b))
  return { devices: sorted.map(([address, driver]) => ({ address, driver })), problems }
}

const backupOf = (path: string) => `${path}.vfio-backup`
const nameOf = (path: string) => path.slice(path.lastIndexOf('/') + 1)
const directoryOf = (path: string) => path.slice(0, path.lastIndexOf('/'))

function readIn(root: string, path: string, isShared: boolean): PresentFile | null {
  try {
    using directory = Directory.open(root, directoryOf(path))
    // Before writing and before removing.
    for (const name of [path, backupOf(path)]) directory?.sweep(nameOf(name))
    return textOf(directory?.read(nameOf(path)))
  } catch (error) {
    const fault = fileError(error, path)
    if (isShared && fault instanceof VfioError && fault.code === 'ERR_VFIO_BAD_FILE') return null
    throw fault
  }
}

/** A file as it was read, one character for each byte: what is no UTF-8 comes through unharmed. */
type PresentFile = Omit<FileContent, 'bytes'> & { readonly text: string }

function textOf(file: FileContent | null | undefined): PresentFile | null {
  if (!file) return null
  const { bytes, ...rest } = file
  return { ...rest, text: bytes.toString('latin1') }
}

const contentOf = ({ text, ...rest }: PresentFile): FileContent => ({
  ...rest,
  bytes: Buffer.from(text, 'latin1'),
})

async function perform(root: string, { path, action, text, isFirst, present }: Change): Promise<void> {
  using directory = Directory.open(root, directoryOf(path), { create: action === 'write' })
  if (directory === null) return
  const name = nameOf(path)
  const saved = nameOf(backupOf(path))
  const like = present ?? { mode: 0o644, uid: process.geteuid?.() ?? 0, gid: process.getegid?.() ?? 0 }
  if (isFirst && present) await directory.write(saved, contentOf(present))
  if (action === 'write') {
    await directory.write(name, contentOf({ ...like, text }))
    return
  }
  const former = textOf(directory.read(saved))
  // We ended a last line that had no end.
  const isAsBefore = former !== null && (former.text === text || `${former.text}\n` === text)
  if (isAsBefore) await directory.rename(saved, name)
  else if (action === 'remove') await directory.remove(name)
  else await directory.write(name, contentOf({ ...like, text }))
  if (!isAsBefore) await directory.remove(saved)
}
