import { createHash } from 'node:crypto'
import { renameSync, rmSync, statSync } from 'node:fs'
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
  #inode: bigint | null = null
  #registering: Promise<void> | null = null
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
    rmSync(draft, { force: true })
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
    renameSync(draft, this.path)
    this.#inode = inodeOf(this.path)
    const former = this.#server
    this.#server = server
    this.#registeredBy = null
    former?.forceShutdown()
  }

  /** Whose socket is it that is there? */
  state(): 'ours' | 'missing' | 'replaced' {
    const inode = inodeOf(this.path)
    if (inode === null) return 'missing'
    return inode === this.#inode ? 'ours' : 'replaced'
  }

  /** Registers it with the kubelet of this socket, once; goes on trying until that is another one. */
  async registerWith(kubelet: string): Promise<void> {
    if (this.#isClosed || this.#registeredBy === kubelet) return
    if (this.#registering !== null) return this.#registering
    this.#clearTimers()
    this.#registering = this.#register(kubelet).finally(() => {
      this.#registering = null
    })
    return this.#registering
  }

  /** There is no kubelet: the next one is another. */
  awaitKubelet(): void {
    this.#clearTimers()
    this.#retryMs = FIRST_RETRY_MS
    this.#registeredBy = null
  }

  /** The kubelet is told that there is nothing any more, and the socket goes. */
  async close(): Promise<void> {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#clearTimers()
    await this.#registering
    // With the last list empty: what was offered is offered no more.
    for (const stream of this.#streams) {
      stream.write({ devices: [] })
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
    if (this.state() === 'ours') rmSync(this.path, { force: true })
  }

  async #register(kubelet: string): Promise<void> {
    try {
      await register(join(this.#directory, KUBELET_SOCKET), {
        version: API_VERSION,
        endpoint: basename(this.path),
        resource_name: this.resource,
        options: PLUGIN_OPTIONS,
      })
    } catch (error) {
      const { details, message } = error as ServiceError
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
    this.#retry = setTimeout(() => void this.registerWith(kubelet), this.#retryMs).unref()
    this.#retryMs = Math.min(this.#retryMs * 2, LAST_RETRY_MS)
  }

  #listen(stream: Stream): void {
    if (this.#silence !== null) clearTimeout(this.#silence)
    if (!this.listened) this.#log('the kubelet listens')
    this.#streams.add(stream)
    const gone = () => {
      if (!this.#streams.delete(stream) || this.#isClosed || this.listened) return
      const kubelet = this.#registeredBy
      this.#log('the kubelet does not listen any more')
      this.#registeredBy = null
      if (kubelet !== null) this.#tryAgain(kubelet)
    }
    const events: NodeJS.EventEmitter = stream
    for (const event of ['cancelled', 'close', 'error']) events.on(event, gone)
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

let drafts = 0
const draftName = () => `.vfio-${process.pid}.${drafts++}`

function inodeOf(path: string): bigint | null {
  return statSync(path, { bigint: true, throwIfNoEntry: false })?.ino ?? null
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
