import { BACKEND_MODULES, backendOf } from '../assess/backends.js'
import { isBridge } from '../assess/topology.js'
import { VfioError } from '../errors.js'
import { compareAddresses } from '../sysfs/address.js'
import { isVfioDriver, type PciDevice } from '../sysfs/devices.js'
import { isKernelSince } from '../sysfs/kernel.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import { INITRAMFS, type Initramfs } from './initramfs.js'

/** How devices are told apart at boot: each by its place, or all of a kind by their ids. */
export type PersistBy = 'address' | 'ids'

export interface PersistOptions {
  /** Default `address`. */
  readonly by?: PersistBy | undefined
  /** What builds the initramfs of the host; `none` (default) leaves it alone. */
  readonly initramfs?: Initramfs | undefined
  /** Modules that the kernel has built in, as `modules.builtin` names them with `_`. */
  readonly builtin?: ReadonlySet<string> | undefined
}

/** A file of the boot configuration. */
export interface PersistFile {
  /** From the root of the file tree, for instance `/etc/modprobe.d/vfio-persist.conf`. */
  readonly path: string
  readonly content: string
  /** `file`: all of it is ours; `block`: others write into it too, and these lines are ours. */
  readonly kind: 'file' | 'block'
}

/** What makes binding last over boot. */
export interface PersistPlan {
  readonly by: PersistBy
  readonly addresses: readonly string[]
  readonly initramfs: Initramfs
  readonly files: readonly PersistFile[]
  /** The command that rebuilds the initramfs; nothing here starts it. */
  readonly rebuild: string | null
  /** What to know before: other devices that the ids grab, drivers that come first all the same. */
  readonly warnings: readonly string[]
}

export const MODPROBE_FILE = '/etc/modprobe.d/vfio-persist.conf'
/** Early: rules that load modules come at 80. */
export const UDEV_FILE = '/etc/udev/rules.d/05-vfio-persist.rules'

const hex = (value: number) => value.toString(16).padStart(4, '0')

/**
 * The boot configuration that binds devices to VFIO before their host drivers can take them. By address it tells
 * identical devices apart, and gives each its variant driver where the kernel has one; ids are for vfio-pci alone.
 * @throws VfioError `ERR_VFIO_BAD_ADDRESS`, `ERR_VFIO_NO_DEVICE`; `ERR_VFIO_BAD_ARGUMENT` for none, bridges and virtual
 * functions, which boot does not bring
 */
export function planPersistence(
  seen: Snapshot,
  addresses: readonly string[],
  options: PersistOptions = {},
): PersistPlan {
  const by = options.by ?? 'address'
  if (by === 'ids' && seen.isPartial) {
    throw new VfioError(
      'ERR_VFIO_BAD_ARGUMENT',
      'ids may fit devices that were not looked at: take a snapshot of the whole host, without around',
    )
  }
  const initramfs = options.initramfs ?? 'none'
  const builtin = options.builtin ?? new Set()
  const devices = chooseDevices(seen, addresses)
  const hostDrivers = [...new Set(devices.flatMap(hostModules))].sort()
  const isModule = (name: string) => !builtin.has(name)
  const hasModule = seen.host.modules.vfio_pci !== 'builtin'
  const drivers = byDriver(devices, by)
  const modular = [...drivers].filter(([driver]) => (driver === 'vfio-pci' ? hasModule : isModule(driver)))
  const soft = hostDrivers.filter(isModule).flatMap((module) => {
    const first = modular.flatMap(([driver, its]) =>
      its.some((device) => hostModules(device).includes(module)) ? driver : [],
    )
    return first.length > 0 ? `softdep ${module} pre: ${first.join(' ')}` : []
  })
  const binding =
    by === 'ids' ? [`options vfio-pci ids=${idsOf(devices).join(',')}`] : modular.map(installLine)
  const files: PersistFile[] = []
  if (modular.length > 0)
    files.push({ path: MODPROBE_FILE, kind: 'file', content: text([...binding, ...soft]) })
  if (by === 'address') files.push({ path: UDEV_FILE, kind: 'file', content: text(rules(devices)) })
  const tool = INITRAMFS[initramfs]
  const variants = modular.map(([driver]) => driver).filter((driver) => driver !== 'vfio-pci')
  const modules = [...initramfsModules(seen), ...variants]
  if (tool && modules.length > 0) {
    const copied = files.filter(({ kind }) => kind === 'file').map(({ path }) => path)
    files.push({ path: tool.path, kind: tool.kind, content: text(tool.lines(modules, copied)) })
  }
  return {
    by,
    addresses: devices.map(({ address }) => address),
    initramfs,
    files,
    rebuild: tool?.rebuild ?? null,
    warnings: [
      ...(by === 'ids' ? [...grabbed(seen, devices), ...withoutVariant(devices)] : []),
      ...hostDrivers
        .filter((module) => !isModule(module))
        .map(
          (module) =>
            `${module} is built into the kernel and takes its devices before any file is read: bind them with "vfio bind" after boot`,
        ),
      ...(hasModule || !drivers.has('vfio-pci') ? [] : [builtinWarning(by, devices)]),
      ...companions(seen, devices),
    ],
  }
}

function chooseDevices(seen: Snapshot, addresses: readonly string[]): PciDevice[] {
  const refuse = (message: string) => new VfioError('ERR_VFIO_BAD_ARGUMENT', message)
  if (addresses.length === 0) throw refuse('no device is named: give at least one PCI address')
  const devices = new Map(addresses.map((address) => [seen.device(address).address, seen.device(address)]))
  for (const device of devices.values()) {
    if (isBridge(device)) throw refuse(`${device.address} is a bridge: it stays with the host`)
    if (device.sriov?.role === 'vf') {
      throw refuse(
        `${device.address} is a virtual function, which does not exist until "vfio vfs ${device.sriov.pf} N" makes it: bind it then`,
      )
    }
  }
  return [...devices.values()].sort((a, b) => compareAddresses(a.address, b.address))
}

/** The modules that would take a device at boot. */
function hostModules({ modules, driver }: PciDevice): readonly string[] {
  const known = modules.filter(isModuleName).map((name) => name.replaceAll('-', '_'))
  // Its module may have another name than the driver, which only the aliases tell.
  if (known.length > 0 || driver === null || isVfioDriver(driver) || driver === 'pci-stub') return known
  return [driver].filter(isModuleName).map((name) => name.replaceAll('-', '_'))
}

/** Some drivers have names with spaces, like "Intel(R) …": no module has, and no line of a file may. */
const isModuleName = (name: string) => /^[\w-]+$/.test(name)

/** `vendor:device:subvendor:subdevice`, as narrow as the device allows. */
function idOf({ vendor, device, subsystemVendor, subsystemDevice }: PciDevice): string {
  const ids = subsystemVendor === 0 ? [vendor, device] : [vendor, device, subsystemVendor, subsystemDevice]
  return ids.map(hex).join(':')
}

const idsOf = (devices: readonly PciDevice[]) => [...new Set(devices.map(idOf))]

/** The variant driver that the kernel has for a device, whose name is that of its module; else vfio-pci. */
const driverOf = (device: PciDevice) => device.variantDrivers.find(isModuleName) ?? 'vfio-pci'

function byDriver(devices: readonly PciDevice[], by: PersistBy): Map<string, PciDevice[]> {
  const drivers = new Map<string, PciDevice[]>()
  for (const device of devices) {
    const driver = by === 'ids' ? 'vfio-pci' : driverOf(device)
    drivers.set(driver, [...(drivers.get(driver) ?? []), device])
  }
  return drivers
}

/** The override is there before the VFIO driver is, and that before the host driver: in this order, whoever asks first. */
function installLine([driver, devices]: readonly [string, readonly PciDevice[]]): string {
  const list = devices.map(({ address }) => address).join(' ')
  const set = `echo ${driver} 2>/dev/null >/sys/bus/pci/devices/$a/driver_override`
  return `install ${driver} for a in ${list}; do [ ! -e /sys/bus/pci/devices/$a ] || ${set}; done; /sbin/modprobe --ignore-install ${driver} $CMDLINE_OPTS`
}

function rules(devices: readonly PciDevice[]): string[] {
  return devices.flatMap((device) => {
    const { address } = device
    const driver = driverOf(device)
    const match = `ACTION=="add", SUBSYSTEM=="pci", KERNEL=="${address}"`
    return [
      `${match}, ATTR{driver_override}="${driver}", RUN{builtin}+="kmod load ${driver}"`,
      // For when the driver is there already; a device that has one may be in use and is left alone.
      `${match}, DRIVER=="", ATTR{[subsystem/pci]drivers_probe}="${address}"`,
    ]
  })
}

/** What vfio-pci needs at boot and this kernel has as modules. */
function initramfsModules({ host }: Snapshot): string[] {
  const all = ['vfio_pci', 'vfio', BACKEND_MODULES[backendOf(host)]] as const
  const modules: string[] = all.filter((name) => host.modules[name] !== 'builtin')
  const hasVirqfd = !isKernelSince(host.kernel, 6, 2) && host.modules.vfio_virqfd !== 'builtin'
  return hasVirqfd && modules.length > 0 ? [...modules, 'vfio_virqfd'] : modules
}

function grabbed(seen: Snapshot, devices: readonly PciDevice[]): string[] {
  const ids = new Set(idsOf(devices))
  // Ids without a subsystem match whatever subsystem a device has.
  const matches = (device: PciDevice) =>
    ids.has(idOf(device)) || ids.has(`${hex(device.vendor)}:${hex(device.device)}`)
  return seen.devices
    .filter((device) => matches(device) && !devices.includes(device) && device.sriov?.role !== 'vf')
    .map(
      (device) =>
        `${device.address} has the same ids (${idOf(device)}) and will be bound to vfio-pci too${device.driver ? `, away from ${device.driver}` : ''}: use --by address to tell them apart`,
    )
}

const withoutVariant = (devices: readonly PciDevice[]) =>
  devices
    .filter((device) => driverOf(device) !== 'vfio-pci')
    .map(
      (device) =>
        `${device.address} has the variant driver ${driverOf(device)}, which ids cannot give it: use --by address for that`,
    )

function builtinWarning(by: PersistBy, devices: readonly PciDevice[]): string {
  return by === 'ids'
    ? `vfio-pci is built into this kernel, which reads no modprobe.d for it: add vfio-pci.ids=${idsOf(devices).join(',')} to the kernel command line`
    : 'vfio-pci is built into this kernel, so only the udev rule works, and a host driver that udev loads at the same moment may come first'
}

/** Devices of the same groups that keep them from being viable as long as the host has them. */
function companions(seen: Snapshot, devices: readonly PciDevice[]): string[] {
  const ours = new Set(devices.map(({ address }) => address))
  const groups = new Set(devices.flatMap(({ group }) => group ?? []))
  return [...groups].flatMap((group) => {
    const left = seen
      .group(group)
      .members.filter((address) => !ours.has(address) && !isBridge(seen.device(address)))
    return left.length === 0
      ? []
      : [
          `group ${group} also has ${left.join(', ')}, which the host's drivers will have after boot: name them too`,
        ]
  })
}

const text = (lines: readonly string[]) => `${lines.join('\n')}\n`
