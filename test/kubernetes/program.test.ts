import assert from 'node:assert/strict'
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { credentials } from '@grpc/grpc-js'
import { services } from '../../kubernetes/src/api.js'
import { removeDirectories, SCRATCH } from '../fixtures/host.js'
import { skip } from '../fixtures/skip.js'
import { present, ROOT } from '../unit/support.js'
import { disk, Node } from './support.js'

const DISK = 'example.com/nvme'
const DATA = 'example.com/data'
const PROGRAM = fileURLToPath(new URL('serve-program.js', import.meta.url))

const configText = (...entries: readonly (readonly [name: string, address: string])[]) =>
  `resources:\n${entries.map(([name, address]) => `  - { name: ${name}, consumer: plain, select: [{ address: "${address}" }] }\n`).join('')}`

/** A plugin in a process of its own. */
class Program {
  readonly child: ChildProcess
  said = ''

  constructor(node: Node, config: string, more: object = {}, as: { uid?: number; gid?: number } = {}) {
    const task = { trees: node.trees, config, kubeletDir: node.root, cdi: node.cdi, ...more }
    this.child = spawn(process.execPath, [PROGRAM, JSON.stringify(task)], {
      stdio: ['ignore', 'ignore', 'pipe'],
      ...as,
    })
    this.child.stderr?.setEncoding('utf8').on('data', (text) => {
      this.said += text
      this.child.emit('said')
    })
  }

  /** Waits until it has said something. */
  async until(pattern: RegExp): Promise<RegExpExecArray> {
    const signal = AbortSignal.timeout(60_000)
    for (;;) {
      const found = pattern.exec(this.said)
      if (found !== null) return found
      try {
        await once(this.child, 'said', { signal })
      } catch {
        throw new Error(`it never said ${pattern}: ${this.said}`)
      }
    }
  }

  async ended(): Promise<{ readonly code: number | null; readonly signal: string | null }> {
    if (this.child.exitCode === null && this.child.signalCode === null) await once(this.child, 'exit')
    return { code: this.child.exitCode, signal: this.child.signalCode }
  }
}

describe('the program of the device plugin', () => {
  let node: Node
  let config: string
  const programs: Program[] = []
  const start = (more?: object, as?: { readonly uid: number; readonly gid: number }) => {
    const program = new Program(node, config, more, as)
    programs.push(program)
    return program
  }

  beforeEach(async () => {
    node = new Node({ devices: [disk('02', 2), disk('03', 3)] })
    config = join(node.root, 'plugin.yaml')
    writeFileSync(config, configText([DISK, '02:00.0']))
    await node.kubelet.start()
  })
  afterEach(async () => {
    for (const program of programs.splice(0)) {
      program.child.kill('SIGKILL')
      await program.ended()
    }
    await node.end()
    removeDirectories()
  })

  it('is killed, leaves its socket, and serves again when it is started again', async () => {
    const first = start()
    await node.kubelet.untilHealth(DISK, { '0000:02:00.0': true })
    first.child.kill('SIGKILL')
    await first.ended()
    await node.kubelet.until('it is gone', (kubelet) => !kubelet.listensTo(DISK))
    const { endpoint = '' } = node.kubelet.registrations[0] ?? {}
    assert.ok(existsSync(join(node.kubelet.directory, endpoint)), 'a crash leaves the socket')
    start()
    await node.kubelet.until('it listens again', (kubelet) => kubelet.listensTo(DISK))
    await node.kubelet.untilHealth(DISK, { '0000:02:00.0': true })
    assert.equal((await node.kubelet.allocate(DISK, ['0000:02:00.0'])).container_responses.length, 1)
  })

  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    it(`ends with 0 on ${signal}, after an empty list, and leaves no socket`, async () => {
      const program = start()
      await node.kubelet.untilHealth(DISK, { '0000:02:00.0': true })
      program.child.kill(signal)
      await node.kubelet.untilHealth(DISK, {})
      assert.deepEqual(await program.ended(), { code: 0, signal: null })
      assert.deepEqual(readdirSync(node.kubelet.directory), ['kubelet.sock'])
    })
  }

  it('reads its configuration anew on SIGHUP, and keeps the old one where the new one is bad', async () => {
    const program = start()
    await node.kubelet.untilHealth(DISK, { '0000:02:00.0': true })
    writeFileSync(config, configText([DATA, '03:00.0']))
    program.child.kill('SIGHUP')
    await node.kubelet.untilHealth(DATA, { '0000:03:00.0': true })
    await node.kubelet.untilHealth(DISK, {})
    writeFileSync(config, 'resources: [{ name: x }]\n')
    program.child.kill('SIGHUP')
    await program.until(/plugin\.yaml:1:13: resources\[0\] has no "consumer"/)
    await program.until(/the configuration stays what it was/)
    await node.kubelet.allocate(DATA, ['0000:03:00.0'])
  })

  it('serves metrics and its health', async () => {
    const program = start({ port: 0 })
    const [, port = ''] = await program.until(/served on port (\d+)/)
    await node.kubelet.untilHealth(DISK, { '0000:02:00.0': true })
    await node.kubelet.allocate(DISK, ['0000:02:00.0'])
    await assert.rejects(node.kubelet.allocate(DISK, ['0000:05:00.0']))
    const get = (path: string) => fetch(`http://127.0.0.1:${port}${path}`)
    const text = await (await get('/metrics')).text()
    for (const line of [
      'vfio_device_plugin_devices{resource="example.com/nvme",state="healthy"} 1',
      'vfio_device_plugin_devices{resource="example.com/nvme",state="unhealthy"} 0',
      'vfio_device_plugin_registered{resource="example.com/nvme"} 1',
      'vfio_device_plugin_registrations_total{resource="example.com/nvme"} 1',
      'vfio_device_plugin_allocations_total{resource="example.com/nvme"} 1',
      'vfio_device_plugin_allocation_failures_total{resource="example.com/nvme"} 1',
      'vfio_device_plugin_refused_groups 0',
    ])
      assert.ok(text.split('\n').includes(line), `${line}\nis not in\n${text}`)
    // Each line is a comment or a sample.
    for (const line of text.trimEnd().split('\n'))
      assert.match(line, /^(# (HELP|TYPE) [a-z_]+ .+|[a-z_]+(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? \d+)$/)
    assert.equal((await get('/healthz')).status, 200)
    assert.equal((await get('/livez')).status, 200)
    assert.equal((await get('/')).status, 404)
    // A host that cannot be looked at makes it unready, and is no reason to start it anew.
    rmSync(node.cdi, { recursive: true })
    symlinkSync('cdi', node.cdi)
    await node.kubelet.untilHealth(DISK, { '0000:02:00.0': false })
    assert.deepEqual([(await get('/healthz')).status, await (await get('/livez')).text()], [503, 'alive\n'])
  })

  it('ends where another one takes its place, and leaves that alone', async () => {
    const first = start()
    await node.kubelet.untilHealth(DISK, { '0000:02:00.0': true })
    start()
    await node.kubelet.until('both registered', ({ registrations }) => registrations.length === 2)
    assert.deepEqual(await first.ended(), { code: 1, signal: null })
    assert.match(first.said, /another plugin has taken the place of this one at /)
    assert.equal(node.kubelet.overlaps, 0)
    await node.kubelet.untilHealth(DISK, { '0000:02:00.0': true })
    await node.kubelet.allocate(DISK, ['0000:02:00.0'])
    // To the kubelet both are one resource: an empty list of the first would be the last word.
    assert.deepEqual(
      node.kubelet.lists(DISK).map((ids) => ids.length),
      [1, 1],
    )
  })

  it('says what is the matter where a kubelet registers it and its calls do not arrive', async () => {
    // As one up to 1.25: the path of the socket as the authority of each call.
    node.kubelet.authority = 'path'
    const program = start()
    await program.until(/the kubelet has registered it and does not call: .*:authority.*Kubernetes 1\.26/)
  })

  it('says why a kubelet does not register it, and goes on trying', async () => {
    node.kubelet.refusal = 'the resource is taken'
    const program = start()
    await program.until(/the kubelet did not register it: the resource is taken/)
    node.kubelet.refusal = null
    await node.kubelet.untilHealth(DISK, { '0000:02:00.0': true })
  })

  it('has sockets whose paths fit, however long the name of a resource is', async () => {
    const name = `${'a'.repeat(60)}.example.com/${'b'.repeat(63)}`
    writeFileSync(config, configText([name, '02:00.0']))
    start()
    await node.kubelet.untilHealth(name, { '0000:02:00.0': true })
  })

  it('needs no privilege but to put its sockets where the kubelet looks', async function () {
    if (process.getuid?.() !== 0) skip(this, 'only root can become somebody else')
    for (const path of [node.root, node.trees.sysfs.replace(/\/sys$/, '')]) chmodSync(path, 0o755)
    for (const path of [node.kubelet.directory, node.cdi]) chownSync(path, 65534, 65534)
    chmodSync(join(node.kubelet.directory, 'kubelet.sock'), 0o777)
    start({}, { uid: 65534, gid: 65534 })
    await node.kubelet.untilHealth(DISK, { '0000:02:00.0': true })
    await node.kubelet.allocate(DISK, ['0000:02:00.0'])
  })

  it('is no client of anybody: whoever calls what is not there is told so', async () => {
    start()
    await node.kubelet.untilHealth(DISK, { '0000:02:00.0': true })
    const { endpoint = '' } = node.kubelet.registrations[0] ?? {}
    const client = new (services().Registration)(
      `unix:${join(node.kubelet.directory, endpoint)}`,
      credentials.createInsecure(),
    )
    await assert.rejects(
      new Promise((resolve, reject) =>
        client.Register?.({}, (error: Error | null) => (error === null ? resolve(null) : reject(error))),
      ),
      /UNIMPLEMENTED/,
    )
    client.close()
  })
})

describe('the command line of the device plugin', () => {
  const BIN = join(ROOT, 'kubernetes/bin/vfio-device-plugin.js')
  let directory: string
  before(() => {
    directory = mkdtempSync(join(SCRATCH ?? tmpdir(), 'vfio-plugin-'))
  })
  after(() => rmSync(directory, { recursive: true }))

  const run = (...args: readonly string[]) =>
    spawnSync(process.execPath, [BIN, ...args], { encoding: 'utf8' })
  const written = (text: string) => {
    const path = join(directory, 'plugin.yaml')
    writeFileSync(path, text)
    return path
  }
  const ADDRESS = '0000:ff:1f.7'
  const NOBODY = configText([DISK, ADDRESS])

  const ANSWERS: Readonly<Record<string, readonly [args: () => string[], status: number, says: RegExp]>> = {
    'without a configuration': [() => [], 2, /--config FILE is missing/],
    'with a configuration that is not there': [
      () => ['--config', join(directory, 'none')],
      1,
      /cannot be read: ENOENT/,
    ],
    'with mistakes in it': [
      () => ['--config', written('resources: 1\n')],
      2,
      /plugin\.yaml:1:1: resources is 1, and has to be a list/,
    ],
    'with an unknown option': [() => ['--confg', 'x'], 2, /unknown option/],
    'with no port': [
      () => ['--config', written(NOBODY), '--port', '70000'],
      2,
      /a port is a number up to 65535/,
    ],
    'with --json alone': [() => ['--config', written(NOBODY), '--json'], 2, /--json goes with --dry-run/],
    'beside no kubelet': [
      () => ['--config', written(NOBODY), '--kubelet-dir', join(directory, 'none')],
      1,
      /is this a node of a cluster\?/,
    ],
    'with a dry run': [
      () => ['--config', written(NOBODY), '--dry-run'],
      0,
      /example\.com\/nvme for plain: no device on this host/,
    ],
    'with help': [() => ['--help'], 0, /--kubelet-dir/],
    'bind without a configuration': [() => ['bind'], 2, /--config FILE is missing/],
    'bind where there is nothing': [() => ['bind', '--config', written(NOBODY)], 0, /^$/],
    'bind with help': [() => ['bind', '--help'], 0, /--keep-going/],
  }
  for (const [name, [args, status, says]] of Object.entries(ANSWERS)) {
    it(`answers ${name} with ${status} and a sentence`, () => {
      const ended = run(...args())
      assert.equal(ended.status, status, ended.stderr)
      assert.match(ended.stdout + ended.stderr, says)
      assert.doesNotMatch(ended.stderr, /\n {4}at /)
    })
  }

  it('prints what would be offered as JSON', () => {
    const ended = run('--config', written(NOBODY), '--dry-run', '--json')
    assert.deepEqual(JSON.parse(ended.stdout), {
      resources: [{ name: DISK, consumer: 'plain', devices: [] }],
      refused: [],
    })
    assert.ok(present(ended.stdout).endsWith('\n'))
  })
})
