import { VfioError } from '../../errors.js'
import type { NativeEventFd, NativePoll } from '../../native/binding.js'
import { binding } from '../../native/load.js'
import { checkPolls } from '../../native/runtime.js'
import { call, translate } from '../../native/translate.js'
import type { DeviceHandle } from './handle.js'

/** A listener of one interrupt kind. */
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
    checkPolls('interrupts', 'enable the interrupt with eventfds of your own')
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

const DATA_NONE = 1 << 0
const DATA_EVENTFD = 1 << 2
const ACTION_MASK = 1 << 3
const ACTION_UNMASK = 1 << 4
const ACTION_TRIGGER = 1 << 5
const ACTIONS = { trigger: ACTION_TRIGGER, mask: ACTION_MASK, unmask: ACTION_UNMASK } as const

/**
 * INTx, MSI and MSI-X have vectors, which stay set up until all of it is turned off. Of ERR and REQ the kernel has an eventfd or
 * none, and refuses to turn off what has none.
 */
const LAST_WITH_VECTORS = 2

/** What an enabled vector signals: an eventfd of ours, which we poll, or one of the caller's. */
type Target = IrqSource | number

/** Who listens to a line. */
export interface Listener {
  /** `alone`: nobody else receives it. */
  receive(source: IrqSource, count: number, alone: boolean): void
  end(): void
}

/**
 * The state of one kind of interrupt: after each call what the kernel has, whatever failed. It belongs to the open device;
 * while somebody listens it keeps `owner`, the object that the program holds.
 */
export class IrqLine implements IrqReceiver {
  keepsAlive = true
  readonly #handle: DeviceHandle
  readonly #poll: IrqPoll
  readonly #index: number
  readonly #name: string
  readonly #targets = new Map<number, Target>()
  readonly #listeners = new Map<Listener, object>()
  /** How many vectors the kernel has set up, used or not. */
  #allocated = 0
  /** The eventfd that unmasks. */
  #resampled: number | null = null

  constructor(handle: DeviceHandle, poll: IrqPoll, index: number, name: string) {
    this.#handle = handle
    this.#poll = poll
    this.#index = index
    this.#name = name
  }

  get vectors(): number[] {
    return [...this.#targets.keys()].sort((a, b) => a - b)
  }

  /** Sets all vectors at once; those that are not named stay silent. */
  enable(vectors: readonly number[], own: ReadonlyMap<number, number> | null): void {
    const targets = this.#targetsFor(vectors, own)
    const count = Math.max(...vectors) + 1
    const fds = new Int32Array(count).fill(-1)
    for (const [vector, target] of targets) fds[vector] = numberOf(target)
    try {
      this.disable()
      // Where this fails the kernel has set up nothing.
      this.#set(0, fds)
    } catch (error) {
      this.#close(targets.values())
      throw error
    }
    this.#allocated = count
    for (const [vector, target] of targets) this.#targets.set(vector, target)
  }

  /** More vectors, while the others go on: all of them or none. */
  add(vectors: readonly number[], own: ReadonlyMap<number, number> | null): void {
    // One of ours that is enabled may have something to deliver.
    const wanted = vectors.filter(
      (vector) => own?.has(vector) || typeof this.#targets.get(vector) !== 'object',
    )
    const targets = this.#targetsFor(wanted, own)
    const before = new Map<number, Target | undefined>()
    try {
      for (const [vector, target] of targets) {
        const old = this.#targets.get(vector)
        // Where there was none, there is none after a failure.
        if (old !== undefined) before.set(vector, old)
        this.#put(vector, target)
        before.set(vector, old)
      }
    } catch (error) {
      for (const [vector, target] of [...before].reverse()) this.#putBack(vector, target)
      this.#close([...targets.values(), ...before.values()])
      throw error
    }
    this.#allocated = Math.max(this.#allocated, ...wanted.map((vector) => vector + 1))
    this.#close(before.values())
  }

  remove(vectors: readonly number[]): void {
    const gone = vectors.filter((vector) => this.#targets.has(vector))
    if (gone.length === 0) return
    if (this.#index > LAST_WITH_VECTORS && gone.length === this.#targets.size) {
      this.disable()
      return
    }
    for (const vector of gone) {
      const target = this.#targets.get(vector)
      this.#put(vector, undefined)
      this.#close([target])
    }
  }

  /** Whether a vector needs more than the kernel has set up. */
  exceeds(vector: number): boolean {
    return vector >= this.#allocated
  }

  disable(): void {
    if (this.#allocated === 0) return
    this.signal('trigger', 0, 0)
    this.#forget()
  }

  /** The kernel does it to `count` vectors from `start`; with none of them `trigger` turns the interrupt off. */
  signal(action: 'trigger' | 'mask' | 'unmask', start: number, count: number): void {
    try {
      const flags = DATA_NONE | ACTIONS[action]
      binding().deviceSignalIrqs(this.#handle.native.id, flags, this.#index, start, count)
    } catch (error) {
      throw translate(error)
    }
  }

  /** Unmasks the line each time that this eventfd is signalled; `null` ends that. Turning the interrupt off ends it too. */
  resample(eventfd: number | null): void {
    const before = this.#resampled
    if (before !== null) {
      // The kernel takes no second one beside it.
      this.#setResampled(-1)
      this.#resampled = null
    }
    if (eventfd === null) return
    try {
      this.#setResampled(eventfd)
      this.#resampled = eventfd
    } catch (error) {
      if (before !== null) {
        try {
          this.#setResampled(before)
          this.#resampled = before
        } catch {
          // Then there is none.
        }
      }
      throw error
    }
  }

  listen(listener: Listener, owner: object): void {
    if (this.#listeners.size === 0) this.#begin()
    this.#listeners.set(listener, owner)
  }

  #begin(): void {
    this.#poll.listen(this)
    try {
      for (const target of this.#targets.values()) if (typeof target === 'object') this.#poll.watch(target)
    } catch (error) {
      this.#end()
      throw error
    }
  }

  leave(listener: Listener): void {
    if (this.#listeners.delete(listener) && this.#listeners.size === 0) this.#end()
  }

  /** What comes now waits in the eventfds for the next who listens. */
  #end(): void {
    for (const target of this.#targets.values()) if (typeof target === 'object') this.#poll.unwatch(target)
    this.#poll.leave(this)
  }

  receive(source: IrqSource, count: number): void {
    const { size } = this.#listeners
    // The common case without the copy that several need, because they may come and go.
    if (size === 1) this.#listeners.keys().next().value?.receive(source, count, true)
    else if (size === 0) {
      // The last has left at an earlier one of the same batch.
      this.#poll.unwatch(source)
      this.giveBack(source, count)
    } else {
      for (const listener of [...this.#listeners.keys()])
        if (this.#listeners.has(listener)) listener.receive(source, count, false)
    }
  }

  /** It was read, and nobody has seen it: the next who listens will, as long as the vector is not turned off. */
  giveBack(source: IrqSource, count: number): void {
    if (this.#targets.get(source.vector) !== source) return
    try {
      source.eventfd.signal(count)
    } catch {
      // The counter is full.
    }
  }

  setKeepsAlive(keepsAlive: boolean): void {
    this.keepsAlive = keepsAlive
    this.#poll.updateRef()
  }

  /** Has the kernel set up any vectors, used or not? */
  get isEnabled(): boolean {
    return this.#allocated > 0
  }

  /** The device closes, and its descriptor with it turns the interrupt off. */
  close(): void {
    for (const listener of [...this.#listeners.keys()]) listener.end()
    this.#listeners.clear()
    this.#forget()
  }

  /** It is off. */
  #forget(): void {
    const targets = [...this.#targets.values()]
    this.#targets.clear()
    this.#allocated = 0
    this.#resampled = null
    this.#close(targets)
  }

  /** Watched already where somebody listens: nothing can fail once the kernel has them. */
  #targetsFor(vectors: readonly number[], own: ReadonlyMap<number, number> | null): Map<number, Target> {
    const targets = new Map<number, Target>()
    try {
      for (const vector of vectors) {
        const target = own?.get(vector) ?? this.#poll.open(this, vector)
        targets.set(vector, target)
        if (typeof target === 'object' && this.#listeners.size > 0) this.#poll.watch(target)
      }
    } catch (error) {
      this.#close(targets.values())
      throw error
    }
    return targets
  }

  /** Closes our own among them that are not enabled. */
  #close(targets: Iterable<Target | undefined>): void {
    for (const target of targets) {
      if (typeof target === 'object' && this.#targets.get(target.vector) !== target) this.#poll.drop(target)
    }
  }

  /** One vector, in the kernel and then here. */
  #put(vector: number, target: Target | undefined): void {
    this.#set(vector, Int32Array.of(target === undefined ? -1 : numberOf(target)))
    if (target !== undefined) this.#targets.set(vector, target)
    else if (this.#targets.delete(vector) && this.#index > LAST_WITH_VECTORS && this.#targets.size === 0)
      this.#allocated = 0
  }

  /** As it was, or else off: the kernel lets the old eventfd go before it looks at the new one. */
  #putBack(vector: number, target: Target | undefined): void {
    for (const next of [target, undefined]) {
      try {
        this.#put(vector, next)
        return
      } catch {
        // A device that takes neither is gone.
      }
    }
  }

  #set(start: number, fds: Int32Array): void {
    const { native } = this.#handle
    const flags = DATA_EVENTFD | ACTION_TRIGGER
    const available = call(() => native.setIrqs(flags, this.#index, start, fds.length, fds))
    if (available > 0) {
      throw new VfioError(
        'ERR_VFIO_NO_VECTORS',
        `the kernel has only ${available} vectors for ${this.#name} of ${this.#handle.name}, not ${start + fds.length}: enable fewer`,
      )
    }
  }

  #setResampled(eventfd: number): void {
    const { native } = this.#handle
    call(() => native.setIrqs(DATA_EVENTFD | ACTION_UNMASK, this.#index, 0, 1, Int32Array.of(eventfd)))
  }
}

const numberOf = (target: Target) => (typeof target === 'number' ? target : target.eventfd.number())
