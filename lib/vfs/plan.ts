import type { VfioErrorCode } from '../errors.js'
import { VfioError } from '../errors.js'
import { isByOwnDriver, isVfioDriver } from '../sysfs/devices.js'
import type { Snapshot } from '../sysfs/snapshot.js'

/** How many virtual functions there are and shall be, and what is in the way. Plain data. */
export interface VfsPlan {
  readonly address: string
  readonly total: number
  readonly from: number
  readonly to: number
  /** The values for `sriov_numvfs`, in order: the kernel takes a new number only from 0. */
  readonly writes: readonly number[]
  readonly blockers: readonly { readonly code: VfioErrorCode; readonly reason: string }[]
}

/** What no snapshot has and the plan needs. */
export interface VfsFacts {
  /** Parameter `enable_sriov` of vfio_pci. */
  readonly vfioSriov: boolean
}

/**
 * Plans a number of virtual functions: pure.
 * @throws VfioError `ERR_VFIO_BAD_ADDRESS`, `ERR_VFIO_NO_DEVICE`; `ERR_VFIO_BAD_ARGUMENT` where the count is none
 */
export function planVfs(seen: Snapshot, address: string, count: number, facts: VfsFacts): VfsPlan {
  const device = seen.device(address)
  if (!Number.isInteger(count) || count < 0 || count > 0xffff) {
    throw new VfioError(
      'ERR_VFIO_BAD_ARGUMENT',
      'the number of virtual functions must be an integer from 0 to 65535',
    )
  }
  const { sriov, driver } = device
  const full = device.address
  if (sriov?.role !== 'pf') {
    const reason = sriov
      ? `${full} is a virtual function itself: ask for them at ${sriov.pf}`
      : `${full} has no SR-IOV, so it cannot have virtual functions`
    return { address: full, total: 0, from: 0, to: count, writes: [], blockers: [noVfs(reason)] }
  }
  const { totalVfs: total, numVfs: from, vfs } = sriov
  const plan = { address: full, total, from, to: count }
  if (count === from) return { ...plan, writes: [], blockers: [] }
  const blockers: VfsPlan['blockers'][number][] = []
  if (count > total) blockers.push(noVfs(`${full} has at most ${total} virtual functions, not ${count}`))
  if (driver === null) {
    blockers.push(
      noVfs(
        `${full} has no driver, and the kernel makes virtual functions through the driver: bind its host driver, or pci-pf-stub`,
      ),
    )
  } else if (isVfioDriver(driver) && !facts.vfioSriov) {
    blockers.push(
      noVfs(
        `${full} is bound to ${driver}, which makes no virtual functions unless its parameter enable_sriov=1 allows it: release it to its host driver first`,
      ),
    )
  }
  for (const vf of vfs) {
    const user = seen.device(vf).driver
    if (user === null) continue
    const cure = isVfioDriver(user)
      ? `stop who uses it, then "vfio release ${vf}"`
      : isByOwnDriver(seen.device(vf))
        ? `${user} has given it to VFIO, so stop who uses it, take away what ${user} made of it (a vGPU its profile), and unbind it then`
        : `unbind it from ${user} first`
    blockers.push({
      code: 'ERR_VFIO_IN_USE',
      reason: `the virtual function ${vf} is bound to ${user} and would vanish: ${cure}`,
    })
  }
  return { ...plan, writes: from > 0 && count > 0 ? [0, count] : [count], blockers }
}

const noVfs = (reason: string) => ({ code: 'ERR_VFIO_NO_VFS' as const, reason })
