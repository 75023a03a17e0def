import { accessSync, constants, statSync } from 'node:fs'
import { below, exists, linkName, listNames, readText } from './files.js'
import { type LoadedModule, readVfioModules } from './vfio-modules.js'

/** Where a kernel module stands: `missing` means that this kernel has no such module at all. */
export type ModuleState = 'loaded' | 'builtin' | 'loadable' | 'missing'

/** A device node: its owner, its permission bits and whether the caller may open it for reading and writing. */
export interface NodeFacts {
  readonly path: string
  readonly uid: number
  readonly gid: number
  /** Permission bits, for instance 0o600. */
  readonly mode: number
  readonly accessible: boolean
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
  /** Kernel command line. */
  readonly commandLine: string
  readonly iommu: {
    readonly present: boolean
    /** `intel-iommu`, `amd-iommu`, `arm-smmu`, … for each hardware unit, in the kernel's naming. */
    readonly units: readonly { readonly name: string; readonly kind: string }[]
    /** x86 only: whether interrupts go through the remapping tables; `null` where it cannot be told. */
    readonly interruptRemapping: boolean | null
  }
  readonly modules: Readonly<Record<VfioModule, ModuleState>>
  /** What modules around VFIO say of themselves, while they are loaded or built in. */
  readonly vfioModules: Readonly<Record<string, LoadedModule>>
  /** Parameter of vfio_iommu_type1; `null` while the module is not there. */
  readonly allowUnsafeInterrupts: boolean | null
  /** Parameter of vfio: groups for devices without an IOMMU; `null` while the module is not there. */
  readonly noIommuMode: boolean | null
  /** Parameter of vfio_pci: binds even devices that it refuses by default; `null` while the module is not there. */
  readonly denylistDisabled: boolean | null
  /** RLIMIT_MEMLOCK of the caller in bytes, `null` for unlimited. */
  readonly memlock: { readonly soft: number | null; readonly hard: number | null } | null
  /** `/dev/vfio/vfio`, `/dev/iommu`, and the group nodes; `null` where absent. */
  readonly nodes: {
    readonly container: NodeFacts | null
    readonly iommu: NodeFacts | null
    readonly groups: readonly NodeFacts[]
  }
}

const VFIO_MODULES = [
  'vfio',
  'vfio_iommu_type1',
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

export function readFacts(paths: HostPaths, kernel: string): HostFacts {
  const { sysfs, dev, proc } = paths
  const parameter = (module: string, name: string) => {
    const text = readText(`${sysfs}/module/${module}/parameters/${name}`)
    return text === null ? null : /^[Yy1]/.test(text)
  }
  const units = listNames(`${sysfs}/class/iommu`)
    .sort()
    .map((name) => ({ name, kind: iommuKind(sysfs, name) }))
  return Object.freeze({
    kernel,
    paths,
    drivers: listNames(`${sysfs}/bus/pci/drivers`).sort(),
    modprobe: readText(below(proc, 'sys/kernel/modprobe')) || '/sbin/modprobe',
    commandLine: readText(below(proc, 'cmdline')) ?? '',
    iommu: {
      present: units.length > 0 || listNames(`${sysfs}/kernel/iommu_groups`).length > 0,
      units,
      interruptRemapping: readInterruptRemapping(proc),
    },
    modules: readModuleStates(paths),
    vfioModules: readVfioModules(sysfs),
    allowUnsafeInterrupts: parameter('vfio_iommu_type1', 'allow_unsafe_interrupts'),
    noIommuMode: parameter('vfio', 'enable_unsafe_noiommu_mode'),
    denylistDisabled: parameter('vfio_pci', 'disable_denylist'),
    memlock: readMemlock(proc),
    nodes: {
      container: readNode(below(dev, 'vfio/vfio')),
      iommu: readNode(below(dev, 'iommu')),
      groups: listNames(below(dev, 'vfio'))
        .filter((name) => /^(noiommu-)?\d+$/.test(name))
        .map((name) => readNode(below(dev, `vfio/${name}`)))
        .filter((node) => node !== null),
    },
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

/** Remapped interrupt chips carry `IR-` in their name; without any such line x86 has it off. */
function readInterruptRemapping(proc: string | null): boolean | null {
  const interrupts = readText(below(proc, 'interrupts'))
  if (interrupts === null) return null
  if (/\sIR-/.test(interrupts)) return true
  return /\s(IO-APIC|PCI-MSI)/.test(interrupts) ? false : null
}

function readModuleStates({ sysfs, modules }: HostPaths): Record<VfioModule, ModuleState> {
  const builtin = moduleNames(readText(below(modules, 'modules.builtin')) ?? '')
  const loadable = moduleNames(readText(below(modules, 'modules.dep')) ?? '')
  const state = (name: VfioModule): ModuleState => {
    const directory = `${sysfs}/module/${name}`
    // Only what was loaded has a state; what is built in has at most parameters.
    if (exists(`${directory}/initstate`)) return 'loaded'
    if (builtin.has(name) || exists(directory)) return 'builtin'
    if (name === 'vfio_pci' && exists(`${sysfs}/bus/pci/drivers/vfio-pci`)) return 'builtin'
    return loadable.has(name) ? 'loadable' : 'missing'
  }
  return Object.fromEntries(VFIO_MODULES.map((name) => [name, state(name)])) as Record<
    VfioModule,
    ModuleState
  >
}

/** Module names out of lines like `kernel/drivers/vfio/pci/vfio-pci.ko.xz: …`. */
function moduleNames(text: string): Set<string> {
  const names = new Set<string>()
  for (const [, name = ''] of text.matchAll(/(?:^|\/)([^/\s:]+)\.ko[^:\n]*/gm))
    names.add(name.replaceAll('-', '_'))
  return names
}

function readMemlock(proc: string | null): HostFacts['memlock'] {
  const limits = readText(below(proc, 'self/limits')) ?? ''
  const match = /^Max locked memory\s+(\d+|unlimited)\s+(\d+|unlimited)/m.exec(limits)
  if (!match) return null
  const bytes = (text: string | undefined) => (text === 'unlimited' ? null : Number(text))
  return { soft: bytes(match[1]), hard: bytes(match[2]) }
}

function readNode(path: string | null): NodeFacts | null {
  if (path === null) return null
  try {
    const { uid, gid, mode } = statSync(path)
    return { path, uid, gid, mode: mode & 0o7777, accessible: mayOpen(path) }
  } catch {
    return null
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
