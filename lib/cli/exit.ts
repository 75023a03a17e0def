import { constants } from 'node:os'
import { CommanderError } from 'commander'
import { VfioError, VfioSystemError } from '../index.js'

/** Exit statuses of every command: 0 is done, or ready. */
export const NOT_READY = 1
const WRONG_USAGE = 2
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
  // Help and the version that were asked for come as errors too.
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : WRONG_USAGE
  if (error instanceof VfioSystemError) return KERNEL_REFUSED
  return error instanceof VfioError && USAGE_CODES.has(error.code) ? WRONG_USAGE : NOT_READY
}

/** By this a program that a signal has stopped is known: see bash(1). */
export const statusOfSignal = (signal: NodeJS.Signals) => 128 + constants.signals[signal]
