import type { NativeEventFd, NativePoll } from '../native/binding.js'
import { binding } from '../native/load.js'
import { call } from './translate.js'

/** Who gets the interrupts of one kind. */
export interface IrqReceiver {
  receive(vector: number, count: number): void
  /** Keeps the process from ending while it listens. */
  readonly keepsAlive: boolean
}

const VECTOR_BITS = 16

/** The one poll handle of a device, over the eventfds of all of its interrupts that somebody listens to. */
export class IrqPoll {
  readonly #receivers = new Map<number, IrqReceiver>()
  #native: NativePoll | null = null
  #batch = new Float64Array(0)

  /** Begins to listen for an interrupt kind. */
  listen(index: number, receiver: IrqReceiver): void {
    if (this.#native === null) {
      this.#native = call(() => binding().Poll.open((count) => this.#deliver(count)))
      this.#batch = new Float64Array(this.#native.batch)
    }
    this.#receivers.set(index, receiver)
    this.#native.start()
    this.updateRef()
  }

  /** Ends that; its eventfds are taken out before. */
  leave(index: number): void {
    this.#receivers.delete(index)
    if (this.#receivers.size === 0) this.#native?.stop()
    this.updateRef()
  }

  add(eventfd: NativeEventFd, index: number, vector: number): void {
    call(() => this.#native?.add(eventfd, index * 2 ** VECTOR_BITS + vector))
  }

  remove(eventfd: NativeEventFd): void {
    call(() => this.#native?.remove(eventfd))
  }

  updateRef(): void {
    const keepsAlive = [...this.#receivers.values()].some((receiver) => receiver.keepsAlive)
    if (keepsAlive) this.#native?.ref()
    else this.#native?.unref()
  }

  close(): void {
    this.#receivers.clear()
    this.#native?.end()
    this.#native?.closeNow()
    this.#native = null
  }

  #deliver(count: number): void {
    // A copy, because a callback may wait for the next batch in a loop of its own.
    const batch = this.#batch.slice(0, 2 * count)
    for (let i = 0; i < batch.length; i += 2) {
      const key = batch[i] ?? 0
      this.#receivers.get(key >>> VECTOR_BITS)?.receive(key & (2 ** VECTOR_BITS - 1), batch[i + 1] ?? 0)
    }
  }
}
