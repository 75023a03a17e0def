import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdirSync, readdirSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Plugin } from '../../kubernetes/src/plugin.js'
import { type HostDescription, removeDirectories } from '../fixtures/host.js'
import { present } from '../unit/support.js'
import { card, configured, disk, Node, type Wanted } from './support.js'

const GPU = 'example.com/gpu'
const DISK = 'example.com/nvme'
const GPUS = { name: GPU, select: { class: 'vga' } }
const DISKS = { name: DISK, consumer: 'plain', select: { class: 'nvme' } }

/** What people complain of in the plugins that there are, each as a host where it would come back. */
describe('what device plugins are complained of', () => {
  let node: Node
  const on = async (host: HostDescription, ...resources: readonly Wanted[]): Promise<Plugin> => {
    node = new Node(host)
    await node.kubelet.start()
    return node.start(configured(...resources))
  }
  afterEach(async () => {
    await node.end()
    removeDirectories()
  })

  it('only one device of a group is offered, and the last one wins: a group is one device, with all of it', async () => {
    // Two graphics cards in one group: two devices would be given to two containers, and the second could not open its own.
    const plugin = await on({ devices: [...card('01', 1), ...card('02', 1)] }, GPUS)
    await node.kubelet.untilHealth(GPU, { '0000:01:00.0': true })
    const [resource] = plugin.offer.resources
    assert.deepEqual(
      resource?.devices.map(({ id, functions }) => [id, functions]),
      [['0000:01:00.0', ['0000:01:00.0', '0000:01:00.1', '0000:02:00.0', '0000:02:00.1']]],
    )
  })

  it('companions are left unbound, so that the group is not viable: the device is unhealthy, and says which', async () => {
    const [video, sound] = card('01', 1)
    await on({ devices: [present(video), { ...present(sound), driver: 'snd_hda_intel' }] }, GPUS)
    await node.kubelet.untilHealth(GPU, { '0000:01:00.0': false })
    assert.match(node.log.join('\n'), /0000:01:00\.0 is unhealthy: .*0000:01:00\.1/)
    await assert.rejects(node.kubelet.allocate(GPU, ['0000:01:00.0']), /0000:01:00\.1/)
  })

  it('identical NVMe disks swap: each is chosen by its address', async () => {
    await on(
      { devices: [disk('02', 2), disk('03', 3)] },
      { name: 'example.com/scratch', select: { address: '03:00.0' } },
      { name: 'example.com/data', select: { address: '0000:02:00.0' } },
    )
    await node.kubelet.untilHealth('example.com/scratch', { '0000:03:00.0': true })
    await node.kubelet.untilHealth('example.com/data', { '0000:02:00.0': true })
    await assert.rejects(
      node.kubelet.allocate('example.com/data', ['0000:03:00.0']),
      /no device of example\.com\/data/,
    )
  })

  it('the capacity is 0 after a crash or a reboot: whatever sockets were left, it registers what there is', async () => {
    const plugin = await on({ devices: [disk('02', 2)] }, DISKS)
    await node.kubelet.untilHealth(DISK, { '0000:02:00.0': true })
    const { endpoint = '' } = node.kubelet.registrations[0] ?? {}
    await plugin.stop()
    // A crash leaves a socket that nobody listens at, and a draft of one.
    for (const name of [endpoint, '.vfio-1.0']) writeFileSync(join(node.kubelet.directory, name), '')
    await node.start(configured(DISKS))
    await node.kubelet.untilHealth(DISK, { '0000:02:00.0': true })
  })

  it('a device that is not there at the start never comes: it is offered when it is bound', async () => {
    await on({ devices: [disk('02', 2), disk('03', 3, { driver: 'nvme' })] }, DISKS)
    await node.kubelet.untilHealth(DISK, { '0000:02:00.0': true, '0000:03:00.0': false })
    const link = join(node.trees.sysfs, 'bus/pci/devices/0000:03:00.0/driver')
    rmSync(link)
    symlinkSync(join(node.trees.sysfs, 'bus/pci/drivers/vfio-pci'), link)
    writeFileSync(join(node.trees.dev, 'vfio/3'), '')
    node.tell('bound', '0000:03:00.0')
    await node.kubelet.untilHealth(DISK, { '0000:02:00.0': true, '0000:03:00.0': true })
  })

  it('health is never noticed: what the kernel says of a device counts until it says that it is over', async () => {
    await on({ devices: [...card('01', 1)] }, GPUS)
    await node.kubelet.untilHealth(GPU, { '0000:01:00.0': true })
    // Of any function of the group.
    node.tell('failed', '0000:01:00.1', '0000:01:00.1 did not recover from an error')
    await node.kubelet.untilHealth(GPU, { '0000:01:00.0': false })
    assert.match(node.log.join('\n'), /unhealthy: 0000:01:00\.1 did not recover from an error/)
    await assert.rejects(node.kubelet.allocate(GPU, ['0000:01:00.0']), /did not recover/)
    node.tell('recovered', '0000:01:00.1')
    await node.kubelet.untilHealth(GPU, { '0000:01:00.0': true })
  })

  it('health is never noticed: a device that somebody wants back is given to nobody else', async () => {
    await on({ devices: [disk('02', 2)] }, DISKS)
    await node.kubelet.untilHealth(DISK, { '0000:02:00.0': true })
    node.tell('release-requested', '0000:02:00.0')
    await node.kubelet.untilHealth(DISK, { '0000:02:00.0': false })
  })

  it('in use is unhealthy: it stays healthy, and the second container is refused with the reason', async () => {
    const open = disk('02', 2, { files: { enable: '1\n' } })
    const plugin = await on({ devices: [open, disk('03', 3)] }, DISKS)
    node.opens(40, 'vmm', '/dev/vfio/2')
    node.tell('changed', '0000:02:00.0')
    await node.kubelet.untilHealth(DISK, { '0000:02:00.0': true, '0000:03:00.0': true })
    await assert.rejects(
      node.kubelet.allocate(DISK, ['0000:02:00.0']),
      /0000:02:00\.0 of .* is in use: group 2 is open in vmm/,
    )
    await node.kubelet.allocate(DISK, ['0000:03:00.0'])
    assert.deepEqual(plugin.health().counts, [
      {
        resource: DISK,
        healthy: 2,
        unhealthy: 0,
        inUse: 1,
        listened: true,
        registrations: 1,
        allocations: 1,
        failures: 1,
      },
    ])
  })

  it('a device that its former driver left enabled is never given away in a pod: only who was seen counts', async () => {
    // In a container the plugin sees no process but its own; the kernel opens nothing twice.
    const left = disk('02', 2, { files: { enable: '1\n' } })
    const plugin = await on({ devices: [left], processes: false }, DISKS)
    await node.kubelet.untilHealth(DISK, { '0000:02:00.0': true })
    assert.match(plugin.offer.resources[0]?.devices[0]?.inUse ?? '', /open through VFIO/)
    assert.equal((await node.kubelet.allocate(DISK, ['0000:02:00.0'])).container_responses.length, 1)
  })

  it('a virtual function wants a token that KubeVirt does not give: it is unhealthy there', async () => {
    const pf = disk('02', 2, { totalVfs: 2 })
    const vf = disk('03', 3, { physfn: pf.address })
    const host = { devices: [pf, vf] }
    await on(host, { name: 'example.com/vf', select: { address: vf.address } })
    await node.kubelet.untilHealth('example.com/vf', { '0000:03:00.0': false })
    await assert.rejects(
      node.kubelet.allocate('example.com/vf', ['0000:03:00.0']),
      /must give a VF token, since its physical function 0000:02:00\.0 is bound to vfio-pci too/,
    )
  })

  it('a cdev is in sysfs without its node: no container is given a node that is not there', async () => {
    const nodes = { 'vfio/vfio': 0o666, 'vfio/1': 0o600 }
    const [video, sound] = card('01', 1)
    await on({ devices: [{ ...present(video), vfioDevice: 'vfio0' }, present(sound)], nodes }, GPUS)
    await node.kubelet.untilHealth(GPU, { '0000:01:00.0': true })
    const { container_responses } = await node.kubelet.allocate(GPU, ['0000:01:00.0'])
    assert.deepEqual(
      container_responses[0]?.devices.map(({ host_path }) => host_path),
      ['/dev/vfio/vfio', '/dev/vfio/1'],
    )
  })

  it('a group is bound and its node is not there: it is unhealthy', async () => {
    await on({ devices: [disk('02', 2)], nodes: { 'vfio/vfio': 0o666 } }, DISKS)
    await node.kubelet.untilHealth(DISK, { '0000:02:00.0': false })
    await assert.rejects(node.kubelet.allocate(DISK, ['0000:02:00.0']), /\/dev\/vfio\/2 is not there/)
  })

  it("an audio function takes the second graphics card's slot: one address for each device, its primary's", async () => {
    // By vendor and by address all four functions are selected, and the sound functions come first by bus.
    const [video, sound] = card('02', 2)
    const ids = { ids: ['10de:2204', '10de:1aef'] }
    await on(
      {
        devices: [
          ...card('01', 1),
          { ...present(sound), address: '0000:02:00.0' },
          { ...present(video), address: '0000:02:00.1' },
        ],
      },
      { name: GPU, select: ids, primary: { class: 'vga' } },
    )
    await node.kubelet.untilHealth(GPU, { '0000:01:00.0': true, '0000:02:00.1': true })
    const { container_responses } = await node.kubelet.allocate(GPU, ['0000:01:00.0', '0000:02:00.1'])
    assert.equal(container_responses[0]?.envs.PCI_RESOURCE_EXAMPLE_COM_GPU, '0000:01:00.0,0000:02:00.1')
  })

  it('one device is in two pools: neither offers it, and both say so', async () => {
    const plugin = await on({ devices: [disk('02', 2), disk('03', 3)] }, DISKS, {
      name: 'example.com/data',
      select: { address: '02:00.0' },
    })
    await node.kubelet.untilHealth(DISK, { '0000:03:00.0': true })
    await node.kubelet.untilHealth('example.com/data', {})
    assert.match(
      plugin.offer.refused[0]?.reason ?? '',
      /0000:02:00\.0 is selected by example\.com\/nvme and example\.com\/data/,
    )
    assert.match(node.log.join('\n'), /one device cannot be two/)
    await assert.rejects(
      node.kubelet.allocate('example.com/data', ['0000:02:00.0']),
      /one device cannot be two/,
    )
  })

  it('a group is split over two resources: neither offers it', async () => {
    const plugin = await on({ devices: card('01', 1) }, GPUS, {
      name: 'example.com/sound',
      select: { class: 'audio' },
    })
    await node.kubelet.untilHealth(GPU, {})
    await node.kubelet.untilHealth('example.com/sound', {})
    assert.match(
      plugin.offer.refused[0]?.reason ?? '',
      /group 1 is split over example\.com\/gpu and example\.com\/sound/,
    )
  })

  it('the plugin and DRA book it twice: what a specification of another hands out is not offered', async () => {
    await on({ devices: [disk('02', 2), disk('21', 21)] }, DISKS)
    await node.kubelet.untilHealth(DISK, { '0000:02:00.0': true, '0000:21:00.0': true })
    const file = join(node.cdi, 'k8s.vfio.example.com-claim.json')
    // Not /dev/vfio/2, with which it begins.
    writeFileSync(
      file,
      '{"kind":"k8s.example.com/claim","devices":[{"containerEdits":{"deviceNodes":[{"path":"\\/dev\\/vfio\\/21"}]}}]}',
    )
    await node.kubelet.untilHealth(DISK, { '0000:02:00.0': true, '0000:21:00.0': false })
    await assert.rejects(
      node.kubelet.allocate(DISK, ['0000:21:00.0']),
      /k8s\.vfio\.example\.com-claim\.json hands it/,
    )
    rmSync(file)
    await node.kubelet.untilHealth(DISK, { '0000:02:00.0': true, '0000:21:00.0': true })
  })

  it('what is no specification, and has the name of one: nothing waits for it, and what cannot be read may name any device', async () => {
    node = new Node({ devices: [disk('02', 2)] })
    await node.kubelet.start()
    // Engines look into no directory below theirs.
    mkdirSync(join(node.cdi, 'a.json'))
    await node.start(configured(DISKS))
    await node.kubelet.untilHealth(DISK, { '0000:02:00.0': true })
    for (const [name, make] of [
      ['fifo.json', (path: string) => assert.equal(spawnSync('mkfifo', [path]).status, 0)],
      [
        'large.yaml',
        (path: string) => {
          writeFileSync(path, '')
          truncateSync(path, 2 ** 24 + 1)
        },
      ],
    ] as const) {
      const path = join(node.cdi, name)
      make(path)
      await node.kubelet.untilHealth(DISK, { '0000:02:00.0': false })
      assert.match(node.log.join('\n'), new RegExp(`${name} cannot be read`))
      rmSync(path)
      await node.kubelet.untilHealth(DISK, { '0000:02:00.0': true })
    }
  })

  it('a device without an IOMMU is scheduled like any other: it is unhealthy', async () => {
    await on({ devices: [disk('02', 2)], groups: { 2: { noIommu: true } }, iommu: 'none' }, DISKS)
    await node.kubelet.untilHealth(DISK, { '0000:02:00.0': false })
  })

  it('a pod starts without its device: what is not viable any more is refused at the last moment, with the reason', async () => {
    await on({ devices: [disk('02', 2)] }, DISKS)
    await node.kubelet.untilHealth(DISK, { '0000:02:00.0': true })
    // No message of the kernel came: the look that is made for it sees it.
    rmSync(join(node.trees.sysfs, 'bus/pci/devices/0000:02:00.0/driver'))
    await assert.rejects(
      node.kubelet.allocate(DISK, ['0000:02:00.0']),
      /0000:02:00\.0 of example\.com\/nvme cannot be given/,
    )
    // And then all hear of it.
    await node.kubelet.untilHealth(DISK, { '0000:02:00.0': false })
  })

  it('a failed allocation is skipped over: of two containers none is given anything', async () => {
    await on({ devices: [disk('02', 2), disk('03', 3)] }, DISKS)
    await node.kubelet.untilHealth(DISK, { '0000:02:00.0': true, '0000:03:00.0': true })
    await assert.rejects(node.kubelet.allocate(DISK, ['0000:02:00.0'], ['0000:02:00.0']), /asked for twice/)
    await assert.rejects(node.kubelet.allocate(DISK, ['0000:02:00.0'], ['0000:09:00.0']), /0000:09:00\.0/)
  })

  it('Kata finds no device, because nobody could write its specification: it is unhealthy', async () => {
    node = new Node({ devices: [...card('01', 1)] })
    await node.kubelet.start()
    writeFileSync(join(node.root, 'file'), '')
    await node.start(configured({ ...GPUS, consumer: 'kata' }), {
      specifications: join(node.root, 'file/cdi'),
    })
    await node.kubelet.untilHealth(GPU, { '0000:01:00.0': false })
    assert.match(node.log.join('\n'), /Kata would not find it/)
  })

  it("what was Kata's before stays behind and counts as given: it goes with its resource", async () => {
    const plugin = await on({ devices: [...card('01', 1)] }, { ...GPUS, consumer: 'kata' })
    await node.kubelet.untilHealth(GPU, { '0000:01:00.0': true })
    await plugin.stop()
    // A pod that was admitted starts later.
    assert.equal(readdirSync(node.cdi).length, 1)
    const other = { name: 'example.com/card', select: GPUS.select }
    await node.start(configured(other))
    await node.kubelet.untilHealth('example.com/card', { '0000:01:00.0': true })
    assert.deepEqual(readdirSync(node.cdi), [])
  })

  it('a host that cannot be looked at is taken for an empty one: nothing is healthy then', async () => {
    const plugin = await on({ devices: [disk('02', 2)] }, DISKS)
    await node.kubelet.untilHealth(DISK, { '0000:02:00.0': true })
    rmSync(node.cdi, { recursive: true })
    // A directory that cannot be read: not by its mode, which root may ignore.
    symlinkSync('cdi', node.cdi)
    await node.kubelet.untilHealth(DISK, { '0000:02:00.0': false })
    assert.match(plugin.health().trouble ?? '', /cannot be looked at/)
    await assert.rejects(node.kubelet.allocate(DISK, ['0000:02:00.0']), /ELOOP/)
  })
})
