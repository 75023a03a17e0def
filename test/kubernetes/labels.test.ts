import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, watch } from 'node:fs'
import { join } from 'node:path'
import { removeDirectories, temporaryDirectory } from '../fixtures/host.js'
import { card, configured, disk, Node } from './support.js'

const LABELS = 'vfio.feature.node.kubernetes.io'
const CONFIG = configured(
  { name: 'example.com/gpu', select: { class: 'vga' } },
  { name: 'example.com/nvme', consumer: 'plain', select: { class: 'nvme' } },
)

describe('the labels that the device plugin keeps', function () {
  this.timeout(60_000)
  let node: Node
  let directory: string
  beforeEach(async () => {
    node = new Node({ devices: [...card('01', 1), disk('02', 2), disk('03', 3)] })
    directory = join(temporaryDirectory(), 'features.d')
    await node.kubelet.start()
  })
  afterEach(async () => {
    await node.end()
    removeDirectories()
  })

  const read = () =>
    readdirSync(directory).includes('vfio') ? readFileSync(join(directory, 'vfio'), 'utf8') : ''

  /** Waits for the file by what happens in its directory. */
  async function until(text: string): Promise<void> {
    const watcher = watch(directory)
    const signal = AbortSignal.timeout(50_000)
    try {
      while (read() !== text) await once(watcher, 'change', { signal })
    } finally {
      watcher.close()
    }
  }

  const text = (groups: number, gpus: number, disks: number) =>
    [`groups=${groups}`, 'iommu=intel-iommu', `example.com_gpu=${gpus}`, `example.com_nvme=${disks}`]
      .map((line) => `${LABELS}/${line}\n`)
      .join('')

  it('count what is offered, follow it, and go with the plugin', async () => {
    mkdirSync(directory)
    const plugin = await node.start(CONFIG, { featuresDirectory: directory })
    await until(text(3, 1, 2))
    rmSync(join(node.trees.sysfs, 'bus/pci/devices/0000:02:00.0/driver'))
    node.tell('unbound', '0000:02:00.0')
    await until(text(2, 1, 1))
    await plugin.stop()
    assert.deepEqual(readdirSync(directory), [])
  })

  it('are written again where somebody deleted them, and say nothing of a host that cannot be looked at', async () => {
    mkdirSync(directory)
    await node.start(CONFIG, { featuresDirectory: directory })
    await until(text(3, 1, 2))
    rmSync(join(directory, 'vfio'))
    node.tell('changed', '0000:02:00.0')
    await until(text(3, 1, 2))
    rmSync(node.cdi, { recursive: true })
    symlinkSync('cdi', node.cdi)
    node.tell('changed', '0000:02:00.0')
    await until('')
    rmSync(node.cdi)
    mkdirSync(node.cdi)
    node.tell('changed', '0000:02:00.0')
    await until(text(3, 1, 2))
  })

  it('are tried again where they cannot be written, which is said once and keeps nothing from being offered', async () => {
    await node.start(CONFIG, { featuresDirectory: directory })
    await node.kubelet.untilHealth('example.com/gpu', { '0000:01:00.0': true })
    const said = () => node.log.filter((line) => /the node gets no labels: there is no directory/.test(line))
    assert.equal(said().length, 1)
    mkdirSync(directory)
    node.tell('changed', '0000:02:00.0')
    await until(text(3, 1, 2))
    assert.equal(said().length, 1)
  })
})
