import assert from 'node:assert/strict'
import { Ajv2020 } from 'ajv/dist/2020.js'
import fc from 'fast-check'
import { type CdiExport, type CdiOptions, exportCdi, type Snapshot, VfioError } from 'vfio'
import { cdiFile } from '../../lib/export/cdi-kind.js'
import { type HostDescription, READY_MODULES, removeDirectories } from '../fixtures/host.js'
import { present, see } from './support.js'

const UUID = '6f0a3c1e-3a46-4b8f-8b6f-0d9f3c2b7a11'

const HOST: HostDescription = {
  modules: { ...READY_MODULES, iommufd: { state: 'loaded' } },
  devices: [
    { address: '0000:00:01.0', headerType: 'bridge', secondaryBus: 0x59, driver: 'pcieport', group: 5 },
    { address: '0000:00:03.0', driver: 'nvme', group: 6 },
    { address: '0000:00:04.0', driver: 'vfio-pci', group: 7, vfioDevice: 'vfio3' },
    { address: '0000:59:00.0', driver: 'vfio-pci', group: 5, multifunction: true, vfioDevice: 'vfio0' },
    { address: '0000:59:00.1', driver: 'vfio-pci', group: 5, vfioDevice: 'vfio1' },
    // Nobody drives it: it is in nobody's way, and cannot be opened.
    { address: '0000:59:00.2', group: 5 },
    { address: '0000:61:00.0', driver: 'vfio-pci', group: 11 },
    { address: '0000:61:00.1', driver: 'snd_hda_intel', group: 11 },
    { address: '0000:62:00.0', driver: 'vfio-pci', group: 12, totalVfs: 4 },
    { address: '0000:62:10.0', driver: 'vfio-pci', group: 13, physfn: '0000:62:00.0', vfioDevice: 'vfio9' },
    { address: '0000:63:00.0', driver: 'i915', group: 14 },
  ],
  mdev: [
    {
      name: '0000:63:00.0',
      types: [{ id: 'i915-GVTg_V5_4', available: 1 }],
      devices: [{ uuid: UUID, type: 'i915-GVTg_V5_4', group: 15, driver: 'vfio_mdev', vfioDevice: 'vfio7' }],
    },
  ],
  nodes: Object.fromEntries(
    [
      ...['vfio/vfio', 'iommu', 'vfio/5', 'vfio/7', 'vfio/11', 'vfio/12', 'vfio/13', 'vfio/15'],
      ...[0, 1, 3, 7, 9].map((number) => `vfio/devices/vfio${number}`),
    ].map((name) => [name, 0o600]),
  ),
}

const isCode =
  (code: string, words = /./) =>
  (error: unknown) =>
    error instanceof VfioError && error.code === code && words.test(error.message)

/** What CDI 0.5.0 has, of which this writes a part; readers are strict, and refuse a file with anything else. */
const EDITS = {
  type: 'object',
  additionalProperties: false,
  properties: {
    env: { type: 'array', minItems: 1, items: { type: 'string', pattern: '^[^=]+=' } },
    deviceNodes: {
      type: 'array',
      minItems: 1,
      items: {
        type: 'object',
        additionalProperties: false,
        required: ['path'],
        properties: {
          path: { type: 'string', pattern: '^/dev/' },
          permissions: { type: 'string', pattern: '^[rwm]+$' },
        },
      },
    },
  },
}
const SCHEMA = {
  type: 'object',
  additionalProperties: false,
  required: ['cdiVersion', 'kind', 'devices'],
  properties: {
    cdiVersion: { const: '0.5.0' },
    kind: {
      type: 'string',
      pattern: '^[A-Za-z][A-Za-z0-9_.-]*[A-Za-z0-9]/[A-Za-z][A-Za-z0-9_-]*[A-Za-z0-9]$',
    },
    devices: {
      type: 'array',
      minItems: 1,
      items: {
        type: 'object',
        additionalProperties: false,
        required: ['name', 'containerEdits'],
        properties: {
          name: { type: 'string', pattern: '^[A-Za-z0-9][A-Za-z0-9_.:-]*[A-Za-z0-9]$' },
          containerEdits: { ...EDITS, minProperties: 1 },
        },
      },
    },
    containerEdits: EDITS,
  },
}
const isValid = new Ajv2020({ allErrors: true }).compile(SCHEMA)

/** As a runtime reads it, which looks at the text. */
function asRead({ text }: CdiExport): { devices: { name: string }[] } {
  const value: unknown = JSON.parse(text)
  assert.ok(isValid(value), JSON.stringify(isValid.errors))
  const { devices } = value as { devices: { name: string }[] }
  assert.equal(new Set(devices.map(({ name }) => name)).size, devices.length)
  return value as { devices: { name: string }[] }
}

describe('CDI', () => {
  let seen: Snapshot
  before(() => {
    seen = see(HOST)
  })
  after(removeDirectories)

  const exported = (addresses: readonly string[], options?: CdiOptions) => {
    const made = exportCdi(seen, addresses, options)
    assert.deepEqual(asRead(made), made.specification)
    return made
  }
  const nodes = ({ specification }: CdiExport) => ({
    shared: (specification.containerEdits?.deviceNodes ?? []).map(({ path }) => path),
    own: specification.devices.map(({ containerEdits }) =>
      (containerEdits.deviceNodes ?? []).map(({ path }) => path),
    ),
  })

  it('gives a whole group by its one node, and names all that is in it', () => {
    const made = exported(['59:00.1'])
    assert.deepEqual(made.specification, {
      cdiVersion: '0.5.0',
      kind: 'vfio/pci',
      devices: [
        {
          name: '0000:59:00.1',
          containerEdits: {
            env: ['VFIO_ADDRESSES_0000_59_00_1=0000:59:00.1 0000:59:00.0'],
            deviceNodes: [{ path: '/dev/vfio/5', permissions: 'rw' }],
          },
        },
      ],
      containerEdits: { deviceNodes: [{ path: '/dev/vfio/vfio', permissions: 'rw' }] },
    })
    assert.deepEqual(made.devices, [
      {
        name: '0000:59:00.1',
        qualifiedName: 'vfio/pci=0000:59:00.1',
        group: 5,
        addresses: ['0000:59:00.1', '0000:59:00.0'],
        nodes: ['/dev/vfio/5'],
      },
    ])
    assert.equal(made.file, 'vfio-vfio_pci.json')
  })

  it('has one device for each group, whatever names it, in the order in which they are named', () => {
    const made = exported(['00:04.0', '59:00.0', '59:00.1', '0000:00:04.0', UUID])
    assert.deepEqual(
      made.devices.map(({ name, group, addresses }) => [name, group, addresses.length]),
      [
        ['0000:00:04.0', 7, 1],
        ['0000:59:00.0', 5, 2],
        [UUID, 15, 1],
      ],
    )
    assert.deepEqual(nodes(made).own, [['/dev/vfio/7'], ['/dev/vfio/5'], ['/dev/vfio/15']])
    // One variable for all of them would keep the last device alone.
    const names = made.specification.devices.flatMap(({ containerEdits: { env = [] } }) => env)
    assert.equal(new Set(names.map((text) => text.split('=')[0])).size, 3)
  })

  it('gives nodes by group or by device, and never both', () => {
    const addresses = ['59:00.0', '00:04.0']
    const kata = { kind: 'example.com/gpu', consumer: 'kata' } as const
    assert.deepEqual(nodes(exported(addresses, { backend: 'iommufd' })), {
      shared: ['/dev/iommu'],
      own: [['/dev/vfio/devices/vfio0', '/dev/vfio/devices/vfio1'], ['/dev/vfio/devices/vfio3']],
    })
    assert.deepEqual(nodes(exported(addresses, kata)), {
      shared: ['/dev/vfio/vfio'],
      own: [['/dev/vfio/5'], ['/dev/vfio/7']],
    })
    const byDevice = exported(addresses, { ...kata, backend: 'iommufd' })
    assert.deepEqual(nodes(byDevice), {
      shared: [],
      own: [['/dev/vfio/devices/vfio0', '/dev/vfio/devices/vfio1'], ['/dev/vfio/devices/vfio3']],
    })
    assert.ok(!('containerEdits' in byDevice.specification))
  })

  it('takes /dev/iommu by itself where the kernel has nothing else', () => {
    const alone = see({
      ...HOST,
      modules: { vfio: { state: 'loaded' }, vfio_pci: { state: 'loaded' }, iommufd: { state: 'loaded' } },
    })
    assert.equal(exportCdi(alone, ['00:04.0']).backend, 'iommufd')
    assert.equal(exportCdi(seen, ['00:04.0']).backend, 'group')
  })

  it('is for Kata the resource and the id of a device, without what its VM does not have', () => {
    const made = exported(['59:00.0'], { kind: 'example.com/gpu', consumer: 'kata' })
    assert.equal(made.devices[0]?.qualifiedName, 'example.com/gpu=0000:59:00.0')
    assert.deepEqual(made.notes, [])
    assert.ok(!made.text.includes('env'))
    assert.throws(
      () => exportCdi(seen, ['59:00.0'], { consumer: 'kata' }),
      isCode('ERR_VFIO_BAD_ARGUMENT', /--kind/),
    )
    // Whoever opens it needs a token that Kata has no word for.
    assert.throws(
      () => exportCdi(seen, ['62:10.0'], { kind: 'example.com/vf', consumer: 'kata' }),
      isCode('ERR_VFIO_NOT_VIABLE', /token.*Kata/),
    )
    assert.match(exported(['62:10.0']).notes.join(), /token/)
  })

  it('refuses what could not be opened, with what comes first', () => {
    const refuses = (address: string, code: string, words: RegExp) =>
      assert.throws(() => exportCdi(seen, ['00:04.0', address]), isCode(code, words), address)
    refuses('00:03.0', 'ERR_VFIO_BAD_NODE', /run "vfio bind 0000:00:03\.0" first/)
    refuses('61:00.0', 'ERR_VFIO_INCOMPLETE_GROUP', /run "vfio bind 0000:61:00\.1" first/)
    // Its group is given away, and it cannot be opened all the same.
    refuses('59:00.2', 'ERR_VFIO_BAD_NODE', /run "vfio bind 0000:59:00\.2" first/)
    refuses('00:01.0', 'ERR_VFIO_BAD_ARGUMENT', /bridge/)
    refuses('00:07.0', 'ERR_VFIO_NO_DEVICE', /no PCI device/)
    refuses('nonsense', 'ERR_VFIO_BAD_ADDRESS', /not a PCI address/)
    assert.throws(() => exportCdi(seen, []), isCode('ERR_VFIO_BAD_ARGUMENT', /no device is named/))
    for (const options of [
      { consumer: 'docker' },
      { backend: 'auto' },
      { kind: 5 },
    ] as unknown as CdiOptions[])
      assert.throws(() => exportCdi(seen, ['00:04.0'], options), isCode('ERR_VFIO_BAD_ARGUMENT'))
  })

  it('refuses a device whose node is not there, though the kernel has it', () => {
    const without = (...names: string[]) =>
      see({
        ...HOST,
        nodes: Object.fromEntries(Object.entries(HOST.nodes ?? {}).filter(([name]) => !names.includes(name))),
      })
    const refuses = (host: Snapshot, backend: 'group' | 'iommufd', words: RegExp, options: CdiOptions = {}) =>
      assert.throws(
        () => exportCdi(host, ['59:00.0'], { ...options, backend }),
        isCode('ERR_VFIO_BAD_NODE', words),
      )
    refuses(without('vfio/5'), 'group', /\/dev\/vfio\/5 is not there/)
    refuses(without('vfio/vfio'), 'group', /\/dev\/vfio\/vfio is not there.*--iommufd/)
    refuses(without('vfio/devices/vfio1'), 'iommufd', /\/dev\/vfio\/devices\/vfio1 is not there/)
    refuses(without('iommu'), 'iommufd', /\/dev\/iommu is not there/)
    refuses(without('iommu'), 'iommufd', /\/dev\/iommu is not there/, { consumer: 'kata', kind: 'a.b/cd' })
    assert.throws(
      () => exportCdi(seen, ['61:00.0', '62:00.0'], { backend: 'iommufd' }),
      isCode('ERR_VFIO_INCOMPLETE_GROUP'),
    )
    assert.throws(
      () => exportCdi(seen, ['62:00.0'], { backend: 'iommufd' }),
      isCode('ERR_VFIO_BAD_NODE', /0000:62:00\.0 has no node of its own/),
    )
  })

  it('gives what no IOMMU protects to nobody but who asks for it, and to no VM', () => {
    const open = see({
      iommu: 'none',
      modules: {
        ...READY_MODULES,
        vfio: { state: 'loaded', parameters: { enable_unsafe_noiommu_mode: 'Y' } },
      },
      devices: [{ address: '0000:00:04.0', driver: 'vfio-pci', group: 0 }],
      groups: { 0: { noIommu: true } },
      nodes: { 'vfio/vfio': 0o600, 'vfio/noiommu-0': 0o600 },
    })
    const made = exportCdi(open, ['00:04.0'])
    assert.deepEqual(made.devices[0]?.nodes, ['/dev/vfio/noiommu-0'])
    assert.match(made.notes.join(), /all memory of the host.*SYS_RAWIO/)
    assert.throws(
      () => exportCdi(open, ['00:04.0'], { consumer: 'kata', kind: 'example.com/gpu' }),
      isCode('ERR_VFIO_NOT_VIABLE', /no-IOMMU/),
    )
  })

  describe('kinds', () => {
    const kindIs = (kind: string, consumer: 'plain' | 'kata' = 'plain') =>
      exportCdi(seen, ['00:04.0'], { kind, consumer })

    it('are taken as CDI 0.5 has them', () => {
      const longest = `${'a'.repeat(63)}.${'b'.repeat(63)}.${'c'.repeat(40)}/${'d'.repeat(40)}`
      for (const kind of ['example.com/gpu', 'vfio/pci', 'ab/cd', 'a1.b-2/C_3-d', 'Example.COM/GPU', longest])
        assert.equal(exported(['00:04.0'], { kind }).specification.kind, kind)
    })

    it('are refused where CDI, or one who reads it, would refuse them or fall over them', () => {
      const label = 'a'.repeat(64)
      const wrong = [
        ...['', '/', 'gpu', 'example.com', '/gpu', 'example.com/', 'a.b/c/d', 'example.com/gpu=0', ' a.b/cd'],
        ...['example.com/g', 'e/gpu', '1example.com/gpu', '-a/gpu', 'a_b.com/gpu', 'a..b/gpu', 'a-.b/gpu'],
        ...[
          'example.com./gpu',
          'example.com/1gpu',
          'example.com/gpu-',
          'example.com/_gpu',
          'example.com/a.b',
        ],
        ...['example.com/g u', 'example.com/gpü', 'exämple.com/gpu', 'example.com/gpu\n', '../gpu', 'a.b/..'],
        ...[`${label}.com/gpu`, `example.com/${label}`, `${'ab.'.repeat(85)}com/gpu`],
      ]
      for (const kind of wrong)
        assert.throws(() => kindIs(kind), isCode('ERR_VFIO_BAD_ARGUMENT', /^[^\n]* example\.com\/gpu$/), kind)
    })

    it('are resources of Kubernetes where they are for Kata', () => {
      for (const kind of ['Example.com/gpu', 'kubernetes.io/gpu', 'x.kubernetes.io/gpu', 'requests.com/gpu'])
        assert.throws(() => kindIs(kind, 'kata'), isCode('ERR_VFIO_BAD_ARGUMENT', /Kubernetes/), kind)
      for (const kind of ['example.com/gpu', 'example.com/GPU_2'])
        assert.equal(kindIs(kind, 'kata').specification.kind, kind)
    })

    it('have a file each, which no other kind has and which leads nowhere else', () => {
      const vendor = fc.stringMatching(/^[a-z]([a-z0-9-]{0,8}[a-z0-9])(\.[a-z0-9]{1,4})?$/)
      const name = fc.stringMatching(/^[a-z][a-z0-9_-]{0,8}[a-z0-9]$/)
      const kind = fc.tuple(vendor, name).map((parts) => parts.join('/'))
      fc.assert(
        fc.property(kind, kind, (one, other) => {
          assert.match(cdiFile(one), /^vfio-[A-Za-z0-9_.-]+\.json$/)
          assert.equal(cdiFile(one) === cdiFile(other), one === other)
        }),
      )
      for (const [one, other] of [
        ['ab-cd/ef', 'ab/cd-ef'],
        ['ab.cd/ef_gh', 'ab.cd-ef/gh'],
      ])
        assert.notEqual(cdiFile(present(one)), cdiFile(present(other)))
    })
  })
})
