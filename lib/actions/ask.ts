import type { KernelAnswer } from '../assess/assessment.js'
import { VfioError, VfioSystemError } from '../errors.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import type { VfioGroup } from '../vfio/iommu/type1.js'
import { type OpenOptions, withOpenDevice } from '../vfio/open.js'

/**
 * Asks the kernel itself what an assessment predicts: opens group and device, and closes them again.
 * **Opening resets the device.**
 * @throws VfioSystemError where the kernel refuses to open it, and VfioError as {@link openDevice} does
 */
export async function askKernel(
  seen: Snapshot,
  address: string,
  options: Pick<OpenOptions, 'signal' | 'vfToken'> = {},
): Promise<KernelAnswer> {
  let viable = false
  const onGroup = (group: VfioGroup) => {
    viable = group.status().viable
  }
  return withOpenDevice(address, { ...options, seen, onGroup, backend: 'group' }, ({ device }) => ({
    viable,
    functionReset: device.info().reset,
    hotReset: askHotReset(() => device.hotResetInfo().devices),
  }))
}

type Listed = readonly { readonly address: string; readonly group: number | null }[]

function askHotReset(list: () => Listed): KernelAnswer['hotReset'] {
  try {
    return list().map(({ address, group }) => {
      // Opened by group, the kernel answers with groups; device ids come only by cdev.
      if (group === null)
        throw new VfioError('ERR_VFIO_BAD_KERNEL_DATA', `the kernel named no group of ${address}`)
      return { address, group }
    })
  } catch (error) {
    if (error instanceof VfioSystemError) return error.code
    throw error
  }
}
