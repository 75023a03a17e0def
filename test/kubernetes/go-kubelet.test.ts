import assert from 'node:assert/strict'
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { removeDirectories } from '../fixtures/host.js'
import { skip } from '../fixtures/skip.js'
import { GoKubelet } from './go-kubelet.js'
import { card, configured, disk, Node } from './support.js'

const GPU = 'example.com/gpu'
const DISK = 'example.com/nvme'
const GPUS = { name: GPU, select: { class: 'vga' } }
const DISKS = { name: DISK, consumer: 'plain', select: { class: 'nvme' } }

describe('the device plugin and the gRPC of the kubelet', function () {
  this.timeout(120_000)
  let node: Node
  let kubelet: GoKubelet
  let program: string

  before(function () {
    // scripts/test/execute.ts says where it is.
    const { VFIO_GO_KUBELET: directory } = process.env
    if (!directory) skip(this, 'the cache has no go-kubelet: `npm test -- soak:go-kubelet` builds it')
    program = join(directory, 'go-kubelet')
  })
  beforeEach(() => {
    node = new Node({ devices: [...card('01', 1, { numaNode: 1 }), disk('02', 2), disk('03', 3)] })
    kubelet = new GoKubelet(program, node.root)
  })
  afterEach(async () => {
    await node.end()
    await kubelet.stop()
    removeDirectories()
  })

  it('registers, says what it can do, and lists its devices', async () => {
    await kubelet.start()
    await node.start(configured(GPUS))
    const { value } = await kubelet.next('registered')
    assert.deepEqual((value as { resource_name: string }).resource_name, GPU)
    assert.deepEqual((await kubelet.next('options')).value, { get_preferred_allocation_available: true })
    assert.deepEqual(await kubelet.untilHealth({ '0000:01:00.0': true }), [
      { ID: '0000:01:00.0', health: 'Healthy', topology: { nodes: [{ ID: 1 }] } },
    ])
  })

  it('allocates, prefers, and makes containers ready', async () => {
    await kubelet.start()
    await node.start(configured(DISKS))
    await kubelet.untilHealth({ '0000:02:00.0': true, '0000:03:00.0': true })
    const devices = ['0000:02:00.0']
    const allocated = await kubelet.ask({ call: 'allocate', resource: DISK, devices })
    const nodeOf = (path: string) => ({ container_path: path, host_path: path, permissions: 'rw' })
    assert.deepEqual(allocated.value, {
      container_responses: [
        {
          envs: { PCI_RESOURCE_EXAMPLE_COM_NVME: '0000:02:00.0' },
          devices: ['/dev/vfio/vfio', '/dev/vfio/2'].map(nodeOf),
        },
      ],
    })
    const preferred = await kubelet.ask({
      call: 'preferred',
      resource: DISK,
      devices: ['0000:02:00.0', '0000:03:00.0'],
      must: ['0000:03:00.0'],
      size: 1,
    })
    assert.deepEqual(preferred.value, { container_responses: [{ deviceIDs: ['0000:03:00.0'] }] })
    assert.deepEqual((await kubelet.ask({ call: 'start', resource: DISK, devices })).value, {})
  })

  it('refuses what it cannot give, and says why', async () => {
    await kubelet.start()
    await node.start(configured(DISKS))
    await kubelet.untilHealth({ '0000:02:00.0': true, '0000:03:00.0': true })
    const { error, code } = await kubelet.ask({ call: 'allocate', resource: DISK, devices: ['0000:09:00.0'] })
    assert.equal(code, 'FailedPrecondition')
    assert.match(error ?? '', /0000:09:00\.0 /)
  })

  it('tells of each change, and of nothing when it stops', async () => {
    await kubelet.start()
    const plugin = await node.start(configured(DISKS))
    await kubelet.untilHealth({ '0000:02:00.0': true, '0000:03:00.0': true })
    rmSync(join(node.trees.sysfs, 'bus/pci/devices/0000:02:00.0/driver'))
    node.tell('unbound', '0000:02:00.0')
    await kubelet.untilHealth({ '0000:02:00.0': false, '0000:03:00.0': true })
    await plugin.stop()
    await kubelet.untilHealth({})
    await kubelet.next('ended')
  })

  it('registers again with a kubelet that was killed and starts anew', async () => {
    await kubelet.start()
    await node.start(configured(DISKS))
    await kubelet.untilHealth({ '0000:02:00.0': true, '0000:03:00.0': true })
    await kubelet.stop()
    await kubelet.start()
    await kubelet.next('registered')
    await kubelet.untilHealth({ '0000:02:00.0': true, '0000:03:00.0': true })
  })

  it('says of a kubelet up to 1.25 that it is too old', async () => {
    await kubelet.start('path')
    const said = new Promise<void>((resolve) => {
      const log = (sentence: string) => /Kubernetes 1\.26 is needed/.test(sentence) && resolve()
      void node.start(configured(DISKS), { log })
    })
    const { error } = await kubelet.next('ended')
    assert.match(error ?? '', /PROTOCOL_ERROR/)
    await said
  })
})
