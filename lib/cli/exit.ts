import { constants } from 'node:os'
import { CommanderError } from 'commander'
import type { VfioErrorCode } from '../index.js'

/** Exit statuses of every command: 0 is done, or ready. */
export const NOT_READY = 1
const WRONG_USAGE = 2
export const KERNEL_REFUSED = 3

/** The exit status of each reason, whatever the command: wrong words and what is not there are usage, all else could not be done. */
export const STATUSES: Readonly<Record<VfioErrorCode, typeof NOT_READY | typeof WRONG_USAGE>> = {
  ERR_VFIO_BAD_ARGUMENT: WRONG_USAGE,
  ERR_VFIO_BAD_ADDRESS: WRONG_USAGE,
  ERR_VFIO_NO_DEVICE: WRONG_USAGE,
  ERR_VFIO_NO_GROUP: WRONG_USAGE,
  ERR_VFIO_NO_ACCOUNT: WRONG_USAGE,
  ERR_VFIO_CLOSED: NOT_READY,
  ERR_VFIO_NO_RESET: NOT_READY,
  ERR_VFIO_NOT_OWNED: NOT_READY,
  ERR_VFIO_NOT_VIABLE: NOT_READY,
  ERR_VFIO_INCOMPLETE_GROUP: NOT_READY,
  ERR_VFIO_NO_DRIVER: NOT_READY,
  ERR_VFIO_HOST_CHANGED: NOT_READY,
  ERR_VFIO_LOCKED: NOT_READY,
  ERR_VFIO_NOT_BOUND: NOT_READY,
  ERR_VFIO_NOT_RESTORED: NOT_READY,
  ERR_VFIO_TIMEOUT: NOT_READY,
  ERR_VFIO_BAD_JOURNAL: NOT_READY,
  ERR_VFIO_NOT_ASSIGNED: NOT_READY,
  ERR_VFIO_BAD_FILE: NOT_READY,
  ERR_VFIO_BAD_NODE: NOT_READY,
  ERR_VFIO_NOT_GRANTED: NOT_READY,
  ERR_VFIO_NO_VFS: NOT_READY,
  ERR_VFIO_NO_MDEV: NOT_READY,
  ERR_VFIO_IN_USE: NOT_READY,
  ERR_VFIO_NO_VECTORS: NOT_READY,
  ERR_VFIO_NO_IOVA: NOT_READY,
  ERR_VFIO_NO_MEMORY: NOT_READY,
  ERR_VFIO_TOO_MANY: NOT_READY,
  ERR_VFIO_MEMORY_DISABLED: NOT_READY,
  ERR_VFIO_NO_EXTERNAL_MEMORY: NOT_READY,
  ERR_VFIO_NO_EVENTS: NOT_READY,
  ERR_VFIO_RUNTIME: NOT_READY,
  ERR_VFIO_BAD_KERNEL_DATA: NOT_READY,
  ERR_VFIO_ADDON: NOT_READY,
}

/** An errno's name: what a system call was refused with, in whatever error it comes. */
const isErrno = (code: string) => /^(E[A-Z0-9]+|errno \d+)$/.test(code)

/** The exit status that an error stands for: by its code alone, so that one reason has one status. */
export function statusOf(error: unknown): number {
  // Help and the version that were asked for come as errors too.
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : WRONG_USAGE
  const code = String((error as { code?: unknown } | null)?.code ?? '')
  if (isErrno(code)) return KERNEL_REFUSED
  return Object.hasOwn(STATUSES, code) ? STATUSES[code as VfioErrorCode] : NOT_READY
}

/** By this a program that a signal has stopped is known: see bash(1). */
export const statusOfSignal = (signal: NodeJS.Signals) => 128 + constants.signals[signal]
