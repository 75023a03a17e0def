import type { IrqSource } from './irq-poll.js'

/** One delivery: `count` interrupts of a vector since the last one. */
export interface IrqEvent {
  readonly vector: number
  readonly count: number
}

type Waiter = {
  resolve(result: IteratorResult<IrqEvent, undefined>): void
  reject(reason: unknown): void
}

/** What nobody has asked for yet, and how much of it came while nobody else listened. */
interface Unread {
  count: number
  alone: number
}

/** Where interrupts come from, and where they go back to. */
export interface IrqOrigin {
  /** It was received, and nobody has seen it. */
  giveBack(source: IrqSource, count: number): void
  leave(listener: IrqEvents): void
}

const DONE: IteratorReturnResult<undefined> = { done: true, value: undefined }

/**
 * Interrupts as an iteration. While nobody asks they add up, one count for each vector, so memory stays bounded. What was
 * never asked for goes to those who listen after it, unless they have had it.
 */
export class IrqEvents implements AsyncIterableIterator<IrqEvent> {
  readonly #unread = new Map<IrqSource, Unread>()
  readonly #waiters: Waiter[] = []
  readonly #origin: IrqOrigin
  readonly #signal: AbortSignal | undefined
  #ended = false
  #failure: { reason: unknown } | null = null

  constructor(origin: IrqOrigin, signal: AbortSignal | undefined) {
    this.#origin = origin
    this.#signal = signal
    signal?.addEventListener('abort', this.#onAbort, { once: true })
  }

  readonly #onAbort = () => {
    this.#failure = { reason: this.#signal?.reason }
    this.#giveBack()
    this.end()
  }

  /** `alone`: nobody else receives it. */
  receive(source: IrqSource, count: number, alone: boolean): void {
    const waiter = this.#waiters.shift()
    if (waiter) {
      waiter.resolve({ done: false, value: { vector: source.vector, count } })
      return
    }
    const unread = this.#unread.get(source) ?? { count: 0, alone: 0 }
    unread.count += count
    if (alone) unread.alone += count
    this.#unread.set(source, unread)
  }

  next(): Promise<IteratorResult<IrqEvent, undefined>> {
    for (const [source, { count }] of this.#unread) {
      this.#unread.delete(source)
      return Promise.resolve({ done: false, value: { vector: source.vector, count } })
    }
    if (!this.#ended) return new Promise((resolve, reject) => this.#waiters.push({ resolve, reject }))
    const failure = this.#failure
    this.#failure = null
    return failure ? Promise.reject(failure.reason) : Promise.resolve(DONE)
  }

  return(): Promise<IteratorReturnResult<undefined>> {
    this.#giveBack()
    this.end()
    return Promise.resolve(DONE)
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return()
  }

  /** Nothing comes any more; what has come is still there to be read. */
  end(): void {
    if (this.#ended) return
    this.#ended = true
    this.#signal?.removeEventListener('abort', this.#onAbort)
    this.#origin.leave(this)
    for (const waiter of this.#waiters.splice(0)) {
      if (this.#failure) {
        waiter.reject(this.#failure.reason)
        this.#failure = null
      } else waiter.resolve(DONE)
    }
  }

  #giveBack(): void {
    for (const [source, { alone }] of this.#unread) if (alone > 0) this.#origin.giveBack(source, alone)
    this.#unread.clear()
  }
}
