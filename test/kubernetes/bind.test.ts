import assert from 'node:assert/strict'
import { readdirSync } from 'node:fs'
import { Host, release } from 'vfio'
import { bindGroups } from '../../kubernetes/src/bind.js'
import { offer } from '../../kubernetes/src/offer.js'
import { type HostDescription, type HostTrees, removeDirectories } from '../fixtures/host.js'
import { journalOf, photographOf } from '../unit/assign-hosts.js'
import { makeKernelHost, SimulatedKernel } from '../unit/assign-kernel.js'
import { card, configured, disk } from './support.js'

const FILES = { files: { enable: '0\n' } }
const DISKS = { name: 'example.com/nvme', select: { class: 'nvme' } }
const GPUS = { name: 'example.com/gpu', select: { class: 'vga' } }
/** Two disks and a card, all with the host. */
const HOST: HostDescription = {
  devices: [
    disk('02', 2, { driver: 'nvme', ...FILES }),
    disk('03', 3, { driver: 'nvme', ...FILES }),
    ...card('04', 4, { driver: 'nouveau', ...FILES }),
  ],
}

describe('what binds what the device plugin offers', () => {
  let trees: HostTrees
  let kernel: SimulatedKernel
  const on = (host: HostDescription, faults?: ConstructorParameters<typeof SimulatedKernel>[1]) => {
    trees = makeKernelHost(host)
    kernel = new SimulatedKernel(trees, faults)
  }
  const bind = (config: ReturnType<typeof configured>, more: { dryRun?: boolean } = {}) => {
    const options = { journal: journalOf(trees), kernel, ...more }
    return bindGroups(new Host(trees), config, options)
  }
  afterEach(removeDirectories)

  it('binds each group as a whole, with a record of what was before', async () => {
    on(HOST)
    const bound = await bind(configured(GPUS))
    assert.deepEqual(
      bound.map(({ resources, functions, reason }) => ({ resources, functions, reason })),
      [{ resources: ['example.com/gpu'], functions: ['0000:04:00.0', '0000:04:00.1'], reason: null }],
    )
    const seen = new Host(trees).snapshot()
    assert.deepEqual(
      seen.devices.map(({ driver }) => driver),
      ['nvme', 'nvme', 'vfio-pci', 'vfio-pci'],
    )
    assert.equal(readdirSync(journalOf(trees)).filter((name) => name.endsWith('.json')).length, 1)
    const options = { journal: journalOf(trees), kernel }
    await release('all', options)
    assert.deepEqual(
      new Host(trees).snapshot().devices.map(({ driver }) => driver),
      ['nvme', 'nvme', 'nouveau', 'nouveau'],
    )
  })

  it('lets one that fails take no other along', async () => {
    on(HOST, { at: (_index, { path }) => (path.includes('0000:02:00.0') ? 'refuse' : null) })
    const bound = await bind(configured(DISKS))
    assert.deepEqual(
      bound.map(({ functions, reason }) => [functions[0], reason === null]),
      [
        ['0000:02:00.0', false],
        ['0000:03:00.0', true],
      ],
    )
    assert.match(bound[0]?.reason ?? '', /everything was put back/)
  })

  it('changes nothing the second time, also where a container has the device open', async () => {
    on(HOST)
    await bind(configured(DISKS))
    const calls = kernel.calls.length
    const bound = await bind(configured(DISKS))
    assert.deepEqual(
      bound.map(({ reason, steps }) => [reason, steps.length]),
      [
        [null, 0],
        [null, 0],
      ],
    )
    assert.equal(kernel.calls.length, calls)
    on({ devices: [disk('02', 2, { files: { enable: '1\n' } })], processes: false })
    assert.deepEqual(
      (await bind(configured(DISKS))).map(({ reason }) => reason),
      [null],
    )
  })

  it('binds nothing that two resources want', async () => {
    on(HOST)
    const bound = await bind(configured(GPUS, { name: 'example.com/sound', select: { class: 'audio' } }))
    assert.match(bound[0]?.reason ?? '', /is split over/)
    assert.deepEqual(kernel.calls, [])
  })

  it('binds nothing that the plugin would not offer then', async () => {
    for (const [resources, why] of [
      [
        [{ ...GPUS, primary: { class: 'nvme' } }],
        /no function of group 4 .* is what "primary" of .*gpu says/,
      ],
      [[{ ...GPUS, primary: { driver: 'nouveau' } }], /no function of group 4/],
      [[{ ...GPUS, primary: { ids: ['10de:2204', '10de:1aef'] } }], /are both what "primary"/],
      // Once it is bound it is what the other one selects.
      [[GPUS, { name: 'example.com/all', select: { driver: 'vfio-pci' } }], /and one device cannot be two/],
    ] as const) {
      on(HOST)
      const config = configured(...resources)
      const [bound] = await bind(config)
      assert.match(bound?.reason ?? '', why)
      assert.deepEqual(kernel.calls, [])
    }
    // And this one it does.
    on(HOST)
    const config = configured({ ...GPUS, primary: { driver: 'vfio-pci', class: 'vga' } })
    assert.equal((await bind(config))[0]?.reason, null)
    assert.equal(offer(new Host(trees).snapshot(), config).resources[0]?.devices.length, 1)
  })

  it('binds nothing by the driver that it would lose by that', async () => {
    on(HOST)
    const bound = await bind(configured({ name: 'example.com/nvme', select: { driver: 'nvme' } }))
    assert.match(bound[0]?.reason ?? '', /selected by its driver nvme.*select it by address, ids or class/)
    assert.deepEqual(kernel.calls, [])
  })

  it('does nothing in a dry run, and tells the steps', async () => {
    on(HOST)
    const before = photographOf(trees)
    const bound = await bind(configured(DISKS), { dryRun: true })
    assert.ok(bound.every(({ reason, steps }) => reason === null && steps.length > 0))
    assert.deepEqual(photographOf(trees), before)
  })

  it('leaves what the plugin offers: by class, by ids and by address what was selected stays selected', async () => {
    on(HOST)
    const config = configured(
      { name: 'example.com/a', select: { ids: '144d:a808', address: '02:00.0' } },
      { name: 'example.com/b', select: { address: '03:00.0' } },
      GPUS,
    )
    await bind(config)
    assert.deepEqual(
      offer(new Host(trees).snapshot(), config).resources.map(({ devices }) => devices.map(({ id }) => id)),
      [['0000:02:00.0'], ['0000:03:00.0'], ['0000:04:00.0']],
    )
  })
})
