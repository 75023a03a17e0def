import { statusOfSignal } from './exit.js'
import { failedBy, printFailure } from './failure.js'
import { note } from './output.js'

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

/**
 * Runs a change so that a signal stops it in good order: the first aborts it, a second ends the program at once. Exit
 * status 128 plus the signal's number.
 * @param undone what becomes of it, for the person who waits
 */
export async function stoppable(
  undone: string,
  change: (signal: AbortSignal) => Promise<number>,
): Promise<number> {
  const controller = new AbortController()
  let by: (typeof SIGNALS)[number] | null = null
  const onSignal = (signal: (typeof SIGNALS)[number]) => {
    if (by !== null) {
      note('vfio: ended before it was done: "vfio recover" puts in order what is left half done')
      process.exit(statusOfSignal(signal))
    }
    by = signal
    note(`vfio: ${signal}: ${undone} (once more ends this at once)`)
    controller.abort(new Error(`stopped by ${signal}`))
  }
  for (const signal of SIGNALS) process.on(signal, onSignal)
  try {
    const done = await change(controller.signal)
    return by === null ? done : statusOfSignal(by)
  } catch (error) {
    // TypeScript does not see that a signal sets it.
    const signal = by as NodeJS.Signals | null
    if (signal === null) throw error
    // An abort by the signal is no failure; any other error is printed.
    const { message, ...failed } = failedBy(error)
    if (error === controller.signal.reason) printFailure({ code: signal, message })
    else {
      note(`vfio: ${message}`)
      printFailure({ ...failed, message })
    }
    return statusOfSignal(signal)
  } finally {
    for (const signal of SIGNALS) process.off(signal, onSignal)
  }
}
