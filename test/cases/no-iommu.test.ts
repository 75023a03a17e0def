import assert from 'node:assert/strict'
import { dirname } from 'node:path'
import { assess, Host, kernelParameters } from 'vfio'
import { type DeviceDescription, READY_MODULES, removeDirectories } from '../fixtures/host.js'
import {
  ARM_CPU,
  acpiTables,
  checkOf,
  dmi,
  interrupts,
  makePlatform,
  type PlatformDescription,
  seePlatform,
  x86Cpu,
} from '../fixtures/platform.js'
import { Tree } from '../fixtures/tree.js'

/** A host without an IOMMU: why, what cures it, and which parameters the next boot needs. */
interface Without {
  readonly what: string
  readonly source: string
  readonly host: PlatformDescription
  readonly why?: RegExp
  readonly cure: RegExp
  readonly not?: RegExp
  readonly add?: readonly string[]
  readonly remove?: readonly string[]
}

const ADDRESS = '0000:07:00.0'
const INTEL = { 'proc/cpuinfo': x86Cpu('GenuineIntel') }
const AMD = { 'proc/cpuinfo': x86Cpu('AuthenticAMD') }
const GUEST = { 'proc/cpuinfo': x86Cpu('GenuineIntel', true) }
const XEN = { 'sys/hypervisor/type': 'xen\n' }
const arm = (files: Readonly<Record<string, string>> = {}): PlatformDescription => ({
  kernel: '6.1.0-18-arm64',
  files: {
    'proc/cpuinfo': ARM_CPU,
    'proc/interrupts': interrupts(' 50: 0 1 ITS-MSI 524288 Edge nvme0q0'),
    ...files,
  },
})
const NO_FIRMWARE = /firmware|VT-d/

const BARE_METAL: readonly Without[] = [
  {
    what: 'Intel with the table and without the parameter',
    source:
      'drivers/iommu/intel/dmar.c: detect_intel_iommu; INTEL_IOMMU_DEFAULT_ON is off on Debian and Fedora',
    host: { files: { ...INTEL, ...acpiTables('APIC', 'DMAR', 'FACP') } },
    why: /the firmware has VT-d on \(DMAR\)/,
    cure: /^boot with the kernel parameter intel_iommu=on/,
    not: /firmware setup/,
    add: ['intel_iommu=on'],
  },
  {
    what: 'Intel that remaps interrupts already: VT-d is on, whatever tables were copied',
    source: 'drivers/iommu/intel/irq_remapping.c works with intel_iommu=off too',
    host: { interruptRemapping: true, files: INTEL },
    cure: /^boot with the kernel parameter intel_iommu=on/,
    not: /firmware setup/,
    add: ['intel_iommu=on'],
  },
  {
    what: 'Intel without the table: the firmware has it off',
    source: 'Proxmox VE wiki, PCI Passthrough: "Enable VT-d in the BIOS"',
    host: { commandLine: 'quiet intel_iommu=on', files: { ...INTEL, ...acpiTables('APIC', 'FACP') } },
    why: /was asked for it \(intel_iommu=on\): the firmware describes none/,
    cure: /^switch on VT-d \(Intel\) in the firmware setup$/,
    not: /AMD|intel_iommu/,
  },
  {
    what: 'Intel without the table and the parameter needs both',
    source: 'the same',
    host: { files: { ...INTEL, ...acpiTables('APIC', 'FACP') } },
    cure: /VT-d \(Intel\) in the firmware setup, and boot with the kernel parameter intel_iommu=on/,
    add: ['intel_iommu=on'],
  },
  {
    what: 'Intel with table and parameter: only the log knows',
    source: 'drivers/iommu/intel/iommu.c: intel_iommu_init, its failures',
    host: { commandLine: 'intel_iommu=on', files: { ...INTEL, ...acpiTables('DMAR') } },
    cure: /dmesg \| grep -i dmar.*CONFIG_INTEL_IOMMU/,
  },
  {
    what: 'AMD without the table: no parameter is missing',
    source: 'drivers/iommu/amd/init.c: amd_iommu=on is an unknown option',
    host: { commandLine: 'quiet amd_iommu=on', files: { ...AMD, ...acpiTables('APIC') } },
    cure: /^switch on AMD-Vi\/IOMMU \(AMD\) in the firmware setup$/,
    not: /VT-d|intel_iommu/,
  },
  {
    what: 'AMD with the table',
    source: 'drivers/iommu/amd/init.c: early_amd_iommu_init',
    host: { files: { ...AMD, ...acpiTables('IVRS') } },
    cure: /dmesg \| grep -i amd-vi.*CONFIG_AMD_IOMMU/,
    not: /intel_iommu/,
  },
  {
    what: 'x86 of which nothing more is known',
    source: 'a copy of /sys and three files of /proc',
    host: {},
    cure: /VT-d.*AMD.*firmware setup, and on Intel boot with the kernel parameter intel_iommu=on/,
    add: ['intel_iommu=on'],
  },
  {
    what: 'x86 whose command line is not known: nothing is advised that may be there already',
    source: 'a copy of /sys with its interrupts',
    host: { without: ['proc/cmdline'], files: { ...INTEL, ...acpiTables('APIC') } },
    cure: /firmware setup$/,
  },
  {
    what: 'ARM server with iommu.passthrough=1 and no groups',
    source: 'jiangcuo/Proxmox-Arm64#25, inindev/rock-5b#8; drivers/acpi/arm64/iort.c',
    host: { ...arm(), commandLine: 'quiet iommu.passthrough=1' },
    cure: /SMMU.*IORT.*iommu-map.*CONFIG_ARM_SMMU_V3/,
    not: /VT-d|intel_iommu/,
  },
  {
    what: 'ARM by its release alone',
    source: 'Fedora names its kernels 6.11.4-301.fc41.aarch64',
    host: { kernel: '6.11.4-301.fc41.aarch64', interruptRemapping: null },
    cure: /SMMU/,
    not: /VT-d|intel_iommu/,
  },
  {
    what: 's390 without functions',
    source: 'drivers/iommu/s390-iommu.c: each zPCI device is an IOMMU',
    host: { kernel: '6.4.0-150600-default', files: { 'proc/cpuinfo': 'vendor_id       : IBM/S390\n' } },
    cure: /CONFIG_S390_IOMMU.*LPAR/,
    not: /VT-d|intel_iommu/,
  },
  {
    what: 'POWER without groups',
    source: 'arch/powerpc/kernel/iommu.c: iommu_register_group',
    host: {
      kernel: '6.1.0-18-powerpc64le',
      files: {
        'proc/cpuinfo':
          'cpu\t\t: POWER9, altivec supported\nplatform\t: PowerNV\nmachine\t\t: PowerNV T2P9D01\n',
      },
    },
    cure: /CONFIG_SPAPR_TCE_IOMMU/,
    not: /VT-d|intel_iommu/,
  },
  {
    what: 'RISC-V board',
    source: 'drivers/iommu/riscv (6.13)',
    host: { kernel: '6.6.0', files: { 'proc/cpuinfo': 'hart\t\t: 0\nisa\t\t: rv64imafdc\n' } },
    cure: /CONFIG_RISCV_IOMMU/,
    not: /VT-d|intel_iommu/,
  },
  {
    what: 'LoongArch board',
    source: 'drivers/iommu/Kconfig of 6.12 has none for it',
    host: { kernel: '6.12.0', files: { 'proc/cpuinfo': 'system type\t: generic-loongson-machine\n' } },
    cure: /no IOMMU of this architecture/,
  },
]

const COMMAND_LINES: readonly Without[] = [
  [
    'intel_iommu=off',
    /^remove the kernel parameter intel_iommu=off, and boot with intel_iommu=on$/,
    ['intel_iommu=on'],
    ['intel_iommu=off'],
  ],
  ['intel-iommu=off', /remove the kernel parameter intel-iommu=off/, ['intel_iommu=on'], ['intel-iommu=off']],
  ['intel_iommu=off intel_iommu=on', /dmesg/, [], []],
  [
    'intel_iommu=on,off',
    /remove the kernel parameter intel_iommu=on,off/,
    ['intel_iommu=on'],
    ['intel_iommu=on,off'],
  ],
  ['iommu=off intel_iommu=on', /^remove the kernel parameter iommu=off$/, [], ['iommu=off']],
  [
    'iommu=off acpi=off',
    /remove the kernel parameters iommu=off and acpi=off/,
    ['intel_iommu=on'],
    ['iommu=off', 'acpi=off'],
  ],
  ['iommu=pt iommu=soft', /^boot with the kernel parameter intel_iommu=on/, ['intel_iommu=on'], []],
  ['intel_iommu=on -- iommu=off', /dmesg/, [], []],
].map(([commandLine, cure, add, remove]) => ({
  what: `Intel with ${commandLine}`,
  source:
    'drivers/iommu/intel/iommu.c: intel_iommu_setup; arch/x86/kernel/pci-dma.c: iommu_setup; kernel/params.c: parameqn',
  host: { commandLine: commandLine as string, files: { ...INTEL, ...acpiTables('DMAR') } },
  cure: cure as RegExp,
  add: add as string[],
  remove: remove as string[],
}))

const OTHER_COMMAND_LINES: readonly Without[] = [
  {
    what: 'AMD with amd_iommu=off, and intel_iommu=off that means nothing to it',
    source: 'drivers/iommu/amd/init.c: parse_amd_iommu_options',
    host: { commandLine: 'amd_iommu=off intel_iommu=off', files: { ...AMD, ...acpiTables('IVRS') } },
    cure: /^remove the kernel parameter amd_iommu=off$/,
    remove: ['amd_iommu=off'],
  },
  {
    what: 'parameters that leave it off, and a firmware that has none',
    source: 'detect_intel_iommu looks for the table first',
    host: { commandLine: 'iommu=off', files: { ...INTEL, ...acpiTables('APIC') } },
    cure: /^remove the kernel parameter iommu=off, and switch on VT-d/,
    add: ['intel_iommu=on'],
    remove: ['iommu=off'],
  },
]

const VIRTUAL: readonly Without[] = [
  {
    what: 'KubeVirt, Kata or OpenStack on QEMU',
    source:
      'kata-containers/tests#3905; QEMU docs/system/i386/intel-iommu; libvirt formatdomain, "IOMMU devices"',
    host: {
      files: { ...GUEST, ...dmi({ sys_vendor: 'QEMU', product_name: 'Standard PC (Q35 + ICH9, 2009)' }) },
    },
    why: /virtual machine/,
    cure: /-device intel-iommu,intremap=on.*<iommu model="intel">/,
    not: NO_FIRMWARE,
  },
  {
    what: 'Red Hat virtualization by another name of the vendor',
    source:
      'OpenShift Virtualization: sys_vendor "Red Hat", product_name "OpenShift Virtualization", board KVM',
    host: { files: { ...GUEST, ...dmi({ sys_vendor: 'Red Hat', product_name: 'KVM' }) } },
    cure: /-device intel-iommu/,
    not: NO_FIRMWARE,
  },
  {
    what: 'a VM that has a virtual VT-d already: the parameter is missing, inside',
    source: 'libvirt: <iommu model="intel"/> gives the guest a DMAR table',
    host: { files: { ...GUEST, ...dmi({ sys_vendor: 'QEMU' }), ...acpiTables('DMAR') } },
    cure: /^boot with the kernel parameter intel_iommu=on/,
    not: /outside/,
    add: ['intel_iommu=on'],
  },
  {
    what: 'a VM that has a virtio-iommu, whose driver is a module that nobody loaded',
    source:
      'drivers/acpi/viot.c: viot_dev_iommu_init puts off every driver until it comes; QEMU virtio-iommu',
    host: { files: { ...GUEST, ...dmi({ sys_vendor: 'QEMU' }), ...acpiTables('VIOT') } },
    why: /virtio-iommu/,
    cure: /^load its driver: modprobe virtio_iommu/,
    not: /outside/,
  },
  {
    what: 'VMware',
    source: 'VMware, "Enable I/O MMU virtualization"; vvtd.enable',
    host: { files: { ...GUEST, ...dmi({ sys_vendor: 'VMware, Inc.', product_name: 'VMware7,1' }) } },
    cure: /Expose IOMMU to the guest OS/,
    not: /VT-d/,
  },
  {
    what: 'Hyper-V',
    source: 'openvswitch/ovs-issues#292; systemd, src/basic/virt.c: detect_vm_dmi_vendor',
    host: {
      files: { ...GUEST, ...dmi({ sys_vendor: 'Microsoft Corporation', product_name: 'Virtual Machine' }) },
    },
    cure: /Hyper-V gives its virtual machines no IOMMU/,
    not: NO_FIRMWARE,
  },
  {
    what: 'Azure',
    source: 'cloud-init, DataSourceAzure: the asset tag of its chassis',
    host: {
      files: {
        ...GUEST,
        ...dmi({
          sys_vendor: 'Microsoft Corporation',
          product_name: 'Virtual Machine',
          chassis_asset_tag: '7783-7084-3265-9085-8269-3286-77',
        }),
      },
    },
    cure: /Azure have no IOMMU/,
  },
  ...(
    [
      ['DigitalOcean', { sys_vendor: 'DigitalOcean', product_name: 'Droplet' }],
      ['Hetzner', { sys_vendor: 'Hetzner', product_name: 'vServer' }],
      ['Vultr', { sys_vendor: 'Vultr', product_name: 'VC2' }],
      ['Oracle Cloud', { sys_vendor: 'QEMU', chassis_asset_tag: 'OracleCloud.com' }],
      ['A cloud of tomorrow', { sys_vendor: 'A cloud of tomorrow', product_name: 'VM' }],
    ] as const
  ).map(([name, names]) => ({
    what: `a virtual machine that is rented from ${name}`,
    source: 'cloud-init, tools/ds-identify: what clouds write into DMI',
    host: { files: { ...GUEST, ...dmi(names) } },
    cure: new RegExp(`^only ${name} can give .*bare-metal`),
    not: /QEMU -machine|VT-d/,
  })),
  ...['QEMU', 'Red Hat', 'OpenStack Foundation', 'KubeVirt', 'oVirt', 'Nutanix'].map((name) => ({
    what: `a virtual machine of ${name}'s, whose owner is the reader`,
    source: 'QEMU, "intel-iommu"; Nova, hw_viommu_model',
    host: { files: { ...GUEST, ...dmi({ sys_vendor: name, product_name: 'KVM' }) } },
    cure: /intel-iommu,intremap=on/,
    not: /^only/,
  })),
  {
    what: 'VirtualBox',
    source: 'VBoxManage modifyvm --iommu; --chipset=ich9',
    host: { files: { ...GUEST, ...dmi({ sys_vendor: 'innotek GmbH', product_name: 'VirtualBox' }) } },
    cure: /VBoxManage modifyvm NAME --chipset=ich9 --iommu=intel/,
    not: NO_FIRMWARE,
  },
  {
    what: 'an instance of EC2',
    source: 'AWS: bare-metal instance types end in .metal',
    host: { files: { ...GUEST, ...dmi({ sys_vendor: 'Amazon EC2', product_name: 'm6i.xlarge' }) } },
    cure: /ends in \.metal/,
    not: NO_FIRMWARE,
  },
  {
    what: 'a bare-metal instance of EC2, which has a firmware',
    source: 'the same page: i3.metal',
    host: {
      files: {
        ...INTEL,
        ...dmi({ sys_vendor: 'Amazon EC2', product_name: 'i3.metal' }),
        ...acpiTables('DMAR'),
      },
    },
    cure: /^boot with the kernel parameter intel_iommu=on/,
    add: ['intel_iommu=on'],
  },
  {
    what: 'a bare-metal ARM instance of EC2, whose processor has no flag to tell by',
    source: 'the same page: a1.metal',
    host: arm(dmi({ sys_vendor: 'Amazon EC2', product_name: 'a1.metal' })),
    cure: /SMMU in the firmware setup/,
  },
  {
    what: 'Compute Engine',
    source: 'its DMI: Google, Google Compute Engine',
    host: { files: { ...GUEST, ...dmi({ sys_vendor: 'Google', product_name: 'Google Compute Engine' }) } },
    cure: /Compute Engine have no IOMMU/,
  },
  {
    what: 'Parallels',
    source: 'systemd, src/basic/virt.c: detect_vm_dmi_vendor',
    host: { files: { ...GUEST, ...dmi({ sys_vendor: 'Parallels International GmbH.' }) } },
    cure: /Parallels gives/,
  },
  {
    what: 'bhyve',
    source: 'the same: BHYVE',
    host: { files: { ...GUEST, ...dmi({ sys_vendor: 'FreeBSD', product_name: 'BHYVE' }) } },
    cure: /bhyve gives/,
  },
  {
    what: 'a hypervisor that only the processor tells of',
    source: 'arch/x86/kernel/cpu/hypervisor.c; Firecracker has no DMI',
    host: { files: GUEST },
    cure: /in the settings of its hypervisor/,
    not: NO_FIRMWARE,
  },
  {
    what: 'a guest of Xen',
    source: 'Documentation/ABI/stable/sysfs-hypervisor-xen',
    host: { files: { ...GUEST, ...XEN, 'sys/hypervisor/properties/features': '000022f9\n' } },
    cure: /assign the device from dom0/,
    not: NO_FIRMWARE,
  },
  {
    what: 'dom0 of Xen, by its features',
    source: 'systemd, src/basic/virt.c: detect_vm_xen_dom0, XENFEAT_dom0',
    host: {
      files: { ...INTEL, ...XEN, 'sys/hypervisor/properties/features': '00002ffd\n', ...acpiTables('DMAR') },
    },
    why: /dom0/,
    cure: /xen-pciback/,
    not: /firmware setup|intel_iommu/,
  },
  {
    what: 'dom0 of Xen, by what it may do',
    source: '/proc/xen/capabilities: control_d',
    host: { files: { ...INTEL, ...XEN, 'proc/xen/capabilities': 'control_d\n' } },
    cure: /xen-pciback/,
  },
  {
    what: 'dom0 of Xen, by its number',
    source: '/sys/hypervisor/uuid is zero there',
    host: { files: { ...INTEL, ...XEN, 'sys/hypervisor/uuid': '00000000-0000-0000-0000-000000000000\n' } },
    cure: /xen-pciback/,
  },
  {
    what: 'WSL 2',
    source: 'microsoft/WSL: its release ends in -microsoft-standard-WSL2',
    host: { kernel: '5.15.90.1-microsoft-standard-WSL2', files: GUEST },
    cure: /WSL runs in/,
    not: NO_FIRMWARE,
  },
  {
    what: 'ARM VM on QEMU',
    source: 'QEMU docs/system/arm/virt: iommu=smmuv3; compatible linux,dummy-virt',
    host: arm({ 'sys/firmware/devicetree/base/compatible': 'linux,dummy-virt\0' }),
    cure: /-machine virt,iommu=smmuv3/,
    not: /VT-d|intel_iommu|firmware setup/,
  },
  {
    what: 'ARM VM by the file of QEMU',
    source: 'drivers/firmware/qemu_fw_cfg.c',
    host: arm({ 'sys/firmware/qemu_fw_cfg/rev': '3\n' }),
    cure: /-machine virt,iommu=smmuv3/,
  },
  {
    what: 'ARM VM of Apple',
    source: 'DMI of its EFI: Apple Inc., Apple Virtualization Generic Platform',
    host: arm(dmi({ sys_vendor: 'Apple Inc.', product_name: 'Apple Virtualization Generic Platform' })),
    cure: /Apple's virtualization framework/,
    not: /VT-d|intel_iommu/,
  },
  {
    what: 'RISC-V VM',
    source: 'QEMU docs/system/riscv/virt: iommu-sys',
    host: {
      kernel: '6.13.0',
      files: {
        'proc/cpuinfo': 'hart\t\t: 0\nisa\t\t: rv64imafdc\n',
        'sys/firmware/devicetree/base/compatible': 'riscv-virtio\0',
      },
    },
    cure: /-machine virt,iommu-sys=on/,
  },
]

describe('no IOMMU', function () {
  this.timeout(20_000)
  afterEach(removeDirectories)

  for (const { what, source, host, why, cure, not, add = [], remove = [] } of [
    ...BARE_METAL,
    ...COMMAND_LINES,
    ...OTHER_COMMAND_LINES,
    ...VIRTUAL,
  ]) {
    it(`${what} (${source})`, () => {
      const seen = seePlatform({
        interruptRemapping: false,
        ...host,
        iommu: 'none',
        modules: {
          vfio: { state: 'loaded' },
          vfio_iommu_type1: { state: 'loaded' },
          vfio_pci: { state: 'loaded' },
        },
        devices: [{ address: ADDRESS, driver: 'nvme' }],
      })
      const check = checkOf(seen, 'iommu')
      assert.deepEqual([check.status, check.ready], ['fail', false])
      assert.match(check.cure, cure)
      if (why) assert.match(check.detail, why)
      if (not) assert.doesNotMatch(check.cure, not)
      const parameters = kernelParameters(seen)
      assert.deepEqual(
        parameters.add.map(({ parameter }) => parameter),
        add,
      )
      assert.deepEqual(
        parameters.remove.map(({ parameter }) => parameter),
        remove,
      )
      assert.equal(checkOf(seen, 'interrupt remapping').status, 'ok')
      assert.equal(assess(seen, ADDRESS).verdict, 'blocked')
    })
  }

  it('names the no-IOMMU mode as a last resort, with its risk, only where the kernel has it (CONFIG_VFIO_NOIOMMU)', () => {
    const cure = (host: PlatformDescription) =>
      checkOf(seePlatform({ ...host, iommu: 'none', devices: [{ address: ADDRESS }] }), 'iommu').cure
    assert.match(cure({ modules: READY_MODULES }), /last resort.*enable_unsafe_noiommu_mode.*all memory/)
    const { vfio: _, ...others } = READY_MODULES
    assert.doesNotMatch(cure({ modules: { ...others, vfio: { state: 'loaded' } } }), /last resort/)
    // A word of the command line is mended before anything is risked.
    const told = { modules: READY_MODULES, files: { ...AMD, 'proc/cmdline': 'ro amd_iommu=off' } }
    assert.match(cure(told), /^remove the kernel parameter amd_iommu=off$/)
    // What a domain of Xen takes for an address is none to a device.
    assert.doesNotMatch(cure({ files: { ...XEN, 'proc/xen/capabilities': 'control_d\n' } }), /last resort/)
  })

  it('says which of the parameters leave interrupt remapping off too', () => {
    const seen = seePlatform({
      commandLine: 'intel_iommu=on nointremap',
      interruptRemapping: false,
      files: INTEL,
      devices: [{ address: ADDRESS, group: 5 }],
    })
    const { add, remove } = kernelParameters(seen)
    assert.deepEqual(add, [])
    assert.deepEqual(remove, [{ parameter: 'nointremap', why: 'it leaves interrupt remapping off' }])
  })
})

describe('a virtual machine that only its devices tell of', function () {
  this.timeout(20_000)
  afterEach(removeDirectories)

  /** Ids of pci.ids, and QEMU's docs/specs/pci-ids. */
  const kinds: readonly (readonly [what: string, device: Partial<DeviceDescription>, cure: RegExp])[] = [
    [
      'QEMU by its subsystem',
      { vendor: 0x8086, device: 0x29c0, subsystem: [0x1af4, 0x1100] },
      /-device intel-iommu/,
    ],
    ['QEMU by its host bridge', { vendor: 0x1b36, device: 0x0008, class: 0x060000 }, /-device intel-iommu/],
    ['VMware', { vendor: 0x15ad, device: 0x0740 }, /Expose IOMMU/],
    ['VirtualBox', { vendor: 0x80ee, device: 0xbeef }, /VBoxManage/],
    ['Hyper-V', { vendor: 0x1414, device: 0x5353 }, /Hyper-V gives/],
    ['Xen', { vendor: 0x5853, device: 0x0001 }, /from dom0/],
  ]
  for (const [what, device, cure] of kinds) {
    it(`is one of ${what}`, () => {
      const seen = seePlatform({ iommu: 'none', devices: [{ address: ADDRESS, ...device }] })
      assert.match(checkOf(seen, 'iommu').cure, cure)
      assert.deepEqual(kernelParameters(seen).add, [])
    })
  }

  it('is none where a network card speaks virtio in hardware (1af4:1041 with a subsystem of its own)', () => {
    const devices = [{ address: ADDRESS, vendor: 0x1af4, device: 0x1041, subsystem: [0x1ded, 1] as const }]
    assert.match(checkOf(seePlatform({ iommu: 'none', devices }), 'iommu').cure, /firmware setup/)
  })
})

describe('an IOMMU that no PCI function is behind', function () {
  this.timeout(20_000)
  afterEach(removeDirectories)

  const BRIDGE = '0001:00:00.0'
  const NIC = '0001:01:00.0'
  const PI5: PlatformDescription = {
    kernel: '6.12.22-v8-16k+',
    iommu: 'none',
    devices: [
      { address: BRIDGE, headerType: 'bridge', secondaryBus: 1, driver: 'pcieport' },
      { address: NIC, driver: 'igb' },
    ],
    groups: { 0: { others: [{ name: '1000880000.hevc-dec', driver: 'rpi-hevc-dec' }] } },
    files: {
      'proc/cpuinfo': ARM_CPU,
      'proc/interrupts': interrupts('161: 0 0 MIP MSI 128 Edge nvme0q0'),
    },
  }

  it('is a Raspberry Pi 5: the host is never ready (raspberrypi/linux#6834; vfio_group_find_or_alloc: EINVAL)', () => {
    const seen = seePlatform(PI5)
    const check = checkOf(seen, 'groups')
    assert.deepEqual([check.status, check.ready], ['fail', false])
    assert.match(check.cure, /IORT.*iommu-map/)
    assert.match(assess(seen, NIC).reason, /in no IOMMU group: the IOMMU does not cover it$/)
  })

  it('is told by the device tree, where that was copied (drivers/iommu/of_iommu.c: of_pci_iommu_init)', () => {
    const node = 'sys/firmware/devicetree/base/axi/pcie@1000110000'
    const described = {
      ...PI5,
      files: { ...PI5.files, [`${node}/compatible`]: 'brcm,bcm2712-pcie\0' },
      links: { 'sys/devices/of_node': node },
    }
    const seen = seePlatform(described)
    assert.match(checkOf(seen, 'groups').cure, /device tree leads the PCI host bridge to no IOMMU/)
    assert.match(assess(seen, NIC).reason, /no iommu-map/)
  })

  it('is a host without any PCI function in sight (Firecracker, WSL, some containers)', () => {
    const { status, ready, detail } = checkOf(seePlatform({ devices: [] }), 'groups')
    assert.deepEqual([status, ready], ['fail', false])
    assert.match(detail, /no PCI function/)
  })
})

describe('a container', function () {
  this.timeout(20_000)
  afterEach(removeDirectories)

  const OVERLAY =
    '1 2 0:99 / / rw,relatime - overlay overlay rw,lowerdir=/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/1/fs\n'
  const signs: readonly (readonly [what: string, name: string, files: Record<string, string>])[] = [
    ['podman: /run/.containerenv (podman-run)', 'podman', { 'run/.containerenv': '' }],
    ['Docker: /.dockerenv', 'docker', { 'proc/self/root/.dockerenv': '' }],
    [
      'systemd-nspawn: /run/systemd/container (systemd, CONTAINER_INTERFACE)',
      'systemd-nspawn',
      { 'run/systemd/container': 'systemd-nspawn\n' },
    ],
    [
      'one that says so to its manager: /run/host/container-manager',
      'podman',
      { 'run/host/container-manager': 'podman\n' },
    ],
    ['LXC: container= of its first process', 'lxc', { 'proc/1/environ': 'HOME=/\0container=lxc\0' }],
    ['a pod of containerd: its root', 'containerd', { 'proc/self/mountinfo': OVERLAY }],
    [
      'a pod of CRI-O: what the kubelet mounts',
      'kubernetes',
      { 'proc/self/mountinfo': '1 2 8:1 / /dev/termination-log rw - ext4 /dev/sda1 rw\n' },
    ],
  ]
  for (const [what, name, files] of signs) {
    it(`is told by ${what}`, () => {
      const seen = seePlatform({ devices: [{ address: ADDRESS, group: 5 }], files, nodes: {} })
      assert.equal(seen.host.platform.container, name)
      assert.equal(checkOf(seen, 'container').status, 'warn')
      assert.match(checkOf(seen, 'device node').cure, /--device \/dev\/vfio\/vfio/)
    })
  }

  // proc(5): reading /proc/1/environ takes ptrace access, which no user has of the first process.
  it('whose signs may not be read keeps no device from anybody', () => {
    const trees = makePlatform({ devices: [{ address: ADDRESS, group: 5 }] })
    new Tree(dirname(trees.sysfs)).link('proc/1/environ', 'environ')
    const seen = new Host(trees).snapshot()
    assert.deepEqual([seen.unseen, seen.host.unseen], [[], []])
    assert.equal(assess(seen, ADDRESS).verdict, 'bindable')
  })

  it('loads no modules', () => {
    const { vfio_pci: _, ...others } = READY_MODULES
    const seen = seePlatform({
      devices: [{ address: ADDRESS, group: 5 }],
      files: { 'run/.containerenv': '' },
      modules: { ...others, vfio_pci: { state: 'loadable' } },
    })
    assert.match(checkOf(seen, 'module vfio_pci').cure, /on the host: modprobe/)
    const bare = seePlatform({
      devices: [{ address: ADDRESS, group: 5 }],
      files: { 'run/.containerenv': '' },
      modules: {},
      without: ['modules'],
    })
    assert.match(checkOf(bare, 'module vfio_pci').cure, /on the host: modprobe/)
  })

  it('is no machine that was made from the image of one (docker export; include/linux/proc_ns.h: PROC_PID_INIT_INO)', () => {
    const trees = makePlatform({
      devices: [{ address: ADDRESS, group: 5 }],
      files: { 'proc/self/root/.dockerenv': '' },
    })
    const tree = new Tree(dirname(trees.sysfs))
    const inNamespaces = (pid: number) => {
      tree.remove('proc/self/ns')
      const names = { pid, uts: 4026531838, ipc: 4026531839 }
      for (const [name, number] of Object.entries(names))
        tree.link(`proc/self/ns/${name}`, `${name}:[${number}]`)
      return new Host(trees).snapshot().host.platform.container
    }
    assert.equal(inNamespaces(4026531836), null)
    assert.equal(inNamespaces(4026532209), 'docker')
  })

  it('is no host whose root is an overlay of its own (live images)', () => {
    const mountinfo = '1 2 0:99 / / rw - overlay overlay rw,lowerdir=/run/live/rootfs,upperdir=/run/live/rw\n'
    const seen = seePlatform({
      devices: [{ address: ADDRESS, group: 5 }],
      files: { 'proc/self/mountinfo': mountinfo },
    })
    assert.equal(seen.host.platform.container, null)
  })
})
