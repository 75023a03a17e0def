import { AsyncResource } from 'node:async_hooks'
import { VfioError } from '../../errors.js'
import { badArgument, checkInteger, checkOptions, show } from '../arguments.js'
import { type EventFd, eventfdNumber } from '../event-fd.js'
import type { DevicePart } from './handle.js'
import type { IrqInfo } from './info.js'
import type { IrqLine, IrqSource, Listener } from './irq-line.js'

export interface IrqOptions {
  /** The vectors to enable, any subset of them in any order; left out: vector 0. */
  readonly vectors?: readonly number[] | undefined
  /**
   * Eventfds of the caller's own by vector, which the kernel signals and nobody here polls (`KVM_IRQFD`). They must stay
   * open while the interrupt is enabled. Vectors that are not in `vectors` are added to it.
   */
  readonly eventfds?: ReadonlyMap<number, EventFd | number> | undefined
}

/** One delivery: `count` interrupts of a vector since the last one. */
export interface IrqEvent {
  readonly vector: number
  readonly count: number
}

/**
 * One kind of interrupt of an open device (`VFIO_DEVICE_SET_IRQS`). INTx, MSI and MSI-X exclude each other. Interrupts of an
 * enabled vector are counted while nobody listens, and delivered to the first listener; turning the vector off drops them.
 * After a call that failed, `vectors` has the state.
 */
export class VfioIrq {
  readonly index: number
  /** `intx`, `msi`, `msix`, `err`, `req`, or `irq 5` for one of the device's own. */
  readonly name: string
  readonly info: IrqInfo
  /** What stays open as long as the interrupt is held. */
  readonly #device: DevicePart
  readonly #line: IrqLine

  /** @internal */
  constructor(device: DevicePart, name: string, info: IrqInfo, line: IrqLine) {
    this.#device = device
    this.name = name
    this.info = info
    this.index = info.index
    this.#line = line
  }

  /** Those that are enabled, in order. */
  get vectors(): readonly number[] {
    return this.#line.vectors
  }

  /**
   * Enables the interrupt with exactly these vectors; one that is enabled already is turned off first, and stays off where the
   * kernel refuses. MSI and MSI-X need `busMaster` in the command register.
   * @throws VfioError `ERR_VFIO_NO_VECTORS` where the kernel has not so many, `ERR_VFIO_BAD_ARGUMENT`
   * @throws VfioSystemError `EINVAL` while another kind is enabled
   */
  enable(options: IrqOptions = {}): void {
    this.#checkOpen()
    if (typeof options !== 'object' || options === null)
      throw badArgument(`options must be an object, not ${show(options)}`)
    const own = this.#own(options)
    this.#line.enable(this.#vectors(options, own, [0]), own)
  }

  /**
   * Enables more vectors while the others go on: any that the kernel has set up, up to the highest that `enable()` had;
   * and higher ones where `info.noresize` is false (MSI-X since Linux 6.5). One that is off is enabled with them. Adds all
   * of them, or none where one fails.
   * @throws VfioError `ERR_VFIO_NO_VECTORS` where the kernel cannot add one
   */
  add(vectors: readonly number[] | ReadonlyMap<number, EventFd | number>): void {
    this.#checkOpen()
    const options = Array.isArray(vectors)
      ? { vectors: vectors as readonly number[] }
      : { eventfds: vectors as ReadonlyMap<number, EventFd | number> }
    const own = this.#own(options)
    const wanted = this.#vectors(options, own, [])
    if (!this.#line.isEnabled) {
      this.#line.enable(wanted, own)
      return
    }
    const beyond = wanted.find((vector) => this.#line.exceeds(vector))
    if (beyond !== undefined && this.info.noresize) {
      throw new VfioError(
        'ERR_VFIO_NO_VECTORS',
        `${this.name} of ${this.#device.address} cannot grow to vector ${beyond} while it is enabled: disable() it, and enable() it with all vectors`,
      )
    }
    this.#line.add(wanted, own)
  }

  /** Turns single vectors off; those that are off already are left so. The kernel keeps what it has set up for them. */
  remove(vectors: readonly number[]): void {
    this.#checkOpen()
    this.#line.remove(this.#vectors({ vectors }, null, []))
  }

  /** Turns it off. Does nothing where it is off. */
  disable(): void {
    this.#checkOpen()
    this.#line.disable()
  }

  /** Masks a vector (INTx only; the kernel masks it by itself at each interrupt where `info.automasked`). */
  mask(vector = 0): void {
    this.#signal('mask', vector)
  }

  /** Unmasks a vector: after an automasked INTx was handled, else no other comes. */
  unmask(vector = 0): void {
    this.#signal('unmask', vector)
  }

  /** Lets the kernel signal a vector as if the device had: the loopback for tests. */
  trigger(vector = 0): void {
    this.#signal('trigger', vector)
  }

  /**
   * Unmasks INTx whenever this eventfd is signalled (KVM's resample), in the place of another; `null` ends that, and turning
   * the interrupt off too. It must stay open meanwhile.
   */
  resample(eventfd: EventFd | number | null): void {
    this.#checkOpen()
    this.#line.resample(eventfd === null ? null : eventfdNumber(eventfd, 'eventfd'))
  }

  /**
   * Calls back for each delivery, until it is disposed of or the device closes, in the async context of this call. Whatever
   * callbacks do, others get what comes: what one throws becomes an `uncaughtException`, one that another has disposed of is
   * called no more, and one that is added is called from the next delivery on. It keeps the process alive, see {@link unref}.
   * @throws VfioError `ERR_VFIO_RUNTIME` in Bun and Deno
   */
  onEvent(callback: (event: IrqEvent) => void): Disposable {
    this.#checkOpen()
    if (typeof callback !== 'function')
      throw badArgument(`callback must be a function, not ${show(callback)}`)
    const line = this.#line
    // Else it would run in the context of whoever listened first to anything of the device.
    const context = new AsyncResource('VfioInterrupt')
    const listener: Listener = {
      receive({ vector }, count) {
        try {
          context.runInAsyncScope(callback, undefined, { vector, count })
        } catch (error) {
          // The program's own failure, and none of the other listeners'.
          queueMicrotask(() => {
            throw error
          })
        }
      },
      end() {},
    }
    line.listen(listener, this)
    return { [Symbol.dispose]: () => line.leave(listener) }
  }

  /**
   * The deliveries as an iteration: it ends when the device closes or the loop is left, and throws the reason of `signal`.
   * What came for it alone, and it had not read when it was left, goes to who listens next.
   * @throws VfioError `ERR_VFIO_RUNTIME` in Bun and Deno
   */
  events(options: { signal?: AbortSignal | undefined } = {}): AsyncIterableIterator<IrqEvent> {
    const { signal } = checkOptions(options)
    this.#checkOpen()
    signal?.throwIfAborted()
    const line = this.#line
    const events = new IrqEvents(line, signal)
    try {
      line.listen(events, this)
    } catch (error) {
      events.end()
      throw error
    }
    return events
  }

  /** Lets those who listen to this interrupt keep the process alive, as they do from the start. */
  ref(): this {
    this.#line.setKeepsAlive(true)
    return this
  }

  /** Lets the process end although somebody listens. */
  unref(): this {
    this.#line.setKeepsAlive(false)
    return this
  }

  #signal(action: 'trigger' | 'mask' | 'unmask', vector: number): void {
    if (!(Number.isInteger(vector) && vector >= 0 && vector < this.info.count)) this.#checkVector(vector)
    this.#line.signal(action, vector, 1)
  }

  #own({ eventfds }: IrqOptions): ReadonlyMap<number, number> | null {
    if (eventfds === undefined) return null
    if (!(eventfds instanceof Map)) throw badArgument(`eventfds must be a Map, not ${show(eventfds)}`)
    return new Map(
      Array.from(eventfds, ([vector, eventfd]) => [
        this.#checkVector(vector),
        eventfdNumber(eventfd, 'an eventfd'),
      ]),
    )
  }

  #vectors(
    { vectors }: IrqOptions,
    own: ReadonlyMap<number, number> | null,
    otherwise: readonly number[],
  ): number[] {
    const wanted = vectors === undefined ? (own ? [] : otherwise) : vectors
    if (!Array.isArray(wanted)) throw badArgument(`vectors must be an array of numbers, not ${show(wanted)}`)
    const all = new Set([...wanted.map((vector) => this.#checkVector(vector)), ...(own?.keys() ?? [])])
    if (all.size === 0) throw badArgument('at least one vector must be named')
    return [...all]
  }

  #checkVector(vector: unknown): number {
    if (this.info.count === 0) {
      throw new VfioError(
        'ERR_VFIO_NO_VECTORS',
        `${this.#device.address} has no ${this.name}: device.irqInfo() tells which interrupts it has`,
      )
    }
    return checkInteger(vector, this.info.count - 1, `a vector of ${this.name}`)
  }

  #checkOpen(): void {
    const { handle } = this.#device
    if (handle.closed) throw handle.closedError()
  }
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
class IrqEvents implements AsyncIterableIterator<IrqEvent> {
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
