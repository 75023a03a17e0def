import assert from 'node:assert/strict'
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { HostDescription } from '../fixtures/host.js'
import { removeDirectories } from '../fixtures/host.js'
import { present } from '../unit/support.js'
import { card, configured, disk, Node, type Wanted } from './support.js'

const GPU = 'example.com/gpu'
const DISK = 'example.com/nvme'
const GPUS = { name: GPU, select: { class: 'vga' } }
const DISKS = { name: DISK, consumer: 'plain', select: { class: 'nvme' } }

describe('the device plugin and a kubelet', () => {
  let node: Node
  const on = async (host: HostDescription, ...resources: readonly Wanted[]) => {
    node = new Node(host)
    await node.kubelet.start()
    return node.start(configured(...resources))
  }
  afterEach(async () => {
    await node.end()
    removeDirectories()
  })

  it('registers each resource and lists whole groups by the address of their primary', async () => {
    await on({ devices: [...card('01', 1, { numaNode: 1 }), disk('02', 2)] }, GPUS, DISKS)
    await node.kubelet.untilHealth(GPU, { '0000:01:00.0': true })
    await node.kubelet.untilHealth(DISK, { '0000:02:00.0': true })
    assert.deepEqual(node.kubelet.devices(GPU), [
      { ID: '0000:01:00.0', health: 'Healthy', topology: { nodes: [{ ID: 1 }] } },
    ])
    assert.deepEqual(node.kubelet.devices(DISK), [{ ID: '0000:02:00.0', health: 'Healthy', topology: null }])
    await node.kubelet.until('it asked for options', ({ options }) => options.has(GPU))
    assert.deepEqual(node.kubelet.options.get(GPU), {
      pre_start_required: false,
      get_preferred_allocation_available: true,
    })
    assert.deepEqual(await node.kubelet.preStart(GPU, ['0000:01:00.0']), {})
  })

  it('gives KubeVirt one address for each device that was allocated, and the nodes of its group', async () => {
    const [video, ...others] = card('01', 1)
    const first = [{ ...present(video), vfioDevice: 'vfio0' }, ...others]
    await on({ devices: [...first, ...card('02', 2)] }, GPUS)
    await node.kubelet.untilHealth(GPU, { '0000:01:00.0': true, '0000:02:00.0': true })
    const { container_responses } = await node.kubelet.allocate(GPU, ['0000:01:00.0', '0000:02:00.0'])
    const node_ = (path: string) => ({ container_path: path, host_path: path, permissions: 'rw' })
    assert.deepEqual(container_responses, [
      {
        envs: { PCI_RESOURCE_EXAMPLE_COM_GPU: '0000:01:00.0,0000:02:00.0' },
        mounts: [],
        devices: ['/dev/vfio/vfio', '/dev/vfio/1', '/dev/vfio/devices/vfio0', '/dev/vfio/2'].map(node_),
        annotations: {},
        cdi_devices: [],
      },
    ])
  })

  it('gives Kata CDI devices, whose specification has the kind and the names that Kata asks for', async () => {
    await on({ devices: [...card('01', 1)] }, { ...GPUS, consumer: 'kata' })
    await node.kubelet.untilHealth(GPU, { '0000:01:00.0': true })
    const { container_responses } = await node.kubelet.allocate(GPU, ['0000:01:00.0'])
    assert.deepEqual(container_responses[0]?.cdi_devices, [{ name: 'example.com/gpu=0000:01:00.0' }])
    assert.deepEqual(container_responses[0]?.devices, [])
    const [file = ''] = readdirSync(node.cdi)
    const written = JSON.parse(readFileSync(join(node.cdi, file), 'utf8'))
    assert.equal(written.kind, GPU)
    assert.deepEqual(
      written.devices.map(({ name }: { name: string }) => name),
      ['0000:01:00.0'],
    )
  })

  it('tells at once of a driver that took a device back, and of one that is bound again', async () => {
    await on({ devices: [disk('02', 2)] }, DISKS)
    await node.kubelet.untilHealth(DISK, { '0000:02:00.0': true })
    const link = join(node.trees.sysfs, 'bus/pci/devices/0000:02:00.0/driver')
    rmSync(link)
    node.tell('unbound', '0000:02:00.0')
    await node.kubelet.untilHealth(DISK, { '0000:02:00.0': false })
    assert.match(node.log.join('\n'), /nvme: 0000:02:00\.0 is unhealthy: .*bound to vfio-pci/)
  })

  it('tells at once of a node that is gone, without a message of the kernel', async () => {
    await on({ devices: [disk('02', 2)] }, DISKS)
    await node.kubelet.untilHealth(DISK, { '0000:02:00.0': true })
    rmSync(join(node.trees.dev, 'vfio/2'))
    await node.kubelet.untilHealth(DISK, { '0000:02:00.0': false })
    writeFileSync(join(node.trees.dev, 'vfio/2'), '')
    await node.kubelet.untilHealth(DISK, { '0000:02:00.0': true })
  })

  it('takes a device that was unplugged off the list', async () => {
    await on({ devices: [disk('02', 2), disk('03', 3)] }, DISKS)
    await node.kubelet.untilHealth(DISK, { '0000:02:00.0': true, '0000:03:00.0': true })
    rmSync(join(node.trees.sysfs, 'bus/pci/devices/0000:02:00.0'))
    rmSync(join(node.trees.sysfs, 'kernel/iommu_groups/2'), { recursive: true })
    node.tell('removed', '0000:02:00.0')
    await node.kubelet.untilHealth(DISK, { '0000:03:00.0': true })
    await assert.rejects(node.kubelet.allocate(DISK, ['0000:02:00.0']), /0000:02:00\.0 .*(any more|gone)/)
  })

  it('registers again with a kubelet that was restarted', async () => {
    await on({ devices: [disk('02', 2)] }, DISKS)
    await node.kubelet.untilHealth(DISK, { '0000:02:00.0': true })
    node.kubelet.stop()
    await node.kubelet.start()
    await node.kubelet.untilHealth(DISK, { '0000:02:00.0': true })
    assert.equal(node.kubelet.registrations.length, 2)
  })

  it('waits for a kubelet that comes later', async () => {
    node = new Node({ devices: [disk('02', 2)] })
    await node.start(configured(DISKS))
    await node.kubelet.start()
    await node.kubelet.untilHealth(DISK, { '0000:02:00.0': true })
  })

  it('makes its socket anew where somebody deleted it', async () => {
    await on({ devices: [disk('02', 2)] }, DISKS)
    await node.kubelet.untilHealth(DISK, { '0000:02:00.0': true })
    const { endpoint = '' } = node.kubelet.registrations[0] ?? {}
    rmSync(join(node.kubelet.directory, endpoint))
    await node.kubelet.until('it registered twice', ({ registrations }) => registrations.length === 2)
    await node.kubelet.untilHealth(DISK, { '0000:02:00.0': true })
    assert.ok(existsSync(join(node.kubelet.directory, endpoint)))
  })

  it('tells of nothing when it stops, and leaves no socket', async () => {
    const plugin = await on({ devices: [disk('02', 2)] }, DISKS)
    await node.kubelet.untilHealth(DISK, { '0000:02:00.0': true })
    await plugin.stop()
    await node.kubelet.untilHealth(DISK, {})
    assert.deepEqual(readdirSync(node.kubelet.directory), ['kubelet.sock'])
  })
})
