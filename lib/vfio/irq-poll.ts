import { VfioError } from '../errors.js'
import type { NativeEventFd, NativePoll } from '../native/binding.js'
import { binding } from '../native/load.js'
import { call } from '../native/translate.js'

/** Who gets the interrupts of one kind. */
export interface IrqReceiver {
  receive(source: IrqSource, count: number): void
  /** Keeps the process from ending while it listens. */
  readonly keepsAlive: boolean
}

/** An eventfd of ours that a vector signals, from when it is enabled until it is turned off: enabled anew it is another. */
export interface IrqSource {
  readonly line: IrqReceiver
  readonly vector: number
  readonly eventfd: NativeEventFd
  /** What the poll handle calls it. */
  readonly key: number
  /** Does the poll handle watch it? */
  watched: boolean
}

/**
 * What else runs programs for Node has not all of libuv: it ends the process where a poll handle is made, or where one
 * calls back, so that it cannot be tried.
 */
function checkRuntime(): void {
  const { bun, deno } = process.versions
  const runtime = bun !== undefined ? 'Bun' : deno !== undefined ? 'Deno' : null
  if (runtime === null) return
  throw new VfioError(
    'ERR_VFIO_RUNTIME',
    `${runtime} cannot deliver interrupts: run the program with Node, or enable the interrupt with eventfds of your own`,
  )
}

/** What one eventfd takes in a batch. */
const WORDS = 3

/** The one poll handle of a device, over the eventfds of all of its interrupts that somebody listens to. */
export class IrqPoll {
  readonly #sources = new Map<number, IrqSource>()
  readonly #listening = new Set<IrqReceiver>()
  #native: NativePoll | null = null
  /** For each eventfd its key and its count, low and high half. */
  #batch = new Uint32Array(0)
  #lastKey = 0

  /** An eventfd for a vector, not watched yet. */
  open(line: IrqReceiver, vector: number): IrqSource {
    const eventfd = call(() => binding().EventFd.create())
    do this.#lastKey = (this.#lastKey + 1) >>> 0
    while (this.#sources.has(this.#lastKey))
    const source = { line, vector, eventfd, key: this.#lastKey, watched: false }
    this.#sources.set(source.key, source)
    return source
  }

  /** The vector is off: what it signalled and nobody has heard is gone. */
  drop(source: IrqSource): void {
    this.unwatch(source)
    this.#sources.delete(source.key)
    source.eventfd.closeNow()
  }

  /** Begins to listen for an interrupt kind. */
  listen(line: IrqReceiver): void {
    checkRuntime()
    if (this.#native === null) {
      this.#native = call(() => binding().Poll.open((count) => this.#deliver(count)))
      this.#batch = new Uint32Array(this.#native.batch)
    }
    const native = this.#native
    call(() => native.start())
    this.#listening.add(line)
    this.updateRef()
  }

  /** Ends that. */
  leave(line: IrqReceiver): void {
    this.#listening.delete(line)
    if (this.#listening.size === 0) this.#native?.stop()
    this.updateRef()
  }

  watch(source: IrqSource): void {
    if (source.watched) return
    call(() => this.#native?.add(source.eventfd, source.key))
    source.watched = true
  }

  /** Where the kernel refuses, it stays watched: its line gives back what comes meanwhile. */
  unwatch(source: IrqSource): void {
    if (!source.watched) return
    try {
      this.#native?.remove(source.eventfd)
      source.watched = false
    } catch {
      // Closing the eventfd ends it at the latest.
    }
  }

  updateRef(): void {
    const keepsAlive = [...this.#listening].some((line) => line.keepsAlive)
    if (keepsAlive) this.#native?.ref()
    else this.#native?.unref()
  }

  close(): void {
    this.#listening.clear()
    this.#native?.end()
    this.#native?.closeNow()
    this.#native = null
  }

  #deliver(count: number): void {
    // Else a copy, because a callback may wait for the next batch in a loop of its own.
    const batch = count === 1 ? this.#batch : this.#batch.slice(0, WORDS * count)
    for (let i = 0; i < WORDS * count; i += WORDS) {
      // Not there any more where a listener to an earlier one of the batch has turned it off.
      const source = this.#sources.get(batch[i] ?? 0)
      const high = batch[i + 2] ?? 0
      source?.line.receive(source, (batch[i + 1] ?? 0) + (high === 0 ? 0 : high * 2 ** 32))
    }
  }
}
