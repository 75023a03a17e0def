import { refusalOf } from '../assess/refusals.js'
import { assessUses, type HostUse } from '../assess/uses.js'
import { type ChangeOptions, Changes } from '../change/changes.js'
import { lockGroups, lockOf } from '../change/group-lock.js'
import { begun, refuseUnfinished, type UnfinishedReset, unfinishedIn } from '../change/unfinished.js'
import { VfioError } from '../errors.js'
import { isByOwnDriver, type PciDevice } from '../sysfs/devices.js'
import { readText } from '../sysfs/files.js'
import type { Snapshot } from '../sysfs/snapshot.js'

export interface ResetMethodOptions extends ChangeOptions {
  /** Kinds of use that are to be disturbed all the same. A device that is open in VFIO never is. */
  readonly force?: readonly HostUse['kind'][] | undefined
  /** Directory of the journal; default `/run/vfio`. */
  readonly journal?: string | undefined
  /** Aborts before the reset; the kernel's own methods are put back then. */
  readonly signal?: AbortSignal | undefined
}

/** What a reset by one method did. */
export interface ResetMethodReport {
  readonly address: string
  /** The kernel's name for it: `flr`, `af_flr`, `pm`, `bus`, `device_specific`, … */
  readonly method: string
  readonly affected: readonly string[]
  /** How long the kernel took, with saving and restoring config space. */
  readonly milliseconds: number
  /** The methods that the kernel has for this device again, in its order: all that fit it as it stands. */
  readonly methods: readonly string[]
}

/**
 * Resets a device by one of the methods that the kernel has for it, whatever driver it has: `reset_method` holds that
 * one alone meanwhile, and is put back whatever happens, but for methods that do not fit the device any more.
 * @throws VfioError `ERR_VFIO_NO_RESET` where the kernel has no such method for it (before 5.15 it tells none);
 * `ERR_VFIO_IN_USE`, `ERR_VFIO_LOCKED`, `ERR_VFIO_BAD_JOURNAL`; `ERR_VFIO_NOT_RESTORED` where the methods could not be put
 * back: `recover` tries again, also after a crash
 * @throws VfioSystemError what the kernel answers
 */
export async function resetByMethod(
  seen: Snapshot,
  address: string,
  method: string,
  options: ResetMethodOptions = {},
): Promise<ResetMethodReport> {
  const device = seen.device(address)
  if (isByOwnDriver(device)) {
    throw new VfioError(
      'ERR_VFIO_NO_RESET',
      `${device.address} is with VFIO through its own driver ${device.driver}, which resets it for each hypervisor that opens it: a reset past that driver would break it`,
    )
  }
  const records = unfinishedIn(options.journal)
  const methods = device.resetMethods ?? []
  if (!methods.includes(method)) {
    refuseUnfinished(records, device.address)
    throw noMethod(device, method)
  }
  refuseUsed(seen, device, options.force ?? [])
  const { sysfs } = seen.host.paths
  using lock = lockGroups(sysfs, [lockOf(device)])
  using changes = new Changes(sysfs, options, lock, options.signal)
  refuseOpen(changes, device)
  refuseUnfinished(records, device.address)
  const file = methodsOf(changes, device.address)
  // As it is now: somebody may have changed it since the look.
  const former = readText(file)?.trim() ?? methods.join(' ')
  options.signal?.throwIfAborted()
  const step = { ...begun(sysfs, device, lock), step: 'reset-method' as const, methods: former }
  if (former !== method) await records.write(step)
  let milliseconds: number
  try {
    if (former !== method) await changes.write(file, method)
    options.signal?.throwIfAborted()
    const start = performance.now()
    await changes.write(`${changes.device(device.address)}/reset`, '1')
    milliseconds = Math.round((performance.now() - start) * 10) / 10
  } catch (error) {
    changes.finish()
    await putMethodsBack(changes, step, error)
    await records.remove(device.address)
    throw error
  }
  changes.finish()
  await putMethodsBack(changes, step)
  await records.remove(device.address)
  return {
    address: device.address,
    method,
    affected: [device.address],
    milliseconds,
    methods: (readText(file)?.trim() ?? former).split(/\s+/),
  }
}

const methodsOf = (changes: Changes, address: string) => `${changes.device(address)}/reset_method`

/**
 * Gives a device back the methods that the kernel had for it.
 * @throws VfioError `ERR_VFIO_NOT_RESTORED`
 */
export async function putMethodsBack(
  changes: Changes,
  { address, methods: former }: Pick<UnfinishedReset, 'address' | 'methods'>,
  cause?: unknown,
): Promise<void> {
  const file = methodsOf(changes, address)
  try {
    if (readText(file)?.trim() !== former) await writeMethods(changes, file, former)
  } catch (error) {
    const first = cause instanceof Error ? `${cause.message}; ` : ''
    throw new VfioError(
      'ERR_VFIO_NOT_RESTORED',
      `${first}the reset methods of ${address} are not as before (${(error as Error).message}): write "${former}" to ${file}, or run "vfio recover"`,
      { cause: cause ?? error },
    )
  }
}

/**
 * The kernel takes a list only where each method is possible now (`reset_method_store`), and may list one that was possible
 * only when the device was added: that one it does not take back.
 */
async function writeMethods(changes: Changes, file: string, methods: string): Promise<void> {
  const isTaken = async (list: string) => {
    try {
      await changes.write(file, list)
      return true
    } catch (error) {
      if ((error as { code?: unknown }).code === 'EINVAL') return false
      throw error
    }
  }
  if (await isTaken(methods)) return
  const fitting: string[] = []
  for (const method of methods.split(/\s+/)) if (await isTaken(method)) fitting.push(method)
  await changes.write(file, fitting.length > 0 ? fitting.join(' ') : 'default')
}

function noMethod({ address, resetMethods }: PciDevice, method: string): VfioError {
  const has =
    resetMethods === null
      ? 'this kernel does not tell its methods, which it does since 5.15'
      : resetMethods.length === 0
        ? 'the kernel has none for it'
        : `the kernel has ${resetMethods.join(', ')} for it`
  return new VfioError('ERR_VFIO_NO_RESET', `${address} cannot be reset by ${JSON.stringify(method)}: ${has}`)
}

/**
 * Refuses a device whose users would lose something by a reset or a removal, unless that use is forced.
 * @throws VfioError `ERR_VFIO_IN_USE`
 */
export function refuseUsed(seen: Snapshot, device: PciDevice, force: readonly HostUse['kind'][]): void {
  const reasons = assessUses(seen, device.address).flatMap(
    (use) => refusalOf(use, device.driver, force) ?? [],
  )
  if (reasons.length > 0) throw new VfioError('ERR_VFIO_IN_USE', reasons.join('; '))
}

/** Somebody may have opened it since the snapshot. @throws VfioError `ERR_VFIO_IN_USE` */
export function refuseOpen(changes: Changes, { address, group }: PciDevice): void {
  if (changes.isWithVfio(address)) changes.refuseOpen({ address, group })
}
