import type { Changes, Progress } from '../change/changes.js'
import { type GroupLock, lockGroups, lockOf } from '../change/group-lock.js'
import { DEADLINE, type KernelAccess, kernelWith, sayingWhat, withDeadline } from '../change/kernel.js'
import { begun, refuseUnfinished, type UnfinishedVfs, unfinishedIn } from '../change/unfinished.js'
import { VfioError, VfioSystemError } from '../errors.js'
import { below, exists, linkName, readText } from '../sysfs/files.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import { planVfs, type VfsPlan } from './plan.js'

export interface VfsOptions {
  /** In place of `/sys`. */
  readonly sysfs?: string | undefined
  /** Directory of the journal; default `/run/vfio`. */
  readonly journal?: string | undefined
  /** How long the kernel may take for one write, in milliseconds; default 30,000. */
  readonly deadline?: number | undefined
  /** Called after each change, with a sentence that says which. */
  readonly onChange?: Progress | undefined
  /** Called where the kernel has taken a second for one request, with what that is. */
  readonly onWait?: Progress | undefined
  /** @internal Tests put a host of their own here. */
  readonly kernel?: Partial<KernelAccess> | undefined
}

/** The virtual functions of a device, as they are now. */
export interface VfsReport {
  readonly address: string
  readonly from: number
  readonly to: number
  /** Their addresses. They have no driver. */
  readonly vfs: readonly string[]
}

/**
 * Sets the number of virtual functions, whose drivers are kept from taking them: new ones are there to be given away.
 * @throws VfioError `ERR_VFIO_NO_VFS`, `ERR_VFIO_IN_USE` where something is in the way, before anything is changed;
 * `ERR_VFIO_LOCKED`, `ERR_VFIO_HOST_CHANGED` where another program works on one of them; `ERR_VFIO_BAD_JOURNAL`; `ERR_VFIO_TIMEOUT`, after which
 * drivers stay away for as long as the kernel still works on it, and `recover` brings functions back that went meanwhile; `ERR_VFIO_BAD_ADDRESS`, `ERR_VFIO_NO_DEVICE`, `ERR_VFIO_BAD_ARGUMENT`
 * @throws VfioSystemError where the kernel refuses
 */
export async function setVfs(
  seen: Snapshot,
  address: string,
  count: number,
  options: VfsOptions = {},
): Promise<VfsReport> {
  const sysfs = options.sysfs ?? '/sys'
  const parameter = readText(below(sysfs, 'module/vfio_pci/parameters/enable_sriov'))
  const plan = planVfs(seen, address, count, { vfioSriov: /^[Yy1]/.test(parameter ?? '') })
  const [blocker] = plan.blockers
  if (blocker) throw new VfioError(blocker.code, plan.blockers.map(({ reason }) => reason).join('; '))
  const directory = `${sysfs}/bus/pci/devices/${plan.address}`
  if (plan.writes.length > 0) {
    const records = unfinishedIn(options.journal)
    const lock = lockAll(seen, plan.address, options)
    const kernel = kernelWith(options.kernel)
    const deadline = options.deadline ?? DEADLINE
    const late: Promise<void>[] = []
    const end = () => {
      kernel.close()
      lock[Symbol.dispose]()
    }
    try {
      refuseUnfinished(records, plan.address)
      const before = await countIn(directory, kernel, deadline, lock)
      if (before !== plan.from) {
        throw new VfioError(
          'ERR_VFIO_HOST_CHANGED',
          `${plan.address} has ${before ?? 'no count of'} virtual functions now, and had ${plan.from}: look again`,
        )
      }
      const autoprobe = readText(`${directory}/${AUTOPROBE}`)
      const step = { ...begun(sysfs, seen.device(plan.address), lock), step: 'vfs' as const }
      await records.write({ ...step, from: plan.from, to: plan.to, autoprobe })
      const forget = () => records.remove(plan.address)
      const onLate = (rest: Promise<void>) => late.push(rest)
      const { onChange, onWait } = options
      const means = { deadline, kernel, autoprobe, forget, onLate, onChange, onWait }
      await withoutAutoprobe(directory, means, plan, lock)
      const now = await countIn(directory, kernel, deadline, lock)
      if (now !== count) {
        throw new VfioError(
          'ERR_VFIO_NO_VFS',
          `the kernel took the number ${count}, and yet ${plan.address} has ${now ?? 'no count of'} virtual functions`,
        )
      }
    } finally {
      // What the kernel has not answered keeps the lock.
      if (late.length > 0) Promise.allSettled(late).then(end)
      else end()
    }
  }
  return { address: plan.address, from: plan.from, to: count, vfs: vfsOf(directory, count) }
}

const AUTOPROBE = 'sriov_drivers_autoprobe'
const COUNT = 'sriov_numvfs'

/** The kernel may tell it only when it has ended what it is at with the device, so this may take as long as that. */
async function countIn(
  directory: string,
  kernel: KernelAccess,
  deadline: number,
  lock: GroupLock,
): Promise<number | null> {
  const path = `${directory}/${COUNT}`
  const what = () => {
    kernel.leave()
    return `reading ${path}`
  }
  try {
    const text = await withDeadline(kernel.read(path, lock.descriptor), deadline, what)
    return /^\d+\s*$/.test(text) ? Number(text) : null
  } catch (error) {
    if (error instanceof VfioSystemError && error.code === 'ENOENT') return null
    throw error
  }
}

/**
 * Puts a device in order where a crash ended a change of its virtual functions: a number that was reached stays, and where
 * there are none on the way from one to another, those from before come back. Drivers may take new ones as before.
 * @throws VfioError `ERR_VFIO_IN_USE` where those would come back while the physical function is open in VFIO
 */
export async function putVfsInOrder(
  changes: Changes,
  {
    address,
    group,
    from,
    to,
    autoprobe,
  }: Pick<UnfinishedVfs, 'address' | 'group' | 'from' | 'to' | 'autoprobe'>,
): Promise<void> {
  const directory = changes.device(address)
  if (!exists(`${directory}/${COUNT}`)) return
  const now = Number(await changes.read(`${directory}/${COUNT}`))
  if (now === 0 && from > 0 && to > 0) {
    // There is none now, so none is in use; who opened the physical function since knows of none.
    if (changes.isWithVfio(address))
      changes.refuseOpen({ address, group }, `its ${from} virtual functions would come while it is used`)
    await changes.write(`${directory}/${COUNT}`, String(from))
  }
  const file = `${directory}/${AUTOPROBE}`
  if (autoprobe !== null && readText(file) !== autoprobe) await changes.write(file, autoprobe)
}

/** Keeps other programs from taking or opening one of the functions while they come and go. */
function lockAll(seen: Snapshot, address: string, { sysfs = '/sys' }: VfsOptions): GroupLock {
  const { sriov } = seen.device(address)
  const functions = [address, ...(sriov?.role === 'pf' ? sriov.vfs : [])].map((one) => seen.device(one))
  const lock = lockGroups(sysfs, functions.map(lockOf))
  const changed = functions.find(
    ({ address: one, driver }) => linkName(`${sysfs}/bus/pci/devices/${one}/driver`) !== driver,
  )
  if (!changed) return lock
  lock[Symbol.dispose]()
  throw new VfioError('ERR_VFIO_HOST_CHANGED', `${changed.address} got another driver just now: look again`)
}

interface Means {
  readonly deadline: number
  readonly kernel: KernelAccess
  /** Could drivers take new functions before? */
  readonly autoprobe: string | null
  /** Everything is in order: its record is not needed any more. */
  readonly forget: () => Promise<void>
  /** Takes what is left to do once the kernel has answered. */
  readonly onLate: (rest: Promise<void>) => void
  readonly onChange: Progress | undefined
  readonly onWait: Progress | undefined
}

/** Writes the numbers while the kernel offers no new function to a driver; then it may again, if it could before. */
async function withoutAutoprobe(
  directory: string,
  { deadline, kernel, autoprobe: former, forget, onLate, onChange, onWait }: Means,
  { writes, from }: VfsPlan,
  lock: GroupLock,
): Promise<void> {
  const write = async (file: string, text: string) => {
    const path = `${directory}/${file}`
    const what = () => `writing ${text} to ${path}`
    asked = kernel.write(path, `${text}\n`, lock.descriptor)
    const waited = withDeadline(asked, deadline, () => {
      kernel.leave()
      return what()
    })
    await sayingWhat(waited, onWait, what)
    onChange?.(`wrote ${text} to ${path}`)
  }
  let asked: Promise<void> = Promise.resolve()
  const isOn = former !== null && former !== '0'
  let done = 0
  /** For a number, and not only to keep drivers away. */
  let isAsked = false
  // What the kernel has not answered goes on, and brings functions that no driver is to take.
  let isLate = false
  let isLost = false
  try {
    if (isOn) await write(AUTOPROBE, '0')
    for (const count of writes) {
      isAsked = true
      await write(COUNT, String(count))
      done++
    }
  } catch (error) {
    isLate = error instanceof VfioError && error.code === 'ERR_VFIO_TIMEOUT'
    // The kernel refused the new number when the old functions were gone already.
    if (done > 0 && !isLate)
      await write(COUNT, String(from)).catch((second) => {
        isLost = true
        throwBoth(error, second, from)
      })
    throw error
  } finally {
    const allow = async () => {
      if (isOn) await write(AUTOPROBE, former ?? '1')
      if (!isLost) await forget()
    }
    // Where the last number is refused late, or a number is still to come, none are left: the record stays for "vfio recover".
    const isLast = !isAsked || done + 1 === writes.length
    if (isLate) onLate(asked.then(isLast ? allow : () => {}, done === 0 ? allow : () => {}))
    else await allow()
  }
}

function vfsOf(directory: string, count: number): string[] {
  const links = Array.from({ length: count }, (_none, index) => linkName(`${directory}/virtfn${index}`))
  return links.filter((address) => address !== null)
}

function throwBoth(first: unknown, second: unknown, from: number): never {
  const text = (error: unknown) => (error instanceof Error ? error.message : String(error))
  throw new VfioError(
    'ERR_VFIO_NOT_RESTORED',
    `${text(first)}; nor could the ${from} virtual functions from before be made again: ${text(second)} ("vfio recover" tries again)`,
    { cause: first },
  )
}
