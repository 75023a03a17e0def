import { AsyncResource } from 'node:async_hooks'
import { statSync } from 'node:fs'
import { constants } from 'node:os'
import { errnoName, VfioError, VfioSystemError } from '../errors.js'
import type { NativeMessages, NativePoll } from '../native/binding.js'
import { binding } from '../native/load.js'
import { checkPolls } from '../native/runtime.js'
import { call } from '../native/translate.js'
import { parseAddress } from './address.js'
import {
  type DeviceEvent,
  type DeviceEventKind,
  eventOfUevent,
  eventsOfRecord,
  type GroupEvent,
} from './device-events.js'
import { listNames } from './files.js'
import { leavingOut } from './unseen.js'

export type { DeviceEvent, DeviceEventKind }

/** Listening to devices, from when `watchDevices()` returned it until it is closed. */
export interface Watch extends Disposable {
  /** What cannot be heard here and why, in a sentence each; it grows where a source breaks, after a `lost`. */
  readonly unseen: readonly string[]
  /** Is heard what comes and goes, is bound, or fails? Where it is not, whoever needs to know looks from time to time. */
  readonly hearsDevices: boolean
  readonly closed: boolean
  /** Ends it: nothing is delivered any more. Does nothing when it is closed already. */
  close(): void
  /** Lets it keep the process alive, as it does from the start. */
  ref(): this
  /** Lets the process end although it listens. */
  unref(): this
}

/**
 * Listens to what happens to devices of this host: the kernel's own messages about them (uevents), and its log where it may be
 * read (`/dev/kmsg`). It listens when it returns, so that a look at the host after that misses nothing. Listeners run in the
 * async context of this call; what one throws becomes an `uncaughtException`. After a `lost` event, look anew.
 * @param addresses those to tell of, in any form, or `'all'`
 * @throws VfioError `ERR_VFIO_BAD_ADDRESS`, `ERR_VFIO_BAD_ARGUMENT`; `ERR_VFIO_RUNTIME` in Bun and Deno
 */
export function watchDevices(
  addresses: readonly string[] | 'all',
  listener: (event: DeviceEvent) => void,
): Watch {
  if (addresses !== 'all' && !Array.isArray(addresses))
    throw new VfioError('ERR_VFIO_BAD_ARGUMENT', "addresses must be an array, or 'all'")
  if (typeof listener !== 'function')
    throw new VfioError('ERR_VFIO_BAD_ARGUMENT', 'listener must be a function')
  const wanted = addresses === 'all' ? null : new Set(addresses.map(parseAddress))
  checkPolls('events of devices', 'look at the host from time to time')
  return new Listening(wanted, listener)
}

/** The kernel's group of senders; udev passes messages on in another. */
const KERNEL_GROUP = 1
/** What may wait while this thread does something else: more than a thousand messages. */
const WAITING_BYTES = 1 << 20
const LOG = '/dev/kmsg'
/** Character device 1:11: containers have something else in its place. */
const LOG_DEVICE = 0x10b
/** More than a message (2 KiB) and a record (8 KiB) ever have. */
const LARGEST = 16 << 10
/** Port, groups, pid and uid of the sender. */
const SENDER_BYTES = 16
/** `PROC_USER_INIT_INO` of the kernel: the user namespace that all others are below. */
const FIRST_USER_NAMESPACE = 0xeffffffd
/** Then it is the turn of others in this thread: what else waits comes with the next. */
const MESSAGES_AT_ONCE = 64

const { ENOBUFS, EPIPE, EMSGSIZE, EINVAL } = constants.errno
/** What says that messages were lost, and no more than that. */
const LOSSES: ReadonlySet<number> = new Set([ENOBUFS, EPIPE, EMSGSIZE, EINVAL])

interface Source {
  readonly name: string
  readonly native: NativeMessages
  /** What it cannot tell when it breaks. */
  readonly silence: string
  next(into: Uint8Array): number
  events(message: Uint8Array): readonly DeviceEvent[]
}

class Listening implements Watch {
  readonly #wanted: ReadonlySet<string> | null
  readonly #listener: (event: DeviceEvent) => void
  // Else it would run in the context of nobody.
  readonly #context = new AsyncResource('VfioWatch')
  readonly #unseen: string[] = []
  readonly #sources = new Map<number, Source>()
  readonly #message = new Uint8Array(LARGEST)
  readonly #poll: NativePoll
  readonly #batch: Uint32Array
  #closed = false

  constructor(wanted: ReadonlySet<string> | null, listener: (event: DeviceEvent) => void) {
    this.#wanted = wanted
    this.#listener = listener
    this.#poll = call(() => binding().Poll.open((count) => this.#deliver(count)))
    this.#batch = new Uint32Array(this.#poll.batch)
    try {
      this.#begin(UEVENTS_UNHEARD, openUevents)
      this.#noteNamespace()
      this.#begin(LOG_UNHEARD, openLog)
      call(() => this.#poll.start())
    } catch (error) {
      this.close()
      throw error
    }
  }

  get unseen(): readonly string[] {
    return [...this.#unseen]
  }

  get hearsDevices(): boolean {
    return !this.#closed && !this.#unseen.some((sentence) => sentence.startsWith(UEVENTS_UNHEARD))
  }

  get closed(): boolean {
    return this.#closed
  }

  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.#poll.end()
    this.#poll.closeNow()
    for (const { native } of this.#sources.values()) native.closeNow()
    this.#sources.clear()
    this.#context.emitDestroy()
  }

  [Symbol.dispose](): void {
    this.close()
  }

  ref(): this {
    if (!this.#closed) this.#poll.ref()
    return this
  }

  unref(): this {
    if (!this.#closed) this.#poll.unref()
    return this
  }

  #begin(silence: string, open: () => Source): void {
    let source: Source
    try {
      source = open()
    } catch (error) {
      if (!(error instanceof VfioSystemError) && !(error instanceof NoLog)) throw error
      const why = error instanceof NoLog ? error.message : `${error.path}: ${error.code}`
      this.#unseen.push(`${silence} (${why})`)
      return
    }
    const key = this.#sources.size
    this.#sources.set(key, source)
    call(() => this.#poll.addMessages(source.native, key))
  }

  /** The kernel tells those networks alone whose owner is the first user namespace. */
  #noteNamespace(): void {
    if (this.#sources.size === 0) return
    let why = 'the network namespace here belongs to another user namespace than the first'
    try {
      if (call(() => binding().networkOwner()) === FIRST_USER_NAMESPACE) return
    } catch (error) {
      if (!(error instanceof VfioSystemError)) throw error
      // Whom it belongs to may be asked from that namespace and those above alone: from the first always.
      why = `whom the network namespace here belongs to is not known: ${error.code}`
    }
    this.#unseen.push(`${UEVENTS_UNHEARD} (${why})`)
  }

  #deliver(count: number): void {
    // A copy, because a listener may wait for the next batch in a loop of its own.
    const batch = this.#batch.slice(0, 3 * count)
    for (let at = 0; at < batch.length; at += 3) this.#drain(batch[at] ?? 0)
  }

  #drain(key: number): void {
    for (let i = 0; i < MESSAGES_AT_ONCE; i++) {
      // Gone where a listener has closed the watch.
      const source = this.#sources.get(key)
      if (source === undefined) return
      const length = source.next(this.#message)
      if (length === 0) return
      if (length < 0) {
        this.#failed(key, source, -length)
        continue
      }
      for (const event of source.events(this.#message.slice(0, length))) this.#tell(event)
    }
  }

  #failed(key: number, source: Source, errno: number): void {
    if (!LOSSES.has(errno)) {
      this.#sources.delete(key)
      this.#poll.removeMessages(source.native)
      source.native.closeNow()
      this.#unseen.push(`${source.silence} (${source.name}: ${errnoName(errno)})`)
    }
    this.#tell({
      kind: 'lost',
      address: null,
      what: `messages of ${source.name} were lost (${errnoName(errno)}): look at the host anew`,
    })
  }

  #tell(event: DeviceEvent): void {
    if (this.#closed) return
    if (this.#wanted !== null && event.address !== null && !this.#wanted.has(event.address)) return
    try {
      this.#context.runInAsyncScope(this.#listener, undefined, event)
    } catch (error) {
      queueMicrotask(() => {
        throw error
      })
    }
  }
}

const UEVENTS_UNHEARD =
  'what the kernel tells of devices that come, go, are bound or fail cannot be heard here'
const LOG_UNHEARD =
  'the log of the kernel cannot be read here, so that it is not heard when somebody wants a device back or a corrected error comes'

function openUevents(): Source {
  const native = call(() => binding().Messages.openUevents(KERNEL_GROUP, WAITING_BYTES))
  return {
    name: 'the kernel about devices',
    native,
    silence: UEVENTS_UNHEARD,
    next: (into) => native.receive(into),
    events: (message) => (isOfKernel(message) ? spread(eventOfUevent(message.subarray(SENDER_BYTES))) : []),
  }
}

/** Why there is no log, where no call has failed. */
class NoLog extends Error {}

function openLog(): Source {
  const facts = statSync(LOG, { throwIfNoEntry: false })
  if (facts === undefined) throw new NoLog(`there is no ${LOG}`)
  if (!facts.isCharacterDevice() || facts.rdev !== LOG_DEVICE)
    throw new NoLog(`${LOG} is something else here`)
  const native = call(() => binding().Messages.openLog(LOG))
  return {
    name: 'the log of the kernel',
    native,
    silence: LOG_UNHEARD,
    next: (into) => native.read(into),
    events: eventsOfRecord,
  }
}

/** Programs can send to that group too: they have a pid, as credentials say that the kernel has checked. */
function isOfKernel(message: Uint8Array): boolean {
  const [port, groups, pid] = new Uint32Array(message.buffer, message.byteOffset, SENDER_BYTES / 4)
  return port === 0 && groups === KERNEL_GROUP && pid === 0
}

const isOfGroup = (event: DeviceEvent | GroupEvent): event is GroupEvent => 'group' in event

/** What is told of a group, for each of its members. */
function spread(event: DeviceEvent | GroupEvent | null): readonly DeviceEvent[] {
  if (event === null) return []
  if (!isOfGroup(event)) return [event]
  const { kind, group, what } = event
  const members = leavingOut(() => listNames(`/sys/kernel/iommu_groups/${group}/devices`))
  return (members.length > 0 ? members : [null]).map((address) => Object.freeze({ kind, address, what }))
}
