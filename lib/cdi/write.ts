import { closeSync, constants, fstatSync, lstatSync, openSync, readdirSync, readFileSync } from 'node:fs'
import { VfioError } from '../errors.js'
import { type CdiExport, type CdiSpecification, cdiText } from '../export/cdi.js'
import { CDI_KIND, cdiFile } from '../export/cdi-kind.js'
import type { RootTree } from '../persist/boot-system.js'
import { Directory, fileError } from '../records.js'
import { expandName } from '../sysfs/address.js'
import { printable } from '../text.js'
import { kindsIn, ownSpecification } from './read.js'

/** What became of the file of a kind. */
export interface CdiReport {
  /** From the root of the tree. */
  readonly path: string
  readonly change: 'written' | 'removed' | 'none'
  /** What containers can be given by it now, as `vendor/class=name`. */
  readonly devices: readonly string[]
  /** What they could be given so far, and cannot any more. */
  readonly dropped: readonly string[]
}

export interface RemoveCdiOptions extends RootTree {
  /** Default `vfio/pci`. */
  readonly kind?: string | undefined
  /** The devices to take out, by what names them in the file; left out: all, and so the file. */
  readonly addresses?: readonly string[] | undefined
}

/**
 * Writes a specification where container runtimes look, which replaces what an earlier call wrote for its kind: to
 * `/var/run/cdi`, because the numbers of groups and nodes in it are good until the next boot, and so is that directory.
 * Readers see the old file or the new one.
 * @throws VfioError `ERR_VFIO_BAD_ARGUMENT` where the kind is too long for a file; `ERR_VFIO_BAD_FILE` where its file is
 * somebody else's, changed by hand, or a symbolic link, or where another file has the kind, or may have it
 * @throws VfioSystemError where the file system refuses
 */
export async function writeCdi(
  { specification }: Pick<CdiExport, 'specification'>,
  tree: RootTree = {},
): Promise<CdiReport> {
  const place = placeOf(tree, specification.kind)
  const present = readOwn(place)
  refuseOthers(place)
  return replace(place, present, specification)
}

/**
 * Takes away what {@link writeCdi} wrote: the file of a kind, or some of its devices. Containers that run keep theirs.
 * @throws VfioError `ERR_VFIO_BAD_ADDRESS`; `ERR_VFIO_NO_DEVICE` where the file has no such device; `ERR_VFIO_BAD_ARGUMENT`
 * where it is no kind; `ERR_VFIO_BAD_FILE` where its file is somebody else's, changed by hand, or a symbolic link
 * @throws VfioSystemError where the file system refuses
 */
export async function removeCdi({
  kind = CDI_KIND,
  addresses = [],
  ...tree
}: RemoveCdiOptions = {}): Promise<CdiReport> {
  const place = placeOf(tree, kind)
  const present = readOwn(place)
  const all = present?.devices ?? []
  const gone = addresses.flatMap((address) => namedIn(place, all, address))
  const devices = addresses.length === 0 ? [] : all.filter(({ name }) => !gone.includes(name))
  return replace(place, present, present && devices.length > 0 ? { ...present, devices } : null)
}

/** The file of a kind. */
interface Place {
  readonly root: string
  readonly kind: string
  /** Of the directory and of the file, from the root of the tree. */
  readonly directory: string
  readonly path: string
  readonly name: string
}

const STATIC = '/etc/cdi'

function placeOf({ root = '/' }: RootTree, kind: string): Place {
  const name = cdiFile(kind)
  // Almost everywhere `/var/run` is a link to `/run`, which in another tree leads out of it.
  const directory = isLink(within(root, '/var/run')) ? '/run/cdi' : '/var/run/cdi'
  return { root, kind, directory, path: `${directory}/${name}`, name }
}

const within = (root: string, path: string) => `${root.replace(/\/+$/, '')}${path}`
const isAbsent = (error: unknown) => (error as NodeJS.ErrnoException).code === 'ENOENT'

function isLink(path: string): boolean {
  try {
    return lstatSync(path).isSymbolicLink()
  } catch (error) {
    if (isAbsent(error)) return false
    throw fileError(error, path)
  }
}

/** What an earlier call wrote; `null` where there is no file. */
function readOwn({ root, kind, directory, path, name }: Place): CdiSpecification | null {
  let text: string
  try {
    using opened = Directory.open(root, directory)
    // Before writing and before removing.
    opened?.sweep(name)
    const file = opened?.read(name)
    if (!file) return null
    text = file.bytes.toString('utf8')
  } catch (error) {
    throw fileError(error, path)
  }
  const found = ownSpecification(text)
  if (found?.kind === kind) return found
  throw new VfioError(
    'ERR_VFIO_BAD_FILE',
    `${path} is left alone: it is not as "vfio cdi" writes it; move it away, or take another kind (--kind)`,
  )
}

/** Of two files with one kind a reader takes the one of the other directory, or of neither what both have. */
function refuseOthers({ root, kind, directory, path }: Place): void {
  for (const place of [STATIC, directory]) {
    for (const name of listed(within(root, place)).filter((name) => /\.(json|yaml)$/.test(name))) {
      const other = `${place}/${name}`
      const text = other === path ? null : readOther(within(root, other))
      if (text === null) continue
      const kinds = kindsIn(text)
      if (kinds.length === 0) {
        throw new VfioError(
          'ERR_VFIO_BAD_FILE',
          `which kind of devices ${printable(other)} has cannot be told, and it may be ${kind}: mend or remove that file`,
        )
      }
      if (!kinds.includes(kind)) continue
      throw new VfioError(
        'ERR_VFIO_BAD_FILE',
        `${printable(other)} has devices of the kind ${kind} already, and two files with one kind hide each other: remove that file, or take another kind (--kind)`,
      )
    }
  }
}

function listed(directory: string): string[] {
  try {
    return readdirSync(directory)
  } catch (error) {
    if (isAbsent(error)) return []
    throw fileError(error, directory)
  }
}

/** A file as container runtimes read it, which follow links; `null` where there is none behind that name. */
function readOther(path: string): string | null {
  let file: number
  try {
    // A FIFO must not hang us.
    file = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
  } catch (error) {
    if (isAbsent(error)) return null
    throw fileError(error, path)
  }
  try {
    return fstatSync(file).isFile() ? readFileSync(file, 'utf8') : null
  } catch (error) {
    throw fileError(error, path)
  } finally {
    closeSync(file)
  }
}

type Devices = CdiSpecification['devices']

function namedIn({ path }: Place, devices: Devices, address: string): readonly string[] {
  const names = devices.map(({ name }) => name)
  const found = expandName(address, () => names)
  if (found.every((name) => names.includes(name))) return found
  const what = names.length === 0 ? 'has no devices' : `has ${names.join(', ')}`
  throw new VfioError(
    'ERR_VFIO_NO_DEVICE',
    `${path} has no device ${found.join(', ')} to take out: it ${what}`,
  )
}

async function replace(
  { root, kind, directory, path, name }: Place,
  present: CdiSpecification | null,
  next: CdiSpecification | null,
): Promise<CdiReport> {
  const qualified = (devices: Devices = []) => devices.map((device) => `${kind}=${device.name}`)
  const devices = qualified(next?.devices)
  const dropped = qualified(present?.devices).filter((device) => !devices.includes(device))
  const text = next && cdiText(next)
  if (text === (present && cdiText(present))) return { path, change: 'none', devices, dropped }
  try {
    using opened = Directory.open(root, directory, { create: text !== null })
    if (text === null) await opened?.remove(name)
    else {
      const [uid, gid] = [process.geteuid?.() ?? 0, process.getegid?.() ?? 0]
      await opened?.write(name, { bytes: Buffer.from(text), mode: 0o644, uid, gid })
    }
  } catch (error) {
    throw fileError(error, path)
  }
  return { path, change: text === null ? 'removed' : 'written', devices, dropped }
}
