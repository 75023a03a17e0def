/** One delivery: `count` interrupts of a vector since the last one. */
export interface IrqEvent {
  readonly vector: number
  readonly count: number
}

type Waiter = {
  resolve(result: IteratorResult<IrqEvent, undefined>): void
  reject(reason: unknown): void
}

const DONE: IteratorReturnResult<undefined> = { done: true, value: undefined }

/** Interrupts as an iteration. While nobody asks they add up, one count for each vector, so memory stays bounded. */
export class IrqEvents implements AsyncIterableIterator<IrqEvent> {
  readonly #pending = new Map<number, number>()
  readonly #waiters: Waiter[] = []
  readonly #leave: () => void
  readonly #signal: AbortSignal | undefined
  #ended = false
  #failure: { reason: unknown } | null = null

  /** `leave` is called once, when the iteration is over. */
  constructor(leave: () => void, signal: AbortSignal | undefined) {
    this.#leave = leave
    this.#signal = signal
    signal?.addEventListener('abort', this.#onAbort, { once: true })
  }

  readonly #onAbort = () => {
    this.#failure = { reason: this.#signal?.reason }
    this.#pending.clear()
    this.end()
  }

  receive(vector: number, count: number): void {
    const waiter = this.#waiters.shift()
    if (waiter) waiter.resolve({ done: false, value: { vector, count } })
    else this.#pending.set(vector, (this.#pending.get(vector) ?? 0) + count)
  }

  next(): Promise<IteratorResult<IrqEvent, undefined>> {
    for (const [vector, count] of this.#pending) {
      this.#pending.delete(vector)
      return Promise.resolve({ done: false, value: { vector, count } })
    }
    if (!this.#ended) return new Promise((resolve, reject) => this.#waiters.push({ resolve, reject }))
    const failure = this.#failure
    this.#failure = null
    return failure ? Promise.reject(failure.reason) : Promise.resolve(DONE)
  }

  return(): Promise<IteratorReturnResult<undefined>> {
    this.#pending.clear()
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
    this.#leave()
    for (const waiter of this.#waiters.splice(0)) {
      if (this.#failure) {
        waiter.reject(this.#failure.reason)
        this.#failure = null
      } else waiter.resolve(DONE)
    }
  }
}
