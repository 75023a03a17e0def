import { assess } from '../assess/assessment.js'
import { BACKEND_MODULES, backendOf } from '../assess/backends.js'
import { driverOfModule, moduleOf } from '../assess/driver-names.js'
import { kernelParameters } from '../assess/kernel-parameters.js'
import { iommuIn, isBridge } from '../assess/topology.js'
import type { HostUse } from '../assess/uses.js'
import type { Blocker } from '../assign/plan.js'
import { VfioError } from '../errors.js'
import { compareAddresses } from '../sysfs/address.js'
import { isByOwnDriver, isWithVfio, type PciDevice } from '../sysfs/devices.js'
import type { VfioModule } from '../sysfs/facts.js'
import type { MediatedDevice } from '../sysfs/mediated.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import { adviseCommandLine, type BootLoader, type CommandLineAdvice } from './boot-loader.js'
import type { ByHand, PersistFile } from './file.js'
import { INITRAMFS, type Initramfs } from './initramfs.js'
import { howOwnLasts, judgePersistence } from './judge.js'
import {
  idOf,
  idsOf,
  installLine,
  optionLine,
  optionParameter,
  type PersistDevice,
  udevRules,
} from './lines.js'
import { MADE_FROM } from './made-from.js'
import { type ModuleOption, moduleOptions, withOptions } from './module-options.js'

export type { ByHand, PersistFile } from './file.js'

/** How devices are told apart at boot: each by its place, or all of a kind by their ids. */
export type PersistBy = 'address' | 'ids'

export interface PersistOptions {
  /** Default `address`. */
  readonly by?: PersistBy | undefined
  /** Take every device of the groups along. Without it an incomplete group is a blocker. */
  readonly group?: boolean | undefined
  /** Take devices without an IOMMU too, as in `planAssignment`; `enable_unsafe_noiommu_mode=1` in `moduleOptions` says the same. */
  readonly noIommu?: boolean | undefined
  /** Kinds of use that the next boot may do without. */
  readonly force?: readonly HostUse['kind'][] | undefined
  /** What builds the initramfs of the host; `none` (default) leaves it alone. */
  readonly initramfs?: Initramfs | undefined
  /** What keeps its kernel command line; without it the advice on that names no file. */
  readonly bootLoader?: BootLoader | undefined
  /** Modules that the kernel has built in, as `modules.builtin` names them with `_`. */
  readonly builtin?: ReadonlySet<string> | undefined
  /** Parameters for VFIO's modules, as `NAME=VALUE`. */
  readonly moduleOptions?: readonly string[] | undefined
  /** Where the host has `modprobe`; without it the shell that needs it looks for it. */
  readonly modprobe?: string | undefined
}

/** A boot configuration that binds devices, and what to know about it. */
export interface PersistPlan {
  readonly by: PersistBy
  readonly addresses: readonly string[]
  readonly initramfs: Initramfs
  readonly files: readonly PersistFile[]
  /** What belongs somewhere that nothing here writes to. */
  readonly byHand: readonly ByHand[]
  /** The command that rebuilds the initramfs; nothing here starts it. */
  readonly rebuild: string | null
  /** What is missing on the kernel command line, or in the way there; `null` for nothing. */
  readonly commandLine: CommandLineAdvice | null
  /** What keeps it from being written: the host would lose what it needs, or VFIO would refuse the device. */
  readonly blockers: readonly Blocker[]
  /** What to know before, blockers included: other devices that the ids grab, drivers that come first all the same. */
  readonly warnings: readonly string[]
}

export const MODPROBE_FILE = '/etc/modprobe.d/vfio-persist.conf'
/** Early: rules that load modules come at 80. */
export const UDEV_FILE = '/etc/udev/rules.d/05-vfio-persist.rules'

const UNKNOWN_LOADER: BootLoader = { name: 'unknown', path: null, command: null }

/**
 * The boot configuration that binds devices to VFIO before their host drivers can take them, judged as `planAssignment`
 * would. By address it tells identical devices apart, and gives each its variant driver where the kernel has one; ids are
 * for vfio-pci alone.
 * @throws VfioError `ERR_VFIO_BAD_ADDRESS`, `ERR_VFIO_NO_DEVICE`; `ERR_VFIO_BAD_ARGUMENT` for none, bridges and virtual
 * functions, which boot does not bring, and for options that no module has
 */
export function planPersistence(
  seen: Snapshot,
  addresses: readonly string[],
  options: PersistOptions = {},
): PersistPlan {
  return new Planner(seen, addresses, options).plan()
}

class Planner {
  readonly #seen: Snapshot
  readonly #by: PersistBy
  readonly #initramfs: Initramfs
  readonly #builtin: ReadonlySet<string>
  readonly #options: PersistOptions
  readonly #moduleOptions: readonly ModuleOption[]
  readonly #devices: readonly PersistDevice[]
  readonly #blockers: readonly Blocker[]
  readonly #warnings: string[] = []

  constructor(seen: Snapshot, addresses: readonly string[], options: PersistOptions) {
    this.#by = options.by ?? 'address'
    if (this.#by === 'ids' && seen.isPartial) {
      throw new VfioError(
        'ERR_VFIO_BAD_ARGUMENT',
        'ids may fit devices that were not looked at: take a snapshot of the whole host, without around',
      )
    }
    this.#initramfs = options.initramfs ?? 'none'
    this.#builtin = options.builtin ?? new Set()
    this.#options = options
    const wanted = moduleOptions(seen, withNoIommuMode(seen, addresses, options.moduleOptions ?? []))
    this.#moduleOptions = wanted.options
    this.#seen = withOptions(seen, wanted.options)
    const named = chooseDevices(this.#seen, addresses)
    const judgement = judgePersistence(
      this.#seen,
      named.map(({ address }) => address),
      {
        force: options.force ?? [],
        group: options.group ?? false,
        noIommu: options.noIommu ?? asksForNoIommu(options.moduleOptions ?? []),
        grabbed: this.#by === 'ids' ? grabbedBy(this.#seen, named) : [],
      },
    )
    this.#blockers = judgement.blockers
    const along = judgement.devices.map(({ address }) => this.#seen.device(address))
    const all = [...new Set([...named, ...along])].sort((a, b) => compareAddresses(a.address, b.address))
    this.#devices = all.map((device) => this.#withDriver(device))
    this.#warnings.push(
      ...judgement.blockers.map(({ reason }) => reason),
      ...judgement.warnings,
      ...wanted.warnings,
    )
  }

  plan(): PersistPlan {
    const hostDrivers = [...new Set(this.#devices.flatMap(({ device }) => hostModules(device)))].sort()
    const isBuiltin = (module: string) => this.#isBuiltin(module)
    const own = this.#ownFiles(hostDrivers)
    const modules = [...initramfsModules(this.#seen), ...this.#variants()]
    const made = MADE_FROM[this.#initramfs]
    const tool = INITRAMFS[this.#initramfs]
    const content = { modules, files: own.map(({ path }) => path) }
    const isEmpty = modules.length === 0
    const commandLine = this.#commandLine()
    this.#warn(hostDrivers.filter(isBuiltin))
    if (tool?.limit && !isEmpty) this.#warnings.push(tool.limit)
    const byHand: ByHand[] = made
      ? made
          .configuration({
            files: own,
            modules,
            parameters: commandLine?.add.map(({ parameter }) => parameter) ?? [],
            devices: this.#devices.map(({ device, driver }) => ({
              address: device.address,
              driver,
              ids: device.ids,
              isDisplay: device.class >>> 16 === 0x03,
            })),
          })
          .map((part) => ({ ...part, why: `${made.source}, so that a file which is written there vanishes` }))
      : tool?.byHand && !isEmpty
        ? [{ ...tool.byHand(content), why: 'others may have the same key in it, which may stand there once' }]
        : []
    return {
      by: this.#by,
      addresses: this.#devices.map(({ device }) => device.address),
      initramfs: this.#initramfs,
      files: made ? [] : [...own, ...(tool && !isEmpty ? tool.files(content) : [])],
      byHand,
      rebuild: made?.rebuild ?? tool?.rebuild ?? null,
      commandLine,
      blockers: this.#blockers,
      warnings: this.#warnings,
    }
  }

  #isBuiltin(module: string): boolean {
    const state = this.#seen.host.modules[module as VfioModule]
    return state === 'builtin' || this.#builtin.has(module)
  }

  /** The variant driver that the kernel has for a device, else vfio-pci. */
  #withDriver(device: PciDevice): PersistDevice {
    const variant = this.#by === 'ids' ? undefined : variantOf(device)
    const { name, known } = driverOfModule(this.#seen, variant ?? 'vfio-pci')
    if (!known) {
      this.#warnings.push(
        `the driver of module ${variant} is taken to have the same name, since it is not loaded: load it once (modprobe ${variant}) and run this again, so that the kernel tells`,
      )
    }
    return { device, driver: name, module: variant ?? 'vfio-pci' }
  }

  #variants(): string[] {
    const variants = this.#devices.map(({ module }) => module).filter((module) => module !== 'vfio-pci')
    return [...new Set(variants)].filter((module) => !this.#isBuiltin(moduleOf(module)))
  }

  /** The files that are not of the initramfs tool: lines for modprobe and, by address, rules for udev. */
  #ownFiles(hostDrivers: readonly string[]): PersistFile[] {
    const byModule = new Map<string, PersistDevice[]>()
    for (const device of this.#devices)
      byModule.set(device.module, [...(byModule.get(device.module) ?? []), device])
    const modular = [...byModule].filter(([module]) => !this.#isBuiltin(moduleOf(module)))
    const soft = hostDrivers
      .filter((module) => !this.#isBuiltin(module))
      .flatMap((module) => {
        const first = modular.flatMap(([name, its]) =>
          its.some(({ device }) => hostModules(device).includes(module)) ? name : [],
        )
        return first.length > 0 ? `softdep ${module} pre: ${first.join(' ')}` : []
      })
    const modprobe = this.#options.modprobe ?? 'modprobe'
    const binding =
      this.#by === 'ids'
        ? modular.map(([module]) => `options ${module} ids=${this.#ids().join(',')}`)
        : modular.map(([module, devices]) => installLine(module, devices, modprobe))
    const settings = this.#moduleOptions.filter(({ module }) => !this.#isBuiltin(module)).map(optionLine)
    const lines = [...binding, ...settings, ...soft]
    const files: PersistFile[] = []
    if (lines.length > 0) files.push({ path: MODPROBE_FILE, kind: 'file', content: text(lines) })
    if (this.#by === 'address')
      files.push({ path: UDEV_FILE, kind: 'file', content: text(this.#devices.flatMap(udevRules)) })
    return files
  }

  #ids(): string[] {
    return idsOf(this.#devices.map(({ device }) => device))
  }

  /** A built-in module reads no file: its parameters go on the kernel command line. */
  #commandLine(): CommandLineAdvice | null {
    const { add, remove } = kernelParameters(this.#seen)
    const ids = `vfio-pci.ids=${this.#ids().join(',')}`
    const asked = new Set(this.#seen.host.commandLine.split(/\s+/))
    const builtin = [
      ...(this.#by === 'ids' && this.#isBuiltin('vfio_pci')
        ? [{ parameter: ids, why: 'vfio-pci is built into this kernel and reads no file' }]
        : []),
      ...this.#moduleOptions
        .filter(({ module }) => this.#isBuiltin(module))
        .map((option) => ({
          parameter: optionParameter(option),
          why: `${option.module} is built into this kernel and reads no file`,
        })),
    ].filter(({ parameter }) => !asked.has(parameter))
    const made = MADE_FROM[this.#initramfs]
    // Entries of a boot loader are made anew as well.
    const loader: BootLoader = made
      ? { name: 'unknown', path: made.place, command: made.rebuild }
      : (this.#options.bootLoader ?? UNKNOWN_LOADER)
    return adviseCommandLine(loader, [...add, ...builtin], remove)
  }

  #warn(builtinDrivers: readonly string[]): void {
    const warnings = this.#warnings
    const devices = this.#devices.map(({ device }) => device)
    if (this.#by === 'ids') warnings.push(...withoutVariant(this.#seen, devices))
    for (const module of builtinDrivers) {
      warnings.push(
        `${module} is built into the kernel and takes its devices before any file is read: bind them with "vfio bind" after boot`,
      )
    }
    if (this.#isBuiltin('vfio_pci') && this.#devices.some(({ module }) => module === 'vfio-pci')) {
      warnings.push(
        this.#by === 'ids'
          ? `vfio-pci is built into this kernel, which reads no modprobe.d for it: add vfio-pci.ids=${this.#ids().join(',')} to the kernel command line`
          : 'vfio-pci is built into this kernel, so only the udev rule works, and a host driver that udev loads at the same moment may come first',
      )
    }
    warnings.push(...this.#companions())
    // Only where somebody looked: a library that was not told leaves the initramfs alone.
    if (this.#options.initramfs === 'none') {
      warnings.push(
        'nothing that is known here builds the initramfs of this host: a driver inside of it takes its devices before these files are read, so put the VFIO modules and these files into it, ahead of that driver',
      )
    }
  }

  /** Others of the same groups, which the host has after boot however they stand now. */
  #companions(): string[] {
    const ours = new Set(this.#devices.map(({ device }) => device.address))
    const groups = new Set(this.#devices.flatMap(({ device }) => device.group ?? []))
    return [...groups].flatMap((group) => {
      const left = this.#seen
        .group(group)
        .members.map((address) => this.#seen.device(address))
        .filter((member) => !ours.has(member.address) && !isBridge(member) && !iommuIn(this.#seen, member))
        .map(({ address }) => address)
      return left.length === 0
        ? []
        : [
            `group ${group} also has ${left.join(', ')}, which the host's drivers will have after boot: name them too`,
          ]
    })
  }
}

const NO_IOMMU_MODE = 'enable_unsafe_noiommu_mode'

const asksForNoIommu = (asked: readonly string[]) =>
  asked.some((option) => new RegExp(`^${NO_IOMMU_MODE}=[1yY]$`).test(option))

/** What is given away without an IOMMU now is so after boot only in the same mode, unless somebody says otherwise. */
function withNoIommuMode(
  seen: Snapshot,
  addresses: readonly string[],
  asked: readonly string[],
): readonly string[] {
  const isWanted = addresses
    .flatMap((address) => seen.named(address))
    .some((device) => 'address' in device && assess(seen, device.address).noIommu)
  const isSaid = asked.some((option) => option.split('=')[0] === NO_IOMMU_MODE)
  return isWanted && !isSaid ? [...asked, `${NO_IOMMU_MODE}=1`] : asked
}

function chooseDevices(seen: Snapshot, addresses: readonly string[]): PciDevice[] {
  const refuse = (message: string) => new VfioError('ERR_VFIO_BAD_ARGUMENT', message)
  if (addresses.length === 0) throw refuse('no device is named: give at least one PCI address')
  const named = addresses.flatMap((address) => seen.named(address))
  for (const device of named) if ('uuid' in device) throw refuse(howMediatedLasts(device))
  const devices = new Set(named.filter((device) => 'address' in device))
  for (const device of devices) {
    if (isBridge(device)) throw refuse(`${device.address} is a bridge: it stays with the host`)
    if (device.sriov?.role === 'vf' && isByOwnDriver(device)) throw refuse(howOwnLasts(device))
    if (device.sriov?.role === 'vf') {
      throw refuse(
        `${device.address} is a virtual function, which does not exist until "vfio vfs ${device.sriov.pf} N" makes it: let a service of the host run that at boot, and "vfio bind ${device.address}" behind it`,
      )
    }
  }
  return [...devices].sort((a, b) => compareAddresses(a.address, b.address))
}

/** Nothing binds it: it has to be made anew at each boot, once its parent is there. */
const howMediatedLasts = ({ uuid, parent, type }: MediatedDevice) =>
  `${uuid} is a mediated device, which is not bound at boot but made: "mdevctl define --auto --uuid ${uuid}${parent === null || type === null ? '' : ` --parent ${parent} --type ${type}`}" lets mdevctl make it whenever its parent comes, or let a service of the host run "vfio mdev create" at boot`

/** The modules that would take a device at boot. */
function hostModules(device: PciDevice): readonly string[] {
  const { modules, driver } = device
  const known = modules.filter(isModuleName).map((name) => name.replaceAll('-', '_'))
  // Its module may have another name than the driver, which only the aliases tell.
  if (known.length > 0 || driver === null || isWithVfio(device) || driver === 'pci-stub') return known
  return [driver].filter(isModuleName).map((name) => name.replaceAll('-', '_'))
}

/** Some drivers have names with spaces, like "Intel(R) …": no module has, and no line of a file may. */
const isModuleName = (name: string) => /^[\w-]+$/.test(name)

const variantOf = (device: PciDevice) => device.variantDrivers.find(isModuleName)

/**
 * What vfio-pci needs at boot and this kernel has as modules. Where nothing lists its modules, all that every kernel with
 * VFIO has by one name.
 */
function initramfsModules({ host }: Snapshot): string[] {
  const all = ['vfio_pci', 'vfio', 'vfio_iommu_type1', 'vfio_iommu_spapr_tce', 'vfio_virqfd'] as const
  const backend = BACKEND_MODULES[backendOf(host)]
  return all.filter((name) => {
    const state = host.modules[name]
    if (state === 'unknown') return name === 'vfio_pci' || name === 'vfio' || name === backend
    return state === 'loaded' || state === 'loadable'
  })
}

/** What has the same ids as devices that are bound by them. A virtual function is not there when boot binds. */
function grabbedBy(seen: Snapshot, named: readonly PciDevice[]): { device: PciDevice; ids: string }[] {
  const ids = new Set(idsOf(named))
  const short = ({ vendor, device }: PciDevice) =>
    `${vendor.toString(16).padStart(4, '0')}:${device.toString(16).padStart(4, '0')}`
  // Ids without a subsystem match whatever subsystem a device has.
  return seen.devices
    .filter((device) => ids.has(idOf(device)) || ids.has(short(device)))
    .filter((device) => !named.includes(device) && device.sriov?.role !== 'vf' && !isBridge(device))
    .map((device) => ({ device, ids: idOf(device) }))
}

const withoutVariant = (seen: Snapshot, devices: readonly PciDevice[]) =>
  devices.flatMap((device) => {
    const variant = variantOf(device)
    return variant === undefined
      ? []
      : [
          `${device.address} has the variant driver ${driverOfModule(seen, variant).name}, which ids cannot give it: use --by address for that`,
        ]
  })

const text = (lines: readonly string[]) => `${lines.join('\n')}\n`
