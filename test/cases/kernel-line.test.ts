import assert from 'node:assert/strict'
import { assess, planPersistence } from 'vfio'
import { removeDirectories } from '../fixtures/host.js'
import { acpiTables, checkOf, type PlatformDescription, seePlatform, x86Cpu } from '../fixtures/platform.js'

const INTEL = { ...acpiTables('DMAR', 'FACP'), 'proc/cpuinfo': x86Cpu('GenuineIntel') }
const IGD = '0000:00:02.0'
const NIC = '0000:03:00.0'

const DEVICES = [
  { address: '0000:00:00.0', class: 0x060000, vendor: 0x8086, device: 0x3406, revision: 0x22, group: 0 },
  { address: NIC, class: 0x020000, group: 3, driver: 'igb' },
] as const

const intel = (host: PlatformDescription) =>
  seePlatform({ kernel: '6.8.12-4-pve', devices: DEVICES, ...host, files: { ...INTEL, ...host.files } })

/** Modules that are there and not loaded: nobody can ask for their parameters yet. */
const LOADABLE = Object.fromEntries(
  ['vfio', 'vfio_iommu_type1', 'vfio_pci', 'vfio_pci_core'].map((name) => [
    name,
    { state: 'loadable' as const },
  ]),
)

describe('what the kernel was told', () => {
  after(removeDirectories)

  describe('about a module that is not loaded yet', () => {
    for (const [text, verdict] of [
      ['vfio_iommu_type1.allow_unsafe_interrupts=1', 'bindable'],
      ['vfio-iommu-type1.allow_unsafe_interrupts=on', 'bindable'],
      ['vfio_iommu_type1.allow_unsafe_interrupts', 'bindable'],
      ['vfio_iommu_type1.allow_unsafe_interrupts=1 vfio_iommu_type1.allow_unsafe_interrupts=0', 'blocked'],
      ['init -- vfio_iommu_type1.allow_unsafe_interrupts=1', 'blocked'],
      ['', 'blocked'],
    ] as const) {
      it(`holds when that comes: "${text}" is ${verdict}`, () => {
        const seen = intel({ interruptRemapping: false, modules: LOADABLE, commandLine: `ro ${text}` })
        assert.equal(assess(seen, NIC).verdict, verdict)
      })
    }

    it('is what the module says, where it is there', () => {
      const seen = intel({
        interruptRemapping: false,
        modules: {
          ...LOADABLE,
          vfio_iommu_type1: { state: 'loaded', parameters: { allow_unsafe_interrupts: 'N' } },
        },
        commandLine: 'vfio_iommu_type1.allow_unsafe_interrupts=1',
      })
      assert.equal(assess(seen, NIC).verdict, 'blocked')
    })

    it('lifts the denylist', () => {
      const devices = [{ ...DEVICES[1], vendor: 0x8086, device: 0x37c8 }]
      const seen = (commandLine: string) => intel({ devices, modules: LOADABLE, commandLine })
      assert.equal(assess(seen('ro'), NIC).verdict, 'blocked')
      assert.equal(assess(seen('vfio-pci.disable_denylist=Y'), NIC).verdict, 'bindable')
    })
  })

  // drivers/iommu/intel/iommu.c: intel_iommu_setup, init_no_remapping_devices.
  describe('igfx_off', () => {
    const devices = [
      ...DEVICES,
      { address: IGD, class: 0x030000, vendor: 0x8086, device: 0x3e92, driver: 'i915' },
    ]
    const commandLine = 'root=/dev/sda2 intel_iommu=on,igfx_off iommu=pt'

    it('is why the graphics are in no group', () => {
      assert.match(
        assess(intel({ devices, commandLine }), IGD).reason,
        /intel_iommu=on,igfx_off.*boot without/,
      )
    })

    it('goes, and the rest of the word stays', () => {
      const plan = planPersistence(intel({ devices, commandLine }), [IGD])
      const names = (list: readonly { parameter: string }[] = []) => list.map(({ parameter }) => parameter)
      assert.deepEqual(names(plan.commandLine?.remove), ['intel_iommu=on,igfx_off'])
      assert.deepEqual(names(plan.commandLine?.add), ['intel_iommu=on'])
    })

    it('is not the reason where nobody said it, or of a card', () => {
      assert.doesNotMatch(assess(intel({ devices, commandLine: 'intel_iommu=on' }), IGD).reason, /igfx/)
      const card = [...DEVICES, { address: IGD, class: 0x020000, vendor: 0x8086, device: 0x1521 }]
      assert.doesNotMatch(assess(intel({ devices: card, commandLine }), IGD).reason, /igfx/)
    })
  })

  // Proxmox, Unraid, zen, CachyOS, Liquorix: the patch that nobody merged.
  it('may be to take ports for isolating, which doctor tells', () => {
    const { status, detail } = checkOf(
      intel({ commandLine: 'intel_iommu=on pcie_acs_override=downstream,multifunction' }),
      'groups',
    )
    assert.equal(status, 'warn')
    assert.match(detail, /pcie_acs_override=downstream,multifunction.*past the IOMMU/)
    assert.equal(checkOf(intel({ commandLine: 'intel_iommu=on' }), 'groups').status, 'ok')
  })

  // arch/x86/kernel/early-quirks.c: intel_remapping_check; Citrix CTX136517.
  describe('cannot mend the interrupt remapping of a chipset that has none', () => {
    for (const [device, revision, is] of [
      [0x3403, 0x13, true],
      [0x3405, 0x22, true],
      [0x3406, 0x12, true],
      [0x3406, 0x22, false],
      [0x0e00, 0x07, false],
    ] as const) {
      it(`8086:${device.toString(16)} in revision ${revision.toString(16)}: ${is}`, () => {
        const devices = [{ ...DEVICES[0], device, revision }, DEVICES[1]]
        const { cure } = checkOf(intel({ devices, interruptRemapping: false }), 'interrupt remapping')
        assert.equal(/erratum/.test(cure), is)
        assert.equal(/x2APIC/.test(cure), !is)
        assert.match(cure, /allow_unsafe_interrupts=1/)
      })
    }
  })
})

/** Red Hat's kernels keep their number, and get VFIO and the IOMMU drivers of newer ones. */
describe('a kernel of a long release', () => {
  after(removeDirectories)

  const judged = (kernel: string, driver: string, registered = false) =>
    assess(
      intel({
        kernel,
        devices: [
          { address: '0000:00:1c.0', group: 3, headerType: 'bridge', secondaryBus: 3, driver },
          {
            address: NIC,
            group: 3,
            driver: 'vfio-pci',
            ...(registered && { files: { 'vfio-dev/vfio0/uevent': '' } }),
          },
        ],
      }),
      NIC,
    )

  it('is judged by the stricter rule, since nobody knows how new it is', () => {
    for (const kernel of [
      '5.14.0-427.40.1.el9_4.x86_64',
      '4.18.0-553.el8_10.x86_64',
      '5.14.0-70.el9.x86_64',
    ]) {
      const { verdict, viability } = judged(kernel, 'shpchp')
      assert.equal(viability?.rule, 'dma-ownership', kernel)
      assert.equal(verdict, 'blocked', kernel)
    }
  })

  it('is not every kernel of such a number', () => {
    for (const kernel of ['5.14.0-1-amd64', '5.10.0-32-amd64', '5.15.0-201.el9uek.x86_64'])
      assert.equal(judged(kernel, 'shpchp').viability?.rule, 'driver-allowlist', kernel)
  })

  // drivers/vfio/vfio_main.c: the class vfio-dev came with 6.1, after the other rule.
  it('of any maker is as new as what it shows', () => {
    assert.equal(judged('5.14.21-150500.55-default', 'shpchp', true).viability?.rule, 'dma-ownership')
    assert.equal(judged('5.14.21-150500.55-default', 'shpchp').viability?.rule, 'driver-allowlist')
  })

  it('has the reset methods that it publishes', () => {
    const files = { reset_method: 'flr bus\n' }
    const devices = [
      { address: NIC, group: 3, driver: 'vfio-pci', files },
      { address: '0000:04:00.0', group: 4 },
    ]
    const seen = intel({ kernel: '5.14.0-427.40.1.el9_4.x86_64', devices })
    assert.deepEqual(seen.device(NIC).resetMethods, ['flr', 'bus'])
    // What has none there has none: nothing is to be guessed from its capabilities.
    assert.deepEqual(seen.device('0000:04:00.0').resetMethods, [])
  })
})
