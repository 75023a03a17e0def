import { mkdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import {
  assessUses,
  type DeviceEvent,
  Host,
  type Snapshot,
  VfioError,
  type Watch,
  type WatchTopic,
  watchDevices,
} from 'vfio'
import { allocate } from './allocate.js'
import {
  type AllocateRequest,
  type AllocateResponse,
  type Device,
  KUBELET_SOCKET,
  type PreferredAllocationRequest,
  type PreferredAllocationResponse,
} from './api.js'
import { CDI_DIRECTORIES, readClaims } from './claims.js'
import type { Config, Resource } from './config.js'
import { WatchedDirectory } from './directory.js'
import { Endpoint, Refusal } from './endpoint.js'
import { Labels } from './labels.js'
import type { Log } from './log.js'
import type { Health } from './metrics.js'
import { type Knowledge, type Offer, type OfferedDevice, type OfferedResource, offer } from './offer.js'
import { prefer } from './prefer.js'
import { SPECIFICATIONS, Specifications } from './specifications.js'

export interface Options {
  /** The kubelet's directory, below which `device-plugins` has the sockets. */
  readonly kubeletDirectory: string
  readonly log: Log
  /** Left out: the host that it runs on. */
  readonly host?: Host
  /** Left out: the kernel's own messages. */
  readonly watch?: (listener: Listener) => Pick<Watch, 'unseen' | 'hears' | 'close'>
  /** Where others say what they hand to containers; left out: where container engines look. */
  readonly cdiDirectories?: readonly string[]
  /** Where Node Feature Discovery looks for labels of the node; left out: it gets none. */
  readonly featuresDirectory?: string | undefined
  /** Where Kata's specifications are written; left out: `/var/run/cdi`. */
  readonly specifications?: string
}

type Listener = Parameters<typeof watchDevices>[1]

/** What the kernel told of a function that no look shows. */
type Mark = Pick<DeviceEvent, 'kind' | 'what'>

/** What happens at one time is looked at once. */
const GATHERING_MS = 20
/** For what no message tells of: a device that answers no more. */
const LOOK_MS = 60_000
/** Where the kernel's messages or changes of directories are not heard, or the last look failed. */
const ANXIOUS_LOOK_MS = 5_000

/** The plugin, from `start()` to `stop()`. It looks, and changes nothing of a device. */
export class Plugin {
  readonly #options: Options
  readonly #host: Host
  readonly #log: Log
  readonly #directory: string
  readonly #endpoints = new Map<string, Endpoint>()
  readonly #counts = new Map<string, { allocations: number; failures: number }>()
  readonly #marks = new Map<string, Mark>()
  /** Was something lost that may have ended a mark? */
  #areMarksDoubtful = false
  readonly #watched: WatchedDirectory[] = []
  readonly #claimDirectories: readonly string[]
  readonly #specifications: Specifications
  readonly #labels: Labels | null
  #config: Config
  #offer: Offer = { resources: [], refused: [] }
  #watch: Pick<Watch, 'unseen' | 'hears' | 'close'> | null = null
  /** How much of what is not heard was told. */
  #unheard = 0
  /** What was told of directories whose changes are not heard. */
  #blindness: readonly string[] = []
  /** Files of specifications that nobody serves. */
  #abandoned: readonly string[] = []
  #gathering: NodeJS.Timeout | null = null
  #nextLook: NodeJS.Timeout | null = null
  #trouble: string | null = null
  /** What is done with sockets is done one after the other. */
  #turn: Promise<void> = Promise.resolve()
  /** The kubelet's socket; `null` where there is none, `''` before the first look. */
  #kubelet: string | null = ''
  #isStopping = false
  #ended: ((error: unknown) => void) | null = null
  /** Ends when it is stopped; fails where another one has taken its place. */
  readonly ended: Promise<void>

  constructor(config: Config, options: Options) {
    this.#config = config
    this.#options = options
    this.#host = options.host ?? new Host()
    this.#log = options.log
    const { featuresDirectory } = options
    this.#labels = featuresDirectory === undefined ? null : new Labels(featuresDirectory, options.log)
    this.#directory = join(options.kubeletDirectory, 'device-plugins')
    this.#specifications = new Specifications(options.specifications ?? SPECIFICATIONS)
    this.#claimDirectories = options.cdiDirectories ?? CDI_DIRECTORIES
    this.ended = new Promise((resolve, reject) => {
      this.#ended = (error) => (error === null ? resolve() : reject(error))
    })
    // Whoever does not wait for it has stopped it.
    this.ended.catch(() => {})
  }

  /** What is offered now. */
  get offer(): Offer {
    return this.#offer
  }

  /**
   * @throws VfioError where the directory of the kubelet is not there, or takes no socket
   */
  async start(): Promise<void> {
    if (statSync(this.#options.kubeletDirectory, { throwIfNoEntry: false })?.isDirectory() !== true) {
      throw new VfioError(
        'ERR_VFIO_BAD_FILE',
        `there is no directory ${this.#options.kubeletDirectory}: is this a node of a cluster? --kubelet-dir names another one`,
      )
    }
    mkdirSync(this.#directory, { recursive: true })
    // Listens before it looks, so that it misses nothing.
    const watch = this.#options.watch ?? ((listener) => watchDevices('all', listener))
    this.#watch = watch((event, topic) => this.#heard(event, topic))
    this.#tellUnheard()
    this.#watchFiles()
    await this.#inTurn(async () => {
      await this.#removeAbandoned()
      this.#look()
      await this.#openAll()
    })
  }

  /** Takes another configuration. */
  async reconfigure(config: Config): Promise<void> {
    await this.#inTurn(async () => {
      const names = new Set(config.resources.map(({ name }) => name))
      this.#config = config
      for (const [name, endpoint] of this.#endpoints) {
        if (names.has(name)) continue
        await endpoint.close()
        this.#endpoints.delete(name)
        this.#counts.delete(name)
      }
      await this.#removeAbandoned()
      this.#look()
      await this.#openAll()
    })
  }

  /** The kubelet is told that there is nothing any more. */
  async stop(): Promise<void> {
    if (this.#isStopping) return
    this.#isStopping = true
    for (const timer of [this.#gathering, this.#nextLook]) if (timer !== null) clearTimeout(timer)
    this.#watch?.close()
    for (const watched of this.#watched) watched.close()
    await this.#turn
    await Promise.all([...this.#endpoints.values()].map((endpoint) => endpoint.close()))
    await this.#labels?.remove()
    this.#ended?.(null)
  }

  /** Ends it with what keeps it from going on. */
  fail(error: unknown): void {
    this.#ended?.(error)
  }

  health(): Health {
    return {
      counts: this.#offer.resources.map(({ name, devices }) => ({
        resource: name,
        healthy: devices.filter(({ healthy }) => healthy).length,
        unhealthy: devices.filter(({ healthy }) => !healthy).length,
        inUse: devices.filter(({ inUse }) => inUse !== null).length,
        listened: this.#endpoints.get(name)?.listened ?? false,
        registrations: this.#endpoints.get(name)?.registrations ?? 0,
        ...this.#countsOf(name),
      })),
      refused: this.#offer.refused.length,
      trouble: this.#trouble,
    }
  }

  async #openEndpoint(name: string): Promise<void> {
    const resource = () => this.#config.resources.find((each) => each.name === name)
    const endpoint = new Endpoint(
      name,
      this.#directory,
      {
        allocate: (request) => this.#allocate(resource(), request),
        prefer: (request) => this.#prefer(name, request),
      },
      this.#log,
    )
    await endpoint.open()
    this.#endpoints.set(name, endpoint)
  }

  /** What the kernel says that no look shows, until it says that this is over. */
  #heard({ kind, address, what }: DeviceEvent, topic: WatchTopic): void {
    if (address !== null) {
      if (kind === 'failed' || kind === 'release-requested' || (kind === 'error' && this.#isWord(topic)))
        this.#marks.set(address, { kind, what })
      else if (kind !== 'error' && kind !== 'changed' && kind !== 'corrected') this.#marks.delete(address)
    }
    if (kind === 'lost') {
      this.#log(what)
      this.#tellUnheard()
      // The log ends no mark.
      if (topic !== 'log') this.#areMarksDoubtful = true
    }
    this.#lookSoon()
  }

  /** The log may tell of an error after the kernel's own message has said that it is over. */
  #isWord(topic: WatchTopic): boolean {
    return topic === 'devices' || this.#watch?.hears.has('devices') !== true
  }

  /** After a loss: what is over may have been told. That the kernel gave a device up is over when it says so, or never. */
  #judgeMarks(seen: Snapshot): void {
    if (!this.#areMarksDoubtful) return
    for (const [address, { kind }] of this.#marks) {
      const isGone = !seen.has(address)
      // Whether it answers is seen; and who waits for a device has it as soon as it is closed.
      const isOver = kind === 'error' || (kind === 'release-requested' && !isOpen(seen, address))
      if (isGone || isOver) this.#marks.delete(address)
    }
    this.#areMarksDoubtful = false
  }

  /** It grows where a source of messages breaks. */
  #tellUnheard(): void {
    const unheard = this.#watch?.unseen ?? []
    for (const sentence of unheard.slice(this.#unheard)) this.#log(sentence)
    if (unheard.length > this.#unheard && this.#watch?.hears.has('devices') === false)
      this.#log(`it looks at the host every ${ANXIOUS_LOOK_MS / 1000} s instead`)
    this.#unheard = unheard.length
  }

  #watchFiles(): void {
    const { dev } = this.#host.paths
    const nodes = dev === null ? [] : [join(dev, 'vfio'), join(dev, 'vfio/devices')]
    for (const path of [...nodes, ...this.#claimDirectories])
      this.#watched.push(new WatchedDirectory(path, () => this.#lookSoon()))
    this.#watched.push(new WatchedDirectory(this.#directory, () => this.#settleSoon()))
  }

  #lookSoon(): void {
    if (this.#isStopping) return
    this.#gathering ??= setTimeout(() => {
      this.#gathering = null
      this.#look()
      this.#publish()
      // Whatever was not heard of the sockets is seen then.
      this.#settleSoon()
    }, GATHERING_MS)
  }

  /** Looks at the host, and says what is another than before. */
  #look(): void {
    if (this.#nextLook !== null) clearTimeout(this.#nextLook)
    for (const watched of this.#watched) watched.refresh()
    this.#tellBlindness()
    const former = this.#offer
    try {
      const seen = this.#host.snapshot()
      this.#judgeMarks(seen)
      this.#offer = this.#specified(seen, offer(seen, this.#config, this.#knowledge()))
      this.#labels?.tell(seen, this.#offer)
      if (this.#trouble !== null) this.#log('the host can be looked at again')
      this.#trouble = null
    } catch (error) {
      const trouble = `the host cannot be looked at: ${(error as Error).message}`
      if (trouble !== this.#trouble) this.#log(trouble)
      this.#trouble = trouble
      this.#offer = withoutSight(former, trouble)
      // What they say is not known any more.
      void this.#labels?.remove()
    }
    for (const sentence of differences(former, this.#offer)) this.#log(sentence)
    const isAnxious =
      this.#trouble !== null || this.#blindness.length > 0 || this.#watch?.hears.has('devices') === false
    this.#nextLook = setTimeout(() => this.#lookSoon(), isAnxious ? ANXIOUS_LOOK_MS : LOOK_MS).unref()
  }

  #tellBlindness(): void {
    const blindness = this.#watched.flatMap((watched) => watched.blindness ?? [])
    for (const sentence of blindness) {
      if (!this.#blindness.includes(sentence))
        this.#log(`${sentence}: it is looked at every ${ANXIOUS_LOOK_MS / 1000} s instead`)
    }
    this.#blindness = blindness
  }

  #knowledge(): Knowledge {
    const own = new Set([...this.#specifications.pathsOf(this.#config), ...this.#abandoned])
    return {
      marks: new Map([...this.#marks].map(([address, { what }]) => [address, what])),
      claims: readClaims(this.#claimDirectories, own),
    }
  }

  /** Without its specification Kata finds no device. */
  #specified(seen: Snapshot, { resources, refused }: Offer): Offer {
    return {
      resources: resources.map((resource) => {
        if (resource.consumer !== 'kata') return resource
        try {
          // Also what is not healthy now: a pod may have been admitted before.
          const givable = resource.devices.filter(({ nodes }) => nodes.length > 0)
          this.#specifications.write(
            seen,
            resource.name,
            givable.map(({ id }) => id),
          )
          return resource
        } catch (error) {
          return unhealthy(resource, `Kata would not find it: ${(error as Error).message}`)
        }
      }),
      refused,
    }
  }

  /** What nobody serves any more counts for nothing, and goes where it can be taken away. */
  async #removeAbandoned(): Promise<void> {
    for (const name of await this.#specifications.abandoned(this.#config, this.#directory)) {
      try {
        this.#specifications.remove(name)
        this.#log(`${name}: nobody serves it any more, and its specification for Kata is gone`)
      } catch (error) {
        this.#log(`${name}: its specification for Kata stays: ${(error as Error).message}`)
      }
    }
    await this.#noteAbandoned()
  }

  /** @returns whether they are others than before */
  async #noteAbandoned(): Promise<boolean> {
    const names = await this.#specifications.abandoned(this.#config, this.#directory)
    const former = this.#abandoned
    this.#abandoned = names.map((name) => this.#specifications.path(name))
    return former.join() !== this.#abandoned.join()
  }

  #publish(): void {
    for (const { name, devices } of this.#offer.resources)
      this.#endpoints.get(name)?.publish(devices.map(asDevice))
  }

  #inTurn(work: () => Promise<void>): Promise<void> {
    const done = this.#turn.then(async () => {
      if (!this.#isStopping) await work()
    })
    this.#turn = done.catch(() => {})
    return done
  }

  async #openAll(): Promise<void> {
    for (const { name } of this.#config.resources) {
      if (!this.#endpoints.has(name)) await this.#openEndpoint(name)
    }
    this.#publish()
    await this.#settle()
  }

  /** After anything in the kubelet's directory. */
  #settleSoon(): void {
    this.#inTurn(() => this.#settle()).catch((error: Error) => {
      if (error instanceof VfioError && error.code === 'ERR_VFIO_IN_USE') this.fail(error)
      else this.#log(error.message)
    })
  }

  /** Sockets that are gone are made again, and whom the kubelet does not know is registered. */
  async #settle(): Promise<void> {
    if (await this.#noteAbandoned()) this.#lookSoon()
    for (const endpoint of this.#endpoints.values()) {
      const state = endpoint.state()
      if (state === 'replaced') {
        const { resource, path } = endpoint
        throw new VfioError(
          'ERR_VFIO_IN_USE',
          `${resource}: another plugin has taken the place of this one at ${path}`,
        )
      }
      if (state === 'missing') await endpoint.open()
    }
    const kubelet = socketIdentity(join(this.#directory, KUBELET_SOCKET))
    if (kubelet === null && this.#kubelet !== null)
      this.#log(`it waits for the kubelet: there is no ${KUBELET_SOCKET} in ${this.#directory}`)
    this.#kubelet = kubelet
    // None waits for another: the kubelet may take its time.
    for (const endpoint of this.#endpoints.values()) {
      if (kubelet === null) endpoint.awaitKubelet()
      else void endpoint.registerWith(kubelet)
    }
  }

  #prefer(name: string, { container_requests }: PreferredAllocationRequest): PreferredAllocationResponse {
    const devices = this.#offer.resources.find((each) => each.name === name)?.devices ?? []
    const placed = (ids: readonly string[]) =>
      ids.map((id) => devices.find((device) => device.id === id) ?? { id, numa: [], above: [] })
    return {
      container_responses: container_requests.map((request) => ({
        deviceIDs: prefer(
          placed(request.available_deviceIDs),
          placed(request.must_include_deviceIDs),
          request.allocation_size,
        ),
      })),
    }
  }

  #allocate(resource: Resource | undefined, request: AllocateRequest): AllocateResponse {
    if (resource === undefined) throw new Refusal('the configuration has no such resource any more')
    const counts = this.#countsOf(resource.name)
    try {
      const seen = this.#lookAt(request.container_requests.flatMap(({ devices_ids }) => devices_ids))
      const response = allocate(seen, this.#config, resource, request, this.#knowledge())
      this.#specify(resource, request)
      for (const { devices_ids } of request.container_requests) {
        counts.allocations += devices_ids.length
        this.#log(`${resource.name}: ${devices_ids.join(', ')} was given to a container`)
      }
      return response
    } catch (error) {
      counts.failures++
      const refusal = error instanceof Error ? error.message : String(error)
      this.#log(`${resource.name}: not allocated: ${refusal}`)
      // What stands in the way now is told to all.
      this.#lookSoon()
      throw error instanceof Refusal ? error : new Refusal(refusal)
    }
  }

  /** What is not in the specification on disk, Kata does not find: somebody may have deleted it. */
  #specify({ name, consumer }: Resource, { container_requests }: AllocateRequest): void {
    const ids = container_requests.flatMap(({ devices_ids }) => devices_ids)
    if (consumer !== 'kata' || this.#specifications.names(name, ids)) return
    this.#look()
    this.#publish()
    if (this.#specifications.names(name, ids)) return
    throw new Refusal(
      `Kata would not find ${ids.join(', ')}: ${this.#specifications.path(name)} does not name it, and cannot be written`,
    )
  }

  /** At these and what they depend on alone. */
  #lookAt(ids: readonly string[]): Snapshot {
    const known = this.#offer.resources.flatMap(({ devices }) => devices)
    const functions = known.filter(({ id }) => ids.includes(id)).flatMap((device) => device.functions)
    return this.#host.snapshot({ around: [...new Set([...ids, ...functions])] })
  }

  #countsOf(name: string) {
    const counts = this.#counts.get(name) ?? { allocations: 0, failures: 0 }
    this.#counts.set(name, counts)
    return counts
  }
}

const asDevice = ({ id, healthy, numa }: OfferedDevice): Device => ({
  ID: id,
  health: healthy ? 'Healthy' : 'Unhealthy',
  ...(numa.length > 0 && { topology: { nodes: numa.map((ID) => ({ ID })) } }),
})

const isOpen = (seen: Snapshot, address: string) =>
  assessUses(seen, address).some(({ kind, severity }) => kind === 'vfio' && severity === 'blocks')

/** A kubelet that comes again makes another socket, perhaps with the same number. */
function socketIdentity(path: string): string | null {
  const found = statSync(path, { bigint: true, throwIfNoEntry: false })
  return found?.isSocket() ? `${found.ino} ${found.ctimeNs}` : null
}

/** Not known is not healthy. */
const withoutSight = ({ resources, refused }: Offer, reason: string): Offer => ({
  resources: resources.map((resource) => unhealthy(resource, reason)),
  refused,
})

/** What has a reason of its own keeps it. */
const unhealthy = (resource: OfferedResource, reason: string): OfferedResource => ({
  ...resource,
  devices: resource.devices.map((device) =>
    device.healthy ? { ...device, healthy: false, reason } : device,
  ),
})

/** What became another, a sentence each. */
function differences(before: Offer, after: Offer): string[] {
  const sentences: string[] = []
  const stateOf = ({ healthy, reason }: OfferedDevice) => (healthy ? 'healthy' : `unhealthy: ${reason}`)
  const former = new Map(
    before.resources.flatMap(({ name, devices }) =>
      devices.map((device) => [`${name} ${device.id}`, device]),
    ),
  )
  for (const { name, devices } of after.resources) {
    for (const device of devices) {
      const known = former.get(`${name} ${device.id}`)
      former.delete(`${name} ${device.id}`)
      if (known === undefined || stateOf(known) !== stateOf(device))
        sentences.push(`${name}: ${device.id} is ${stateOf(device)}`)
    }
  }
  for (const key of former.keys()) {
    const [name, id] = key.split(' ')
    sentences.push(`${name}: ${id} is gone`)
  }
  const known = new Set(before.refused.map(({ reason }) => reason))
  for (const { reason } of after.refused) if (!known.has(reason)) sentences.push(reason)
  return sentences
}
