import { createHash, randomBytes } from 'node:crypto'
import { linkSync, renameSync, statSync, unlinkSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { basename, join } from 'node:path'
import {
  Server,
  ServerCredentials,
  type ServerUnaryCall,
  type ServerWritableStream,
  type ServiceError,
  type sendUnaryData,
  status,
} from '@grpc/grpc-js'
import { VfioError } from 'vfio'
import {
  type AllocateRequest,
  type AllocateResponse,
  API_VERSION,
  type Device,
  KUBELET_SOCKET,
  type ListAndWatchResponse,
  PLUGIN_OPTIONS,
  type PreferredAllocationRequest,
  type PreferredAllocationResponse,
  register,
  services,
} from './api.js'
import type { Log } from './log.js'

/** What an endpoint asks of the plugin. */
export interface Answers {
  /** @throws Refusal */
  allocate(request: AllocateRequest): AllocateResponse
  prefer(request: PreferredAllocationRequest): PreferredAllocationResponse
}

/** Why nothing is allocated: the kubelet puts it into the pod's status. */
export class Refusal extends Error {}

/** What fits into `sun_path` beside its NUL. */
const PATH_LIMIT = 107
/** The kubelet dials back at once. */
const SILENCE_MS = 5_000
/** How long what was written last may take to arrive. */
const CLOSING_MS = 2_000
/** How long another plugin may take to leave its place. */
const LEAVING_MS = 5_000
const FIRST_RETRY_MS = 1_000
const LAST_RETRY_MS = 30_000

type Stream = ServerWritableStream<unknown, ListAndWatchResponse>

/** One resource at the kubelet: its socket, its registration, and those who listen. */
export class Endpoint {
  readonly resource: string
  readonly path: string
  readonly #directory: string
  readonly #answers: Answers
  readonly #log: Log
  readonly #streams = new Set<Stream>()
  #devices: readonly Device[] = []
  #server: Server | null = null
  /** The socket that it made. */
  #own: string | null = null
  #predecessorGone: Promise<unknown> = Promise.resolve()
  #registering: Promise<void> | null = null
  /** The kubelet's socket that it was last to be registered by; `null` where there is none. */
  #wanted: string | null = null
  /** The kubelet's socket that it is registered by; another one is another kubelet. */
  #registeredBy: string | null = null
  #retryMs = FIRST_RETRY_MS
  #retry: NodeJS.Timeout | null = null
  #silence: NodeJS.Timeout | null = null
  #isClosed = false
  /** How often it was registered. */
  registrations = 0

  /**
   * @param directory of the kubelet's sockets
   * @throws VfioError `ERR_VFIO_BAD_ARGUMENT` where its path is too long for a socket
   */
  constructor(resource: string, directory: string, answers: Answers, log: Log) {
    this.resource = resource
    this.#directory = directory
    this.#answers = answers
    this.#log = (sentence) => log(`${resource}: ${sentence}`)
    this.path = socketPath(directory, resource)
  }

  /** Does the kubelet listen? */
  get listened(): boolean {
    return this.#streams.size > 0
  }

  /** Tells the kubelet what there is now. */
  publish(devices: readonly Device[]): void {
    if (JSON.stringify(devices) === JSON.stringify(this.#devices)) return
    this.#devices = devices
    for (const stream of this.#streams) stream.write({ devices })
  }

  /**
   * Puts its socket where the kubelet looks for it.
   * @throws VfioError `ERR_VFIO_BAD_FILE`
   */
  async open(): Promise<void> {
    // First, because a kubelet that hears of an end after the registration takes it for the end of the new one.
    this.#server?.forceShutdown()
    this.#server = null
    this.#registeredBy = null
    const server = new Server()
    server.addService(services().DevicePlugin.service, {
      GetDevicePluginOptions: (_call: unknown, answer: sendUnaryData<unknown>) =>
        answer(null, PLUGIN_OPTIONS),
      ListAndWatch: (stream: Stream) => this.#listen(stream),
      GetPreferredAllocation: this.#answering((request: PreferredAllocationRequest) =>
        this.#answers.prefer(request),
      ),
      Allocate: this.#answering((request: AllocateRequest) => this.#answers.allocate(request)),
      // Registered without: no device has to be made ready.
      PreStartContainer: (_call: unknown, answer: sendUnaryData<unknown>) => answer(null, {}),
    })
    // Under another name first: whatever is there is replaced in one step, and closing takes away nobody else's.
    const draft = join(this.#directory, draftName())
    await new Promise<void>((resolve, reject) => {
      server.bindAsync(`unix:${draft}`, ServerCredentials.createInsecure(), (error) =>
        error === null
          ? resolve()
          : reject(
              new VfioError(
                'ERR_VFIO_BAD_FILE',
                `no socket can be made in ${this.#directory}: ${error.message}`,
              ),
            ),
      )
    })
    this.#server = server
    const predecessor = await connected(this.path)
    renameSync(draft, this.path)
    this.#own = identityOf(this.path)
    this.#predecessorGone = predecessor === null ? Promise.resolve() : gone(predecessor)
  }

  /** Whose socket is it that is there? */
  state(): 'ours' | 'missing' | 'replaced' {
    const found = identityOf(this.path)
    if (found === null) return 'missing'
    return found === this.#own ? 'ours' : 'replaced'
  }

  /** Registers it with the kubelet of this socket, once; goes on trying until that is another one. */
  async registerWith(kubelet: string): Promise<void> {
    this.#wanted = kubelet
    if (this.#isClosed || this.#registeredBy === kubelet) return
    if (this.#registering !== null) return this.#registering
    this.#clearTimers()
    this.#registering = this.#registerWanted().finally(() => {
      this.#registering = null
    })
    return this.#registering
  }

  /** There is no kubelet: the next one is another. */
  awaitKubelet(): void {
    this.#clearTimers()
    this.#retryMs = FIRST_RETRY_MS
    this.#registeredBy = null
    this.#wanted = null
  }

  /** The kubelet is told that there is nothing any more, and the socket goes. */
  async close(): Promise<void> {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#clearTimers()
    await this.#registering
    const isReplaced = this.state() === 'replaced'
    for (const stream of this.#streams) {
      // What was offered is offered no more; but the kubelet would take it for the list of the one in its place.
      if (!isReplaced) stream.write({ devices: [] })
      stream.end()
    }
    await new Promise<void>((resolve) => {
      const deadline = setTimeout(resolve, CLOSING_MS)
      const done = () => {
        clearTimeout(deadline)
        resolve()
      }
      if (this.#server === null) done()
      else this.#server.tryShutdown(done)
    })
    this.#server?.forceShutdown()
    if (this.state() === 'ours') this.#takeAway()
  }

  /** Another plugin may put its own there at any time: what is deleted has a name that nobody else has. */
  #takeAway(): void {
    const apart = join(this.#directory, draftName())
    try {
      renameSync(this.path, apart)
      try {
        if (identityOf(apart) !== this.#own) linkSync(apart, this.path)
      } finally {
        unlinkSync(apart)
      }
    } catch (error) {
      this.#log(`its socket could not be taken away: ${(error as Error).message}`)
    }
  }

  /** While one kubelet is asked another may come, or the socket be made anew. */
  async #registerWanted(): Promise<void> {
    for (let asked = this.#wanted; asked !== null; ) {
      const opened = this.#own
      await this.#register(asked)
      const isSame = this.#wanted === asked && this.#own === opened
      asked = isSame || this.#isClosed ? null : this.#wanted
    }
  }

  async #register(kubelet: string): Promise<void> {
    await this.#predecessorGone
    try {
      await register(join(this.#directory, KUBELET_SOCKET), {
        version: API_VERSION,
        endpoint: basename(this.path),
        resource_name: this.resource,
        options: PLUGIN_OPTIONS,
      })
    } catch (error) {
      const { details, message } = error as ServiceError
      // Then the next one is asked at once.
      if (this.#wanted !== kubelet) return
      this.#log(`the kubelet did not register it: ${details || message}`)
      this.#tryAgain(kubelet)
      return
    }
    this.#registeredBy = kubelet
    this.#retryMs = FIRST_RETRY_MS
    this.registrations++
    this.#log('registered with the kubelet')
    if (this.listened || this.#isClosed) return
    this.#silence = setTimeout(() => {
      this.#log(
        'the kubelet has registered it and does not call: one up to 1.25 sends the path of a socket as :authority, which HTTP/2 of Node refuses, so that Kubernetes 1.26 is needed',
      )
    }, SILENCE_MS).unref()
  }

  /** Where the kubelet comes again it makes its socket anew, and whoever watches that calls; this is for one that stays. */
  #tryAgain(kubelet: string): void {
    if (this.#isClosed) return
    this.#retry = setTimeout(() => {
      // Without its socket no kubelet could call back: whoever makes it anew registers it too.
      if (this.state() === 'ours') void this.registerWith(kubelet)
    }, this.#retryMs).unref()
    this.#retryMs = Math.min(this.#retryMs * 2, LAST_RETRY_MS)
  }

  #listen(stream: Stream): void {
    if (this.#silence !== null) clearTimeout(this.#silence)
    if (!this.listened) this.#log('the kubelet listens')
    this.#streams.add(stream)
    const left = () => {
      if (!this.#streams.delete(stream) || this.#isClosed || this.listened) return
      const kubelet = this.#registeredBy
      this.#log('the kubelet does not listen any more')
      this.#registeredBy = null
      if (kubelet !== null) this.#tryAgain(kubelet)
    }
    const events: NodeJS.EventEmitter = stream
    for (const event of ['cancelled', 'close', 'error']) events.on(event, left)
    stream.write({ devices: this.#devices })
  }

  #answering<Q, A>(answerTo: (request: Q) => A) {
    return (call: ServerUnaryCall<Q, A>, answer: sendUnaryData<A>) => {
      try {
        answer(null, answerTo(call.request))
      } catch (error) {
        const code = error instanceof Refusal ? status.FAILED_PRECONDITION : status.INTERNAL
        answer({ code, details: error instanceof Error ? error.message : String(error) })
      }
    }
  }

  #clearTimers(): void {
    for (const timer of [this.#retry, this.#silence]) if (timer !== null) clearTimeout(timer)
  }
}

/** A connection to whoever serves at a socket, another plugin; `null` where nobody does. */
const connected = (path: string) =>
  new Promise<Socket | null>((resolve) => {
    const socket = connect(path)
    socket.once('connect', () => resolve(socket)).once('error', () => resolve(null))
  })

/** Does somebody serve at a socket? Only where that is certain, nobody does. */
export const isServed = (path: string) =>
  new Promise<boolean>((resolve) => {
    const socket = connect(path)
    socket
      .once('connect', () => {
        socket.destroy()
        resolve(true)
      })
      .once('error', ({ code }: NodeJS.ErrnoException) =>
        resolve(!['ENOENT', 'ENOTDIR', 'ECONNREFUSED'].includes(code ?? '')),
      )
  })

/** It ends when it sees that its place is taken, and is not waited for without end. */
async function gone(predecessor: Socket): Promise<void> {
  const deadline = setTimeout(() => predecessor.destroy(), LEAVING_MS)
  predecessor.on('error', () => {}).resume()
  await new Promise((resolve) => predecessor.once('close', resolve))
  clearTimeout(deadline)
}

/**
 * Nobody else's: in containers every plugin has the same pid, and libuv deletes the name that it bound when it closes. No
 * longer than the name of any socket.
 */
const draftName = () => `.v-${randomBytes(6).toString('base64url')}`

/** Numbers of inodes are given again at once. */
function identityOf(path: string): string | null {
  const found = statSync(path, { bigint: true, throwIfNoEntry: false })
  return found === undefined ? null : `${found.ino} ${found.birthtimeNs}`
}

/**
 * Where a resource is served.
 * @throws VfioError `ERR_VFIO_BAD_ARGUMENT` where that is too long for a socket
 */
export function socketPath(directory: string, resource: string): string {
  const fits = (name: string) => Buffer.byteLength(name) <= PATH_LIMIT
  const readable = `vfio-${resource.replaceAll('/', '_')}.sock`
  const short = `vfio-${createHash('sha256').update(resource).digest('hex').slice(0, 16)}.sock`
  const name = [readable, short].map((each) => join(directory, each)).find(fits)
  if (name !== undefined) return name
  throw new VfioError(
    'ERR_VFIO_BAD_ARGUMENT',
    `${directory} is too long for the path of a socket, which has at most ${PATH_LIMIT} bytes`,
  )
}
