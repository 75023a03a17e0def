import { isBridge } from '../assess/topology.js'
import type { HostUse } from '../assess/uses.js'
import { type ChangeOptions, Changes } from '../change/changes.js'
import type { FormerState } from '../change/former.js'
import { lockGroups, lockOf } from '../change/group-lock.js'
import { bootId } from '../change/program.js'
import { begun, refuseUnfinished, type UnfinishedRescan, unfinishedIn } from '../change/unfinished.js'
import { VfioError, VfioSystemError } from '../errors.js'
import { exists } from '../sysfs/files.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import { journalIn, refuseBad } from './journal.js'
import { refuseOpen, refuseUsed } from './reset-method.js'
import { restoreState } from './restore.js'

export interface RescanOptions extends ChangeOptions {
  /** Kinds of use that are to be disturbed all the same. A device that is open in VFIO never is. */
  readonly force?: readonly HostUse['kind'][] | undefined
  readonly signal?: AbortSignal | undefined
  /** Directory of the journal; default `/run/vfio`. */
  readonly journal?: string | undefined
}

/** How a device was found anew. */
export interface RescanReport {
  readonly address: string
  /** The driver that it has now; `null` for none. */
  readonly driver: string | null
  /** The one that it had before. */
  readonly former: string | null
}

/**
 * Removes a device and lets the kernel find it anew, which brings back what has stopped answering. An override, and the
 * driver that it was for, it gets back; else the kernel chooses its driver.
 * @throws VfioError `ERR_VFIO_BAD_ARGUMENT` for bridges and virtual functions; `ERR_VFIO_IN_USE`, `ERR_VFIO_LOCKED`;
 * `ERR_VFIO_BAD_JOURNAL`; `ERR_VFIO_NOT_RESTORED` where it does not come back: `recover` tries again, also after a crash
 * @throws VfioSystemError what the kernel answers
 */
export async function rescanDevice(
  seen: Snapshot,
  address: string,
  options: RescanOptions = {},
): Promise<RescanReport> {
  const device = seen.device(address)
  if (isBridge(device)) {
    throw new VfioError(
      'ERR_VFIO_BAD_ARGUMENT',
      `${device.address} is a bridge, and all that is below it would go with it: name the device that is to be found anew`,
    )
  }
  if (device.sriov?.role === 'vf') {
    throw new VfioError(
      'ERR_VFIO_BAD_ARGUMENT',
      `${device.address} is a virtual function, which no rescan finds: "vfio vfs ${device.sriov.pf} N" makes them anew`,
    )
  }
  refuseUsed(seen, device, options.force ?? [])
  const { sysfs } = seen.host.paths
  using lock = lockGroups(sysfs, [lockOf(device)])
  const records = unfinishedIn(options.journal)
  refuseUnfinished(records, device.address)
  using changes = new Changes(sysfs, options, lock, options.signal)
  refuseOpen(changes, device)
  const former = await changes.state(device.address)
  refuseAssigned({ address: device.address, ...former }, options.journal)
  options.signal?.throwIfAborted()
  // What is removed has to come back: from here on nothing is cut short.
  changes.finish()
  // Once it is gone, nothing but this tells that there was one, and what its override was.
  await records.write({ ...begun(sysfs, device, lock), step: 'rescan', former })
  const forget = () => records.remove(device.address)
  try {
    await changes.write(`${changes.device(device.address)}/remove`, '1')
  } catch (error) {
    // The kernel refused, and has changed nothing; what has timed out may still happen.
    if (error instanceof VfioSystemError) await forget()
    throw error
  }
  await putBack(changes, { address: device.address, former })
  await forget()
  return { address: device.address, driver: changes.driver(device.address), former: former.driver }
}

/**
 * Brings back a device that a rescan has removed, with its override and the driver that it was for; where it was never
 * removed nothing is changed.
 * @throws VfioError `ERR_VFIO_NOT_RESTORED` where the kernel does not find it
 */
export async function putBack(
  changes: Changes,
  { address, former }: Pick<UnfinishedRescan, 'address' | 'former'>,
): Promise<void> {
  if (!exists(changes.device(address))) await changes.write(changes.bus('rescan'), '1')
  if (!exists(changes.device(address))) {
    throw new VfioError(
      'ERR_VFIO_NOT_RESTORED',
      `${address} is gone: the kernel did not find it anew; "vfio recover" lets it look once more, else switch the host off and on`,
    )
  }
  // Without an override the kernel chooses the driver.
  if (former.override !== null) await restoreState(changes, { address, former })
}

/** Its record says how it was before, and would not be true any more. */
function refuseAssigned(
  device: FormerState & { readonly address: string },
  directory: string | undefined,
): void {
  const { address } = device
  const journal = journalIn(directory)
  const { records, bad } = journal.read()
  refuseBad(journal, bad, [device])
  const holding = records.find(
    (record) => record.bootId === bootId() && record.devices.some((device) => device.address === address),
  )
  if (!holding) return
  throw new VfioError(
    'ERR_VFIO_IN_USE',
    `${address} is assigned by ${holding.program} (pid ${holding.pid}): "vfio release ${address} --rescan" gives it back, and finds it anew where that is needed`,
  )
}
