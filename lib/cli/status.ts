import { VfioError, VfioSystemError } from '../index.js'

/** Exit statuses of every command: 0 is done, or ready. */
export const NOT_READY = 1
export const WRONG_USAGE = 2
export const KERNEL_REFUSED = 3

const USAGE_CODES = new Set([
  'ERR_VFIO_BAD_ARGUMENT',
  'ERR_VFIO_BAD_ADDRESS',
  'ERR_VFIO_NO_DEVICE',
  'ERR_VFIO_NO_GROUP',
  'ERR_VFIO_NO_ACCOUNT',
])

/** The exit status that an error stands for. */
export function statusOf(error: unknown): number {
  if (error instanceof VfioSystemError) return KERNEL_REFUSED
  return error instanceof VfioError && USAGE_CODES.has(error.code) ? WRONG_USAGE : NOT_READY
}
