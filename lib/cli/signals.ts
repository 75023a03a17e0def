import { statusOfSignal } from './exit.js'
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
  let status: number | null = null
  const onSignal = (signal: (typeof SIGNALS)[number]) => {
    if (status !== null) {
      note('vfio: ended before it was done: "vfio recover" puts in order what is left half done')
      process.exit(statusOfSignal(signal))
    }
    status = statusOfSignal(signal)
    note(`vfio: ${signal}: ${undone} (once more ends this at once)`)
    controller.abort(new Error(`stopped by ${signal}`))
  }
  for (const signal of SIGNALS) process.on(signal, onSignal)
  try {
    const done = await change(controller.signal)
    return status ?? done
  } catch (error) {
    if (status === null) throw error
    // An abort by the signal is no failure; any other error is printed.
    if (error !== controller.signal.reason) note(`vfio: ${error instanceof Error ? error.message : error}`)
    return status
  } finally {
    for (const signal of SIGNALS) process.off(signal, onSignal)
  }
}
