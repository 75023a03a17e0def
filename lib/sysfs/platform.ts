import { below, exists, linkName, linkTarget, listNames, readText } from './files.js'
import { leavingOut } from './unseen.js'

/** Processor families that differ in how they isolate devices; 32 and 64 bits count as one. */
export type Architecture = 'x86' | 'arm' | 's390' | 'power' | 'riscv' | 'loongarch'

/** What runs a host as its virtual machine. Clouds are apart where their owner's switch is another one. */
export type Hypervisor =
  | 'kvm'
  | 'vmware'
  | 'hyper-v'
  | 'xen'
  | 'virtualbox'
  | 'parallels'
  | 'bhyve'
  | 'apple'
  | 'amazon'
  | 'google'
  | 'azure'
  | 'zvm'
  | 'powervm'
  | 'wsl'
  /** The processor says that there is one, and nothing says which. */
  | 'other'

/** What kind of machine a host is, as far as its trees tell. */
export interface PlatformFacts {
  /** `null` here and below: not known. */
  readonly architecture: Architecture | null
  /** Of x86: whose IOMMU it has, VT-d or AMD-Vi. */
  readonly cpuVendor: 'intel' | 'amd' | null
  /** `null` also on bare metal. */
  readonly hypervisor: Hypervisor | null
  /** Only of a virtual machine that a company rents out, by the name that it gives itself in DMI. */
  readonly provider?: string
  /** The privileged domain of Xen, which has the devices and not the IOMMU. */
  readonly xenDom0: boolean
  /** The container that the trees were seen from, by the name of what made it; `null` for none in sight. */
  readonly container: string | null
  /** Names of the ACPI tables that the firmware gave; `null` where there is no list of them. */
  readonly acpiTables: readonly string[] | null
  /** By root bus (`0001:00`): does the device tree lead its host bridge to an IOMMU? Only those that it describes. */
  readonly iommuMaps: Readonly<Record<string, boolean>>
}

interface Trees {
  readonly sysfs: string
  readonly proc: string | null
  readonly run: string | null
}

export function readPlatform(trees: Trees, kernel: string): PlatformFacts {
  const { sysfs, proc } = trees
  const cpu = readText(below(proc, 'cpuinfo')) ?? ''
  const acpiTables = readAcpiTables(sysfs)
  const architecture =
    architectureOfCpu(cpu) ??
    architectureOfInterrupts(readText(below(proc, 'interrupts')) ?? '') ??
    architectureOfSysfs(sysfs, acpiTables) ??
    architectureOfRelease(kernel)
  const xenDom0 = isXenDom0(sysfs, proc)
  const hypervisor = xenDom0 ? null : readHypervisor(trees, { cpu, kernel, architecture })
  const provider = hypervisor === 'kvm' || hypervisor === 'other' ? readProvider(sysfs) : null
  return Object.freeze({
    architecture,
    cpuVendor: architecture === 'x86' ? cpuVendor(cpu, acpiTables, sysfs) : null,
    hypervisor,
    ...(provider !== null && { provider }),
    xenDom0,
    // No verdict rests on it, and most users may not read all of its signs (`/proc/1/environ`).
    container: leavingOut(() => readContainer(trees)),
    acpiTables,
    iommuMaps: readIommuMaps(sysfs),
  })
}

/** `/proc/cpuinfo` of each architecture has fields that no other one has (`show_cpuinfo`, `c_show`). */
const CPU_FIELDS: readonly [RegExp, Architecture][] = [
  [/^vendor_id\s*:\s*IBM\/S390/m, 's390'],
  [/^CPU implementer\s*:/m, 'arm'],
  [/^(vendor_id\s*:\s*\w|flags\s*:|cpu family\s*:)/m, 'x86'],
  [/^cpu\s*:\s*POWER|^machine\s*:\s*(PowerNV|CHRP)/m, 'power'],
  [/^isa\s*:\s*rv\d|^hart\s*:/m, 'riscv'],
  [/^(CPU Family|system type)\s*:.*Loong/im, 'loongarch'],
]

const architectureOfCpu = (cpu: string) => CPU_FIELDS.find(([field]) => field.test(cpu))?.[1] ?? null

/** Interrupt controllers, and the lines of `arch_show_interrupts`, by architecture. */
const INTERRUPT_LINES: readonly [RegExp, Architecture][] = [
  [/^\s*(EXT|I\/O|AIO|DAT|CPM):\s/m, 's390'],
  [/\s(IO-APIC|IR-IO-APIC|XT-PIC|DMAR-MSI|IR-PCI-MSI)\b/, 'x86'],
  [/\s(GICv?\d|GIC-0|ITS-)/, 'arm'],
  [/\s(XIVE|XICS|PNV-PCI-MSI|OPAL)\b/, 'power'],
  [/\s(RISC-V INTC|SiFive PLIC|RISC-V IMSIC|RISC-V APLIC)\b/, 'riscv'],
  [/\s(PCH PIC|PCH MSI|CPUINTC|EIOINTC|LIOINTC)\b/, 'loongarch'],
]

const architectureOfInterrupts = (interrupts: string) =>
  INTERRUPT_LINES.find(([line]) => line.test(interrupts))?.[1] ?? null

/** What only one architecture has in sysfs, with or without a copy of `/proc`. */
function architectureOfSysfs(sysfs: string, acpiTables: readonly string[] | null): Architecture | null {
  const units = listNames(`${sysfs}/class/iommu`)
  const has = (name: string) => acpiTables?.includes(name) ?? false
  // The `cpu:type:` of x86, arm64, s390 and POWER (`print_cpu_modalias`, `CPU_FEATURE_TYPEFMT`).
  const type = /^cpu:type:(\w+)/.exec(readText(`${sysfs}/devices/system/cpu/modalias`) ?? '')?.[1] ?? ''
  if (type === 'x86' || units.some((name) => /^(dmar|ivhd)\d/.test(name)) || has('DMAR') || has('IVRS'))
    return 'x86'
  if (/^(aarch64|arm)/.test(type) || units.some((name) => /^smmu/.test(name)) || has('IORT')) return 'arm'
  if (/^s390/.test(type) || exists(`${sysfs}/bus/ccw`)) return 's390'
  if (exists(`${sysfs}/firmware/opal`) || exists(`${sysfs}/module/vfio_iommu_spapr_tce`)) return 'power'
  if (has('RHCT') || has('RIMT')) return 'riscv'
  return null
}

/** Distributions put the architecture into the release: `-amd64` (Debian), `.x86_64` (Fedora, SUSE), … */
const RELEASES: readonly [RegExp, Architecture][] = [
  [/[.-](amd64|x86_64|i[3-6]86|686)\b/, 'x86'],
  [/[.-](arm64|aarch64|armv?[5-8]\w*|armmp)\b/, 'arm'],
  [/[.-]s390x?\b/, 's390'],
  [/[.-](ppc64(le|el)?|powerpc\w*)\b/, 'power'],
  [/[.-]riscv64\b/, 'riscv'],
  [/[.-]loong(arch)?64\b/, 'loongarch'],
]

const architectureOfRelease = (kernel: string) => RELEASES.find(([mark]) => mark.test(kernel))?.[1] ?? null

function cpuVendor(cpu: string, tables: readonly string[] | null, sysfs: string): 'intel' | 'amd' | null {
  // The table tells which driver it needs, whoever made the processor: QEMU has VT-d for guests on AMD too.
  if (tables?.includes('DMAR')) return 'intel'
  if (tables?.includes('IVRS')) return 'amd'
  const name = /^vendor_id\s*:\s*(\w+)/m.exec(cpu)?.[1] ?? ''
  if (/^(AuthenticAMD|HygonGenuine)$/.test(name) || exists(`${sysfs}/module/kvm_amd`)) return 'amd'
  return /^(GenuineIntel|CentaurHauls)$/.test(name) || exists(`${sysfs}/module/kvm_intel`) ? 'intel' : null
}

/** Everybody may list them, only root may read them. */
function readAcpiTables(sysfs: string): readonly string[] | null {
  const names = listNames(`${sysfs}/firmware/acpi/tables`)
  return names.length === 0 ? null : names.filter((name) => /^[A-Z0-9_]{4}\d*$/.test(name)).sort()
}

const XENFEAT_DOM0 = 1 << 11

/** As systemd tells it (`detect_vm_xen_dom0`): by the features of the domain, else by what it may do. */
function isXenDom0(sysfs: string, proc: string | null): boolean {
  if (readText(`${sysfs}/hypervisor/type`) !== 'xen') return false
  const features = Number.parseInt(readText(`${sysfs}/hypervisor/properties/features`) ?? '', 16)
  if (!Number.isNaN(features)) return (features & XENFEAT_DOM0) !== 0
  const capabilities = readText(below(proc, 'xen/capabilities'))
  if (capabilities !== null) return capabilities.includes('control_d')
  return /^[0-]+$/.test(readText(`${sysfs}/hypervisor/uuid`) ?? '')
}

const DMI_FILES = [
  'sys_vendor',
  'product_name',
  'board_vendor',
  'board_name',
  'bios_vendor',
  'chassis_vendor',
  'chassis_asset_tag',
]

/** What hypervisors and clouds write into DMI, most telling first (systemd's `detect_vm_dmi_vendor`, and the clouds' own pages). */
const DMI_NAMES: readonly [RegExp, Hypervisor][] = [
  [/7783-7084-3265-9085-8269-3286-77/, 'azure'],
  [/Microsoft Corporation\n[^\n]*Virtual Machine/, 'hyper-v'],
  [/VMware/, 'vmware'],
  [/VirtualBox|innotek GmbH/, 'virtualbox'],
  [/^Xen\n|\nHVM domU\n/, 'xen'],
  [/Parallels/, 'parallels'],
  [/BHYVE/i, 'bhyve'],
  [/Apple Virtualization|Apple Inc\.\n[^\n]*Virtual/, 'apple'],
  [/Amazon EC2/, 'amazon'],
  [/Google Compute Engine/, 'google'],
  [
    /QEMU|KVM|KubeVirt|OpenStack|oVirt|RHEV|OVMF|Bochs|AHV|DigitalOcean|Alibaba Cloud|Hetzner\n[^\n]*vServer|Standard PC \(/,
    'kvm',
  ],
]

/** Makers of programs that run virtual machines, who name themselves where their user does not; and of firmware for these. */
const NO_PROVIDER =
  /^(?:QEMU|KVM|Red Hat|RDO|oVirt|RHEV|KubeVirt|OpenStack|Nutanix|Bochs|SeaBIOS|EFI Development Kit|libvirt|Proxmox|Fedora|CentOS|Debian|Ubuntu|Canonical|SUSE|Incus|LXD|Firecracker|Cloud Hypervisor|crosvm|ACRN|Kata|linux|unknown|system manufacturer|to be filled|default|none|not specified)/i

/** Clouds that leave the name of the program that they run in the place of the vendor, and their own in another. */
const PROVIDERS: readonly [RegExp, string][] = [[/OracleCloud/, 'Oracle Cloud']]

/** Who rents out a virtual machine: whoever names himself its maker, and makes no such program. */
function readProvider(sysfs: string): string | null {
  const read = (name: string) => (readText(`${sysfs}/class/dmi/id/${name}`) ?? '').trim()
  const tag = read('chassis_asset_tag')
  const byTag = PROVIDERS.find(([name]) => name.test(tag))?.[1]
  const vendor = read('sys_vendor')
  if (byTag !== undefined) return byTag
  return vendor === '' || NO_PROVIDER.test(vendor) ? null : vendor.slice(0, LONGEST_NAME)
}

const LONGEST_NAME = 64

/** Their makers sell bare metal under the same name. */
const ALSO_METAL: ReadonlySet<Hypervisor> = new Set(['amazon', 'google', 'azure', 'kvm'])

interface Machine {
  readonly cpu: string
  readonly kernel: string
  readonly architecture: Architecture | null
}

function readHypervisor({ sysfs, proc }: Trees, { cpu, kernel, architecture }: Machine): Hypervisor | null {
  if (/microsoft.*WSL|-Microsoft$/i.test(kernel)) return 'wsl'
  if (readText(`${sysfs}/hypervisor/type`) === 'xen') return 'xen'
  const flags = /^flags\s*:(.*)$/m.exec(cpu)?.[1]
  const flagged = flags === undefined ? null : /\shypervisor\b/.test(flags)
  const dmi = DMI_FILES.map((name) => readText(`${sysfs}/class/dmi/id/${name}`) ?? '').join('\n')
  const named = DMI_NAMES.find(([name]) => name.test(dmi))?.[1] ?? null
  const isMetal = /\.metal/.test(dmi) || (flagged === false && named !== null && ALSO_METAL.has(named))
  if (named !== null && !(isMetal && !/QEMU/.test(dmi))) return named
  if (exists(`${sysfs}/firmware/qemu_fw_cfg`)) return 'kvm'
  const byTree = hypervisorOfDeviceTree(sysfs)
  if (byTree) return byTree
  if (architecture === 's390') return hypervisorOfS390(readText(below(proc, 'sysinfo')) ?? '')
  if (/^machine\s*:.*emulated by qemu/m.test(cpu)) return 'kvm'
  if (/^machine\s*:\s*CHRP IBM,/m.test(cpu)) return 'powervm'
  return flagged ? 'other' : null
}

function hypervisorOfDeviceTree(sysfs: string): Hypervisor | null {
  const text = (path: string) => readText(`${sysfs}/firmware/devicetree/base/${path}`) ?? ''
  const compatible = text('hypervisor/compatible')
  if (compatible.includes('xen,xen')) return 'xen'
  // `linux,dummy-virt` is the `virt` machine of QEMU and of everything that looks like it.
  if (/linux,kvm/.test(compatible) || /linux,dummy-virt|riscv-virtio/.test(text('compatible'))) return 'kvm'
  return null
}

/** `VM00 Control Program: z/VM    7.2.0`; an LPAR has no such line. */
function hypervisorOfS390(sysinfo: string): Hypervisor | null {
  const program = /^VM\d+ Control Program:\s*(.*)$/m.exec(sysinfo)?.[1]
  if (program === undefined) return null
  return /KVM/.test(program) ? 'kvm' : 'zvm'
}

/** podman and Docker leave a file, systemd's container interface a name; containerd and CRI-O show in the mounts alone. */
function readContainer({ proc, run }: Trees): string | null {
  if (exists(`${run ?? ''}/.containerenv`) && run !== null) return 'podman'
  const root = below(proc, 'self/root')
  if (root !== null && exists(`${root}/.dockerenv`) && !isInFirstNamespaces(proc)) return 'docker'
  const named =
    readText(below(run, 'systemd/container')) ||
    readText(below(run, 'host/container-manager')) ||
    /(?:^|\0)container=([\w-]+)/.exec(readText(below(proc, '1/environ')) ?? '')?.[1]
  if (named) return named
  const mounts = readText(below(proc, 'self/mountinfo')) ?? ''
  if (/ \/(var\/)?run\/secrets\/kubernetes\.io\/| \/dev\/termination-log /.test(mounts)) return 'kubernetes'
  const overlay = /^\S+ \S+ \S+ \S+ \/ .* - overlay \S+ (.*)$/m.exec(mounts)?.[1] ?? ''
  return /\/(containerd|docker|containers\/storage)\//.exec(overlay)?.[1]?.split('/')[0] ?? null
}

/** The namespaces that the kernel begins with have numbers of their own (`include/linux/proc_ns.h`). */
const FIRST_NAMESPACES = ['pid:[4026531836]', 'uts:[4026531838]', 'ipc:[4026531839]']

/** A machine that was made from a container's image keeps the file, and is none. */
const isInFirstNamespaces = (proc: string | null) =>
  FIRST_NAMESPACES.every(
    (name) => proc !== null && linkTarget(`${proc}/self/ns/${name.slice(0, name.indexOf(':'))}`) === name,
  )

/** A host bridge with a node in the device tree reaches an IOMMU by its `iommu-map` alone (`of_iommu_configure`). */
function readIommuMaps(sysfs: string): Readonly<Record<string, boolean>> {
  if (!exists(`${sysfs}/firmware/devicetree/base`)) return Object.freeze({})
  const maps: Record<string, boolean> = {}
  for (const name of listNames(`${sysfs}/bus/pci/devices`)) {
    const [, bridge, bus] = ROOT.exec(linkTarget(`${sysfs}/bus/pci/devices/${name}`) ?? '') ?? []
    if (bridge === undefined || bus === undefined || bus in maps) continue
    const node = `${sysfs}/bus/pci/devices/${bridge}/of_node`
    if (linkName(node) === null && !exists(node)) continue
    // A copy may have the link and not what it leads to.
    if (listNames(node).length > 0) maps[bus] = exists(`${node}/iommu-map`)
  }
  return Object.freeze(maps)
}

/** From `bus/pci/devices`: the directory of the host bridge, and its root bus. */
const ROOT = /^(.*?)\/pci([0-9a-f]{4,8}:[0-9a-f]{2})\//
