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
import { NodeEvents } from './node-events.js'
import { leavingOut } from './unseen.js'

export type { DeviceEvent, DeviceEventKind }

/** What is listened to: the kernel's messages about devices, its log, and opens and closes of VFIO's nodes. */
export type WatchTopic = 'devices' | 'log' | 'opens'

export interface WatchOptions {
  /** Tell of `opened` and `closed` too; that takes an inotify instance. */
  readonly opens?: boolean | undefined
}

/** Listening to devices, from when `watchDevices()` returned it until it is closed. */
export interface Watch extends Disposable {
  /** What cannot be heard here and why, in a sentence each; it grows where a source breaks, after a `lost`. */
  readonly unseen: readonly string[]
  /** What can be heard here of what was asked for; it shrinks where a source breaks, after a `lost`. */
  readonly hears: ReadonlySet<WatchTopic>
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
 * read (`/dev/kmsg`); with `opens` also who opens and closes VFIO's nodes in `/dev/vfio`. It listens when it returns, so that a look at the host after that misses nothing. Listeners run in the
 * async context of this call; what one throws becomes an `uncaughtException`. After a `lost` event, look anew.
 * @param addresses those to tell of, in any form, or `'all'`
 * @param listener gets each event, and by what it was heard: what two tell of has no order between them
 * @throws VfioError `ERR_VFIO_BAD_ADDRESS`, `ERR_VFIO_BAD_ARGUMENT`; `ERR_VFIO_RUNTIME` in Bun and Deno
 */
export function watchDevices(
  addresses: readonly string[] | 'all',
  listener: (event: DeviceEvent, topic: WatchTopic) => void,
  { opens = false }: WatchOptions = {},
): Watch {
  if (addresses !== 'all' && !Array.isArray(addresses))
    throw new VfioError('ERR_VFIO_BAD_ARGUMENT', "addresses must be an array, or 'all'")
  if (typeof listener !== 'function')
    throw new VfioError('ERR_VFIO_BAD_ARGUMENT', 'listener must be a function')
  const wanted = addresses === 'all' ? null : new Set(addresses.map(parseAddress))
  checkPolls('events of devices', 'look at the host from time to time')
  return new Listening(wanted, listener, opens)
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
  readonly topic: WatchTopic
  readonly name: string
  readonly native: NativeMessages
  next(into: Uint8Array): number
  events(message: Uint8Array): readonly DeviceEvent[]
}

class Listening implements Watch {
  readonly #wanted: ReadonlySet<string> | null
  readonly #listener: (event: DeviceEvent, topic: WatchTopic) => void
  // Else it would run in the context of nobody.
  readonly #context = new AsyncResource('VfioWatch')
  readonly #unseen: string[] = []
  readonly #hears = new Set<WatchTopic>()
  readonly #sources = new Map<number, Source>()
  readonly #message = new Uint8Array(LARGEST)
  readonly #poll: NativePoll
  readonly #batch: Uint32Array
  #closed = false

  constructor(
    wanted: ReadonlySet<string> | null,
    listener: (event: DeviceEvent, topic: WatchTopic) => void,
    opens: boolean,
  ) {
    this.#wanted = wanted
    this.#listener = listener
    this.#poll = call(() => binding().Poll.open((count) => this.#deliver(count)))
    this.#batch = new Uint32Array(this.#poll.batch)
    try {
      this.#begin('devices', openUevents)
      this.#noteNamespace()
      this.#begin('log', openLog)
      if (opens) this.#begin('opens', openNodes)
      call(() => this.#poll.start())
    } catch (error) {
      this.close()
      throw error
    }
  }

  get unseen(): readonly string[] {
    return [...this.#unseen]
  }

  get hears(): ReadonlySet<WatchTopic> {
    return new Set(this.#hears)
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
    this.#hears.clear()
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

  #begin(topic: WatchTopic, open: () => Source): void {
    let source: Source
    try {
      source = open()
    } catch (error) {
      if (!(error instanceof VfioSystemError) && !(error instanceof NoLog)) throw error
      this.#silent(topic, error instanceof NoLog ? error.message : whyUnheard(error))
      return
    }
    const key = this.#sources.size
    this.#sources.set(key, source)
    this.#hears.add(topic)
    call(() => this.#poll.addMessages(source.native, key))
  }

  #silent(topic: WatchTopic, why: string): void {
    this.#hears.delete(topic)
    this.#unseen.push(`${SILENCES[topic]} (${why})`)
  }

  /** The kernel tells those networks alone whose owner is the first user namespace. */
  #noteNamespace(): void {
    if (!this.#hears.has('devices')) return
    let why =
      'the network namespace here belongs to another user namespace than the first: run it on the host, or in its network'
    try {
      if (call(() => binding().networkOwner()) === FIRST_USER_NAMESPACE) return
    } catch (error) {
      if (!(error instanceof VfioSystemError)) throw error
      // Whom it belongs to may be asked from that namespace and those above alone: from the first always.
      why = `whom the network namespace here belongs to is not known: ${error.code}`
    }
    this.#silent('devices', why)
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
      this.#tellAll(key, source, this.#message.slice(0, length))
    }
  }

  #tellAll(key: number, source: Source, message: Uint8Array): void {
    let events: readonly DeviceEvent[]
    try {
      events = source.events(message)
    } catch (error) {
      if (!(error instanceof VfioSystemError)) throw error
      this.#end(key, source, whyUnheard(error))
      this.#lost(source, error.code)
      return
    }
    for (const event of events) this.#tell(event, source.topic)
  }

  #end(key: number, source: Source, why: string): void {
    this.#sources.delete(key)
    this.#poll.removeMessages(source.native)
    source.native.closeNow()
    this.#silent(source.topic, why)
  }

  #failed(key: number, source: Source, errno: number): void {
    const code = errnoName(errno)
    if (!LOSSES.has(errno)) this.#end(key, source, `${source.name}: ${code}`)
    this.#lost(source, code)
  }

  #lost(source: Source, code: string): void {
    const what = `messages of ${source.name} were lost (${code}): look at the host anew`
    this.#tell({ kind: 'lost', address: null, what }, source.topic)
  }

  #tell(event: DeviceEvent, topic: WatchTopic): void {
    if (this.#closed) return
    if (this.#wanted !== null && event.address !== null && !this.#wanted.has(event.address)) return
    try {
      this.#context.runInAsyncScope(this.#listener, undefined, event, topic)
    } catch (error) {
      queueMicrotask(() => {
        throw error
      })
    }
  }
}

const SILENCES: Readonly<Record<WatchTopic, string>> = {
  devices: 'what the kernel tells of devices that come, go, are bound or fail cannot be heard here',
  log: 'the log of the kernel cannot be read here, so that it is not heard when somebody wants a device back or a corrected error comes',
  opens: 'it cannot be heard here when somebody opens or closes a device',
}

const whyUnheard = ({ path, code, hint }: VfioSystemError) =>
  `${path}: ${code}${hint === null ? '' : `, ${hint}`}`

function openUevents(): Source {
  const native = call(() => binding().Messages.openUevents(KERNEL_GROUP, WAITING_BYTES))
  return {
    topic: 'devices',
    name: 'the kernel about devices',
    native,
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
    topic: 'log',
    name: 'the log of the kernel',
    native,
    next: (into) => native.read(into),
    events: eventsOfRecord,
  }
}

function openNodes(): Source {
  const native = call(() => binding().Messages.openInotify())
  try {
    const nodes = new NodeEvents(native)
    return {
      topic: 'opens',
      name: 'opens and closes',
      native,
      next: (into) => native.read(into),
      events: (message) => nodes.events(message),
    }
  } catch (error) {
    native.closeNow()
    throw error
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
