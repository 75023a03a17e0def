import assert from 'node:assert/strict'
import { assess } from 'vfio'
import { READY_MODULES, removeDirectories } from '../fixtures/host.js'
import {
  ARM_CPU,
  checkOf,
  interrupts,
  type PlatformDescription,
  seePlatform,
  x86Cpu,
} from '../fixtures/platform.js'

/**
 * Isolated MSI is a question for each architecture: `msi_device_has_isolated_msi` (kernel/irq/msi.c, 6.12) walks the
 * interrupt domains of the device, and ends with `arch_is_isolated_msi`.
 */
interface Host {
  readonly what: string
  readonly source: string
  readonly host: PlatformDescription
  readonly remapping: boolean | null
  readonly cure?: RegExp
}

const ADDRESS = '0000:07:00.0'
const devices = [{ address: ADDRESS, group: 5, driver: 'nvme' }]
const onArm = (...lines: readonly string[]): PlatformDescription => ({
  kernel: '6.1.0-18-arm64',
  iommu: 'arm',
  files: { 'proc/cpuinfo': ARM_CPU, 'proc/interrupts': interrupts(...lines) },
})

const HOSTS: readonly Host[] = [
  {
    what: 's390: chips are called PCI-MSI, and isolation is built in',
    source:
      'linux-s390 list (mlx5_async@pci:0001:00:00.0 under PCI-MSI); arch/s390/include/asm/msi.h: arch_is_isolated_msi',
    host: {
      kernel: '6.8.0-31-generic',
      iommu: 'none',
      files: {
        'proc/interrupts': interrupts(
          'EXT:       1234        235',
          'I/O:         23         12',
          'MSI:          5          6',
          '  3:         11         12   PCI-MSI  mlx5_async0@pci:0001:00:00.0',
        ),
      },
    },
    remapping: true,
  },
  {
    what: 's390 by its processor alone, on a kernel that still asked the IOMMU driver',
    source: 'drivers/iommu/s390-iommu.c before 6.3: s390_iommu_capable(IOMMU_CAP_INTR_REMAP) is true',
    host: {
      kernel: '5.14.0-427.el9',
      iommu: 'none',
      files: {
        'proc/cpuinfo': 'vendor_id       : IBM/S390\n',
        'proc/interrupts': interrupts('  3: 1 2 PCI-MSI nvme0q0'),
      },
    },
    remapping: true,
  },
  {
    what: 'ARM server with an ITS',
    source: 'drivers/irqchip/irq-gic-v3-its-msi-parent.c: IRQ_DOMAIN_FLAG_ISOLATED_MSI',
    host: onArm(' 11: 234 1 GICv3 30 Level arch_timer', ' 50: 0 1 ITS-PCI-MSIX-0000:07:00.0 0 Edge nvme0q0'),
    remapping: true,
  },
  {
    what: 'ARM with GICv2m, whose frames take a message from anybody',
    source:
      'drivers/irqchip/irq-gic-v2m.c sets no such flag; QEMU -machine virt,gic-version=2,iommu=smmuv3 needs allow_unsafe_interrupts',
    host: onArm(
      ' 11: 234 1 GICv2 30 Level arch_timer',
      ' 50: 0 1 GICv2m-PCI-MSI-0000:07:00.0 0 Edge nvme0q0',
    ),
    remapping: false,
    cure: /ITS/,
  },
  {
    what: 'ARM board whose root port brings an MSI controller of its own',
    source: 'drivers/pci/controller/dwc/pcie-designware-host.c, pcie-brcmstb.c (BRCM STB PCIe MSI)',
    host: onArm(' 50: 0 1 BRCM STB PCIe MSI 524288 Edge nvme0q0'),
    remapping: false,
    cure: /ITS/,
  },
  {
    what: 'ARM with both: since 6.3 each group is asked for itself',
    source: 'drivers/iommu/iommu.c: iommu_group_has_isolated_msi (6.3)',
    host: {
      ...onArm(' 50: 0 1 ITS-MSI 0 Edge nvme0q0', ' 51: 0 1 MIP MSI 128 Edge nvme1q0'),
      kernel: '6.6.20',
    },
    remapping: null,
  },
  {
    what: 'ARM with both: before 6.3 one open domain spoils it for all',
    source: 'kernel/irq/irqdomain.c: irq_domain_check_msi_remap (6.1)',
    host: {
      ...onArm(' 50: 0 1 ITS-MSI 0 Edge nvme0q0', ' 51: 0 1 MIP MSI 128 Edge nvme1q0'),
      kernel: '6.1.0',
    },
    remapping: false,
    cure: /ITS/,
  },
  {
    what: 'RISC-V: the chip is called PCI-MSI as on x86 without remapping, which says nothing there',
    source: 'drivers/irqchip/irq-riscv-imsic-platform.c',
    host: {
      kernel: '6.13.0',
      iommu: 'none',
      files: {
        'proc/cpuinfo': 'processor\t: 0\nhart\t\t: 0\nisa\t\t: rv64imafdch\n',
        'proc/interrupts': interrupts(' 12: 1 0 PCI-MSI-0000:07:00.0 0-edge nvme0q0'),
      },
    },
    remapping: null,
  },
  {
    what: 'x86 with remapping, where the IOMMU itself has a plain message',
    source: 'AMD hosts: "PCI-MSI-0000:00:00.2 0-edge AMD-Vi" beside IR-PCI-MSI lines',
    host: {
      iommu: 'amd',
      files: {
        'proc/cpuinfo': x86Cpu('AuthenticAMD'),
        'proc/interrupts': interrupts(
          ' 25: 0 0 PCI-MSI-0000:00:00.2 0-edge AMD-Vi',
          ' 26: 0 0 IR-PCI-MSIX-0000:07:00.0 0-edge nvme0q0',
        ),
      },
    },
    remapping: true,
  },
  {
    what: 'x86 with intremap=off',
    source: 'snu-csl/nvmevirt#27; drivers/iommu/irq_remapping.c: setup_irqremap',
    host: { commandLine: 'ro intel_iommu=on intremap=off', interruptRemapping: false },
    remapping: false,
    cure: /^remove the kernel parameter intremap=off, or accept/,
  },
  {
    what: 'x86 with nointremap, and an intremap that says nothing about it',
    source: 'drivers/iommu/irq_remapping.c: setup_nointremap',
    host: { commandLine: 'nointremap intremap=nosid', interruptRemapping: false },
    remapping: false,
    cure: /^remove the kernel parameter nointremap,/,
  },
  {
    what: 'x86 with noapic',
    source: 'arch/x86/kernel/apic/apic.c: enable_IR_x2apic, "due to skipped IO-APIC setup"',
    host: { commandLine: 'noapic', interruptRemapping: false },
    remapping: false,
    cure: /^remove the kernel parameter noapic,/,
  },
  {
    what: 'x86 where a later intremap=on takes the earlier off back',
    source: 'drivers/iommu/irq_remapping.c: setup_irqremap, called for each word in turn',
    host: { commandLine: 'intremap=off intremap=on', interruptRemapping: false },
    remapping: false,
    cure: /^switch on interrupt remapping \(x2APIC\) in the firmware setup,/,
  },
  {
    what: 'AMD whose firmware names no IOAPIC',
    source: 'drivers/iommu/amd/init.c: check_ioapic_information, "Disabling interrupt remapping"',
    host: {
      iommu: 'amd',
      interruptRemapping: false,
      files: { 'proc/cpuinfo': x86Cpu('AuthenticAMD') },
    },
    remapping: false,
    cure: /IVRS/,
  },
  {
    what: 'a VM whose virtual IOMMU does not remap',
    source: 'QEMU, docs/system/i386: intel-iommu,intremap=on takes kernel-irqchip=split',
    host: {
      interruptRemapping: false,
      files: { 'proc/cpuinfo': x86Cpu('GenuineIntel', true), 'sys/class/dmi/id/sys_vendor': 'QEMU\n' },
    },
    remapping: false,
    cure: /outside of the VM.*intremap=on/,
  },
  {
    what: 'a VM with a virtio-iommu, which cannot remap at all',
    source: 'drivers/iommu/virtio-iommu.c has no IRQ domain',
    host: {
      iommu: 'virtio',
      interruptRemapping: false,
      files: { 'proc/cpuinfo': x86Cpu('GenuineIntel', true), 'sys/class/dmi/id/sys_vendor': 'QEMU\n' },
    },
    remapping: false,
    cure: /^give the VM another virtual IOMMU, outside of it, .*-device intel-iommu,intremap=on.*allow_unsafe/,
  },
  {
    what: 'a VM of another hypervisor whose virtual IOMMU does not remap',
    source: 'arch/x86/kernel/cpu/hypervisor.c: the flag hypervisor is all that an unknown one shows',
    host: { interruptRemapping: false, files: { 'proc/cpuinfo': x86Cpu('GenuineIntel', true) } },
    remapping: false,
    cure: /hypervisor's virtual IOMMU/,
  },
  {
    what: 'an ARM VM without an ITS',
    source: 'QEMU, docs/system/arm/virt: its=on and gic-version=3',
    host: {
      ...onArm(' 50: 0 1 GICv2m-PCI-MSI-0000:07:00.0 0 Edge nvme0q0'),
      files: {
        'proc/cpuinfo': ARM_CPU,
        'proc/interrupts': interrupts(' 50: 0 1 GICv2m-PCI-MSI-0000:07:00.0 0 Edge nvme0q0'),
        'sys/firmware/devicetree/base/compatible': 'linux,dummy-virt\0',
      },
    },
    remapping: false,
    cure: /gic-version=3,its=on/,
  },
]

describe('isolated MSI', function () {
  this.timeout(20_000)
  afterEach(removeDirectories)

  for (const { what, source, host, remapping, cure } of HOSTS) {
    it(`${what} (${source})`, () => {
      const seen = seePlatform({ devices, ...host })
      assert.equal(seen.host.iommu.interruptRemapping, remapping)
      const check = checkOf(seen, 'interrupt remapping')
      assert.equal(check.status, remapping === false ? 'fail' : 'ok')
      const { verdict, reason } = assess(seen, ADDRESS)
      assert.equal(verdict, remapping === false ? 'blocked' : 'bindable')
      if (cure === undefined) return
      assert.match(check.cure, cure)
      // Verdict and diagnosis give the same cure.
      assert.ok(reason.includes(check.cure), reason)
    })
  }

  it('is not asked by spapr on POWER, nor where there is no IOMMU (vfio_iommu_spapr_tce.c: tce_iommu_attach_group)', () => {
    const power = seePlatform({
      devices,
      kernel: '6.1.0-18-powerpc64le',
      iommu: 'none',
      files: { 'proc/interrupts': interrupts(' 60: 10 1 PNV-PCI-MSI 66049 Edge nvme0q0') },
    })
    assert.match(checkOf(power, 'interrupt remapping').detail, /spapr/)
    const none = seePlatform({ devices: [{ address: ADDRESS }], iommu: 'none' })
    const { status, detail } = checkOf(none, 'interrupt remapping')
    assert.deepEqual([status, detail], ['ok', 'without an IOMMU it has no meaning'])
  })

  it('is accepted by the parameter of the backend that is there (iommufd/device.c: allow_unsafe_interrupts)', () => {
    const iommufd = (accepted: string) =>
      seePlatform({
        devices,
        interruptRemapping: false,
        modules: {
          vfio: { state: 'loaded' },
          vfio_pci: { state: 'loaded' },
          iommufd: { state: 'loaded', parameters: { allow_unsafe_interrupts: accepted } },
        },
        nodes: { iommu: 0o666 },
      })
    assert.match(checkOf(iommufd('N'), 'interrupt remapping').cure, /iommufd\.allow_unsafe_interrupts=1/)
    assert.equal(assess(iommufd('N'), ADDRESS).verdict, 'blocked')
    assert.equal(checkOf(iommufd('Y'), 'interrupt remapping').status, 'warn')
    assert.equal(assess(iommufd('Y'), ADDRESS).verdict, 'bindable')
    const type1 = seePlatform({ devices, interruptRemapping: false, modules: READY_MODULES })
    assert.match(checkOf(type1, 'interrupt remapping').cure, /vfio_iommu_type1\.allow_unsafe_interrupts=1/)
  })
})
