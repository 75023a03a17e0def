import { type SystemFailure, VfioError, type VfioErrorCode, VfioSystemError } from '../errors.js'

const NATIVE_CODES: ReadonlySet<unknown> = new Set<VfioErrorCode>([
  'ERR_VFIO_CLOSED',
  'ERR_VFIO_BAD_ARGUMENT',
  'ERR_VFIO_BAD_KERNEL_DATA',
  'ERR_VFIO_NO_EXTERNAL_MEMORY',
  'ERR_VFIO_TOO_MANY',
])

/** Where a call was made; taken before it is queued, because its error is born on no stack at all. */
export interface CallSite {
  stack?: string
}

export function callSite(caller: (...args: never[]) => unknown): CallSite {
  const site: CallSite = {}
  Error.captureStackTrace(site, caller)
  return site
}

/** What the addon threw as an error of this package. */
export function translate(error: unknown, site?: CallSite, subject?: string): unknown {
  const translated = typed(error, subject)
  if (translated instanceof Error && site?.stack) {
    translated.stack = `${translated.name}: ${translated.message}${site.stack.slice(site.stack.indexOf('\n'))}`
  }
  return translated
}

function typed(error: unknown, subject: string | undefined): unknown {
  if (!(error instanceof Error)) return error
  const failure = error as Error & Partial<SystemFailure> & { code?: unknown }
  const { errno, syscall = '', request = '', path = '' } = failure
  if (typeof errno === 'number') {
    return new VfioSystemError({ errno, syscall, request, path, ...(subject !== undefined && { subject }) })
  }
  return NATIVE_CODES.has(failure.code) ? new VfioError(failure.code as VfioErrorCode, error.message) : error
}

/** A synchronous call of the addon, with its errors translated. */
export function call<T>(native: () => T): T {
  try {
    return native()
  } catch (error) {
    throw translate(error)
  }
}
