import { EventEmitter, once } from 'node:events'
import { existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import {
  type Client,
  type ClientReadableStream,
  credentials,
  Server,
  ServerCredentials,
  type ServerUnaryCall,
  type ServiceError,
  type sendUnaryData,
} from '@grpc/grpc-js'
import {
  type AllocateResponse,
  type Device,
  type ListAndWatchResponse,
  type PluginOptions,
  type PreferredAllocationResponse,
  type RegisterRequest,
  services,
} from '../../kubernetes/src/api.js'

/** What the kubelet knows of one resource. */
interface Known {
  readonly client: Client
  readonly stream: ClientReadableStream<ListAndWatchResponse>
  devices: readonly Device[] | null
  connected: boolean
}

/** What the kubelet does with plugins (`pkg/kubelet/cm/devicemanager`): its own socket, and a client for each that registers. */
export class FakeKubelet {
  readonly directory: string
  readonly registrations: RegisterRequest[] = []
  readonly options = new Map<string, PluginOptions>()
  readonly #known = new Map<string, Known>()
  readonly #events = new EventEmitter()
  #server: Server | null = null
  /** `path`: as one up to 1.25, the path of a socket is the authority of each call to it. */
  authority: 'localhost' | 'path' = 'localhost'
  /** What it answers instead of registering. */
  refusal: string | null = null

  /** @param root in place of `/var/lib/kubelet` */
  constructor(root: string) {
    this.directory = join(root, 'device-plugins')
    mkdirSync(this.directory, { recursive: true })
    this.#events.setMaxListeners(100)
  }

  /** As it starts, it takes away every socket of its directory. */
  async start(): Promise<void> {
    for (const name of readdirSync(this.directory)) rmSync(join(this.directory, name), { recursive: true })
    const server = new Server()
    server.addService(services().Registration.service, {
      Register: (call: ServerUnaryCall<RegisterRequest, object>, answer: sendUnaryData<object>) => {
        if (this.refusal !== null) return answer({ code: 3, details: this.refusal })
        this.registrations.push(call.request)
        answer(null, {})
        this.#listenTo(call.request)
        this.#events.emit('changed')
      },
    })
    await new Promise<void>((resolve, reject) =>
      server.bindAsync(
        `unix:${join(this.directory, 'kubelet.sock')}`,
        ServerCredentials.createInsecure(),
        (error) => (error ? reject(error) : resolve()),
      ),
    )
    this.#server = server
  }

  /** Ends, and takes its socket away. */
  stop(): void {
    for (const { stream, client } of this.#known.values()) {
      stream.cancel()
      client.close()
    }
    this.#known.clear()
    this.#server?.forceShutdown()
    this.#server = null
    rmSync(join(this.directory, 'kubelet.sock'), { force: true })
  }

  /** The last list of a resource; `null` before the first. */
  devices(resource: string): readonly Device[] | null {
    return this.#known.get(resource)?.devices ?? null
  }

  /** Is its stream open? */
  listensTo(resource: string): boolean {
    return this.#known.get(resource)?.connected ?? false
  }

  /** Waits until something is so. */
  async until(what: string, isSo: (kubelet: FakeKubelet) => boolean, seconds = 60): Promise<void> {
    const signal = AbortSignal.timeout(seconds * 1000)
    while (!isSo(this)) {
      try {
        await once(this.#events, 'changed', { signal })
      } catch {
        throw new Error(`the kubelet never saw that ${what}: ${JSON.stringify(this.#seen())}`)
      }
    }
  }

  /** The health of each device of a resource, by id, once it is as expected. */
  async untilHealth(resource: string, expected: Readonly<Record<string, boolean>>): Promise<void> {
    const wanted = JSON.stringify(Object.entries(expected).sort())
    await this.until(`${resource} is ${wanted}`, () => {
      const devices = this.devices(resource)
      if (devices === null) return false
      return JSON.stringify(devices.map(({ ID, health }) => [ID, health === 'Healthy']).sort()) === wanted
    })
  }

  allocate(resource: string, ...containers: readonly (readonly string[])[]): Promise<AllocateResponse> {
    return this.#call(resource, 'Allocate', {
      container_requests: containers.map((devices_ids) => ({ devices_ids })),
    })
  }

  async prefer(
    resource: string,
    available: readonly string[],
    size: number,
    must: readonly string[] = [],
  ): Promise<readonly string[]> {
    const { container_responses } = await this.#call<PreferredAllocationResponse>(
      resource,
      'GetPreferredAllocation',
      {
        container_requests: [
          { available_deviceIDs: available, must_include_deviceIDs: must, allocation_size: size },
        ],
      },
    )
    return container_responses[0]?.deviceIDs ?? []
  }

  preStart(resource: string, ids: readonly string[]): Promise<object> {
    return this.#call(resource, 'PreStartContainer', { devices_ids: ids })
  }

  #call<T>(resource: string, method: string, request: object): Promise<T> {
    const client = this.#known.get(resource)?.client as unknown as Record<string, CallableFunction>
    return new Promise((resolve, reject) =>
      client[method]?.(request, (error: ServiceError | null, answer: T) =>
        error === null ? resolve(answer) : reject(error),
      ),
    )
  }

  #listenTo({ resource_name: resource, endpoint }: RegisterRequest): void {
    const former = this.#known.get(resource)
    const path = join(this.directory, endpoint)
    if (!existsSync(path)) throw new Error(`${resource} registered ${endpoint}, which is not there`)
    const client = new (services().DevicePlugin)(`unix:${path}`, credentials.createInsecure(), {
      'grpc.default_authority': this.authority === 'path' ? path : 'localhost',
    })
    const calls = client as unknown as Record<string, CallableFunction>
    calls.GetDevicePluginOptions?.({}, (error: ServiceError | null, answer: PluginOptions) => {
      if (error === null) this.options.set(resource, answer)
      this.#events.emit('changed')
    })
    const stream = calls.ListAndWatch?.({}) as ClientReadableStream<ListAndWatchResponse>
    const known: Known = { client, stream, devices: null, connected: true }
    this.#known.set(resource, known)
    stream.on('data', ({ devices }: ListAndWatchResponse) => {
      known.devices = devices
      this.#events.emit('changed')
    })
    const ended = () => {
      known.connected = false
      this.#events.emit('changed')
    }
    stream.on('error', ended).on('end', ended)
    former?.stream.cancel()
    former?.client.close()
  }

  #seen() {
    return {
      registered: this.registrations.map(({ resource_name }) => resource_name),
      resources: [...this.#known].map(([name, { devices, connected }]) => ({ name, connected, devices })),
    }
  }
}
