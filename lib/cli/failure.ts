import { CommanderError } from 'commander'
import { AssignError, VfioError, VfioSystemError } from '../index.js'
import { statusOf } from './exit.js'
import { note, oneLine, print, toJson } from './output.js'

/** Why a command failed, as `--json` tells it. */
export interface Failed {
  /** A code of the library (`ERR_VFIO_…`), the name of an errno (`EBUSY`), or of the signal that stopped the command (`SIGINT`). */
  readonly code: string
  /** The sentence that standard error has too. */
  readonly message: string
  /** What the kernel's refusal means there, and what to do. */
  readonly hint?: string
  /** Of a refusal of the kernel: positive, as it counts. */
  readonly errno?: number
  /** The system call that was refused. */
  readonly syscall?: string
  /** The ioctl, or what was opened or written. */
  readonly request?: string
  readonly path?: string
  /** Of a transaction that failed: what could not be undone; empty where the host is as it was. */
  readonly failures?: readonly string[]
}

/** What `--json` prints on standard output where there is no answer. */
export interface Failure {
  readonly error: Failed
}

/** Did the person ask for JSON? Also where the rest of what was typed is wrong. */
export function wantsJson(argv: readonly string[] = process.argv): boolean {
  const end = argv.indexOf('--')
  return argv.slice(0, end < 0 ? argv.length : end).includes('--json')
}

/** What a program is told of an error. */
export function failedBy(error: unknown): Failed {
  if (error instanceof CommanderError)
    return { code: 'ERR_VFIO_BAD_ARGUMENT', message: oneLine(error.message).replace(/^error: /, '') }
  const { message, name } = error instanceof Error ? error : new Error(String(error))
  const code = String((error as { code?: unknown } | null)?.code ?? name)
  // What was undone after it is one thing, what the kernel refused another: both are told.
  const refusal = error instanceof AssignError ? error.cause : error
  return {
    code,
    message,
    ...(refusal instanceof VfioSystemError && {
      ...(refusal.hint !== null && { hint: refusal.hint }),
      errno: refusal.errno,
      syscall: refusal.syscall,
      request: refusal.request,
      path: refusal.path,
    }),
    ...(error instanceof AssignError && { failures: error.failures }),
  }
}

/** Prints a failure where a program waits for JSON. */
export function printFailure(error: Failed): void {
  if (wantsJson()) print(toJson({ error } satisfies Failure))
}

/** Tells the person, and keeps the exit status. */
export function complain(error: unknown): void {
  process.exitCode = statusOf(error)
  // It has said itself what is wrong.
  if (error instanceof CommanderError) return
  const { message, stack } = error instanceof Error ? error : new Error(String(error))
  // A stack, and the help page of an addon that does not load, have lines of their own.
  const isPage = process.env.VFIO_DEBUG || (error instanceof VfioError && error.code === 'ERR_VFIO_ADDON')
  const text = process.env.VFIO_DEBUG ? (stack ?? message) : `vfio: ${message}`
  for (const line of isPage ? text.split('\n') : [text]) note(line)
}

/** The end of a command that failed: one sentence for the person, and the same as JSON for a program. */
export function fail(error: unknown): void {
  complain(error)
  if (process.exitCode !== 0) printFailure(failedBy(error))
}
