import { execFileSync, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  watch,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { findProgram } from '../../scripts/lab/programs.js'

const KUBELET_DIRECTORY = '/var/lib/kubelet'
const SOCKETS = `${KUBELET_DIRECTORY}/device-plugins`
const CHECKPOINT = `${SOCKETS}/kubelet_internal_checkpoint`
const CONTAINERD = '/var/lib/containerd'
const MANIFESTS = '/run/lab-manifests'
/** What pods say, each by a FIFO of its own. */
const CHANNELS = '/run/lab-pods'
const IMAGE = 'docker.io/lab/empty:1'
const KEPT_LINES = 40

/** A program that goes on, and tells by its lines how far it is. */
export class Daemon implements AsyncDisposable {
  readonly lines: string[] = []
  readonly #child
  readonly #name: string
  readonly #ended: Promise<unknown>
  #arrived: (() => void) | null = null
  #isOver = false
  #read = 0

  constructor(words: readonly string[], env: NodeJS.ProcessEnv = process.env) {
    const [program = '', ...args] = words
    this.#name = program
    this.#child = spawn(program, args, { env, stdio: ['ignore', 'pipe', 'pipe'] })
    this.#ended = once(this.#child, 'close').then(() => {
      this.#isOver = true
      this.#arrived?.()
    })
    for (const input of [this.#child.stdout, this.#child.stderr]) {
      createInterface({ input }).on('line', (line) => {
        this.lines.push(line)
        this.#arrived?.()
      })
    }
  }

  /** The first line that fits, of those that came after the one which this gave before. */
  async says(fits: RegExp | string): Promise<string> {
    for (;;) {
      const at = this.lines.findIndex(
        (line, index) =>
          index >= this.#read && (typeof fits === 'string' ? line.includes(fits) : fits.test(line)),
      )
      if (at >= 0) {
        this.#read = at + 1
        return this.lines[at] as string
      }
      if (this.#isOver) {
        throw new Error(
          `${this.#name} ended without ${fits}; it said last\n${this.lines.slice(-KEPT_LINES).join('\n')}`,
        )
      }
      await new Promise<void>((resolve) => {
        this.#arrived = resolve
      })
    }
  }

  async end(signal: NodeJS.Signals): Promise<void> {
    this.#child.kill(signal)
    await this.#ended
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.end('SIGKILL')
  }
}

/** Waits until a look at the files of a directory, one for each change there, says so. */
export async function changedUntil(directory: string, isSo: () => boolean): Promise<void> {
  const watcher = watch(directory)
  try {
    while (!isSo()) await once(watcher, 'change')
  } finally {
    watcher.close()
  }
}

/** The devices that the kubelet has for healthy, as it wrote them down. */
export async function allocatable(resource: string, count: number): Promise<void> {
  await changedUntil(SOCKETS, () => (checkpoint()?.RegisteredDevices?.[resource] ?? []).length === count)
}

/** The devices that the kubelet has given to a container, of any pod. */
export const given = (resource: string): readonly string[] =>
  (checkpoint()?.PodDeviceEntries ?? [])
    .filter((entry) => entry.ResourceName === resource)
    .flatMap(({ DeviceIDs }) => Object.values(DeviceIDs).flat())

interface Checkpoint {
  readonly PodDeviceEntries:
    | readonly {
        readonly ResourceName: string
        readonly DeviceIDs: Readonly<Record<string, readonly string[]>>
      }[]
    | null
  readonly RegisteredDevices: Readonly<Record<string, readonly string[] | null>> | null
}

function checkpoint(): Checkpoint | null {
  if (!existsSync(CHECKPOINT)) return null
  const { Data } = JSON.parse(readFileSync(CHECKPOINT, 'utf8')) as { Data: Checkpoint }
  return Data
}

const CONTAINERD_CONFIG = `version = 2
root = "${CONTAINERD}"
state = "/run/containerd"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "${IMAGE}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
`

const KUBELET_CONFIG = {
  kind: 'KubeletConfiguration',
  apiVersion: 'kubelet.config.k8s.io/v1beta1',
  staticPodPath: MANIFESTS,
  address: '127.0.0.1',
  authentication: { anonymous: { enabled: true }, webhook: { enabled: false } },
  authorization: { mode: 'AlwaysAllow' },
  cgroupDriver: 'cgroupfs',
  failSwapOn: false,
  // A guest is small, and so is its disk, which is memory.
  evictionHard: { 'memory.available': '1Mi' },
  enforceNodeAllocatable: [],
  fileCheckFrequency: '1s',
  syncFrequency: '1s',
  enableControllerAttachDetach: false,
  makeIPTablesUtilChains: false,
}

export interface Pod {
  readonly name: string
  /** How many devices of which resource it wants. */
  readonly limits: Readonly<Record<string, number>>
  readonly command: readonly string[]
  /** Directories of the guest that it sees, by the same names. */
  readonly directories: readonly string[]
}

/** A node of a cluster that has no other part: containerd, and a kubelet that takes its pods from files. */
export class Node implements AsyncDisposable {
  readonly #program: string
  readonly #env: NodeJS.ProcessEnv
  readonly #containerd: Daemon
  #running: Daemon | null = null

  private constructor(directory: string) {
    this.#program = join(directory, 'kubelet')
    const programs = join(directory, 'programs/usr')
    this.#env = {
      ...process.env,
      PATH: [join(programs, 'bin'), join(programs, 'sbin'), process.env.PATH].join(':'),
      LD_LIBRARY_PATH: join(programs, 'lib/x86_64-linux-gnu'),
    }
    for (const place of [CONTAINERD, KUBELET_DIRECTORY, MANIFESTS, CHANNELS, '/sys/fs/cgroup'])
      mkdirSync(place, { recursive: true })
    const mount = (...args: readonly string[]) => execFileSync('mount', args)
    mount('--make-rshared', '/')
    // What is below a layer cannot be layered again.
    for (const place of [CONTAINERD, KUBELET_DIRECTORY]) mount('-t', 'tmpfs', '-o', 'mode=755', 'lab', place)
    mount('-t', 'cgroup2', 'none', '/sys/fs/cgroup')
    writeFileSync('/run/lab-containerd.toml', CONTAINERD_CONFIG)
    writeFileSync('/run/lab-kubelet.json', JSON.stringify(KUBELET_CONFIG))
    this.#containerd = new Daemon(['containerd', '-c', '/run/lab-containerd.toml'], this.#env)
  }

  /** @param directory of the cache, with the kubelet and what it is used with (scripts/lab/kubernetes.ts) */
  static async start(directory: string): Promise<Node> {
    const node = new Node(directory)
    await node.#containerd.says('containerd successfully booted')
    const archive = emptyImage()
    execFileSync('ctr', ['--namespace', 'k8s.io', 'images', 'import', archive], { env: node.#env })
    return node
  }

  /** The one that runs. */
  get kubelet(): Daemon {
    if (this.#running === null) throw new Error('no kubelet runs')
    return this.#running
  }

  /** Waits until plugins can register. */
  async startKubelet(): Promise<Daemon> {
    const daemon = new Daemon(
      [
        this.#program,
        ...['--config', '/run/lab-kubelet.json', '--hostname-override', 'lab', '--v', '3'],
        ...['--container-runtime', 'remote'],
        ...['--container-runtime-endpoint', 'unix:///run/containerd/containerd.sock'],
      ],
      this.#env,
    )
    this.#running = daemon
    await daemon.says('Serving device plugin registration server')
    return daemon
  }

  async stopKubelet(): Promise<void> {
    await this.#running?.end('SIGTERM')
    this.#running = null
  }

  /** Puts a pod where the kubelet looks for them; what it returns says what the pod writes to `$LAB_CHANNEL`. */
  run({ name, limits, command, directories }: Pod): Daemon {
    const channel = join(CHANNELS, name)
    execFileSync('mkfifo', [channel])
    // Open for writing too, so that it does not end between two that write.
    const heard = new Daemon(['sh', '-c', 'exec cat <>"$1"', 'sh', channel])
    const seen = [...directories, CHANNELS]
    const manifest = {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name, namespace: 'default' },
      spec: {
        hostNetwork: true,
        restartPolicy: 'Never',
        terminationGracePeriodSeconds: 5,
        containers: [
          {
            name: 'program',
            image: IMAGE,
            imagePullPolicy: 'Never',
            command,
            env: [{ name: 'LAB_CHANNEL', value: channel }],
            resources: { limits },
            volumeMounts: seen.map((mountPath, index) => ({
              name: `volume-${index}`,
              mountPath,
              readOnly: mountPath !== CHANNELS,
            })),
          },
        ],
        volumes: seen.map((path, index) => ({ name: `volume-${index}`, hostPath: { path } })),
      },
    }
    // Whole, or not at all: the kubelet reads it at any time, and leaves out what begins with a dot.
    const draft = join(MANIFESTS, `.${name}`)
    writeFileSync(draft, JSON.stringify(manifest))
    renameSync(draft, join(MANIFESTS, `${name}.json`))
    return heard
  }

  /** Takes a pod away again. */
  remove(name: string): void {
    rmSync(join(MANIFESTS, `${name}.json`))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#running?.end('SIGKILL')
    await this.#containerd.end('SIGKILL')
  }
}

/** An archive of an image with a shell, and nothing else: a container sees the programs of the guest. */
function emptyImage(): string {
  const directory = mkdtempSync(join(tmpdir(), 'lab-image-'))
  const root = join(directory, 'root')
  for (const name of ['bin', 'dev', 'proc', 'sys', 'tmp', 'etc', 'run'])
    mkdirSync(join(root, name), { recursive: true })
  execFileSync('cp', [findProgram('busybox', 'busybox-static'), join(root, 'bin/busybox')])
  symlinkSync('busybox', join(root, 'bin/sh'))
  const sha256 = (text: string | Buffer) => createHash('sha256').update(text).digest('hex')
  const layer = join(directory, 'layer.tar')
  execFileSync('tar', ['-cf', layer, '-C', root, '.'])
  const digest = sha256(readFileSync(layer))
  const config = JSON.stringify({
    architecture: 'amd64',
    os: 'linux',
    config: { Cmd: ['/bin/busybox', 'sleep', 'infinity'] },
    rootfs: { type: 'layers', diff_ids: [`sha256:${digest}`] },
  })
  const files = { config: `${sha256(config)}.json`, layer: `${digest}/layer.tar` }
  mkdirSync(dirname(join(directory, files.layer)))
  renameSync(layer, join(directory, files.layer))
  writeFileSync(join(directory, files.config), config)
  writeFileSync(
    join(directory, 'manifest.json'),
    JSON.stringify([{ Config: files.config, RepoTags: [IMAGE], Layers: [files.layer] }]),
  )
  const archive = join(directory, 'image.tar')
  execFileSync('tar', ['-cf', archive, '-C', directory, 'manifest.json', files.config, files.layer])
  return archive
}
