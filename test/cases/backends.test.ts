import assert from 'node:assert/strict'
import { diagnose, planPersistence } from 'vfio'
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
