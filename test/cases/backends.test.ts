import assert from 'node:assert/strict'
import { assess, diagnose, exportCloudHypervisor, exportLibvirt, exportQemu, planPersistence } from 'vfio'
import { type ModuleDescription, removeDirectories } from '../fixtures/host.js'
import { checkOf, interrupts, type PlatformDescription, seePlatform } from '../fixtures/platform.js'

/** drivers/vfio/Kconfig (6.12): which backends a kernel can have, and which of them it was built with. */
const NVME = '0031:01:00.0'
const devices = [{ address: NVME, group: 5, driver: 'nvme' }]
const loaded: ModuleDescription = { state: 'loaded' }

interface Host {
  readonly what: string
  readonly source: string
  readonly host: PlatformDescription
  /** The modules that the diagnosis asks for, and how each of them stands. */
  readonly modules: readonly string[]
  readonly ready: boolean
  readonly not?: RegExp
}

const POWER = {
  kernel: '6.1.0-18-powerpc64le',
  iommu: 'none',
  files: { 'proc/interrupts': interrupts(' 30: 1234 1 XIVE-IRQ 2097152 Level OPAL_EVENT') },
} as const

const HOSTS: readonly Host[] = [
  {
    what: 'POWER9 with its own backend',
    source:
      'Talos II, 3mdeb/openpower-coreboot-docs; VFIO_IOMMU_TYPE1 is selected for x86, s390 and ARM alone',
    host: { ...POWER, modules: { vfio: loaded, vfio_iommu_spapr_tce: loaded, vfio_pci: loaded } },
    modules: ['vfio ok', 'vfio_iommu_spapr_tce ok', 'vfio_pci ok'],
    ready: true,
    not: /type1|TYPE1/,
  },
  {
    what: 'POWER without it',
    source: 'the same',
    host: { ...POWER, modules: { vfio: loaded, vfio_pci: loaded } },
    modules: ['vfio ok', 'vfio_iommu_spapr_tce fail', 'vfio_pci ok'],
    ready: false,
    not: /type1|TYPE1/,
  },
  {
    what: 'a host that nothing but the module tells to be POWER',
    source: 'a copy without /proc',
    host: {
      kernel: null,
      iommu: 'none',
      interruptRemapping: null,
      modules: { vfio: loaded, vfio_iommu_spapr_tce: loaded, vfio_pci: loaded },
    },
    modules: ['vfio ok', 'vfio_iommu_spapr_tce ok', 'vfio_pci ok'],
    ready: true,
    not: /type1|TYPE1/,
  },
  {
    what: 'a kernel with iommufd alone, without groups and containers',
    source: 'drivers/vfio/Kconfig: VFIO_DEVICE_CDEV default !VFIO_GROUP',
    host: {
      kernel: '6.12.0-custom',
      modules: { vfio: loaded, iommufd: loaded, vfio_pci: loaded },
      nodes: { iommu: 0o660, 'vfio/devices/vfio0': 0o600 },
    },
    modules: ['vfio ok', 'iommufd ok', 'vfio_pci ok'],
    ready: true,
    not: /type1|TYPE1|\/dev\/vfio\/vfio/,
  },
  {
    what: 'the same with iommufd not loaded',
    source: 'the same',
    host: {
      kernel: '6.12.0-custom',
      modules: { vfio: loaded, iommufd: { state: 'loadable' }, vfio_pci: loaded },
      nodes: {},
    },
    modules: ['vfio ok', 'iommufd fail', 'vfio_pci ok'],
    ready: false,
    not: /type1|TYPE1|\/dev\/vfio\/vfio/,
  },
  {
    what: 'a kernel with both, as distributions build it',
    source: 'Fedora, Debian 13: CONFIG_IOMMUFD=m beside CONFIG_VFIO_CONTAINER=y',
    host: { modules: { vfio: loaded, iommufd: loaded, vfio_iommu_type1: loaded, vfio_pci: loaded } },
    modules: ['vfio ok', 'vfio_iommu_type1 ok', 'vfio_pci ok'],
    ready: true,
  },
  {
    what: 'a kernel with neither',
    source: 'cloud kernels without VFIO',
    host: { modules: {} },
    modules: ['vfio fail', 'vfio_iommu_type1 fail', 'vfio_pci fail'],
    ready: false,
    // What is not there is not loaded by anything.
    not: /modprobe/,
  },
]

describe('the backend', function () {
  this.timeout(20_000)
  afterEach(removeDirectories)

  for (const { what, source, host, modules, ready, not } of HOSTS) {
    it(`of ${what} (${source})`, () => {
      const diagnosis = diagnose(seePlatform({ devices, ...host }))
      const lines = diagnosis.checks.flatMap(({ name, status }) =>
        name.startsWith('module ') ? `${name.slice('module '.length)} ${status}` : [],
      )
      assert.deepEqual(lines, modules)
      assert.equal(diagnosis.ready, ready, JSON.stringify(diagnosis.checks, null, 1))
      if (not) assert.doesNotMatch(JSON.stringify(diagnosis), not)
    })
  }

  it('asks for the options that build it', () => {
    const power = seePlatform({ ...POWER, devices, modules: { vfio: loaded, vfio_pci: loaded } })
    assert.match(checkOf(power, 'module vfio_iommu_spapr_tce').cure, /CONFIG_SPAPR_TCE_IOMMU/)
  })

  it('has its nodes: with iommufd alone those of single devices, and /dev/iommu', () => {
    const iommufd = {
      kernel: '6.12.0-custom',
      devices,
      modules: { vfio: loaded, iommufd: loaded, vfio_pci: loaded },
    }
    const nodes = { iommu: 0o660, 'vfio/devices/vfio0': 0o600, 'vfio/devices/vfio1': 0o600 }
    const seen = seePlatform({ ...iommufd, nodes })
    assert.match(checkOf(seen, 'device node').detail, /\/dev\/iommu can be opened/)
    assert.match(checkOf(seen, 'group nodes').detail, /^2 can be opened/)
    // CONFIG_IOMMUFD_VFIO_CONTAINER: groups without type1.
    const grouped = seePlatform({ ...iommufd, nodes: { iommu: 0o660, 'vfio/vfio': 0o666, 'vfio/5': 0o600 } })
    assert.match(checkOf(grouped, 'group nodes').detail, /^1 can be opened/)
    assert.match(
      checkOf(grouped, 'device node').detail,
      /\/dev\/vfio\/vfio can be opened, which iommufd provides$/,
    )
    const without = checkOf(seePlatform({ ...iommufd, nodes: {} }), 'device node')
    assert.match(without.cure, /modprobe iommufd vfio-pci/)
  })

  it('is what goes into the initramfs', () => {
    const content = (host: PlatformDescription) =>
      planPersistence(seePlatform({ devices, ...host }), [NVME], { initramfs: 'initramfs-tools' })
        .files.map(({ content: text }) => text)
        .join('')
    assert.match(
      content({ ...POWER, modules: { vfio: loaded, vfio_iommu_spapr_tce: loaded, vfio_pci: loaded } }),
      /vfio_iommu_spapr_tce/,
    )
    assert.doesNotMatch(content({ ...POWER, modules: {} }), /type1/)
    assert.match(content({}), /vfio_iommu_type1/)
  })
})

describe('iommufd beside another backend', function () {
  this.timeout(20_000)
  afterEach(removeDirectories)

  const both = { vfio: loaded, vfio_iommu_type1: loaded, vfio_pci: loaded, iommufd: loaded }
  const bound = { address: NVME, group: 5, driver: 'vfio-pci' }
  const cdev = { 'vfio/vfio': 0o666, iommu: 0o666, 'vfio/5': 0o600, 'vfio/devices/vfio0': 0o600 }

  for (const { what, host, status, says } of [
    {
      what: 'with nodes of devices',
      host: { modules: both, nodes: cdev, devices: [{ ...bound, vfioDevice: 'vfio0' }] },
      status: 'ok',
      says: /dev\/iommu can be opened, and 1 devices by it$/,
    },
    {
      what: 'of a kernel without them',
      host: { modules: both, nodes: { 'vfio/vfio': 0o666, iommu: 0o666, 'vfio/5': 0o600 }, devices: [bound] },
      status: 'ok',
      says: /no nodes of their own \(CONFIG_VFIO_DEVICE_CDEV\): they are opened by their groups$/,
    },
    {
      what: 'whose node is missing',
      host: { modules: both, nodes: { 'vfio/vfio': 0o666 }, devices },
      status: 'warn',
      says: /dev\/iommu is not there/,
    },
    {
      what: 'that is not loaded',
      host: { modules: { ...both, iommufd: { state: 'loadable' } as const }, devices },
      status: 'ok',
      says: /not loaded/,
    },
  ] as const) {
    it(`${what} is a line of its own, and fails nothing`, () => {
      const { checks, ready } = diagnose(seePlatform({ kernel: '6.12.9-amd64', ...host }))
      const check = checks.find(({ name }) => name === 'iommufd')
      assert.equal(check?.status, status)
      assert.match(check.detail, says)
      assert.equal(ready, true)
    })
  }

  it('is asked for isolated interrupts by its own parameter where it stands in for the container', () => {
    const parameters = (value: string) => ({ allow_unsafe_interrupts: value })
    const see = (type1: string, iommufd: string, links: Readonly<Record<string, string>>) =>
      seePlatform({
        kernel: '6.12.9-amd64',
        interruptRemapping: false,
        devices: [bound],
        nodes: {
          iommu: 0o666,
          'vfio/5': 0o600,
          ...(Object.keys(links).length === 0 && { 'vfio/vfio': 0o666 }),
        },
        links,
        modules: {
          ...both,
          vfio_iommu_type1: { state: 'loaded', parameters: parameters(type1) },
          iommufd: { state: 'loaded', parameters: parameters(iommufd) },
        },
      })
    const standsIn = { 'dev/vfio/vfio': 'dev/iommu' }
    for (const [type1, iommufd, links, verdict] of [
      ['Y', 'N', {}, 'ready'],
      ['N', 'Y', {}, 'blocked'],
      ['Y', 'N', standsIn, 'blocked'],
      ['N', 'Y', standsIn, 'ready'],
    ] as const) {
      const seen = see(type1, iommufd, links)
      const assessed = assess(seen, NVME)
      assert.equal(assessed.verdict, verdict, assessed.reason)
      if (verdict === 'ready') continue
      const module = links === standsIn ? /iommufd\.allow_unsafe/ : /vfio_iommu_type1\.allow_unsafe/
      assert.match(assessed.reason, module)
    }
    assert.match(checkOf(see('N', 'Y', standsIn), 'device node').detail, /which iommufd provides$/)
    assert.doesNotMatch(checkOf(see('Y', 'N', {}), 'device node').detail, /provides/)
  })

  it('is no line where the kernel has none, or has nothing else', () => {
    const { iommufd: _none, ...without } = both
    const { vfio_iommu_type1: _neither, ...alone } = both
    for (const modules of [without, alone]) {
      const nodes = { iommu: 0o666, 'vfio/devices/vfio0': 0o600 }
      const { checks } = diagnose(seePlatform({ kernel: '6.12.9-amd64', modules, nodes, devices }))
      assert.equal(
        checks.find(({ name }) => name === 'iommufd'),
        undefined,
      )
    }
  })

  it('is what is exported where the kernel has nothing else, and where it is asked for', () => {
    const { vfio_iommu_type1: _none, ...alone } = both
    const nodes = { iommu: 0o666, 'vfio/devices/vfio0': 0o600 }
    const seen = seePlatform({
      kernel: '6.12.9-amd64',
      modules: alone,
      nodes,
      devices: [{ ...bound, vfioDevice: 'vfio0' }],
    })
    const asks = /iommufd=iommufd0|iommufd=on|iommufd='yes'/
    for (const write of [exportQemu, exportLibvirt, exportCloudHypervisor]) {
      assert.match(write(seen, [NVME]).text, asks)
      assert.doesNotMatch(write(seen, [NVME]).notes.join(), /iommufd/)
      const against = write(seen, [NVME], { iommufd: false })
      assert.doesNotMatch(against.text, asks)
      assert.match(against.notes.join(), /opens devices by \/dev\/iommu alone: ask for iommufd/)
      const groups = seePlatform({ kernel: '6.12.9-amd64', modules: { ...both, iommufd: loaded }, devices })
      assert.doesNotMatch(write(groups, [NVME]).text, asks)
      assert.match(write(groups, [NVME], { iommufd: true }).text, asks)
      const { iommufd: _gone, ...without } = both
      const old = seePlatform({ kernel: '6.1.0-amd64', modules: without, devices })
      assert.match(write(old, [NVME], { iommufd: true }).notes.join(), /this kernel has no iommufd/)
    }
  })
})
