import { VfioError } from '../errors.js'
import { keepAlive } from '../native/alive.js'
import type { NativeHandle } from '../native/binding.js'
import { call, callSite, translate } from '../native/translate.js'
import { SerialQueue } from '../queue.js'

/** What must be let go before an object can close: the devices of a group, the groups of a container. */
export interface Dependent {
  release(): Promise<void>
  releaseNow(): void
}

/**
 * The state of an open kernel object: what depends on it, and the calls that run on it. It must not refer to the object that
 * the program holds, or the garbage collector could never find that one dropped.
 */
export class Handle<N extends NativeHandle> implements Dependent {
  readonly dependents = new Set<Dependent>()
  readonly #queue = new SerialQueue()
  // Most have none of either.
  #borrowed: Set<Promise<unknown>> | null = null
  #closeListeners: Set<() => void> | null = null
  #closing: Promise<void> | null = null

  constructor(
    /** The object of the addon, closed or not: for what closing does. */
    readonly raw: N,
    /** As errors call it: `device 0000:59:00.0`. */
    readonly name: string,
    /** What it was opened from; closing that closes this first. */
    readonly parent: Handle<NativeHandle> | null,
  ) {
    parent?.dependents.add(this)
  }

  get closed(): boolean {
    return this.#closing !== null
  }

  /** The object of the addon, for calls. @throws VfioError `ERR_VFIO_CLOSED` */
  get native(): N {
    if (this.#closing) throw this.closedError()
    return this.raw
  }

  /**
   * A long call, queued behind the others of this object. `work` should refer to the object that the program holds, so that
   * it is not collected while its call waits.
   */
  async run<T>(
    work: () => Promise<T>,
    options: { signal?: AbortSignal | undefined; subject?: string; discard?: (value: T) => void },
    caller: (...args: never[]) => unknown,
  ): Promise<T> {
    const site = callSite(caller)
    if (this.closed) throw this.closedError()
    try {
      return await keepAlive(this.#queue.run(work, options.signal, options.discard))
    } catch (error) {
      // The reason of an abort belongs to the caller, whatever it is.
      throw options.signal?.aborted && error === options.signal.reason
        ? error
        : translate(error, site, options.subject)
    }
  }

  /** Another object's running work uses this descriptor: close waits for it. */
  lend(work: Promise<unknown>): void {
    this.#borrowed ??= new Set()
    const borrowed = this.#borrowed.add(work)
    const back = () => borrowed.delete(work)
    work.then(back, back)
  }

  /** Does a long call run, or wait for its turn? */
  get busy(): boolean {
    return this.#queue.busy
  }

  /** When the call that runs now has ended. */
  idle(): Promise<void> {
    return this.#queue.idle()
  }

  closedError(): VfioError {
    return new VfioError('ERR_VFIO_CLOSED', `${this.name} is closed: open it again`)
  }

  release(): Promise<void> {
    if (this.#closing) return this.#closing
    this.#closing = this.#close()
    this.#beginClosing()
    return this.#closing
  }

  /** Does a call run or wait, here or on something else that uses this descriptor? */
  get inUse(): boolean {
    return this.busy || (this.#borrowed?.size ?? 0) > 0
  }

  /** When those have ended. @throws VfioError `ERR_VFIO_CLOSED` where it was closed meanwhile */
  async settled(): Promise<void> {
    await this.#queue.run(async () => {})
    if (this.#borrowed) await Promise.allSettled(this.#borrowed)
  }

  /** Closed from now on, and its descriptor left to whoever takes it from `raw`. Nothing uses it, nothing depends on it. */
  surrender(): void {
    this.#closing = Promise.resolve()
    this.#beginClosing()
    this.beforeSurrender()
    this.parent?.dependents.delete(this)
  }

  releaseNow(): void {
    if (this.#closing) return
    this.#closing = Promise.resolve()
    this.#beginClosing()
    this.#queue.cancelWaiting(() => this.closedError())
    for (const dependent of this.dependents) dependent.releaseNow()
    this.beforeClose()
    this.raw.closeNow()
    this.afterClose()
    this.parent?.dependents.delete(this)
  }

  /** Calls back as soon as it is closed, while calls may still run; until what this returns is called. */
  onceClosed(callback: () => void): () => void {
    this.#closeListeners ??= new Set()
    const listeners = this.#closeListeners.add(callback)
    return () => void listeners.delete(callback)
  }

  #beginClosing(): void {
    this.onClosing()
    for (const callback of this.#closeListeners ?? []) callback()
  }

  /** What an object does at once when it is closed, while calls may still run. */
  protected onClosing(): void {}

  /** What an object does right before its descriptor closes. */
  protected beforeClose(): void {}

  /** What an object does when another thread gets its descriptor. */
  protected beforeSurrender(): void {}

  /** Closes its descriptor, off the main thread: the last close of a device takes as long as a reset. */
  protected closeRaw(): Promise<void> {
    return this.raw.close()
  }

  /** What it does when the kernel has let it go. */
  protected afterClose(): void {}

  async #close(): Promise<void> {
    this.#queue.cancelWaiting(() => this.closedError())
    // First what runs here: it may be the opening of one more dependent.
    await this.idle()
    await Promise.all(Array.from(this.dependents, (dependent) => dependent.release()))
    if (this.#borrowed) await Promise.allSettled(this.#borrowed)
    this.beforeClose()
    await this.closeRaw()
    this.afterClose()
    this.parent?.dependents.delete(this)
  }
}

const forgotten = new FinalizationRegistry<Handle<NativeHandle>>((handle) => {
  if (handle.closed) return
  process.emitWarning(`${handle.name} was dropped without close(), and is closed now`, 'VfioWarning')
  void handle.release()
})

/** The handle of an object, which is closed with a warning when the object is found dropped. */
export function watched<H extends Handle<NativeHandle>>(object: VfioObject, handle: H): H {
  forgotten.register(object, handle)
  return handle
}

/** What containers, groups and devices have in common: they are open until they are closed. */
export abstract class VfioObject {
  /** @internal */
  abstract readonly handle: Handle<NativeHandle>

  // Not for users of the package, who open an object and do not construct it.
  protected constructor() {}

  /** True after `close()` was called, and from then on for ever. */
  get closed(): boolean {
    return this.handle.closed
  }

  /**
   * Closes it, and before it whatever was opened from it. Waits for the call that runs on it, aborted or not, and for
   * nothing else; calls that wait for their turn are rejected with `ERR_VFIO_CLOSED`. Does nothing when it is closed
   * already.
   */
  close(): Promise<void> {
    return keepAlive(this.handle.release())
  }

  /**
   * Closes it at once, for `using`. The last close of a device resets it, and this thread waits for that: prefer
   * `await using`. A call that runs keeps the descriptor open until it ends.
   */
  [Symbol.dispose](): void {
    this.handle.releaseNow()
  }

  /** Closes it as `close()` does, for `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  /** What console.log shows: which one it is, and whether it is open. */
  [Symbol.for('nodejs.util.inspect.custom')](): string {
    return `[${this.handle.name}, ${this.closed ? 'closed' : 'open'}]`
  }

  /** @internal One synchronous call. Those that are made often are written out: the closures would double their cost. */
  protected ask<T, N extends NativeHandle>(
    this: { readonly handle: Handle<N> },
    question: (native: N) => T,
  ): T {
    const { native } = this.handle
    return call(() => question(native))
  }
}
