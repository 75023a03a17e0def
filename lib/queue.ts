interface Job {
  start(): Promise<void>
  cancel(reason: unknown): void
}

/** Long calls on one object, one after the other. Those on different objects do not wait for each other. */
export class SerialQueue {
  readonly #jobs: Job[] = []
  #runs = false
  #running: Promise<void> | undefined

  /** Does a job run or wait? */
  get busy(): boolean {
    return this.#runs || this.#jobs.length > 0
  }

  /**
   * Runs `work` when its turn comes. An abort while it waits drops it; an abort while it runs rejects the promise at once,
   * lets `work` end by itself, and gives what it brought to `discard`, for which the next job does not wait.
   */
  run<T>(work: () => Promise<T>, signal?: AbortSignal, discard?: (value: T) => void): Promise<T> {
    // What nobody can abort, and what waits for nothing, needs no more than this.
    if (signal === undefined && !this.busy) return this.#runNow(work)
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
            if (signal?.aborted) discard?.(value)
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
      this.#next()
    })
  }

  #runNow<T>(work: () => Promise<T>): Promise<T> {
    this.#runs = true
    let running: Promise<T>
    try {
      running = work()
    } catch (error) {
      running = Promise.reject(error)
    }
    const ended = () => {
      this.#runs = false
      this.#next()
    }
    this.#running = running.then(ended, ended)
    return running
  }

  /** Rejects all that has not begun. */
  cancelWaiting(reason: () => unknown): void {
    for (const job of this.#jobs.splice(0)) job.cancel(reason())
  }

  /** When the job that runs now has ended. */
  async idle(): Promise<void> {
    await this.#running
  }

  #next(): void {
    const job = this.#runs ? undefined : this.#jobs.shift()
    if (!job) return
    this.#runs = true
    this.#running = job.start().then(() => {
      this.#runs = false
      this.#next()
    })
  }
}
