import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import {
  assess,
  exportInventory,
  exportKubevirt,
  exportNodeFeatures,
  Host,
  type HostFacts,
  type Inventory,
  type Snapshot,
  VfioError,
  writeNodeFeatures,
} from 'vfio'
import type { DeviceDescription } from '../fixtures/host.js'
import { makeHost, removeDirectories, temporaryDirectory } from '../fixtures/host.js'
import { describeLargeHost } from '../fixtures/large-host.js'
import { vfio } from './in-process.js'
import { present, ROOT, see } from './support.js'

const GPU = { vendor: 0x10de, device: 0x2204, subsystem: [0x1043, 0x87b5], class: 0x030000 } as const
const DEVICES: readonly DeviceDescription[] = [
  {
    address: '0000:00:01.0',
    class: 0x060400,
    headerType: 'bridge',
    secondaryBus: 1,
    group: 1,
    driver: 'pcieport',
  },
  { address: '0000:01:00.0', ...GPU, driver: 'vfio-pci', group: 1, numaNode: 1, multifunction: true },
  { address: '0000:01:00.1', vendor: 0x10de, device: 0x1aef, class: 0x040300, driver: 'vfio-pci', group: 1 },
  { address: '0000:00:03.0', vendor: 0x144d, device: 0xa808, class: 0x010802, driver: 'nvme', group: 6 },
  { address: '0000:00:0e.0', class: 0x010400, driver: 'vmd', group: 7 },
  { address: '10000:e1:00.0', behind: '0000:00:0e.0', class: 0x010802, group: 7, driver: 'nvme' },
  { address: '0000:00:1f.0', class: 0x060100, group: 8 },
]

/** The same look at a host with other facts. */
const withIommu = (seen: Snapshot, iommu: Partial<HostFacts['iommu']>): Snapshot =>
  (seen as Snapshot & { with(news: object): Snapshot }).with({
    host: { ...seen.host, iommu: { ...seen.host.iommu, ...iommu } },
  })

const isCode = (code: string, words: RegExp) => (error: unknown) =>
  error instanceof VfioError && error.code === code && words.test(error.message)

describe('inventory', function () {
  this.timeout(60_000)
  let seen: Snapshot
  let sysfs: string
  let all: Inventory
  before(() => {
    const host = makeHost({ devices: DEVICES })
    sysfs = host.sysfs
    seen = see({ devices: DEVICES })
    all = exportInventory(seen)
  })
  after(removeDirectories)

  const of = (address: string) => present(all.devices.find((device) => device.address === address))

  it('has the verdicts of assess(), and numbers and places beside them', () => {
    for (const device of all.devices) {
      const { verdict, reason, reset } = assess(seen, device.address)
      assert.deepEqual([device.verdict, device.reason, device.resetScope], [verdict, reason, reset.scope])
    }
    const { parent, numaNode, bound, bridge, ids, class: code } = of('0000:01:00.0')
    assert.deepEqual(
      { parent, numaNode, bound, bridge, ids, code },
      { parent: '0000:00:01.0', numaNode: 1, bound: true, bridge: false, ids: '10de:2204', code: 0x030000 },
    )
    assert.equal(of('0000:00:01.0').bridge, true)
  })

  it('names attributes as Dynamic Resource Allocation does, by where the devices hang', () => {
    assert.deepEqual(of('0000:01:00.0').attributes, {
      'resource.kubernetes.io/pciBusID': '0000:01:00.0',
      'resource.kubernetes.io/pcieRoot': 'pci0000:00',
      vendor: '10de',
      device: '2204',
      subsystemVendor: '1043',
      subsystemDevice: '87b5',
      class: '0300',
      driver: 'vfio-pci',
      numaNode: 1,
      iommuGroup: 1,
      verdict: 'ready',
    })
    const behind = of('10000:e1:00.0').attributes
    assert.equal(behind['resource.kubernetes.io/pcieRoot'], 'pci0000:00')
  })

  it('leaves out the root complex of what was looked at without its path, instead of guessing', () => {
    const seenBriefly = new Host(makeHost({ devices: DEVICES })).snapshot({ brief: true })
    for (const { attributes } of exportInventory(seenBriefly).devices)
      assert.ok(!('resource.kubernetes.io/pcieRoot' in attributes))
  })

  it('has only attributes that a ResourceSlice takes', () => {
    for (const { attributes } of exportInventory(see({ devices: describeLargeHost(60) })).devices)
      for (const [name, value] of Object.entries(attributes)) {
        const [id = '', domain] = name.split('/').reverse()
        assert.match(id, /^[A-Za-z_][A-Za-z0-9_]{0,31}$/)
        assert.ok(domain === undefined || domain === 'resource.kubernetes.io')
        assert.ok(typeof value !== 'string' || (value.length > 0 && value.length <= 64), `${name}: ${value}`)
        assert.ok(typeof value !== 'number' || Number.isSafeInteger(value))
      }
  })

  it('gives a group the best verdict of its functions, bridges aside', () => {
    const verdicts = all.groups.map(({ group, verdict }) => [group, verdict])
    assert.deepEqual(verdicts.slice(0, 2), [
      [1, 'ready'],
      [6, 'bindable'],
    ])
    const bridges = see({
      devices: [{ address: '0000:00:01.0', headerType: 'bridge', secondaryBus: 1, group: 3 }],
    })
    assert.equal(exportInventory(bridges).groups[0]?.verdict, null)
  })

  it('says that it does not know of an IOMMU, in place of none', () => {
    const none = see({ iommu: 'none', devices: [{ address: '0000:00:03.0' }] })
    const of = (known: boolean) => exportInventory(withIommu(none, { known })).host.iommu.present
    assert.deepEqual([of(true), of(false)], [false, null])
  })

  it('is printed as JSON, and for a person as one line for each kind of device', async () => {
    const { status, stdout } = await vfio(['inventory', '--json', '--sysfs', sysfs])
    assert.equal(status, 0)
    const printed: Inventory = JSON.parse(stdout)
    assert.deepEqual(
      printed.devices.map(({ address }) => address),
      all.devices.map(({ address }) => address),
    )
    const text = (await vfio(['inventory', '--sysfs', sysfs])).stdout
    assert.match(text, /^ +1 +1 +0 +0 +0 1 +VGA +10de:2204 /m)
    assert.match(text, /1 ready, \d bindable, \d blocked/)
    assert.doesNotMatch(text, /0604|Bridge/)
  })
})

describe('the labels of a node', function () {
  this.timeout(60_000)
  after(removeDirectories)
  const LABEL = /^(?:[a-z0-9.-]+\/)([A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)$/
  const VALUE = /^[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$/

  it('count groups that can be opened, and say which IOMMU there is', () => {
    const seen = see({ devices: DEVICES })
    assert.equal(
      exportNodeFeatures(seen, { resources: { 'example.com/gpu': 2, 'example.com/nvme': 0 } }).text,
      'vfio.feature.node.kubernetes.io/groups=1\n' +
        'vfio.feature.node.kubernetes.io/iommu=intel-iommu\n' +
        'vfio.feature.node.kubernetes.io/example.com_gpu=2\n' +
        'vfio.feature.node.kubernetes.io/example.com_nvme=0\n',
    )
  })

  it('say none where there is no IOMMU, and nothing where it is not known', () => {
    const seen = see({ iommu: 'none' })
    const of = (known: boolean) => exportNodeFeatures(withIommu(seen, { known })).labels
    assert.equal(of(true)['vfio.feature.node.kubernetes.io/iommu'], 'none')
    assert.ok(!('vfio.feature.node.kubernetes.io/iommu' in of(false)))
  })

  it('do not count groups that nothing protects the host from', () => {
    const host = { iommu: 'none', groups: { 0: { noIommu: true } } } as const
    const seen = see({ ...host, devices: [{ address: '0000:00:03.0', driver: 'vfio-pci', group: 0 }] })
    assert.equal(exportNodeFeatures(seen).labels['vfio.feature.node.kubernetes.io/groups'], '0')
  })

  it('are labels whatever units and resources are called, and two names stay two', () => {
    const seen = see({ devices: DEVICES })
    const long = (end: string) => `${'a'.repeat(60)}.example.com/${'b'.repeat(60)}${end}`
    const units = [{ name: 'x', kind: '_ünit (of a long name)_'.repeat(4), address: null }]
    const odd = withIommu(seen, { units })
    const { labels } = exportNodeFeatures(odd, { resources: { [long('1')]: 1, [long('2')]: 2 } })
    assert.equal(Object.keys(labels).length, 4)
    for (const [name, value] of Object.entries(labels)) {
      assert.match(name, LABEL)
      assert.match(value, VALUE)
    }
  })

  it('refuse what is no resource, and no count', () => {
    const seen = see({ devices: DEVICES })
    for (const [resources, words] of [
      [{ gpu: 1 }, /no domain/],
      [{ 'a/b/c': 1 }, /more than one slash/],
      [{ 'Example.com/gpu': 1 }, /domain is none/],
      [{ 'example.com/-gpu': 1 }, /behind the slash/],
      [{ 'kubernetes.io/gpu': 1 }, /of Kubernetes itself/],
      [{ 'x.kubernetes.io/gpu': 1 }, /of Kubernetes itself/],
      [{ 'mykubernetes.io/gpu': 1 }, /of Kubernetes itself/],
      [{ 'requests.example.com/gpu': 1 }, /quotas/],
      [{ 'example.com/gpu': -1 }, /whole number/],
      [{ 'example.com/gpu': 1.5 }, /whole number/],
    ] as const)
      assert.throws(() => exportNodeFeatures(seen, { resources }), isCode('ERR_VFIO_BAD_ARGUMENT', words))
  })

  it('are written whole, left alone where they say that already, and taken away', async () => {
    const directory = join(temporaryDirectory(), 'features.d')
    await assert.rejects(writeNodeFeatures('a=1\n', directory), isCode('ERR_VFIO_BAD_FILE', /mkdir -p/))
    assert.deepEqual(await writeNodeFeatures(null, directory), { path: `${directory}/vfio`, changed: false })
    mkdirSync(directory)
    const path = join(directory, 'vfio')
    const write = async (text: string | null) => (await writeNodeFeatures(text, `${directory}/`)).changed
    assert.equal(await write('a=1\n'), true)
    const first = statSync(path)
    assert.equal(first.mode & 0o777, 0o644)
    assert.equal(await write('a=1\n'), false)
    assert.equal(statSync(path).ino, first.ino)
    assert.equal(await write('a=2\n'), true)
    assert.notEqual(statSync(path).ino, first.ino)
    assert.deepEqual([readdirSync(directory), readFileSync(path, 'utf8')], [['vfio'], 'a=2\n'])
    assert.equal(await write(null), true)
    assert.deepEqual(readdirSync(directory), [])
    assert.equal(await write(null), false)
  })

  it('follow no link that stands in their place', async () => {
    const directory = temporaryDirectory()
    const elsewhere = join(temporaryDirectory(), 'file')
    writeFileSync(elsewhere, 'mine')
    symlinkSync(elsewhere, join(directory, 'vfio'))
    await assert.rejects(writeNodeFeatures('a=1\n', directory), isCode('ERR_VFIO_BAD_FILE', /symbolic link/))
    assert.equal(readFileSync(elsewhere, 'utf8'), 'mine')
  })

  it('are printed and written by vfio inventory --nfd', async () => {
    const { sysfs } = makeHost({ devices: DEVICES })
    const printed = await vfio(['inventory', '--nfd', '--sysfs', sysfs])
    assert.match(printed.stdout, /^vfio\.feature\.node\.kubernetes\.io\/groups=1\n/)
    const alone = await vfio(['inventory', '--write', '--sysfs', sysfs])
    assert.deepEqual([alone.status, alone.stdout], [2, ''])
    assert.match(alone.stderr, /--write is for the file of --nfd/)
    const directory = temporaryDirectory()
    // Writing takes the addon, which the package has.
    const args = [join(ROOT, 'dist/cli/main.js'), 'inventory', '--nfd', '--write', directory]
    const run = (...more: string[]) =>
      spawnSync(process.execPath, [...args, '--sysfs', sysfs, ...more], { encoding: 'utf8' })
    const written = run('--json')
    const { path, changed, text } = JSON.parse(written.stdout)
    assert.deepEqual([path, changed, text], [`${directory}/vfio`, true, printed.stdout])
    assert.equal(readFileSync(path, 'utf8'), printed.stdout)
    assert.deepEqual([run().status, run().stdout], [0, `${path} says that already\n`])
  })
})

describe('export kubevirt', function () {
  this.timeout(60_000)
  after(removeDirectories)
  let seen: Snapshot
  before(() => {
    seen = see({
      devices: [...DEVICES, { address: '0000:00:04.0', ...GPU, driver: 'vfio-pci', group: 9 }],
    })
  })
  const resource = 'example.com/gpu'

  it('is the part of the configuration for devices that another plugin offers', () => {
    const { text, permittedHostDevices, blockers } = exportKubevirt(seen, ['00:04.0'], { resource })
    assert.equal(
      text,
      'permittedHostDevices:\n' +
        '  pciHostDevices:\n' +
        '    - pciVendorSelector: "10DE:2204"\n' +
        '      resourceName: "example.com/gpu"\n' +
        '      externalResourceProvider: true\n',
    )
    const entry = { pciVendorSelector: '10DE:2204', resourceName: resource, externalResourceProvider: true }
    assert.deepEqual([permittedHostDevices, blockers], [{ pciHostDevices: [entry] }, []])
  })

  it('has each kind of device once, and of a group the function that a guest gets', () => {
    const { devices, permittedHostDevices, notes } = exportKubevirt(seen, ['01:00', '00:04.0'], { resource })
    assert.deepEqual(
      devices.map(({ address }) => address),
      ['0000:00:04.0', '0000:01:00.0'],
    )
    assert.equal(permittedHostDevices.pciHostDevices.length, 1)
    assert.ok(notes.some((note) => /gets 0000:01:00\.0 alone: 0000:01:00\.1/.test(note)))
    const audio = exportKubevirt(seen, ['01:00.1'], { resource })
    assert.equal(audio.permittedHostDevices.pciHostDevices[0]?.pciVendorSelector, '10DE:1AEF')
  })

  it('says what has to happen before, and what can never be', () => {
    assert.match(exportKubevirt(seen, ['00:03.0'], { resource }).notes.join(), /vfio bind 0000:00:03\.0/)
    const denied = see({ devices: [{ address: '0000:00:05.0', vendor: 0x8086, device: 0x37c8, group: 8 }] })
    assert.match(exportKubevirt(denied, ['00:05.0'], { resource }).blockers.join(), /denylist/)
  })

  it('refuses what KubeVirt has no place for', () => {
    const refuses = (addresses: readonly string[], name: string | undefined, words: RegExp) =>
      assert.throws(
        () => exportKubevirt(seen, addresses, { resource: name }),
        isCode('ERR_VFIO_BAD_ARGUMENT', words),
      )
    refuses(['00:04.0'], undefined, /--resource/)
    refuses(['00:04.0'], 'gpu', /no domain/)
    refuses(['00:01.0'], resource, /bridge/)
    refuses([], resource, /no device is named/)
    const uuid = '83b8f4f2-509f-382f-3c1e-e6bfe0fa1001'
    const type = { id: 'mtty-1', available: 1, deviceApi: 'vfio-pci' }
    const mediated = see({
      mdev: [{ name: 'mtty', types: [type], devices: [{ uuid, type: 'mtty-1', group: 9 }] }],
    })
    assert.throws(
      () => exportKubevirt(mediated, [uuid], { resource }),
      isCode('ERR_VFIO_BAD_ARGUMENT', /mediatedDevices/),
    )
  })

  it('takes the options that mean something to it alone', async () => {
    const { sysfs } = makeHost({ devices: DEVICES })
    const at = ['01:00.0', '--sysfs', sysfs]
    const good = await vfio(['export', 'kubevirt', ...at, '--resource', resource])
    assert.equal(good.status, 0)
    assert.match(good.stdout, /^permittedHostDevices:\n/)
    const json = await vfio(['export', 'kubevirt', ...at, '--resource', resource, '--json'])
    assert.equal(JSON.parse(json.stdout).text, good.stdout)
    for (const [format, ...options] of [
      ['kubevirt', '--resource', resource, '--iommufd'],
      ['kubevirt', '--resource', resource, '--guest-address', '05:00.0'],
      ['kubevirt', '--resource', resource, '--memory', '4G'],
      ['kubevirt', '--resource', resource, '--managed', 'no'],
      ['kubevirt'],
      ['qemu', '--resource', resource],
      ['libvirt', '--memory', '4G'],
      ['cloud-hypervisor', '--machine', 'q35'],
      ['cloud-hypervisor', '--zpci', '1'],
    ]) {
      const { status, stdout, stderr } = await vfio(['export', format ?? '', ...at, ...options])
      assert.deepEqual([status, stdout], [2, ''], options.join(' '))
      assert.match(stderr, /means nothing to|--resource/)
    }
  })
})
