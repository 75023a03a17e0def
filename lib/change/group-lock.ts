import { closeSync, constants, fstatSync, openSync, readlinkSync, type Stats } from 'node:fs'
import { setTimeout } from 'node:timers/promises'
import { builtin } from '../builtin.js'
import { VfioError, VfioSystemError } from '../errors.js'
import { binding } from '../native/load.js'
import { splitAddress } from '../sysfs/address.js'
import { listNames, readText } from '../sysfs/files.js'
import { leavingOut } from '../sysfs/unseen.js'

/**
 * The file whose bytes are the locks of groups: it is there wherever PCI is, stays when devices go, and root alone can
 * open it, so nobody else can keep root off. All mount, PID and user namespaces that see this sysfs share its locks.
 */
const fileOf = (sysfs: string) => `${sysfs}/bus/pci/rescan`

/**
 * The lock for the ownership of device nodes, which devices of several groups share: the byte after those of groups, which
 * the kernel numbers with 31 bits.
 */
export const NODE_OWNERS = 2 ** 31

/** A group by its number, or a device that has none yet by its address, or by any other name that sysfs has for it. */
type LockSubject = number | string

/** What to lock for a device. */
export const lockOf = ({
  address,
  group,
}: {
  readonly address: string
  readonly group: number | null
}): LockSubject => group ?? address

/** Devices that have no group yet use the bytes from here on. */
const DEVICES = 2 ** 32
/** Mediated devices and their parents have names of any length: those of two may share a byte, and wait for each other. */
const NAMES = 2 ** 50

/** The offset of the byte that is locked for a subject. */
function byteOf(subject: LockSubject): number {
  if (typeof subject === 'number') return subject
  const parts = splitAddress(subject)
  if (parts === null) {
    const { createHash } = builtin('node:crypto')
    return NAMES + createHash('sha256').update(subject).digest().readUIntBE(0, 6)
  }
  const { domain, bus, device, function: fn } = parts
  return DEVICES + ((domain * 256 + bus) * 32 + device) * 8 + fn
}

/** The locks of some groups, held until it is disposed of, or until this process and its calls in the kernel have ended. */
export class GroupLock {
  /** Whoever has this descriptor has the locks. */
  readonly descriptor: number
  /** Tells apart the lock files of different file systems, as `device:inode`. */
  readonly place: string
  readonly #path: string
  readonly #facts: Stats
  #isOpen = true

  constructor(descriptor: number, path: string, facts: Stats) {
    this.descriptor = descriptor
    this.place = `${facts.dev}:${facts.ino}`
    this.#path = path
    this.#facts = facts
  }

  /**
   * Locks more: groups that came to be on the way.
   * @throws VfioError `ERR_VFIO_LOCKED` where another program has one
   */
  add(subjects: Iterable<LockSubject>): void {
    for (const subject of new Set(subjects)) {
      if (!binding().tryLockByte(this.descriptor, byteOf(subject))) {
        throw locked(this.#path, this.#facts, subject)
      }
    }
  }

  [Symbol.dispose](): void {
    if (!this.#isOpen) return
    this.#isOpen = false
    closeSync(this.descriptor)
  }
}

/**
 * Locks groups against every other program that changes devices, whatever journal it has; the kernel takes the locks back
 * from a program that dies.
 * @throws VfioError `ERR_VFIO_LOCKED` where another program has one
 * @throws VfioSystemError where the lock cannot be asked for
 */
export function lockGroups(sysfs: string, subjects: Iterable<LockSubject>): GroupLock {
  const path = fileOf(sysfs)
  const file = open(path)
  const lock = new GroupLock(file, path, fstatSync(file))
  try {
    lock.add(subjects)
    return lock
  } catch (error) {
    lock[Symbol.dispose]()
    throw error
  }
}

/** How often a lock that another program holds is tried again, in milliseconds: no event tells of its release. */
const AGAIN = 20

/**
 * Locks as {@link lockGroups} does, and waits for a program that has the lock for as long as `patience` milliseconds.
 * @param isBrief is what keeps this lock soon over?
 * @throws VfioError `ERR_VFIO_LOCKED` where it has it still
 * @throws VfioSystemError where the lock cannot be asked for
 */
export async function lockGroupsWithin(
  patience: number,
  sysfs: string,
  subjects: Iterable<LockSubject>,
  isBrief: (error: GroupLocked) => boolean = () => true,
): Promise<GroupLock> {
  const wanted = [...subjects]
  for (const began = performance.now(); ; ) {
    try {
      return lockGroups(sysfs, wanted)
    } catch (error) {
      const isLate = performance.now() - began >= patience
      if (isLate || !(error instanceof GroupLocked && isBrief(error))) throw error
    }
    await setTimeout(AGAIN)
  }
}

function open(path: string): number {
  try {
    return openSync(path, constants.O_WRONLY)
  } catch (error) {
    const { errno = 0 } = error as NodeJS.ErrnoException
    throw new VfioSystemError({ errno: -errno, syscall: 'open', request: 'lock', path }, { cause: error })
  }
}

/** Another program has the lock of a group. */
export class GroupLocked extends VfioError {
  /** That program has ended: a call of it that has not returned keeps the lock. */
  readonly isLeft: boolean

  constructor(message: string, isLeft: boolean) {
    super('ERR_VFIO_LOCKED', message)
    this.isLeft = isLeft
  }
}

interface Holder {
  readonly pid: string
  readonly name: string
  readonly command: string
}

function locked(path: string, facts: Stats, subject: LockSubject): VfioError {
  const holders = seenHolders(path, facts, byteOf(subject))
  const group = subject === NODE_OWNERS ? 'whom device nodes belong to' : `group ${subject}`
  const what = typeof subject === 'number' ? group : subject
  // A program that works has its writer too; a writer alone was left behind.
  const [program] = holders.filter(({ name }) => name !== WRITER)
  const [left] = program ? [] : holders
  const who = [program ?? left].map((one) => one && ` (${one.name}, pid ${one.pid})`).join('')
  const rest = left
    ? `what it wrote to ${left.command.split(' ')[1] ?? 'sysfs'} is still in the kernel${since(left.pid)}; free the device there, and "vfio recover" puts it in order afterwards`
    : 'wait until it is done'
  return new GroupLocked(`another program is changing ${what} right now${who}: ${rest}`, left !== undefined)
}

/** The name of what {@link Writer} starts. */
const WRITER = 'vfio-write'

/** For what is said to people: where nobody may look into a process, or descriptors are short, that it is locked remains. */
function seenHolders(path: string, facts: Stats, byte: number): Holder[] {
  try {
    return leavingOut(() => holdersOf(path, facts, byte))
  } catch {
    return []
  }
}

/** Who has the byte of a group locked, as far as it can be seen. */
function holdersOf(path: string, { ino }: Stats, byte: number): Holder[] {
  const isLock = new RegExp(`^lock:.* OFDLCK .*:${ino} ${byte} ${byte}$`, 'm')
  const pids = listNames('/proc').filter((name) => /^\d+$/.test(name))
  return pids.flatMap((pid) => {
    const ours = listNames(`/proc/${pid}/fd`).filter((fd) => isLink(`/proc/${pid}/fd/${fd}`, path))
    if (!ours.some((fd) => isLock.test(readText(`/proc/${pid}/fdinfo/${fd}`) ?? ''))) return []
    const command = (readText(`/proc/${pid}/cmdline`) ?? '').replaceAll('\0', ' ').trim()
    return { pid, name: readText(`/proc/${pid}/comm`) ?? 'a program', command }
  })
}

function isLink(link: string, path: string): boolean {
  try {
    return readlinkSync(link).endsWith(path)
  } catch {
    return false
  }
}

/** Times of processes are in hundredths of a second since the boot. */
function since(pid: string): string {
  const start = Number(/^.*\) (?:\S+ ){19}(\d+)/s.exec(readText(`/proc/${pid}/stat`) ?? '')?.[1])
  const uptime = Number.parseFloat(readText('/proc/uptime') ?? '')
  const began = new Date(Date.now() - (uptime - start / 100) * 1000)
  return Number.isNaN(began.getTime()) ? '' : ` since ${began.toISOString().slice(0, 19)}Z`
}
