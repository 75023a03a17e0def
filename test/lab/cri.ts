import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { copyFileSync, existsSync, readFileSync, writeFileSync } from 'node:fs'
import { type ClientHttp2Session, connect } from 'node:http2'
import { createConnection } from 'node:net'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { makeRoot, PROGRAM, SHARED } from './container-root.js'

/** A message of Protocol Buffers: values by the numbers of their fields; a list is a field that is there several times. */
interface Message {
  readonly [field: number]: string | number | Message | readonly (string | Message)[] | undefined
}

function varint(value: number): Buffer {
  const bytes: number[] = []
  for (let rest = value; ; rest = Math.floor(rest / 128)) {
    bytes.push(rest < 128 ? rest : (rest % 128) | 128)
    if (rest < 128) return Buffer.from(bytes)
  }
}

function encode(message: Message): Buffer {
  const field = (number: number, value: string | number | Message): Buffer => {
    if (typeof value === 'number') return Buffer.concat([varint(number * 8), varint(value)])
    const bytes = typeof value === 'string' ? Buffer.from(value) : encode(value)
    return Buffer.concat([varint(number * 8 + 2), varint(bytes.length), bytes])
  }
  const parts = Object.entries(message).flatMap(([number, value]) =>
    value === undefined
      ? []
      : [value].flat().map((one) => field(Number(number), one as string | number | Message)),
  )
  return Buffer.concat(parts)
}

/** The last value of each field: numbers, and bytes for text and for messages. */
function decode(bytes: Buffer): Map<number, number | Buffer> {
  const fields = new Map<number, number | Buffer>()
  let at = 0
  const next = () => {
    let value = 0
    for (let scale = 1; ; scale *= 128) {
      const byte = bytes[at++] ?? 0
      value += (byte & 127) * scale
      if (byte < 128) return value
    }
  }
  while (at < bytes.length) {
    const key = next()
    if (key % 8 === 0) fields.set(Math.floor(key / 8), next())
    else if (key % 8 === 2) {
      const length = next()
      fields.set(Math.floor(key / 8), bytes.subarray(at, at + length))
      at += length
    } else throw new Error(`field ${key} is of a type that the CRI does not have`)
  }
  return fields
}

/** The network, the processes and the messages of the node: this guest has no network of its own for containers. */
const OF_NODE = { 1: 2, 2: 0, 3: 2 }
const IMAGE = 'localhost/vfio:1'
const POD: Message = { 1: { 1: 'vfio', 2: 'vfio', 3: 'default', 4: 0 }, 8: { 2: { 1: OF_NODE } } }

/** containerd with all that it keeps below a directory of this guest, asked as the kubelet asks it: by the CRI. */
export class Containerd {
  readonly #process: ChildProcess
  readonly #session: ClientHttp2Session
  #sandbox = ''
  #count = 0

  private constructor(child: ChildProcess, session: ClientHttp2Session) {
    this.#process = child
    this.#session = session
  }

  /** Those before 1.7 start containers without the devices that are named. */
  static get knowsCdi(): boolean {
    const { stdout } = spawnSync('containerd', ['config', 'default'], { encoding: 'utf8' })
    return stdout?.includes('enable_cdi') ?? false
  }

  static async start(directory: string): Promise<Containerd> {
    const socket = join(directory, 'socket')
    writeFileSync(
      join(directory, 'config.toml'),
      [
        'version = 2',
        `root = "${directory}/root"`,
        `state = "${directory}/state"`,
        `[grpc]\naddress = "${socket}"`,
        '[plugins."io.containerd.grpc.v1.cri"]',
        'enable_cdi = true\ncdi_spec_dirs = ["/etc/cdi", "/var/run/cdi"]',
        `sandbox_image = "${IMAGE}"\nrestrict_oom_score_adj = true`,
        '[plugins."io.containerd.grpc.v1.cri".containerd]\nsnapshotter = "native"',
        '',
      ].join('\n'),
    )
    const child = spawn('containerd', ['--config', join(directory, 'config.toml')], {
      stdio: ['ignore', 'ignore', 'pipe'],
    })
    await saying(child, 'containerd successfully booted')
    const ctr = (...words: string[]) =>
      execFileSync('ctr', ['--address', socket, '--namespace', 'k8s.io', ...words], {
        stdio: ['ignore', 'ignore', 'inherit'],
      })
    ctr('images', 'import', makeImage(directory))
    // The address is of no meaning: what is connected to is the socket.
    const session = connect('http://localhost', { createConnection: () => createConnection(socket) })
    const made = new Containerd(child, session)
    await made.#runSandbox()
    return made
  }

  /** Makes a container with a device, and runs the program in it: what it said, or why there is no container. */
  async run(device: string): Promise<{ said: string; error: string | null }> {
    try {
      const config: Message = {
        1: { 1: `container${this.#count++}`, 2: 0 },
        2: { 1: IMAGE },
        7: SHARED.map((path) => ({ 1: path, 2: path, 3: 1 })),
        15: { 2: { 3: OF_NODE } },
        17: [{ 1: device }],
      }
      const created = await this.#call('CreateContainer', { 1: this.#sandbox, 2: config, 3: POD })
      const id = textOf(created.get(1))
      await this.#call('StartContainer', { 1: id })
      const done = await this.#call('ExecSync', { 1: id, 2: PROGRAM })
      const [said, wrong] = [textOf(done.get(1)), textOf(done.get(2))]
      return { said, error: done.get(3) ? `status ${done.get(3)}: ${wrong}` : null }
    } catch (error) {
      return { said: '', error: (error as Error).message }
    }
  }

  async #runSandbox(): Promise<void> {
    const answer = await this.#call('RunPodSandbox', { 1: POD })
    this.#sandbox = textOf(answer.get(1))
  }

  /** One call of gRPC. */
  async #call(method: string, message: Message): Promise<Map<number, number | Buffer>> {
    const stream = this.#session.request({
      ':method': 'POST',
      ':path': `/runtime.v1.RuntimeService/${method}`,
      'content-type': 'application/grpc',
      te: 'trailers',
    })
    const body = encode(message)
    const head = Buffer.alloc(5)
    head.writeUInt32BE(body.length, 1)
    stream.end(Buffer.concat([head, body]))
    let status: unknown
    let why: unknown
    const note = (headers: { 'grpc-status'?: unknown; 'grpc-message'?: unknown }) => {
      status ??= headers['grpc-status']
      why ??= headers['grpc-message']
    }
    stream.on('response', note).on('trailers', note)
    const chunks: Buffer[] = []
    for await (const chunk of stream) chunks.push(chunk as Buffer)
    if (status !== '0') throw new Error(`${method}: ${decodeURIComponent(String(why))} (${status})`)
    return decode(Buffer.concat(chunks).subarray(5))
  }

  async end(): Promise<void> {
    if (this.#sandbox) {
      await this.#call('StopPodSandbox', { 1: this.#sandbox })
      await this.#call('RemovePodSandbox', { 1: this.#sandbox })
    }
    this.#session.close()
    const ended = once(this.#process, 'close')
    this.#process.kill()
    await ended
  }
}

const bytesOf = (value: number | Buffer | undefined) => (Buffer.isBuffer(value) ? value : Buffer.alloc(0))
const textOf = (value: number | Buffer | undefined) => bytesOf(value).toString('utf8')

/** Waits until a program says that. */
async function saying(child: ChildProcess, wanted: string): Promise<void> {
  const said: string[] = []
  if (child.stderr === null) throw new Error('what it says is not read')
  for await (const line of createInterface({ input: child.stderr })) {
    said.push(line)
    if (!line.includes(wanted)) continue
    // It goes on, and must not wait for a reader.
    child.stderr.resume()
    return
  }
  throw new Error(`containerd ended, and said ${said.slice(-20).join('\n')}`)
}

/** An image of one layer, with a program that waits: what a sandbox is made of, and containers too. */
function makeImage(directory: string): string {
  const root = makeRoot(join(directory, 'image/root'))
  copyFileSync(busybox(), join(root, 'busybox'))
  const layer = join(directory, 'image/layer.tar')
  execFileSync('tar', ['-C', root, '-cf', layer, '.'])
  const digest = createHash('sha256').update(readFileSync(layer)).digest('hex')
  const config = {
    architecture: 'amd64',
    os: 'linux',
    config: { Entrypoint: ['/busybox', 'sleep', '100000'] },
    rootfs: { type: 'layers', diff_ids: [`sha256:${digest}`] },
  }
  const write = (name: string, value: unknown) =>
    writeFileSync(join(directory, 'image', name), JSON.stringify(value))
  write('config.json', config)
  write('manifest.json', [{ Config: 'config.json', RepoTags: [IMAGE], Layers: ['layer.tar'] }])
  const archive = join(directory, 'image.tar')
  execFileSync('tar', [
    ...['-C', join(directory, 'image'), '-cf', archive],
    ...['manifest.json', 'config.json', 'layer.tar'],
  ])
  return archive
}

const busybox = () => ['/usr/bin/busybox', '/bin/busybox'].find(existsSync) ?? 'busybox'
