import { isWithVfio } from '../sysfs/devices.js'
import type { HostFacts, VfioModule } from '../sysfs/facts.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import { printable } from '../text.js'
import { findSilent, silenceCure } from './answering.js'
import { BACKEND_MODULES, backendOf, KERNEL_OPTIONS, mapsByIommufd } from './backends.js'
import { assessIsolation } from './isolation.js'
import { iommuSwitchedOff, isolationAssumed } from './kernel-parameters.js'
import { explainNoIommu, isNoIommuMode, judgeUngrouped, NO_IOMMU_RISK } from './no-iommu.js'
import { several, unseenCure, unseenText } from './uses-text.js'
import { viabilityRule } from './viability.js'

/** One line of a diagnosis. */
export interface Check {
  readonly name: string
  /** `warn`: it works, and there is something to know. */
  readonly status: 'ok' | 'warn' | 'fail'
  /** What was found. */
  readonly detail: string
  /** What to do, `null` where nothing is to be done. */
  readonly cure: string | null
}

/** Is this host ready for VFIO? `ready` when no check fails. */
export interface Diagnosis {
  readonly ready: boolean
  readonly checks: readonly Check[]
}

const ok = (name: string, detail: string): Check => ({ name, status: 'ok', detail, cure: null })
const warn = (name: string, detail: string, cure: string): Check => ({ name, status: 'warn', detail, cure })
const fail = (name: string, detail: string, cure: string): Check => ({ name, status: 'fail', detail, cure })

/** Checks what a host needs before any of its devices can be given away. */
export function diagnose(seen: Snapshot): Diagnosis {
  const checks = [
    checkKernel(seen),
    ...checkContainment(seen),
    checkIommu(seen),
    checkGroups(seen),
    checkInterruptRemapping(seen),
    ...checkModules(seen),
    checkContainer(seen),
    checkGroupNodes(seen),
    ...checkIommufd(seen),
    checkMemlock(seen),
    ...checkAddon(seen),
    ...checkAnswering(seen),
    ...checkView(seen),
  ]
  return { ready: !checks.some((check) => check.status === 'fail'), checks }
}

function checkKernel(seen: Snapshot): Check {
  const rule = viabilityRule(seen) === 'dma-ownership' ? 'DMA ownership' : 'an allow-list of drivers'
  return ok(
    'kernel',
    `Linux ${seen.host.kernel || 'of unknown release'} judges the viability of groups by ${rule}`,
  )
}

/** The host may be ready all the same, for other programs. */
function checkAddon({ host: { addon } }: Snapshot): Check[] {
  if (addon === undefined) return []
  return [
    warn(
      'addon',
      `the native addon of vfio could not be loaded (${addon.reason}): devices can be looked at, and neither bound, reset nor opened`,
      addon.cure,
    ),
  ]
}

/** In a container the kernel is another's: its devices and nodes have to be handed in. */
function checkContainment({ host }: Snapshot): Check[] {
  const { container } = host.platform
  if (container === null) return []
  return [
    warn(
      'container',
      `this is a container (${container}): what sysfs shows belongs to the host, and is often not to be written here`,
      'bind devices and load modules on the host, and hand the nodes in',
    ),
  ]
}

const NOT_COPIED = 'not known: neither class/iommu nor kernel/iommu_groups was copied'

function checkIommu(seen: Snapshot): Check {
  const { host } = seen
  const name = 'iommu'
  if (host.iommu.units.length > 0) {
    return ok(name, host.iommu.units.map((unit) => `${unit.kind} (${unit.name})`).join(', '))
  }
  // Some platforms (POWER, s390 of old) have groups without registering units.
  if (host.iommu.present) return ok(name, 'the platform has IOMMU groups')
  if (!host.iommu.known) return ok(name, NOT_COPIED)
  const { why, cure } = explainNoIommu(seen)
  if (isNoIommuMode(seen)) {
    return warn(name, `${why}; the no-IOMMU mode of VFIO is on: ${NO_IOMMU_RISK}`, `to be safe, ${cure}`)
  }
  return fail(name, why, `${cure}${lastResort(seen)}`)
}

/**
 * The parameter is there only where the kernel was built with the mode (CONFIG_VFIO_NOIOMMU). Under Xen, addresses differ.
 * Where the kernel was told to leave its IOMMU off, that word of the command line is all there is to mend.
 */
function lastResort({ host }: Snapshot): string {
  if (host.noIommuMode !== false || host.platform.xenDom0 || iommuSwitchedOff(host).length > 0) return ''
  return `; as a last resort switch on the no-IOMMU mode (the parameter enable_unsafe_noiommu_mode=1 of vfio), in which ${NO_IOMMU_RISK}`
}

/** A function that is in no group cannot be bound (`vfio_group_find_or_alloc`), but for two exceptions. */
function checkGroups(seen: Snapshot): Check {
  const { devices } = seen
  const name = 'groups'
  if (devices.length === 0) {
    return fail(name, ...explainNoDevices(seen.host))
  }
  if (!seen.host.iommu.known) return ok(name, NOT_COPIED)
  const real = seen.groups.filter(({ noIommu, emulated }) => !noIommu && emulated !== true)
  const numbers = new Set(real.map(({ group }) => group))
  const grouped = devices.filter(({ group }) => group !== null && numbers.has(group)).length
  const hold = `${real.length} IOMMU groups hold ${grouped} of ${devices.length} PCI functions`
  if (grouped > 0) {
    const assumed = isolationAssumed(seen.host)
    return assumed.length === 0
      ? ok(name, hold)
      : warn(
          name,
          `${hold}, and the kernel was told to take ports for isolating that may not be (${assumed.join(' ')}): devices of different groups may reach each other past the IOMMU`,
          'give devices only to guests that are trusted with all that the hardware would group together, or boot without it',
        )
  }
  const ungrouped = devices.filter(({ group }) => group === null)
  if (ungrouped.some((device) => judgeUngrouped(seen, device).kind === 'when-bound')) {
    return warn(
      name,
      `${hold}; on this kernel a function gets its group only when a driver binds it`,
      'bind one, and look again',
    )
  }
  if (isNoIommuMode(seen)) {
    return warn(
      name,
      `no PCI function is in a group of an IOMMU: VFIO binds them in its no-IOMMU mode (${seen.groups.length - real.length} are)`,
      'with an IOMMU they are isolated',
    )
  }
  if (!seen.host.iommu.present) {
    return fail(name, 'there are no IOMMU groups', 'they appear once an IOMMU is active')
  }
  const isTold = Object.values(seen.host.platform.iommuMaps).includes(false)
  return fail(
    name,
    `${hold}: VFIO can take none of them`,
    isTold
      ? 'the device tree leads the PCI host bridge to no IOMMU (no iommu-map): only other firmware, or a device tree for hardware that has one there, changes that'
      : 'the PCI host bridge has to be behind an IOMMU, and the firmware has to say so (IORT, DMAR or IVRS, or iommu-map in the device tree)',
  )
}

/** Why no function is in sight, and what to do. */
function explainNoDevices({ pciBus, platform }: HostFacts): [why: string, cure: string] {
  if (platform.container !== null) {
    return [
      'this container shows no PCI function',
      'give it the /sys of the host (a bind mount), or run this on the host',
    ]
  }
  return pciBus === false
    ? [
        'this kernel has no PCI bus (/sys/bus/pci is not there)',
        'on a machine with PCI devices it takes a kernel with CONFIG_PCI, and no pci=off on its command line',
      ]
    : [
        'this host shows no PCI function (/sys/bus/pci/devices is empty)',
        'a virtual machine gets them from its hypervisor, which may have none for it; elsewhere the kernel log tells of the host bridge (dmesg | grep -i pci)',
      ]
}

function checkInterruptRemapping(seen: Snapshot): Check {
  const name = 'interrupt remapping'
  if (!seen.host.iommu.present && seen.host.iommu.known) {
    return ok(name, 'without an IOMMU it has no meaning')
  }
  const { isolated, accepted, detail, cure } = assessIsolation(seen)
  if (isolated !== false || cure === null) return ok(name, detail)
  return accepted
    ? warn(name, `${detail}, which allow_unsafe_interrupts accepts`, cure)
    : fail(name, `${detail}, and VFIO refuses every device`, cure)
}

function checkModules(seen: Snapshot): Check[] {
  const { host } = seen
  const backend = BACKEND_MODULES[backendOf(host)]
  return (['vfio', backend, 'vfio_pci'] as const).map((module) => {
    const state = host.modules[module]
    const name = `module ${module}`
    if (state === 'loaded' || state === 'builtin') return ok(name, state === 'loaded' ? 'loaded' : 'built in')
    // The no-IOMMU mode is a backend of its own, in the module vfio (`vfio_noiommu_ops`).
    if (module === backend && !host.iommu.present && isNoIommuMode(seen)) {
      return ok(name, 'not loaded, and not needed in the no-IOMMU mode')
    }
    return checkAbsentModule(name, module, host)
  })
}

function checkAbsentModule(name: string, module: VfioModule, host: HostFacts): Check {
  const { container } = host.platform
  const where = container === null ? '' : ' on the host'
  const package_ = `install the full module package of the kernel, or build it with ${KERNEL_OPTIONS[module]}`
  switch (host.modules[module]) {
    case 'loadable':
      return fail(name, 'there, and not loaded', `load it${where}: modprobe vfio-pci`)
    case 'missing':
      return fail(name, 'this kernel does not have it', package_)
    default:
      if (host.paths.modules === null) return ok(name, 'not loaded; not known whether this kernel has it')
      return warn(
        name,
        `not loaded; not known whether this kernel has it: ${host.paths.modules} has no list of modules`,
        container === null
          ? 'reboot where the kernel was updated since the last boot, which takes its modules away'
          : 'load it on the host: modprobe vfio-pci',
      )
  }
}

/** A node that no module of this kernel makes. */
const isMissing = ({ modules }: HostFacts, isIommufd: boolean) =>
  modules.vfio === 'missing' || (isIommufd && modules.iommufd === 'missing')

function checkContainer({ host }: Snapshot): Check {
  const name = 'device node'
  if (host.paths.dev === null) return ok(name, 'not known: /dev was not looked at')
  const { container, iommu, devices } = host.nodes
  // Where iommufd provides the container, devices without nodes of their own are opened by that.
  const isIommufd = backendOf(host) === 'iommufd' && (devices.length > 0 || container === null)
  const node = isIommufd ? iommu : (container ?? iommu)
  const wanted = isIommufd ? '/dev/iommu' : '/dev/vfio/vfio'
  if (!node) {
    return fail(
      name,
      `${wanted} is not there`,
      isMissing(host, isIommufd)
        ? 'it comes with the modules, which this kernel does not have'
        : host.platform.container === null
          ? `load the modules: modprobe ${isIommufd ? 'iommufd vfio-pci' : 'vfio-pci'}`
          : `start the container with --device ${wanted} and the nodes of its devices (--device ${isIommufd ? '/dev/vfio/devices/vfioN' : '/dev/vfio/N'})`,
    )
  }
  return node.accessible
    ? ok(
        name,
        `${node.path} can be opened${node === container && mapsByIommufd(host) ? ', which iommufd provides' : ''}`,
      )
    : fail(
        name,
        `you may not open ${node.path}`,
        `run as root, or allow it to all as is usual: chmod 0666 ${node.path}`,
      )
}

/** A device that a node opens; `ADDRESS` where it is not to be told. */
function addressOf({ devices }: Snapshot, path: string): string {
  const node = path.slice(path.lastIndexOf('/') + 1)
  const found = devices.find(
    ({ vfioDevice, group }) => vfioDevice === node || String(group) === node.replace(/^noiommu-/, ''),
  )
  return found?.address ?? 'ADDRESS'
}

function checkGroupNodes(seen: Snapshot): Check {
  const { host } = seen
  const name = 'group nodes'
  if (host.paths.dev === null) return ok(name, 'not known: /dev was not looked at')
  const isIommufd = backendOf(host) === 'iommufd'
  // iommufd stands in for containers too, where the kernel has groups and no type1 (IOMMUFD_VFIO_CONTAINER).
  const nodes = isIommufd && host.nodes.devices.length > 0 ? host.nodes.devices : host.nodes.groups
  const closed = nodes.filter((node) => !node.accessible)
  if (nodes.length === 0) return ok(name, 'no device is bound to VFIO yet, so there is none')
  const [first] = closed
  if (!first) return ok(name, `${nodes.length} can be opened`)
  return fail(
    name,
    `you may not open ${closed.map((node) => node.path).join(', ')}`,
    `run as root, or let root hand a device to you: vfio grant ${addressOf(seen, first.path)} --user "$USER"`,
  )
}

/** A second way to open devices beside the first: a host without it lacks nothing. */
function checkIommufd(seen: Snapshot): Check[] {
  const { host } = seen
  const name = 'iommufd'
  const state = host.modules.iommufd
  if (backendOf(host) === 'iommufd' || state === 'missing' || state === 'unknown') return []
  if (state === 'loadable') return [ok(name, 'not loaded, so devices are opened by their groups alone')]
  if (host.paths.dev === null) return [ok(name, 'there; not known who may open it: /dev was not looked at')]
  const { iommu, devices } = host.nodes
  if (!iommu) {
    const cure =
      host.platform.container === null
        ? 'see that /dev is a devtmpfs, or make the node as class/misc/iommu/dev says'
        : 'start the container with --device /dev/iommu and the nodes of its devices (--device /dev/vfio/devices/vfioN)'
    return [warn(name, '/dev/iommu is not there, so devices are opened by their groups alone', cure)]
  }
  const closed = [iommu, ...devices].filter(({ accessible }) => !accessible).map(({ path }) => path)
  if (closed.length > 0) {
    return [
      warn(
        name,
        `you may not open ${several(closed)}`,
        'run as root, or let root hand a device to you: vfio grant ADDRESS --user "$USER"',
      ),
    ]
  }
  const bound = seen.devices.filter(isWithVfio)
  if (bound.some(({ vfioDevice }) => vfioDevice === null)) {
    return [
      ok(
        name,
        `${iommu.path} can be opened, but devices have no nodes of their own (CONFIG_VFIO_DEVICE_CDEV): they are opened by their groups`,
      ),
    ]
  }
  return [
    ok(
      name,
      `${iommu.path} can be opened${devices.length > 0 ? `, and ${devices.length} devices by it` : ''}`,
    ),
  ]
}

/** A device that does not answer cannot be used; the others are not affected. */
function checkAnswering(seen: Snapshot): Check[] {
  const { silent, below } = findSilent(seen)
  const [first] = silent
  if (!first) return []
  const verb = silent.length === 1 ? 'does' : 'do'
  const lost =
    below.length === 0
      ? ''
      : `; ${several(below)} cannot be reached behind ${silent.length === 1 ? 'it' : 'them'}`
  return [
    warn(
      'devices',
      `${several(silent.map(({ address }) => address))} ${verb} not answer, config space reads as all ones${lost}`,
      silent.length === 1
        ? silenceCure(first)
        : `${first.address}: ${silenceCure(first)}; "vfio check ADDRESS" tells of the others`,
    ),
  ]
}

/** What could not be looked at may be anything. */
function checkView({ host, unseen }: Snapshot): Check[] {
  const name = 'view'
  const all = [...unseen, ...host.unseen]
  const proc = explainNoProc(host)
  return [
    ...(proc ? [fail(name, ...proc)] : []),
    ...(all.length === 0
      ? []
      : [
          fail(
            name,
            `this could not be looked at: ${printable(several(all.map(unseenText)))}`,
            unseenCure(all),
          ),
        ]),
  ]
}

/** Of the running host: its release is there wherever proc is mounted whole. */
function explainNoProc({ paths, kernel }: HostFacts): [why: string, cure: string] | null {
  return paths.proc !== '/proc' || kernel !== ''
    ? null
    : [
        'proc is not mounted at /proc, or only a part of it is, so neither the release of the kernel nor who uses a device is known',
        'mount -t proc proc /proc (in a service ProcSubset=all, in a container whoever starts it)',
      ]
}

/**
 * What is missing where a whole host was looked at, a sentence each with its cure: for who shows something else than a
 * diagnosis.
 */
export function whatIsMissing(seen: Snapshot): string[] {
  const proc = explainNoProc(seen.host)
  const nothing = seen.devices.length === 0 && !seen.isPartial ? explainNoDevices(seen.host) : null
  return [proc, nothing].flatMap((found) => (found ? `${found[0]}: ${found[1]}` : []))
}

/** What a small device driver needs; a VM needs the size of its memory. */
const LITTLE_LOCKED_MEMORY = 64 * 2 ** 20

function checkMemlock({ host }: Snapshot): Check {
  const name = 'locked memory'
  if (host.memlock === null) return ok(name, 'the limit is not known')
  const { soft } = host.memlock
  if (soft === null) return ok(name, 'no limit')
  const size = `${amount(soft)} may be locked, which bounds what devices can reach by DMA`
  return soft >= LITTLE_LOCKED_MEMORY
    ? ok(name, size)
    : warn(
        name,
        size,
        'raise it to the memory of the VM and a bit more (ulimit -l, LimitMEMLOCK=); root is exempt',
      )
}

/** In the largest unit that leaves no more than a rounding behind: 64 KiB are not 0 MiB. */
function amount(bytes: number): string {
  if (bytes < 2 ** 10) return `${bytes} bytes`
  const [size, unit] =
    bytes < 2 ** 20 ? [2 ** 10, 'KiB'] : bytes < 2 ** 30 ? [2 ** 20, 'MiB'] : [2 ** 30, 'GiB']
  return `${Math.floor((bytes / size) * 10) / 10} ${unit}`
}
