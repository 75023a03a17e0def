import assert from 'node:assert/strict'
import fs, { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { syncBuiltinESMExports } from 'node:module'
import { createServer, type Server } from 'node:net'
import { join } from 'node:path'
import { socketPath } from '../../kubernetes/src/endpoint.js'
import { removeDirectories } from '../fixtures/host.js'
import { card, configured, disk, Node } from './support.js'

const GPU = 'example.com/gpu'
const A = '0000:01:00.0'
const select = { class: 'vga' }
const KATA = configured({ name: GPU, consumer: 'kata', select })

describe('what device plugins leave to each other', () => {
  let node: Node
  const servers: Server[] = []
  beforeEach(async () => {
    node = new Node({ devices: [...card('01', 1), disk('02', 2)] })
    await node.kubelet.start()
  })
  const remove = fs.rmSync
  afterEach(async () => {
    fs.rmSync = remove
    syncBuiltinESMExports()
    for (const server of servers.splice(0)) server.close()
    await node.end()
    removeDirectories()
  })

  /** The specification of a resource, and what serves it, or has served it until it was killed. */
  async function leftBehind(name: string, group: number, isServed: boolean): Promise<string> {
    const file = join(node.cdi, `vfio-device-plugin_${name.replace('/', '_')}.json`)
    writeFileSync(file, JSON.stringify({ kind: name, nodes: [`/dev/vfio/${group}`] }))
    const path = socketPath(node.kubelet.directory, name)
    if (isServed) {
      const server = createServer()
      await new Promise<void>((resolve) => server.listen(path, resolve))
      servers.push(server)
    } else writeFileSync(path, '')
    return file
  }

  it('sockets and files that are half made: every plugin has pid 1 in its container, and names of its own all the same', async () => {
    const others = [
      ...Array.from({ length: 40 }, (_, at) => join(node.kubelet.directory, `.vfio-${process.pid}.${at}`)),
      join(node.cdi, `.vfio-device-plugin_example.com_gpu.json.${process.pid}`),
    ]
    for (const path of others) writeFileSync(path, '')
    const plugin = await node.start(KATA)
    await node.kubelet.untilHealth(GPU, { [A]: true })
    await plugin.stop()
    assert.deepEqual(
      others.filter((path) => !existsSync(path)),
      [],
    )
    assert.equal(readdirSync(node.kubelet.directory).length, 41, 'nothing of its own stays')
  })

  it('a socket in the place of its own: whoever leaves does not delete it', async () => {
    const plugin = await node.start(KATA)
    await node.kubelet.untilHealth(GPU, { [A]: true })
    const path = socketPath(node.kubelet.directory, GPU)
    const stopping = plugin.stop()
    rmSync(path)
    const server = createServer()
    await new Promise<void>((resolve) => server.listen(path, resolve))
    servers.push(server)
    await stopping
    assert.ok(existsSync(path))
  })

  it('specifications for Kata: what nobody serves goes, though a crash has left its socket', async () => {
    const file = await leftBehind('example.com/former', 1, false)
    await node.start(configured({ name: GPU, select }))
    await node.kubelet.untilHealth(GPU, { [A]: true })
    assert.ok(!existsSync(file))
  })

  it('specifications for Kata: what nobody serves is no claim where it cannot be taken away', async () => {
    // As what is mounted read-only; root may do anything else.
    fs.rmSync = (path, options) => {
      if (String(path).startsWith(node.cdi)) throw Object.assign(new Error('EROFS'), { code: 'EROFS' })
      remove(path, options)
    }
    syncBuiltinESMExports()
    const files = [await leftBehind('example.com/former', 1, false), await leftBehind(GPU, 1, false)]
    await node.start(configured({ name: GPU, select }))
    await node.kubelet.untilHealth(GPU, { [A]: true })
    assert.match(node.log.join('\n'), /example\.com\/former: its specification for Kata stays: EROFS/)
    assert.ok(files.every((file) => existsSync(file)))
  })

  it('specifications for Kata: one that is served counts, until its plugin is gone', async () => {
    const file = await leftBehind('example.com/other', 1, true)
    await node.start(configured({ name: GPU, select }))
    await node.kubelet.untilHealth(GPU, { [A]: false })
    assert.ok(existsSync(file))
    await Promise.all(servers.splice(0).map((server) => new Promise((resolve) => server.close(resolve))))
    await node.kubelet.untilHealth(GPU, { [A]: true })
  })

  it('a specification that somebody deleted or changed: it is made anew before a container gets its devices', async () => {
    await node.start(KATA)
    await node.kubelet.untilHealth(GPU, { [A]: true })
    const [name = ''] = readdirSync(node.cdi)
    const file = join(node.cdi, name)
    for (const spoil of [() => rmSync(file), () => writeFileSync(file, '{}')]) {
      spoil()
      const allocated = node.kubelet.allocate(GPU, [A])
      await allocated
      assert.equal(JSON.parse(readFileSync(file, 'utf8')).devices[0].name, A)
    }
    // Where that cannot be, nobody gets what Kata would not find.
    rmSync(file)
    mkdirSync(join(file, 'in the way'), { recursive: true })
    await assert.rejects(node.kubelet.allocate(GPU, [A]), /Kata would not find/)
  })

  it('a specification keeps what was admitted, also while the kernel recovers it from an error', async () => {
    await node.start(KATA)
    await node.kubelet.untilHealth(GPU, { [A]: true })
    node.tell('error', A)
    await node.kubelet.untilHealth(GPU, { [A]: false })
    const [name = ''] = readdirSync(node.cdi)
    assert.equal(JSON.parse(readFileSync(join(node.cdi, name), 'utf8')).devices[0].name, A)
  })
})
