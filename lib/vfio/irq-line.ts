import { VfioError } from '../errors.js'
import type { NativeEventFd } from '../native/binding.js'
import { binding } from '../native/load.js'
import { sharedPage } from '../native/page.js'
import type { DeviceHandle } from './device-handle.js'
import type { IrqPoll, IrqReceiver } from './irq-poll.js'
import { call, translate } from './translate.js'

const DATA_NONE = 1 << 0
const DATA_EVENTFD = 1 << 2
const ACTION_MASK = 1 << 3
const ACTION_UNMASK = 1 << 4
const ACTION_TRIGGER = 1 << 5
const ACTIONS = { trigger: ACTION_TRIGGER, mask: ACTION_MASK, unmask: ACTION_UNMASK } as const

/** What an enabled vector signals: an eventfd of ours, which we poll, or one of the caller's. */
type Target = NativeEventFd | number

/** Who listens to a line. */
export interface Listener {
  receive(vector: number, count: number): void
  end(): void
}

/**
 * The state of one kind of interrupt. It belongs to the open device; while somebody listens it keeps `owner`, the
 * object that the program holds.
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

  constructor(handle: DeviceHandle, index: number, name: string) {
    this.#handle = handle
    this.#poll = handle.irqPoll
    this.#index = index
    this.#name = name
  }

  get vectors(): number[] {
    return [...this.#targets.keys()].sort((a, b) => a - b)
  }

  /** Sets all vectors at once; those that are not named stay silent. */
  enable(vectors: readonly number[], own: ReadonlyMap<number, number> | null): void {
    this.disable()
    const targets = this.#targetsFor(vectors, own)
    const count = Math.max(...vectors) + 1
    const fds = new Int32Array(count).fill(-1)
    for (const [vector, target] of targets) fds[vector] = numberOf(target)
    try {
      this.#set(0, fds)
    } catch (error) {
      closeAll(targets.values())
      throw error
    }
    this.#allocated = count
    this.#adopt(targets)
  }

  /** More vectors, while the others go on. */
  add(vectors: readonly number[], own: ReadonlyMap<number, number> | null): void {
    for (const vector of vectors) {
      // One of ours that is enabled may have something to deliver.
      if (typeof (own?.get(vector) ?? this.#targets.get(vector)) === 'object') continue
      const targets = this.#targetsFor([vector], own)
      try {
        this.#set(vector, Int32Array.from(targets.values(), numberOf))
      } catch (error) {
        closeAll(targets.values())
        throw error
      }
      this.#drop(vector)
      this.#allocated = Math.max(this.#allocated, vector + 1)
      this.#adopt(targets)
    }
  }

  remove(vectors: readonly number[]): void {
    for (const vector of vectors) {
      if (!this.#targets.has(vector)) continue
      this.#set(vector, Int32Array.of(-1))
      this.#drop(vector)
    }
  }

  /** Whether a vector needs more than the kernel has set up. */
  exceeds(vector: number): boolean {
    return vector >= this.#allocated
  }

  disable(): void {
    if (this.#targets.size === 0 && this.#allocated === 0) return
    this.signal('trigger', 0, 0)
    for (const vector of [...this.#targets.keys()]) this.#drop(vector)
    this.#allocated = 0
  }

  /** The kernel does it to `count` vectors from `start`; with none of them `trigger` turns the interrupt off. */
  signal(action: 'trigger' | 'mask' | 'unmask', start: number, count: number): void {
    try {
      const { words } = sharedPage()
      words[0] = this.#handle.native.id
      words[1] = DATA_NONE | ACTIONS[action]
      words[2] = this.#index
      words[3] = start
      words[4] = count
      binding().deviceSignalIrqs()
    } catch (error) {
      throw translate(error)
    }
  }

  /** Unmasks the line each time that this eventfd is signalled; −1 ends that. */
  resample(eventfd: number): void {
    const { native } = this.#handle
    call(() => native.setIrqs(DATA_EVENTFD | ACTION_UNMASK, this.#index, 0, 1, Int32Array.of(eventfd)))
  }

  listen(listener: Listener, owner: object): void {
    if (this.#listeners.size === 0) this.#begin()
    this.#listeners.set(listener, owner)
  }

  #begin(): void {
    this.#poll.listen(this.#index, this)
    const watched: Target[] = []
    try {
      for (const [vector, target] of this.#targets) {
        this.#watch(vector, target)
        watched.push(target)
      }
    } catch (error) {
      for (const target of watched) this.#unwatch(target)
      this.#poll.leave(this.#index)
      throw error
    }
  }

  leave(listener: Listener): void {
    if (!this.#listeners.delete(listener) || this.#listeners.size > 0) return
    // What comes now waits in the eventfds for the next who listens.
    for (const target of this.#targets.values()) this.#unwatch(target)
    this.#poll.leave(this.#index)
  }

  receive(vector: number, count: number): void {
    // An earlier listener of the same batch may have turned it off.
    if (!this.#targets.has(vector)) return
    // The common case without the copy that several need, because they may come and go.
    if (this.#listeners.size === 1) this.#listeners.keys().next().value?.receive(vector, count)
    else for (const listener of [...this.#listeners.keys()]) listener.receive(vector, count)
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
    closeAll(this.#targets.values())
    this.#targets.clear()
  }

  #targetsFor(vectors: readonly number[], own: ReadonlyMap<number, number> | null): Map<number, Target> {
    const targets = new Map<number, Target>()
    try {
      for (const vector of vectors) {
        targets.set(vector, own?.get(vector) ?? call(() => binding().EventFd.create()))
      }
    } catch (error) {
      closeAll(targets.values())
      throw error
    }
    return targets
  }

  #adopt(targets: ReadonlyMap<number, Target>): void {
    for (const [vector, target] of targets) {
      this.#targets.set(vector, target)
      if (this.#listeners.size > 0) this.#watch(vector, target)
    }
  }

  #drop(vector: number): void {
    const target = this.#targets.get(vector)
    this.#targets.delete(vector)
    if (target === undefined) return
    if (this.#listeners.size > 0) this.#unwatch(target)
    closeAll([target])
  }

  #watch(vector: number, target: Target): void {
    if (typeof target !== 'number') this.#poll.add(target, this.#index, vector)
  }

  #unwatch(target: Target): void {
    if (typeof target !== 'number') this.#poll.remove(target)
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
}

const numberOf = (target: Target) => (typeof target === 'number' ? target : target.number())

/** Closes our own among them. */
function closeAll(targets: Iterable<Target>): void {
  for (const target of targets) if (typeof target !== 'number') target.closeNow()
}
