import { type GroupLock, lockGroups } from '../change/group-lock.js'
import { DEADLINE, type KernelAccess, kernelWith, withDeadline } from '../change/kernel.js'
import { VfioError } from '../errors.js'
import { below, linkName, readText } from '../sysfs/files.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import { planVfs, type VfsPlan } from './plan.js'

export interface VfsOptions {
  /** In place of `/sys`. */
  readonly sysfs?: string | undefined
  /** How long the kernel may take for one write, in milliseconds; default 30,000. */
  readonly deadline?: number | undefined
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
 * `ERR_VFIO_LOCKED`, `ERR_VFIO_HOST_CHANGED` where another program works on one of them; `ERR_VFIO_TIMEOUT`, after which
 * drivers stay away for as long as the kernel still works on it; `ERR_VFIO_BAD_ADDRESS`, `ERR_VFIO_NO_DEVICE`, `ERR_VFIO_BAD_ARGUMENT`
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
    using lock = lockAll(seen, plan.address, options)
    const kernel = kernelWith(options.kernel)
    try {
      await withoutAutoprobe(directory, { ...options, kernel }, plan, lock)
    } finally {
      kernel.close()
    }
  }
  const now = readText(`${directory}/sriov_numvfs`)
  if (now === null || Number(now) !== count) {
    throw new VfioError(
      'ERR_VFIO_NO_VFS',
      `the kernel took the number ${count}, and yet ${plan.address} has ${now ?? 'no count of'} virtual functions`,
    )
  }
  return { address: plan.address, from: plan.from, to: count, vfs: vfsOf(directory, count) }
}

/** Keeps other programs from taking or opening one of the functions while they come and go. */
function lockAll(seen: Snapshot, address: string, { sysfs = '/sys' }: VfsOptions): GroupLock {
  const { sriov } = seen.device(address)
  const functions = [address, ...(sriov?.role === 'pf' ? sriov.vfs : [])].map((one) => seen.device(one))
  const lock = lockGroups(
    sysfs,
    functions.flatMap(({ group }) => group ?? []),
  )
  const changed = functions.find(
    ({ address: one, driver }) => linkName(`${sysfs}/bus/pci/devices/${one}/driver`) !== driver,
  )
  if (!changed) return lock
  lock[Symbol.dispose]()
  throw new VfioError('ERR_VFIO_HOST_CHANGED', `${changed.address} got another driver just now: look again`)
}

/** Writes the numbers while the kernel offers no new function to a driver; then it may again, if it could before. */
async function withoutAutoprobe(
  directory: string,
  { deadline = DEADLINE, kernel }: Omit<VfsOptions, 'kernel'> & { kernel: KernelAccess },
  { writes, from }: VfsPlan,
  lock: GroupLock,
): Promise<void> {
  const write = (file: string, text: string) => {
    const path = `${directory}/${file}`
    asked = kernel.write(path, `${text}\n`, lock.descriptor)
    return withDeadline(asked, deadline, () => {
      kernel.leave()
      return `writing ${text} to ${path}`
    })
  }
  let asked: Promise<void> = Promise.resolve()
  const file = 'sriov_drivers_autoprobe'
  const former = readText(`${directory}/${file}`)
  const isOn = former !== null && former !== '0'
  if (isOn) await write(file, '0')
  let done = 0
  // What the kernel has not answered goes on, and brings functions that no driver is to take.
  let isLate = false
  try {
    for (const count of writes) {
      await write('sriov_numvfs', String(count))
      done++
    }
  } catch (error) {
    isLate = error instanceof VfioError && error.code === 'ERR_VFIO_TIMEOUT'
    // The kernel refused the new number when the old functions were gone already.
    if (done > 0 && !isLate)
      await write('sriov_numvfs', String(from)).catch((second) => throwBoth(error, second, from))
    throw error
  } finally {
    const allow = () => write(file, former ?? '1')
    if (isOn && isLate) asked.then(allow, allow).catch(() => {})
    else if (isOn) await allow()
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
    `${text(first)}; nor could the ${from} virtual functions from before be made again: ${text(second)}`,
    { cause: first },
  )
}
