import { LabError } from './errors.js'

/** A machine that QEMU can be, with an IOMMU that Linux has a driver of. */
export interface LabHost {
  readonly name: string
  /** What `--help` says of it. */
  readonly title: string
  /** As Node names it, in `process.arch`. */
  readonly processor: 'x64' | 'arm64' | 's390x'
  /** Debian's name of the processor. */
  readonly architecture: 'amd64' | 'arm64' | 's390x'
  /** How the names of its Debian kernels end. */
  readonly flavour: string
  /** The series of its kernels that the tests run on, of those in kernels.ts, oldest first. */
  readonly kernels: readonly string[]
  /** The emulator, and the Debian package that has it. */
  readonly qemu: { readonly program: string; readonly debian: string }
  /** Machine, processor and memory. */
  readonly machine: readonly string[]
  readonly iommu: readonly string[]
  /** What connects the character device `lab_console` to the kernel's console. */
  readonly serial: readonly string[]
  /** Words of the kernel's command line beside those that every host has (machine.ts). */
  readonly commandLine: readonly string[]
  /** Those that only one series takes, by its name in kernels.ts. */
  readonly commandLineOf?: Readonly<Record<string, readonly string[]>>
  /** How the lab's own devices, which carry the files and the command's input and output, are connected. */
  readonly transport: 'pci' | 'ccw'
  /** Modules that have to be there before the devices get their drivers. */
  readonly modules: readonly string[]
  /** The devices that a guest gets when none are named: a file of topologies/, without `.args`. */
  readonly topology: string
}

const SIZE = ['-smp', '2', '-m', '1024']

const intel: LabHost = {
  name: 'intel',
  title: 'x86-64 with an Intel IOMMU (VT-d)',
  processor: 'x64',
  architecture: 'amd64',
  flavour: 'amd64',
  kernels: ['5.10', '6.1', '6.12'],
  qemu: { program: 'qemu-system-x86_64', debian: 'qemu-system-x86' },
  machine: ['-M', 'q35,kernel-irqchip=split', '-cpu', 'max', ...SIZE],
  iommu: ['-device', 'intel-iommu,intremap=on,caching-mode=on,aw-bits=48'],
  serial: ['-serial', 'chardev:lab_console'],
  commandLine: ['console=ttyS0', 'intel_iommu=on', 'no_timer_check', 'tsc=reliable'],
  transport: 'pci',
  modules: ['virtio_pci'],
  topology: 'default',
}

const amd: LabHost = {
  ...intel,
  name: 'amd',
  title: 'x86-64 with an AMD IOMMU (AMD-Vi)',
  kernels: ['6.12', '7.3'],
  machine: ['-M', 'q35,kernel-irqchip=split', '-cpu', 'EPYC-v4', ...SIZE],
  // QEMU (10.0) translates no DMA here, whatever the kernel asks for: that is its `pt`, which is on by default.
  iommu: ['-device', 'amd-iommu,intremap=on'],
  // The kernel's driver is on by itself. QEMU was seen to bring no interrupt of the I/O APIC (10.0, without KVM): the
  // drivers of the host do without, and without translated DMA.
  commandLine: [
    ...intel.commandLine.filter((word) => word !== 'intel_iommu=on'),
    ...['iommu=pt', 'i2c_i801.disable_features=0x10'],
  ],
  // QEMU's ACPI table has the I/O APIC at 00:14.0, where no device is. Up to 6.18 Linux wants just that; this one remaps
  // interrupts only where an ISA bridge or an SMBus controller is there, so it is told of the q35's ISA bridge.
  commandLineOf: { '7.3': ['ivrs_ioapic=0@0000:00:1f.0'] },
}

const amdWithDma: LabHost = {
  ...amd,
  name: 'amd-dma',
  title: 'the same, with DMA that is translated, of devices on the root bus',
  // QEMU (10.0) takes a device behind a bridge for the one of that slot and function on bus 0: where there is none, it
  // gets no DMA at all, and its driver runs into a time limit.
  iommu: ['-device', 'amd-iommu,intremap=on,pt=off'],
}

const virtio: LabHost = {
  ...intel,
  name: 'virtio',
  title: 'x86-64 with a virtio-iommu, which remaps no interrupts',
  kernels: ['6.12', '7.3'],
  // A high fixed slot, so that the devices of a topology keep theirs.
  iommu: ['-device', 'virtio-iommu-pci,bus=pcie.0,addr=1c'],
  commandLine: [
    ...intel.commandLine.filter((word) => word !== 'intel_iommu=on'),
    'vfio_iommu_type1.allow_unsafe_interrupts=1',
  ],
  modules: [...intel.modules, 'virtio_iommu'],
  topology: 'express',
}

const arm64: LabHost = {
  name: 'arm64',
  title: 'arm64 with an SMMUv3, pages of 4 KiB',
  processor: 'arm64',
  architecture: 'arm64',
  flavour: 'arm64',
  kernels: ['6.12'],
  qemu: { program: 'qemu-system-aarch64', debian: 'qemu-system-arm' },
  machine: ['-M', 'virt,gic-version=3,iommu=smmuv3', '-cpu', 'max', ...SIZE],
  iommu: [],
  serial: ['-serial', 'chardev:lab_console'],
  commandLine: ['console=ttyAMA0'],
  transport: 'pci',
  modules: ['virtio_pci'],
  topology: 'arm64',
}

const arm64With16KibPages: LabHost = {
  ...arm64,
  name: 'arm64-16k',
  title: 'the same, pages of 16 KiB',
  flavour: 'arm64-16k',
}

const s390x: LabHost = {
  name: 's390x',
  title: 's390x with zPCI, big-endian',
  processor: 's390x',
  architecture: 's390x',
  flavour: 's390x',
  kernels: ['6.12'],
  qemu: { program: 'qemu-system-s390x', debian: 'qemu-system-s390x' },
  machine: ['-M', 's390-ccw-virtio', '-cpu', 'max', ...SIZE],
  iommu: [],
  serial: ['-device', 'sclpconsole,chardev=lab_console'],
  commandLine: ['console=ttysclp0'],
  transport: 'ccw',
  modules: [],
  topology: 's390x',
}

/** Their default comes first. */
export const labHosts: readonly LabHost[] = [
  intel,
  amd,
  amdWithDma,
  virtio,
  arm64,
  arm64With16KibPages,
  s390x,
]

/** Whether a guest of this host runs the programs of this machine. */
export const isNative = ({ processor }: LabHost) => processor === process.arch

/** The host that `--host` names; without a name the default one. */
export function findHost(name: string | undefined): LabHost {
  const [usual] = labHosts
  const found = name === undefined ? usual : labHosts.find((host) => host.name === name)
  if (found === undefined) {
    throw new LabError(`--host ${name}: give one of ${labHosts.map((host) => host.name).join(', ')}`)
  }
  return found
}
