import type { KernelAnswer } from '../assess/assessment.js'
import { VfioError, VfioSystemError } from '../errors.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import { type OpenOptions, openDevice } from './open.js'

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
  await using opened = await openDevice(address, {
    ...options,
    seen,
    onGroup: (group) => {
      viable = group.status().viable
    },
  })
  const functionReset = opened.device.info().reset
  return { viable, functionReset, hotReset: askHotReset(() => opened.device.hotResetInfo().devices) }
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
