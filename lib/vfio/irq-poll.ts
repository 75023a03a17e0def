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
/** What one eventfd takes in a batch. */
const WORDS = 3

/** The one poll handle of a device, over the eventfds of all of its interrupts that somebody listens to. */
export class IrqPoll {
  readonly #receivers = new Map<number, IrqReceiver>()
  #native: NativePoll | null = null
  /** For each eventfd its key and its count, low and high half. */
  #batch = new Uint32Array(0)

  /** Begins to listen for an interrupt kind. */
  listen(index: number, receiver: IrqReceiver): void {
    if (this.#native === null) {
      this.#native = call(() => binding().Poll.open((count) => this.#deliver(count)))
      this.#batch = new Uint32Array(this.#native.batch)
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
    // Else a copy, because a callback may wait for the next batch in a loop of its own.
    const batch = count === 1 ? this.#batch : this.#batch.slice(0, WORDS * count)
    for (let i = 0; i < WORDS * count; i += WORDS) {
      const key = batch[i] ?? 0
      const high = batch[i + 2] ?? 0
      const times = (batch[i + 1] ?? 0) + (high === 0 ? 0 : high * 2 ** 32)
      this.#receivers.get(key >>> VECTOR_BITS)?.receive(key & (2 ** VECTOR_BITS - 1), times)
    }
  }
}
