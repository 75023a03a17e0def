/** libuv has four threads by default: two stay free for files and names, however many devices are reset. */
const MOST_AT_ONCE = 2

let running = 0
const ready: SerialQueue[] = []

function startReady(): void {
  while (running < MOST_AT_ONCE) {
    const queue = ready.shift()
    if (!queue) return
    running++
    void queue.runFirst().finally(() => {
      running--
      startReady()
    })
  }
}

interface Job {
  start(): Promise<void>
  cancel(reason: unknown): void
}

/** Long calls on one object, one after the other, and few at a time over all objects of this thread. */
export class SerialQueue {
  readonly #jobs: Job[] = []
  /** From when it waits for its turn among the others until its job has ended. */
  #busy = false
  #current: Promise<void> | undefined

  /** Does a job run or wait? */
  get busy(): boolean {
    return this.#busy || this.#jobs.length > 0
  }

  /**
   * Runs `work` when its turn comes. An abort while it waits drops it; an abort while it runs rejects the promise, lets
   * `work` end by itself, and gives what it brought to `discard`.
   */
  run<T>(work: () => Promise<T>, signal?: AbortSignal, discard?: (value: T) => Promise<void>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (signal?.aborted) {
        reject(signal.reason)
        return
      }
      const onAbort = () => {
        const place = this.#jobs.indexOf(job)
        if (place >= 0) this.#jobs.splice(place, 1)
        reject(signal?.reason)
      }
      const job: Job = {
        async start() {
          try {
            const value = await work()
            if (signal?.aborted) await discard?.(value)
            else resolve(value)
          } catch (error) {
            reject(error)
          } finally {
            signal?.removeEventListener('abort', onAbort)
          }
        },
        cancel(reason) {
          signal?.removeEventListener('abort', onAbort)
          reject(reason)
        },
      }
      signal?.addEventListener('abort', onAbort, { once: true })
      this.#jobs.push(job)
      this.#offer()
    })
  }

  /** Rejects all that has not begun. */
  cancelWaiting(reason: unknown): void {
    for (const job of this.#jobs.splice(0)) job.cancel(reason)
  }

  /** When the job that runs now has ended. */
  async idle(): Promise<void> {
    await this.#current
  }

  /** Only for the scheduler above: runs the oldest job, if it was not dropped meanwhile. */
  async runFirst(): Promise<void> {
    this.#current = this.#jobs.shift()?.start()
    await this.#current
    this.#current = undefined
    this.#busy = false
    this.#offer()
  }

  #offer(): void {
    if (this.#busy || this.#jobs.length === 0) return
    this.#busy = true
    ready.push(this)
    startReady()
  }
}
