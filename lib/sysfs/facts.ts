import { accessSync, constants, statSync } from 'node:fs'
import { whyMissing } from '../native/load.js'
import { isAddress } from './address.js'
import { below, exists, linkName, linkTarget, listNames, readText } from './files.js'
import { type IommuGroup, NO_IOMMU_GROUP } from './groups.js'
import { isKernelSince } from './kernel.js'
import { type HostLimits, readLimits } from './limits.js'
import { readModuleLists } from './modules.js'
import type { Architecture, PlatformFacts } from './platform.js'
import { errnoOf, lookFailed, noting, type Unseen } from './unseen.js'
import { type LoadedModule, readVfioModules } from './vfio-modules.js'

/**
 * Where a kernel module stands: `missing` means that this kernel has no such module at all, `unknown` that it is not
 * loaded, and that no list of this kernel's modules tells whether there is one.
 */
export type ModuleState = 'loaded' | 'builtin' | 'loadable' | 'missing' | 'unknown'

/** A device node: its owner, its permission bits and whether the caller may open it for reading and writing. */
export interface NodeFacts {
  readonly path: string
  readonly uid: number
  readonly gid: number
  /** Permission bits, for instance 0o600. */
  readonly mode: number
  readonly accessible: boolean
}

/** A hardware unit that translates for others. */
export interface IommuUnit {
  readonly name: string
  /** `intel-iommu`, `amd-iommu`, `arm-smmu`, …, in the kernel's naming. */
  readonly kind: string
  /** The PCI function that it is; `null` for none, as VT-d's, and where it is not known. */
  readonly address: string | null
}

/** What the host as a whole says about device assignment. */
export interface HostFacts {
  /** Kernel release, for instance `6.12.0-amd64`; empty where it is not known. */
  readonly kernel: string
  /** The trees that were looked at. */
  readonly paths: HostPaths
  /** PCI drivers that the kernel has now. */
  readonly drivers: readonly string[]
  /** The program by which the kernel itself loads modules. */
  readonly modprobe: string
  /** What kind of machine this is: its processor, and what it may run in. */
  readonly platform: PlatformFacts
  /** Kernel command line; empty where it is not known. */
  readonly commandLine: string
  readonly iommu: {
    /** Some unit, or some group of one: those of the no-IOMMU mode do not count. */
    readonly present: boolean
    /** Is `present` known? It is not in a copy without units, groups, and links to them. */
    readonly known: boolean
    readonly units: readonly IommuUnit[]
    /**
     * Whether a device can raise no interrupts but its own (isolated MSI): on x86 by interrupt remapping, on ARM by the
     * ITS, on s390 always; `null` where it cannot be told.
     */
    readonly interruptRemapping: boolean | null
  }
  readonly limits: HostLimits
  readonly modules: Readonly<Record<VfioModule, ModuleState>>
  /** What modules around VFIO say of themselves, while they are loaded or built in. */
  readonly vfioModules: Readonly<Record<string, LoadedModule>>
  /** Parameter of vfio_iommu_type1; `null` while the module is not there. */
  readonly allowUnsafeInterrupts: boolean | null
  /** The same parameter of iommufd, for devices that are opened by it; `null` while the module is not there. */
  readonly iommufdUnsafeInterrupts: boolean | null
  /** Parameter of vfio: groups for devices without an IOMMU; `null` while the module is not there. */
  readonly noIommuMode: boolean | null
  /** Parameter of vfio_pci: binds even devices that it refuses by default; `null` while the module is not there. */
  readonly denylistDisabled: boolean | null
  /** RLIMIT_MEMLOCK of the caller in bytes, `null` for unlimited. */
  readonly memlock: { readonly soft: number | null; readonly hard: number | null } | null
  /** Only for the running host, read without the native addon: why there is none, and what to do. */
  readonly addon?: { readonly reason: string; readonly cure: string }
  /** Only where `modules.alias` could not be read: whether a device has a variant driver is not known, and `variantDrivers` may lack it. */
  readonly variantsUnknown?: true
  /** Only where it is so: this kernel shows no PCI bus at all. */
  readonly pciBus?: false
  /** Which of the drivers, modules, limits and nodes here could not be looked at. */
  readonly unseen: readonly Unseen[]
  /** `/dev/vfio/vfio`, `/dev/iommu`, the nodes of groups and those of single devices; `null` where absent. */
  readonly nodes: {
    readonly container: NodeFacts | null
    readonly iommu: NodeFacts | null
    /** Both are one and the same: iommufd stands in for the container of VFIO. */
    readonly iommufdAsContainer?: true
    readonly groups: readonly NodeFacts[]
    /** `/dev/vfio/devices/vfioN`: devices that iommufd opens. */
    readonly devices: readonly NodeFacts[]
  }
}

const VFIO_MODULES = [
  'vfio',
  'vfio_iommu_type1',
  'vfio_iommu_spapr_tce',
  'vfio_pci_core',
  'vfio_pci',
  'vfio_virqfd',
  'iommufd',
] as const
export type VfioModule = (typeof VFIO_MODULES)[number]

/** The trees that a host is read from. */
export interface HostPaths {
  readonly sysfs: string
  /** `null` here and below: not known. */
  readonly dev: string | null
  readonly proc: string | null
  readonly run: string | null
  /** The directory of the running kernel's modules. */
  readonly modules: string | null
}

/**
 * @param groups those that were found, also by the links of devices alone
 * @param last has what no plan rests on: limits, nodes, the command line; `null`: that is read as well
 */
export function readFacts(
  paths: HostPaths,
  kernel: string,
  platform: PlatformFacts,
  groups: readonly IommuGroup[],
  last: HostFacts | null = null,
): HostFacts {
  const { sysfs, dev, proc } = paths
  const parameter = (module: string, name: string) => {
    const text = readText(`${sysfs}/module/${module}/parameters/${name}`)
    return text === null ? null : /^[Yy1]/.test(text)
  }
  const units = listNames(`${sysfs}/class/iommu`)
    .sort()
    .map((name) => ({ name, kind: iommuKind(sysfs, name), address: iommuFunction(sysfs, name) }))
  // No verdict rests on these.
  const others = noting(() => ({
    drivers: listNames(`${sysfs}/bus/pci/drivers`).sort(),
    modprobe: readText(below(proc, 'sys/kernel/modprobe')) || '/sbin/modprobe',
    platform,
    commandLine: last?.commandLine ?? readText(below(proc, 'cmdline')) ?? '',
    modules: readModuleStates(paths),
    vfioModules: readVfioModules(sysfs),
    memlock: last ? last.memlock : readMemlock(proc),
    limits:
      last?.limits ??
      readLimits(
        sysfs,
        proc,
        units.map(({ name }) => name),
      ),
    nodes: last?.nodes ?? {
      container: readNode(below(dev, 'vfio/vfio')),
      iommu: readNode(below(dev, 'iommu')),
      ...(isSameNode(below(dev, 'vfio/vfio'), below(dev, 'iommu')) && { iommufdAsContainer: true as const }),
      groups: readNodes(below(dev, 'vfio'), /^(noiommu-)?\d+$/),
      devices: readNodes(below(dev, 'vfio/devices'), /^(noiommu-)?vfio\d+$/),
    },
  }))
  const addon = sysfs === '/sys' ? whyMissing() : null
  return Object.freeze({
    kernel,
    paths,
    ...(addon && { addon }),
    ...(!exists(`${sysfs}/bus/pci`) && { pciBus: false as const }),
    ...others.seen,
    unseen: others.unseen,
    iommu: {
      present: units.length > 0 || groups.some(isReal) || hasRealGroup(sysfs, groups),
      // A kernel that can have groups has both directories (`iommu_init`, `iommu_dev_init`); without them it has no VFIO.
      known:
        sysfs === '/sys' || groups.length > 0 || IOMMU_DIRECTORIES.some((name) => exists(`${sysfs}/${name}`)),
      units,
      interruptRemapping: readInterruptRemapping(
        platform.architecture,
        readText(below(proc, 'interrupts')),
        isKernelSince(kernel, 6, 3),
      ),
    },
    allowUnsafeInterrupts: parameter('vfio_iommu_type1', 'allow_unsafe_interrupts'),
    iommufdUnsafeInterrupts: parameter('iommufd', 'allow_unsafe_interrupts'),
    noIommuMode: parameter('vfio', 'enable_unsafe_noiommu_mode'),
    denylistDisabled: parameter('vfio_pci', 'disable_denylist'),
  })
}

/** Names that drivers register their units by (`iommu_device_sysfs_add`). */
const UNIT_KINDS: readonly [RegExp, string][] = [
  [/^dmar\d/, 'intel-iommu'],
  [/^ivhd\d/, 'amd-iommu'],
  [/^smmu3/, 'arm-smmu-v3'],
  [/^smmu/, 'arm-smmu'],
]

function iommuKind(sysfs: string, name: string): string {
  const known = UNIT_KINDS.find(([pattern]) => pattern.test(name))
  return known?.[1] ?? linkName(`${sysfs}/class/iommu/${name}/device/driver`) ?? name
}

/** `…/pci0000:00/0000:00:00.2/iommu/ivhd0`, and below a virtio device of the function: virtio-iommu has a function's name itself. */
const iommuFunction = (sysfs: string, name: string): string | null =>
  linkTarget(`${sysfs}/class/iommu/${name}`)?.split('/').slice(0, -1).findLast(isAddress) ?? null

const IOMMU_DIRECTORIES = ['class/iommu', 'kernel/iommu_groups']

/** Does an IOMMU speak for it? */
const isReal = ({ noIommu, emulated }: IommuGroup) => !noIommu && emulated !== true

/** Any group of an IOMMU, besides those that were looked at; stops at the first, of thousands. */
const hasRealGroup = (sysfs: string, known: readonly IommuGroup[]) =>
  listNames(`${sysfs}/kernel/iommu_groups`).some(
    (name) =>
      !known.some(({ group }) => String(group) === name) &&
      readText(`${sysfs}/kernel/iommu_groups/${name}/name`) !== NO_IOMMU_GROUP,
  )

/**
 * Isolated MSI (`msi_device_has_isolated_msi`, 6.3; `irq_domain_check_msi_remap` before) by what `/proc/interrupts` shows.
 * @param perGroup the kernel asks for each group, and not for the whole host
 */
function readInterruptRemapping(
  architecture: Architecture | null,
  interrupts: string | null,
  perGroup: boolean,
): boolean | null {
  // `arch_is_isolated_msi` is true there, and s390_iommu_capable said so before.
  if (architecture === 's390') return true
  if (interrupts === null) return null
  // Remapped chips carry `IR-` in their name; without any such line x86 has it off.
  if (architecture === 'x86') {
    if (/\sIR-/.test(interrupts)) return true
    return /\s(IO-APIC|PCI-MSI)/.test(interrupts) ? false : null
  }
  if (architecture !== 'arm') return null
  // The ITS alone checks who sends a message (IRQ_DOMAIN_FLAG_ISOLATED_MSI); GICv2m and those of root ports do not.
  const messages = interrupts.split('\n').filter((line) => /MSIX?(-\S*)?\s+\d+[\s-]+(edge|level)/i.test(line))
  const isIsolated = messages.some((line) => /\sITS-/.test(line))
  const isOpen = messages.some((line) => !/\sITS-|\S*pMSI/.test(line))
  if (isIsolated && isOpen) return perGroup ? null : false
  if (isIsolated) return true
  return isOpen ? false : null
}

function readModuleStates({ sysfs, modules }: HostPaths): Record<VfioModule, ModuleState> {
  const { builtin, loadable } = readModuleLists(modules)
  const state = (name: VfioModule): ModuleState => {
    const directory = `${sysfs}/module/${name}`
    // Only what was loaded has a state; what is built in has at most parameters.
    if (exists(`${directory}/initstate`)) return 'loaded'
    if (builtin?.has(name) || exists(directory)) return 'builtin'
    if (name === 'vfio_pci' && exists(`${sysfs}/bus/pci/drivers/vfio-pci`)) return 'builtin'
    if (loadable?.has(name)) return 'loadable'
    return builtin === null || loadable === null ? 'unknown' : 'missing'
  }
  return Object.fromEntries(VFIO_MODULES.map((name) => [name, state(name)])) as Record<
    VfioModule,
    ModuleState
  >
}

function readMemlock(proc: string | null): HostFacts['memlock'] {
  const limits = readText(below(proc, 'self/limits')) ?? ''
  const match = /^Max locked memory\s+(\d+|unlimited)\s+(\d+|unlimited)/m.exec(limits)
  if (!match) return null
  const bytes = (text: string | undefined) => (text === 'unlimited' ? null : Number(text))
  return { soft: bytes(match[1]), hard: bytes(match[2]) }
}

const readNodes = (directory: string | null, names: RegExp) =>
  listNames(directory)
    .filter((name) => names.test(name))
    .map((name) => readNode(`${directory}/${name}`))
    .filter((node) => node !== null)

function readNode(path: string | null): NodeFacts | null {
  if (path === null) return null
  try {
    const { uid, gid, mode } = statSync(path)
    return { path, uid, gid, mode: mode & 0o7777, accessible: mayOpen(path) }
  } catch (error) {
    lookFailed('stat', errnoOf(error) ?? 0, path)
    return null
  }
}

/** By a link, a mount or its number; a copy of a tree has no numbers. */
function isSameNode(one: string | null, other: string | null): boolean {
  if (one === null || other === null) return false
  try {
    const [first, second] = [statSync(one), statSync(other)]
    const isSameFile = first.dev === second.dev && first.ino === second.ino
    return isSameFile || (first.rdev !== 0 && first.rdev === second.rdev)
  } catch (error) {
    lookFailed('stat', errnoOf(error) ?? 0, one)
    return false
  }
}

function mayOpen(path: string): boolean {
  try {
    accessSync(path, constants.R_OK | constants.W_OK)
    return true
  } catch {
    return false
  }
}
