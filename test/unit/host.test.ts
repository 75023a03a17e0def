import assert from 'node:assert/strict'
import { rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Host, type HostOptions } from 'vfio'
import { type HostDescription, makeHost, READY_MODULES, removeDirectories } from '../fixtures/host.js'
import { see } from './support.js'

const facts = (host: HostDescription) => see(host).host

describe('a group', function () {
  this.timeout(20_000)
  afterEach(removeDirectories)

  it('has its members in order, its type and its reserved regions', () => {
    const seen = see({
      devices: [
        { address: '0000:01:00.1', group: 7 },
        { address: '0000:01:00.0', group: 7 },
      ],
      groups: {
        7: {
          type: 'identity',
          reservedRegions:
            '0x00000000a8000000 0x00000000acffffff direct\n0x00000000fee00000 0x00000000feefffff msi\n' +
            '0xffffffffff000000 0xffffffffffffffff reserved\n0x0 0xfff direct-relaxable\n',
        },
      },
    })
    assert.deepEqual(seen.groups, [
      {
        group: 7,
        type: 'identity',
        noIommu: false,
        members: ['0000:01:00.0', '0000:01:00.1'],
        others: [],
        reservedRegions: [
          { start: 0xa8000000n, end: 0xacffffffn, type: 'direct' },
          { start: 0xfee00000n, end: 0xfeefffffn, type: 'msi' },
          { start: 0xffffffffff000000n, end: 0xffffffffffffffffn, type: 'reserved' },
          { start: 0n, end: 0xfffn, type: 'direct-relaxable' },
        ],
      },
    ])
  })

  it('leaves out lines of reserved_regions that do not read like any', () => {
    const reservedRegions = 'rubbish\n0x1 0x2\n0xg 0x2 direct\n\n0x1 0x2 msi\n0x11111111111111111 0x2 msi\n'
    assert.deepEqual(see({ groups: { 1: { reservedRegions } } }).group(1).reservedRegions, [
      { start: 1n, end: 2n, type: 'msi' },
    ])
  })

  it('is known by its number, and what is not there is an error that says so', () => {
    const seen = see({ devices: [{ address: '0000:01:00.0', group: 10 }], groups: { 9: {} } })
    assert.deepEqual(
      seen.groups.map(({ group }) => group),
      [9, 10],
    )
    assert.deepEqual(seen.group(9).members, [])
    assert.throws(() => seen.group(8), { code: 'ERR_VFIO_NO_GROUP', message: /group 8.*vfio list/ })
    assert.throws(() => see({ iommu: 'none' }).group(8), {
      code: 'ERR_VFIO_NO_GROUP',
      message: /IOMMU.*vfio doctor/,
    })
  })

  it('has members on other buses, with their drivers', () => {
    const others = [{ name: 'arm-smmu-test.0', driver: 'uio_pdrv_genirq' }, { name: 'fff51000.ethernet' }]
    const seen = see({ devices: [{ address: '0000:01:00.0', group: 3 }], groups: { 3: { others } } })
    const found = [...seen.group(3).others].sort((a, b) => a.name.localeCompare(b.name))
    assert.deepEqual(found, [
      { name: 'arm-smmu-test.0', driver: 'uio_pdrv_genirq' },
      { name: 'fff51000.ethernet', driver: null },
    ])
  })

  it('is left out where it is gone when it is read, and stays where a function is in it or nobody is', () => {
    const { sysfs } = makeHost({ devices: [{ address: '0000:01:00.0', group: 7 }], groups: { 8: {} } })
    const groups = join(sysfs, 'kernel/iommu_groups')
    // What is listed and not there.
    symlinkSync('nowhere', join(groups, '9'))
    rmSync(join(groups, '7'), { recursive: true })
    symlinkSync('nowhere', join(groups, '7'))
    for (const brief of [true, false]) {
      const seen = new Host({ sysfs }).snapshot({ brief })
      assert.deepEqual(
        seen.groups.map(({ group, members }) => [group, members]),
        [
          [7, ['0000:01:00.0']],
          [8, []],
        ],
      )
    }
  })

  it('may be one of the no-IOMMU mode', () => {
    const seen = see({
      iommu: 'none',
      devices: [{ address: '0000:01:00.0', group: 0, driver: 'vfio-pci' }],
      groups: { 0: { noIommu: true } },
    })
    assert.equal(seen.group(0).noIommu, true)
    assert.equal(see({ groups: { 1: {} } }).group(1).noIommu, false)
  })
})

describe('the IOMMU', function () {
  this.timeout(20_000)
  afterEach(removeDirectories)

  const kinds = {
    intel: [
      { name: 'dmar0', kind: 'intel-iommu', address: null },
      { name: 'dmar1', kind: 'intel-iommu', address: null },
    ],
    amd: [{ name: 'ivhd0', kind: 'amd-iommu', address: '0000:00:00.2' }],
    arm: [{ name: 'smmu3.0x0000000009050000', kind: 'arm-smmu-v3', address: null }],
    virtio: [{ name: '0000:00:02.0', kind: 'virtio_iommu', address: '0000:00:02.0' }],
  } as const
  for (const [iommu, units] of Object.entries(kinds)) {
    it(`of ${iommu} is told by its units`, () => {
      const { present, units: found } = facts({ iommu: iommu as keyof typeof kinds }).iommu
      assert.equal(present, true)
      assert.deepEqual(found, units)
    })
  }

  it('is present where there are groups without units, as on POWER', () => {
    const { present, units } = facts({ iommu: 'none', groups: { 0: {} } }).iommu
    assert.equal(present, true)
    assert.deepEqual(units, [])
  })

  it('is absent where there is neither', () => {
    const { iommu } = facts({ iommu: 'none' })
    assert.deepEqual(iommu, { present: false, known: true, units: [], interruptRemapping: false })
  })

  it('remaps interrupts where the chips say so', () => {
    const remapping = (interruptRemapping: boolean | null) =>
      facts({ interruptRemapping }).iommu.interruptRemapping
    assert.equal(remapping(true), true)
    assert.equal(remapping(false), false)
    assert.equal(remapping(null), null)
  })
})

describe('the facts of a host', function () {
  this.timeout(20_000)
  afterEach(removeDirectories)

  it('have kernel and command line', () => {
    const { kernel, commandLine } = facts({
      kernel: '5.17.3-custom',
      commandLine: 'intel_iommu=on iommu=pt',
    })
    assert.equal(kernel, '5.17.3-custom')
    assert.equal(commandLine, 'intel_iommu=on iommu=pt')
  })

  it('have the kernel from /proc/version where only that is there', () => {
    const trees = makeHost({ kernel: null })
    writeFileSync(join(trees.proc, 'version'), 'Linux version 5.10.0-30-amd64 (debian) (gcc) #1 SMP\n')
    assert.equal(new Host(trees).snapshot().host.kernel, '5.10.0-30-amd64')
  })

  it('have an empty kernel where nothing tells', () => {
    assert.equal(facts({ kernel: null }).kernel, '')
  })

  it('tell loaded, built-in, loadable and missing modules apart', () => {
    const { modules } = facts({
      modules: {
        vfio: { state: 'builtin', parameters: { enable_unsafe_noiommu_mode: 'N' } },
        vfio_iommu_type1: { state: 'loaded' },
        vfio_pci: { state: 'loadable' },
        iommufd: { state: 'builtin' },
      },
    })
    assert.deepEqual(modules, {
      vfio: 'builtin',
      vfio_iommu_type1: 'loaded',
      vfio_iommu_spapr_tce: 'missing',
      vfio_pci_core: 'missing',
      vfio_pci: 'loadable',
      vfio_virqfd: 'missing',
      iommufd: 'builtin',
    })
  })

  it('have the parameters of the modules', () => {
    const parameters = {
      vfio: { state: 'loaded', parameters: { enable_unsafe_noiommu_mode: 'Y' } },
      vfio_iommu_type1: { state: 'loaded', parameters: { allow_unsafe_interrupts: '1' } },
      vfio_pci: { state: 'loaded', parameters: { disable_denylist: 'y' } },
    } as const
    const on = facts({ modules: parameters })
    assert.deepEqual([on.noIommuMode, on.allowUnsafeInterrupts, on.denylistDisabled], [true, true, true])
    const off = facts({ modules: READY_MODULES })
    assert.deepEqual(
      [off.noIommuMode, off.allowUnsafeInterrupts, off.denylistDisabled],
      [false, false, false],
    )
    const none = facts({ modules: {} })
    assert.deepEqual(
      [none.noIommuMode, none.allowUnsafeInterrupts, none.denylistDisabled],
      [null, null, null],
    )
  })

  it('have the limit of locked memory, null for unlimited', () => {
    assert.deepEqual(facts({ memlock: ['8388608', 'unlimited'] }).memlock, { soft: 8388608, hard: null })
    assert.deepEqual(facts({ memlock: ['unlimited', 'unlimited'] }).memlock, { soft: null, hard: null })
    assert.equal(facts({ memlock: null }).memlock, null)
    assert.equal(facts({ memlock: ['much', 'more'] }).memlock, null)
  })

  it('have the device nodes, their modes and no other file', () => {
    const { nodes } = facts({
      nodes: {
        'vfio/vfio': 0o666,
        'vfio/12': 0o600,
        'vfio/noiommu-3': 0o640,
        'vfio/devices/vfio0': 0o600,
        'vfio/README': 0o644,
        iommu: 0o660,
      },
    })
    const tail = (node: { path: string; mode: number } | null) =>
      node && { path: node.path.replace(/.*\/dev\//, ''), mode: node.mode }
    assert.deepEqual(tail(nodes.container), { path: 'vfio/vfio', mode: 0o666 })
    assert.deepEqual(tail(nodes.iommu), { path: 'iommu', mode: 0o660 })
    assert.deepEqual(
      nodes.groups.map(tail).sort((a, b) => String(a?.path).localeCompare(String(b?.path))),
      [
        { path: 'vfio/12', mode: 0o600 },
        { path: 'vfio/noiommu-3', mode: 0o640 },
      ],
    )
    assert.deepEqual(nodes.devices.map(tail), [{ path: 'vfio/devices/vfio0', mode: 0o600 }])
    const none = facts({ nodes: {} }).nodes
    assert.deepEqual(none, { container: null, iommu: null, groups: [], devices: [] })
  })

  it('are not those of this machine where another sysfs is looked at', () => {
    const { sysfs } = makeHost({ kernel: '5.10.0' })
    const seen = new Host({ sysfs }).snapshot()
    assert.equal(seen.host.kernel, '')
    assert.equal(seen.host.memlock, null)
    assert.equal(seen.host.nodes.container, null)
    assert.equal(seen.host.iommu.interruptRemapping, null)
  })

  it('are of trees alone that a path can name', () => {
    for (const name of ['sysfs', 'dev', 'proc', 'run', 'modules', 'pciIds'])
      for (const path of ['', 'a\0b', ...(name === 'pciIds' ? [] : [5, {}])])
        assert.throws(() => new Host({ [name]: path }), {
          name: 'VfioError',
          code: 'ERR_VFIO_BAD_ARGUMENT',
          message: `${name} must be a path: text that is not empty and has no NUL`,
        })
    assert.throws(() => new Host(null as unknown as HostOptions), { code: 'ERR_VFIO_BAD_ARGUMENT' })
  })
})
