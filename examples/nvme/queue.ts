import { setImmediate } from 'node:timers/promises'
import type { VfioRegion } from 'vfio'
import type { Command } from './commands.js'
import { NvmeError, statusError } from './errors.js'
import { littleEndian } from './little-endian.js'
import type { Piece } from './memory.js'
import { doorbells } from './registers.js'

/** Bytes of an entry. */
export const SUBMISSION_SIZE = 64
export const COMPLETION_SIZE = 16

/** A command that takes longer is lost. As the kernel's own driver has it. */
const PATIENCE_MS = 30_000

/** Called when a command is done: `status` 0 is success, `result` the first dword of the completion. */
export type Done = (status: number, result: number) => void

/** The status of commands that a queue which failed never had answered; no controller gives it. */
export const UNANSWERED = -1

export interface QueueOptions {
  readonly id: number
  /** Entries of either queue; one less can be in flight. */
  readonly entries: number
  readonly submission: Piece
  readonly completion: Piece
  readonly registers: VfioRegion
  readonly doorbellStride: number
  /** Somebody calls `attend()` at each interrupt. Otherwise this object does, as long as `run()` waits. */
  readonly interrupts: boolean
  /** What is wrong with the controller; asked when a command is lost. */
  readonly diagnose: () => string
}

/**
 * A submission and a completion queue. `submit`, `ring` and `poll` are the fast way, without a promise or an object for
 * each command; `run` is the comfortable one.
 */
export class QueuePair {
  readonly id: number
  readonly depth: number
  readonly #options: QueueOptions
  readonly #registers: VfioRegion
  readonly #doorbell: { submission: number; completion: number }
  readonly #entries: number
  readonly #submissions: Uint32Array
  readonly #completions: Uint32Array
  /** Numbers of commands that are not in flight: the first `#idle` of these. */
  readonly #free: Uint16Array
  #idle: number
  readonly #done: (Done | undefined)[]
  #tail = 0
  #rung = 0
  #head = 0
  /** The bit that the controller gives to completions of this round; memory begins as zeros. */
  #phase = 1
  #progress = 0
  #polling = false
  #watchdog: NodeJS.Timeout | undefined
  #failure: NvmeError | null = null

  constructor(options: QueueOptions) {
    const { id, entries, submission, completion } = options
    this.#options = options
    this.id = id
    this.depth = entries - 1
    this.#entries = entries
    this.#registers = options.registers
    this.#doorbell = doorbells(id, options.doorbellStride)
    this.#submissions = words(submission, entries * SUBMISSION_SIZE)
    this.#completions = words(completion, entries * COMPLETION_SIZE)
    this.#free = Uint16Array.from({ length: this.depth }, (_none, index) => index)
    this.#idle = this.depth
    this.#done = Array<Done | undefined>(this.depth).fill(undefined)
  }

  /** How many commands are in flight. */
  get outstanding(): number {
    return this.depth - this.#idle
  }

  /** Why nothing more can be given to it. */
  get failure(): NvmeError | null {
    return this.#failure
  }

  /** Writes a command into the queue; the controller sees it at the next `ring()`, or at the end of `poll()`. */
  submit(command: Command, done: Done): void {
    if (this.#failure) throw this.#failure
    if (this.#idle === 0)
      throw new NvmeError(`queue ${this.id} is full: ${this.depth} commands are in flight`)
    const slot = this.#free[--this.#idle] ?? 0
    this.#done[slot] = done
    const words = this.#submissions
    const at = this.#tail * (SUBMISSION_SIZE / 4)
    words[at] = littleEndian(command.opcode | (slot << 16))
    words[at + 1] = littleEndian(command.namespace)
    words[at + 6] = littleEndian(command.prp1)
    words[at + 7] = littleEndian(command.prp1 / 2 ** 32)
    words[at + 8] = littleEndian(command.prp2)
    words[at + 9] = littleEndian(command.prp2 / 2 ** 32)
    words[at + 10] = littleEndian(command.cdw10)
    words[at + 11] = littleEndian(command.cdw11)
    words[at + 12] = littleEndian(command.cdw12)
    this.#tail = this.#tail + 1 === this.#entries ? 0 : this.#tail + 1
  }

  /** Tells the controller of all commands since the last time. */
  ring(): void {
    if (this.#tail === this.#rung) return
    this.#rung = this.#tail
    this.#registers.write32(this.#doorbell.submission, this.#tail)
  }

  /** Takes the completions that are there, and rings for what was submitted meanwhile; answers how many there were. */
  poll(): number {
    let taken = 0
    while (taken < this.#entries) {
      const at = this.#head * (COMPLETION_SIZE / 4)
      // Atomic, so that what the controller wrote before this word is read after it.
      const word = littleEndian(Atomics.load(this.#completions, at + 3))
      if (((word >>> 16) & 1) !== this.#phase) break
      taken++
      if (++this.#head === this.#entries) {
        this.#head = 0
        this.#phase ^= 1
      }
      this.#complete(word & 0xffff, word >>> 17, littleEndian(this.#completions[at] ?? 0))
    }
    if (taken > 0) this.#registers.write32(this.#doorbell.completion, this.#head)
    this.ring()
    return taken
  }

  /** As `poll()`; what goes wrong is told to those who wait for their commands. Answers how many completions it took. */
  attend(): number {
    try {
      return this.poll()
    } catch (error) {
      this.#fail(error instanceof Error ? error.message : String(error), error)
      return 0
    }
  }

  #complete(slot: number, status: number, result: number): void {
    const done = this.#done[slot]
    if (done === undefined) {
      this.#fail(`the controller completed command ${slot} of queue ${this.id}, which it was never given`)
      return
    }
    this.#done[slot] = undefined
    this.#free[this.#idle++] = slot
    done(status, result)
  }

  /**
   * Gives one command and waits for its end.
   * @param what it does, for the sentence of an error: `reading block 7`
   * @throws NvmeError the controller refused it, or did not answer
   */
  run(command: Command, what: string): Promise<number> {
    return new Promise((resolve, reject) => {
      if (this.outstanding === 0) this.#progress = performance.now()
      this.submit(command, (status, result) => {
        this.#progress = performance.now()
        if (status === 0) resolve(result)
        else reject(this.errorOf(what, status))
      })
      this.ring()
      if (this.#options.interrupts) this.#watch()
      else if (!this.#polling) void this.#pollUntilIdle()
    })
  }

  /** The error that a status stands for. */
  errorOf(what: string, status: number): NvmeError {
    return (status === UNANSWERED && this.#failure) || statusError(what, status)
  }

  /** The other programs of this process get their turn between two looks. */
  async #pollUntilIdle(): Promise<void> {
    this.#polling = true
    while (this.outstanding > 0 && this.#failure === null) {
      if (this.attend() === 0) this.#checkPatience()
      await setImmediate()
    }
    this.#polling = false
  }

  #watch(): void {
    this.#watchdog ??= setTimeout(() => {
      this.#watchdog = undefined
      if (this.outstanding === 0) return
      this.#checkPatience()
      if (this.#failure === null) this.#watch()
    }, PATIENCE_MS / 2)
  }

  #checkPatience(): void {
    if (performance.now() - this.#progress >= PATIENCE_MS) this.giveUp()
  }

  /** Ends all that is in flight: the controller has not answered for too long. */
  giveUp(): void {
    this.#fail(
      `a command in queue ${this.id} was not answered within ${PATIENCE_MS / 1000} s: ${this.#options.diagnose()}`,
    )
  }

  #fail(sentence: string, cause?: unknown): void {
    this.#failure ??= new NvmeError(sentence, { cause })
    this.stop()
    for (const [slot, done] of this.#done.entries()) {
      this.#done[slot] = undefined
      done?.(UNANSWERED, 0)
    }
  }

  /** Nobody waits for its commands any more. */
  stop(): void {
    clearTimeout(this.#watchdog)
    this.#watchdog = undefined
    this.#failure ??= new NvmeError(`queue ${this.id} is no longer there`)
  }
}

const words = ({ bytes }: Piece, size: number) => new Uint32Array(bytes.buffer, bytes.byteOffset, size / 4)
