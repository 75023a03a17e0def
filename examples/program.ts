// What both programs have in common: one sentence for an error, an exit status, and an end that gives the device back.
import { VfioError } from 'vfio'

const BACKENDS = ['auto', 'iommufd', 'group'] as const

/** What the device is to be opened with, of the word after `--backend`. */
export function backendOf(word: string | undefined): (typeof BACKENDS)[number] {
  const backend = BACKENDS.find((name) => name === word)
  if (backend !== undefined) return backend
  throw new UsageError(`--backend takes ${BACKENDS.join(', ')}, not ${word ?? 'nothing'}`)
}

/** A wrong way to call a program: exit status 2. */
export class UsageError extends Error {}

const SIGNALS = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 } as const
/** What a caller can put right in the command line. */
const WRONG_ARGUMENT = new Set(['ERR_VFIO_BAD_ADDRESS', 'ERR_VFIO_NO_DEVICE'])

/**
 * Runs `work` and sets the exit status: 0, 1 when it failed, 2 when it was called wrongly, 128 + N after a signal. The
 * first signal aborts `work`, which then gives back what it has taken; later ones change nothing, since npm passes on
 * a Ctrl-C that the terminal has sent to every program already.
 */
export async function runProgram(name: string, work: (signal: AbortSignal) => Promise<void>): Promise<void> {
  const stop = new AbortController()
  let interrupted: number | undefined
  for (const [signal, status] of Object.entries(SIGNALS)) {
    process.on(signal, () => {
      interrupted ??= status
      stop.abort(new DOMException(`stopped by ${signal}`, 'AbortError'))
    })
  }
  // A reader that goes away early (`| head`) has seen what it wanted.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') stop.abort(error)
  })
  // Who cannot be told is not told: the device is given back all the same.
  process.stderr.on('error', () => {})
  try {
    await work(stop.signal)
  } catch (error) {
    const failures = causes(error).filter((cause) => interrupted === undefined || !isAbort(cause))
    for (const failure of failures) process.stderr.write(`${name}: ${sentence(failure)}\n`)
    process.exitCode = failures.some(isUsage) ? 2 : failures.length > 0 ? 1 : 0
  }
  // Not by itself: output that nobody reads any more would keep the process.
  if (interrupted !== undefined) process.exit(process.exitCode || interrupted)
}

/** An error, and those that came up while it was being cleaned up after (`SuppressedError`). */
function causes(error: unknown): unknown[] {
  if (!(error instanceof Error && 'suppressed' in error && 'error' in error)) return [error]
  return [...causes(error.suppressed), ...causes(error.error)]
}

const isAbort = (error: unknown) => error instanceof Error && error.name === 'AbortError'

const isUsage = (error: unknown) =>
  error instanceof UsageError || (error instanceof VfioError && WRONG_ARGUMENT.has(error.code))

function sentence(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  return (process.env.VFIO_DEBUG === '1' && error.stack) || error.message
}
