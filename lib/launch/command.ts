import { constants } from 'node:os'
import { endGroup } from '../change/process-group.js'
import { type Program, programOf } from '../change/program.js'
import { VfioError } from '../errors.js'
import { keepAlive } from '../native/alive.js'
import type { NativeProcess, NativeTask } from '../native/binding.js'
import { binding } from '../native/load.js'
import { call, translate } from '../native/translate.js'
import { notStarted } from './program.js'
import type { Terminal } from './terminal.js'

/** How a command ended: by itself with a status, or by a signal. */
export interface Ending {
  readonly status: number | null
  readonly signal: NodeJS.Signals | null
}

/** `si_code` of a process that has stopped or ended (`<signal.h>`). */
const EXITED = 1
const TRAPPED = 4
const STOPPED = 5

/** What a terminal stops its processes with. */
const OF_TERMINALS: readonly number[] = [
  constants.signals.SIGTSTP,
  constants.signals.SIGTTIN,
  constants.signals.SIGTTOU,
]

const NAMES = new Map(
  Object.entries(constants.signals).map(([name, number]) => [number, name as NodeJS.Signals]),
)

/** The process of a command, which leads a group of its own. */
export class CommandProcess {
  readonly #native: NativeProcess
  readonly #terminal: Terminal | null
  readonly #name: string
  #hasEnded = false
  #isGone = false
  readonly #onContinue = () => this.#resume()

  private constructor(native: NativeProcess, name: string, terminal: Terminal | null) {
    this.#native = native
    this.#name = name
    this.#terminal = terminal
  }

  /** Makes the process, which waits: what has to be known of it can be written down before it begins. */
  static prepare(task: Omit<NativeTask, 'terminal'>, terminal: Terminal | null): CommandProcess {
    const foreground = terminal?.isOurs ? terminal.descriptor : null
    const native = call(() => binding().Process.start({ ...task, terminal: foreground }))
    if (foreground !== null) terminal?.isGiven()
    return new CommandProcess(native, task.arguments[0] ?? task.file, terminal)
  }

  get pid(): number {
    return this.#native.pid
  }

  /** So that it is known later, from anywhere. */
  get program(): Program {
    const found = programOf(this.pid)
    if (found) return { ...found, program: this.#name.replace(/^.*\//, '').slice(0, 64) || 'a command' }
    throw new VfioError('ERR_VFIO_NOT_BOUND', `${this.#name} ended before it began`)
  }

  /**
   * Lets it begin.
   * @throws VfioSystemError where it cannot be executed
   */
  async begin(): Promise<void> {
    const failed = await keepAlive(this.#native.proceed())
    if (failed === null) {
      if (this.#terminal) process.on('SIGCONT', this.#onContinue)
      return
    }
    await this.#exit()
    this.#end()
    throw notStarted(failed.errno, this.#name, failed.syscall)
  }

  /** How it ends. Its pid stays its own, and that of its group, until {@link close}. */
  async end(): Promise<Ending> {
    for (;;) {
      const { code, status } = await keepAlive(this.#native.wait()).catch((error: unknown) => {
        throw translate(error)
      })
      if (code === STOPPED || code === TRAPPED) {
        if (code === STOPPED && OF_TERMINALS.includes(status)) this.#stop()
        continue
      }
      this.#hasEnded = true
      this.#giveTerminalBack()
      return code === EXITED
        ? { status, signal: null }
        : { status: null, signal: NAMES.get(status) ?? (`SIG${status}` as NodeJS.Signals) }
    }
  }

  signal(signal: NodeJS.Signals | number): boolean {
    if (this.#hasEnded) return false
    const number = typeof signal === 'number' ? signal : constants.signals[signal]
    return call(() => this.#native.signal(number))
  }

  /** Lets all of its group go on that was stopped. */
  goOn(): void {
    if (this.#hasEnded) return
    try {
      // Until its end is taken the number of the group is its own.
      process.kill(-this.pid, 'SIGCONT')
    } catch {
      // Nobody is left in it.
    }
  }

  /** Ends what is left of its group: answers with what does not end. */
  endGroup(leader: Program, grace: number | undefined): Promise<readonly string[]> {
    return endGroup(leader, grace)
  }

  /** It has ended, or never begun: what there was of it is gone. */
  async abandon(): Promise<void> {
    if (!this.#hasEnded) {
      this.signal('SIGKILL')
      await this.#exit()
    }
    this.#end()
  }

  /** Its next end, whatever stops it before. */
  async #exit(): Promise<void> {
    for (;;) {
      const { code } = await keepAlive(this.#native.wait())
      if (code !== STOPPED && code !== TRAPPED) return
    }
  }

  #end(): void {
    if (this.#isGone) return
    this.#isGone = true
    this.#hasEnded = true
    this.#giveTerminalBack()
    call(() => this.#native.reap())
    this.#native.closeNow()
  }

  #giveTerminalBack(): void {
    process.off('SIGCONT', this.#onContinue)
    this.#terminal?.take()
  }

  /** Who has stopped it with Ctrl-Z wants the terminal for something else: this program stops too, as a whole job does. */
  #stop(): void {
    if (this.#terminal === null) return
    this.#terminal.take()
    process.kill(0, 'SIGTSTP')
    // Here it was continued, or nobody is there who could do that and nothing has stopped.
    this.#resume()
  }

  #resume(): void {
    if (this.#hasEnded) return
    if (this.#terminal?.isOurs) this.#terminal.give(this.pid)
    this.goOn()
  }
}
