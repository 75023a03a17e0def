import type { KernelAnswer } from '../assess/assessment.js'
import { VfioError, VfioSystemError } from '../errors.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import type { HotResetDevice } from '../vfio/device/info.js'
import type { VfioGroup } from '../vfio/iommu/type1.js'
import { type OpenOptions, withOpenDevice } from '../vfio/open.js'

/**
 * Asks the kernel itself what an assessment predicts: opens the device by its own node or by its group, and closes it again.
 * **Opening resets the device.**
 * @throws VfioSystemError where the kernel refuses to open it, and VfioError as {@link openDevice} does
 */
export async function askKernel(
  seen: Snapshot,
  address: string,
  options: Pick<OpenOptions, 'backend' | 'signal' | 'vfToken'> = {},
): Promise<KernelAnswer> {
  let viable = false
  const onGroup = (group: VfioGroup) => {
    viable = group.status().viable
  }
  return withOpenDevice(address, { ...options, seen, onGroup }, ({ backend, device }) => ({
    // An iommufd binds no device of a group that is not.
    viable: viable || backend === 'iommufd',
    functionReset: device.info().reset,
    hotReset: askHotReset(seen, () => device.hotResetInfo().devices),
  }))
}

function askHotReset(seen: Snapshot, list: () => readonly HotResetDevice[]): KernelAnswer['hotReset'] {
  try {
    return list().map(({ address, group: told }) => {
      // Opened by its own node the kernel answers with numbers of the iommufd in place of groups.
      const group = told ?? (seen.has(address) ? seen.device(address).group : null)
      if (group === null)
        throw new VfioError('ERR_VFIO_BAD_KERNEL_DATA', `the kernel named no group of ${address}`)
      return { address, group }
    })
  } catch (error) {
    if (error instanceof VfioSystemError) return error.code
    throw error
  }
}
