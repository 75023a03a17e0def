import type { Run } from '../index.js'
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

/** What goes on until somebody ends it. */
export interface Ending {
  /** @param status the exit status */
  over(status: number): void
  fail(error: unknown): void
}

/** Goes on until a signal ends it, which is its ordinary end: the exit status is 128 plus the signal's number. */
export async function untilStopped(begin: (ending: Ending) => Disposable): Promise<number> {
  let resolve: (status: number) => void = () => {}
  let reject: (error: unknown) => void = () => {}
  const ended = new Promise<number>((done, failed) => {
    resolve = done
    reject = failed
  })
  const onSignal = (signal: (typeof SIGNALS)[number]) => resolve(statusOfSignal(signal))
  for (const signal of SIGNALS) process.on(signal, onSignal)
  let work: Disposable | null = null
  try {
    work = begin({ over: resolve, fail: reject })
    return await ended
  } finally {
    work?.[Symbol.dispose]()
    for (const signal of SIGNALS) process.off(signal, onSignal)
  }
}

/** What a command that runs gets of what this program is sent. SIGCONT is the library's, with the terminal. */
const FORWARDED = [...SIGNALS, 'SIGQUIT', 'SIGUSR1', 'SIGUSR2'] as const

/**
 * Signals around a command: before it runs one puts everything back, then each goes to the command, as often as it comes, and
 * afterwards one waits for the giving back. A second one before or afterwards ends this program at once: its guard does
 * the rest.
 */
export class Forwarder {
  /** The exit status of what was stopped before it ran. */
  status: number | null = null
  readonly #controller = new AbortController()
  #run: Run | null = null
  #isOver = false
  #isWarned = false

  constructor() {
    for (const signal of FORWARDED) process.on(signal, this.#onSignal)
  }

  /** Aborted by a signal that comes before the command runs. */
  get before(): AbortSignal {
    return this.#controller.signal
  }

  to(run: Run): void {
    this.#run = run
    // It came between the last step and the first of the command.
    if (this.#controller.signal.aborted) run.kill('SIGTERM')
  }

  /** The command has ended. */
  afterwards(): void {
    this.#isOver = true
  }

  stop(): void {
    for (const signal of FORWARDED) process.off(signal, this.#onSignal)
  }

  readonly #onSignal = (signal: (typeof FORWARDED)[number]) => {
    if (this.#run && !this.#isOver) {
      this.#run.kill(signal)
      return
    }
    if (this.#isWarned) {
      note('vfio: ended before it was done: what it guards is given back beside it')
      process.exit(statusOfSignal(signal))
    }
    this.#isWarned = true
    const what = this.#isOver ? 'giving the devices back' : 'putting back what was done'
    note(`vfio: ${signal}: ${what} (once more ends this at once)`)
    if (this.#isOver) return
    this.status = statusOfSignal(signal)
    this.#controller.abort(new Error(`stopped by ${signal}`))
  }
}
