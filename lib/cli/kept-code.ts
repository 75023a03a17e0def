import {
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  type Stats,
  writeFileSync,
} from 'node:fs'
import { dirname, isAbsolute, join } from 'node:path'
import { Script } from 'node:vm'

/** An exit status as in exit.ts, which takes long to load. */
const NOT_READY = 1

/** What Node's own cache of compiled code is switched off by as well. */
const OFF = 'NODE_DISABLE_COMPILE_CACHE'

/** What runs as `require` would run it: the file is a function that takes these. */
type Wrapped = (
  exports: unknown,
  require: (id: string) => unknown,
  module: NodeJS.Module,
  filename: string,
  dirname: string,
) => void

/**
 * Runs a file of this package with what the compiler made of it the last time: for a small host that takes longer than all the
 * rest. What cannot be kept is compiled again, and nobody hears of it.
 * @param own module of the file that calls, which this one is beside
 * @param file a function in ASCII: {@link Wrapped}
 * @param place where what is made of it is kept, `null` for nowhere: {@link placeOf}
 * @param build tells one content of the file from another
 */
export function runKept(own: NodeJS.Module, file: string, place: string | null, build: string): void {
  const directory = dirname(own.filename)
  const filename = join(directory, file)
  const key = Buffer.from(`${build} ${process.version} ${process.arch} ${process.versions.v8}\n`)
  const room = new Room()
  const source = readSource(filename, room)
  const kept = place === null ? null : readKept(place, key, room)
  const script = new Script(source, { filename, ...(kept && { cachedData: kept }) })
  if (place !== null && (kept === null || script.cachedDataRejected)) {
    // What was typed wrong has not come far; a host that is not ready was looked at.
    process.on('exit', (status) => {
      if (status <= NOT_READY) keep(place, key, script.createCachedData())
    })
  }
  const run = script.runInThisContext() as Wrapped
  run.call(own.exports, own.exports, own.require.bind(own), own, filename, directory)
}

/**
 * Where code is kept, `null` for nowhere. Who else can write there runs what they like as this user: root has the cache of the
 * system, whatever its environment says.
 * @param name of what is going to be run, since only of that anything is kept
 */
export function placeOf(
  name: string,
  user = process.geteuid?.(),
  env: NodeJS.ProcessEnv = process.env,
): string | null {
  if (user === undefined || env[OFF]) return null
  // They take what they are given for source, or nothing.
  if (process.versions.bun !== undefined || process.versions.deno !== undefined) return null
  if (user === 0) return join('/var/cache/vfio', name)
  const { XDG_CACHE_HOME = '', HOME = '' } = env
  const caches = [XDG_CACHE_HOME, HOME && join(HOME, '.cache')].find(isAbsolute)
  return caches === undefined ? null : join(caches, 'vfio', name)
}

/** It, and nobody but root, can write there. */
const isOurs = ({ uid, mode }: Stats) => uid === process.geteuid?.() && (mode & 0o022) === 0

function isSafe(directory: string): boolean {
  const facts = lstatSync(directory)
  return facts.isDirectory() && isOurs(facts)
}

/** Memory for what is read one after the other: new memory takes longer than reading. */
class Room {
  #bytes = Buffer.allocUnsafeSlow(ROOM)

  of(size: number): Buffer {
    if (size > this.#bytes.length) this.#bytes = Buffer.allocUnsafeSlow(size)
    return this.#bytes.subarray(0, size)
  }
}

/** More than the source and what is kept of it, in bytes; what is not written to takes no memory. */
const ROOM = 0x100000

function readSource(filename: string, room: Room): string {
  const fd = openSync(filename, constants.O_RDONLY)
  try {
    const { size } = fstatSync(fd)
    // Some file systems do not say how much there is.
    return size > 0 ? read(fd, room.of(size), 0).toString('latin1') : readFileSync(fd, 'latin1')
  } finally {
    closeSync(fd)
  }
}

/** So much of the second copy is compared at once, in bytes: memory that is new takes longer than reading. */
const STRETCH = 0x10000

/**
 * The compiler trusts what it gets, and hangs or crashes with one bit of it changed. So it is kept twice, and taken where both
 * are the same: what makes checksums takes longer to load.
 */
function readKept(place: string, key: Buffer, room: Room): Buffer | null {
  let fd: number | null = null
  try {
    if (!isSafe(dirname(place))) return null
    fd = openSync(place, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK)
    const facts = fstatSync(fd)
    if (!facts.isFile() || !isOurs(facts)) return null
    if (!read(fd, Buffer.alloc(key.length), 0).equals(key)) return null
    const size = (facts.size - key.length) / 2
    const code = read(fd, room.of(size), key.length)
    const stretch = Buffer.allocUnsafeSlow(STRETCH)
    for (let at = 0; at < size; at += STRETCH) {
      const first = code.subarray(at, at + STRETCH)
      if (!read(fd, stretch.subarray(0, first.length), key.length + size + at).equals(first)) return null
    }
    return code
  } catch {
    return null
  } finally {
    if (fd !== null) closeSync(fd)
  }
}

/** Fills it, or throws. */
function read(fd: number, bytes: Buffer, from: number): Buffer {
  for (let at = 0; at < bytes.length; ) {
    const length = readSync(fd, bytes, at, bytes.length - at, from + at)
    if (length === 0) throw new Error('it ends before')
    at += length
  }
  return bytes
}

function keep(place: string, key: Buffer, code: Buffer): void {
  const directory = dirname(place)
  // Of one name: what a killed program leaves is taken away by the next.
  const made = `${place}.new`
  try {
    // The system's own is there, or this is no place to begin with one.
    for (const one of process.geteuid?.() === 0 ? [directory] : [dirname(directory), directory]) make(one)
    if (!isSafe(directory)) return
    rmSync(made, { force: true })
    // Hosts of which devices are taken are switched off now and then: half a file is none.
    writeFileSync(made, Buffer.concat([key, code, code]), { flag: 'wx', mode: 0o600, flush: true })
    renameSync(made, place)
  } catch {
    try {
      rmSync(made, { force: true })
    } catch {
      // The place is not one to write to.
    }
  }
}

function make(directory: string): void {
  try {
    mkdirSync(directory, { mode: 0o700 })
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
  }
}
