import type { Assessment } from '../assess/assessment.js'
import { type Backend, backendOf } from '../assess/backends.js'
import type { HostUse } from '../assess/host-use.js'
import { type SurveyedDevice, type SurveyedMediated, survey } from '../assess/survey.js'
import { isBridge } from '../assess/topology.js'
import { isWithVfio, type PciDevice, type Sriov } from '../sysfs/devices.js'
import type { HostFacts } from '../sysfs/facts.js'
import type { IommuGroup } from '../sysfs/groups.js'
import type { DeviceNames } from '../sysfs/names.js'
import type { Architecture, Hypervisor } from '../sysfs/platform.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import type { Unseen } from '../sysfs/unseen.js'

/** What a fleet keeps of a host: what it has, and what of that can be given away. */
export interface Inventory {
  readonly host: InventoryHost
  /** By number. */
  readonly groups: readonly InventoryGroup[]
  /** Every PCI function, bridges too, by address. */
  readonly devices: readonly InventoryDevice[]
  /** Only where there are any. */
  readonly mediated?: readonly SurveyedMediated[]
  /** What could not be looked at: where there is any of it, not all is known. */
  readonly unseen: readonly Unseen[]
}

export interface InventoryHost {
  /** Kernel release; empty where it is not known. */
  readonly kernel: string
  /** `null` here and below: not known. */
  readonly architecture: Architecture | null
  readonly cpuVendor: 'intel' | 'amd' | null
  /** `null` also on bare metal. */
  readonly hypervisor: Hypervisor | null
  readonly iommu: {
    readonly present: boolean | null
    /** In the kernel's naming, each once: `intel-iommu`, `amd-iommu`, `arm-smmu-v3`, … */
    readonly kinds: readonly string[]
    readonly interruptRemapping: boolean | null
  }
  /** What VFIO maps memory for devices through. */
  readonly backend: Backend
  readonly modules: HostFacts['modules']
  /** The no-IOMMU mode of VFIO is on. */
  readonly noIommuMode: boolean | null
}

export interface InventoryGroup extends Pick<IommuGroup, 'group' | 'type' | 'noIommu' | 'members'> {
  /** Made for a mediated device; only where it is so. */
  readonly emulated?: true
  /** Members on other buses than PCI, by name. */
  readonly others: readonly string[]
  readonly viable: boolean
  /** The members that keep it from being viable. */
  readonly blockers: readonly string[]
  /** The best of its functions, since a group is given away whole; `null` where it has bridges alone, or no function of PCI. */
  readonly verdict: Assessment['verdict'] | null
}

export interface InventoryDevice
  extends Pick<
    SurveyedDevice,
    | 'address'
    | 'group'
    | 'ids'
    | 'subsystemIds'
    | 'class'
    | 'revision'
    | 'driver'
    | 'verdict'
    | 'reason'
    | 'resetScope'
  > {
  readonly names: DeviceNames
  /** It stays with the host, and others are below it. */
  readonly bridge: boolean
  /** The bridge that it sits below, `null` on a root bus. */
  readonly parent: string | null
  /** NUMA node, `null` where the platform names none. */
  readonly numaNode: number | null
  /** It is with VFIO now. */
  readonly bound: boolean
  /** Where that would be another once all of its group that can be is bound to VFIO. */
  readonly resetOnceBound?: 'hot'
  /** Memory of its BARs in bytes, which a guest maps. */
  readonly barMemory: number
  readonly sriov: Sriov | null
  /** VFIO drivers for this device that can more than vfio-pci, by the names of their modules. */
  readonly variantDrivers: readonly string[]
  /** What on the host would lose it or what has to come along; only where the snapshot has looked at uses. */
  readonly uses?: readonly HostUse[]
  readonly attributes: DeviceAttributes
}

/**
 * A device as Dynamic Resource Allocation describes one: names are qualified where Kubernetes has set them, and C
 * identifiers for the driver's own domain otherwise; a text, a number and a boolean stand for its types `string`, `int`
 * and `bool`.
 * Source: `k8s.io/dynamic-resource-allocation/deviceattribute`, `ResourceSlice` of `resource.k8s.io/v1`.
 */
export interface DeviceAttributes {
  /** Domain, bus, device and function. */
  readonly 'resource.kubernetes.io/pciBusID': string
  /** The root complex: `pci0000:00`. Left out where sysfs has no path to tell by. */
  readonly 'resource.kubernetes.io/pcieRoot'?: string
  /** Four digits, hexadecimal, as in its ids; `device` and the `subsystem…` too. */
  readonly vendor: string
  readonly device: string
  readonly subsystemVendor?: string
  readonly subsystemDevice?: string
  /** Base class and subclass, four digits, hexadecimal: `0302`. */
  readonly class: string
  /** Left out without one, here and below. */
  readonly driver?: string
  readonly numaNode?: number
  readonly iommuGroup?: number
  /** The PF of a virtual function, by its address. */
  readonly pf?: string
  readonly verdict: Assessment['verdict']
}

/** What fleets collect of a host, from one look at it. */
export function exportInventory(seen: Snapshot): Inventory {
  const { groups, devices, mediated } = survey(seen)
  const byAddress = new Map(devices.map((device) => [device.address, device]))
  return {
    host: hostOf(seen.host),
    groups: groups.map(({ group, type, noIommu, emulated, members, others, viable, blockers }) => ({
      group,
      type,
      noIommu,
      ...(emulated && { emulated }),
      members,
      others: others.map(({ name }) => name),
      viable,
      blockers: blockers.map(({ address }) => address),
      verdict: bestOf(
        members.flatMap((address) =>
          seen.has(address) && !isBridge(seen.device(address)) ? (byAddress.get(address)?.verdict ?? []) : [],
        ),
      ),
    })),
    devices: devices.map((device) => deviceOf(device, seen.device(device.address))),
    ...(mediated && { mediated }),
    unseen: [...seen.unseen, ...seen.host.unseen, ...seen.use.unseen],
  }
}

function hostOf(host: HostFacts): InventoryHost {
  const { kernel, platform, iommu, modules, noIommuMode } = host
  return {
    kernel,
    architecture: platform.architecture,
    cpuVendor: platform.cpuVendor,
    hypervisor: platform.hypervisor,
    iommu: {
      present: iommu.known ? iommu.present : null,
      kinds: [...new Set(iommu.units.map(({ kind }) => kind))],
      interruptRemapping: iommu.interruptRemapping,
    },
    backend: backendOf(host),
    modules,
    noIommuMode,
  }
}

const VERDICTS: readonly Assessment['verdict'][] = ['ready', 'bindable', 'blocked']

const bestOf = (verdicts: readonly Assessment['verdict'][]) =>
  VERDICTS.find((verdict) => verdicts.includes(verdict)) ?? null

function deviceOf(surveyed: SurveyedDevice, device: PciDevice): InventoryDevice {
  const { address, group, ids, subsystemIds, revision, names, driver } = surveyed
  const { verdict, reason, resetScope, resetOnceBound, uses } = surveyed
  return {
    address,
    group,
    ids,
    subsystemIds,
    class: device.class,
    revision,
    names,
    driver,
    bridge: isBridge(device),
    parent: device.parent,
    numaNode: device.numaNode,
    bound: isWithVfio(device),
    verdict,
    reason,
    resetScope,
    ...(resetOnceBound && { resetOnceBound }),
    barMemory: device.bars.reduce((sum, { kind, size }) => sum + (kind === 'memory' ? size : 0), 0),
    sriov: device.sriov,
    variantDrivers: device.variantDrivers,
    ...(uses && { uses }),
    attributes: attributesOf(device, verdict),
  }
}

const hex4 = (value: number) => value.toString(16).padStart(4, '0')

function attributesOf(device: PciDevice, verdict: Assessment['verdict']): DeviceAttributes {
  const { rootBus, driver, numaNode, group, sriov, subsystemIds } = device
  return {
    'resource.kubernetes.io/pciBusID': device.address,
    ...(rootBus !== null && { 'resource.kubernetes.io/pcieRoot': rootBus }),
    vendor: hex4(device.vendor),
    device: hex4(device.device),
    ...(subsystemIds !== null && {
      subsystemVendor: hex4(device.subsystemVendor),
      subsystemDevice: hex4(device.subsystemDevice),
    }),
    class: hex4(device.class >>> 8),
    ...(driver !== null && { driver }),
    ...(numaNode !== null && { numaNode }),
    ...(group !== null && { iommuGroup: group }),
    ...(sriov?.role === 'vf' && { pf: sriov.pf }),
    verdict,
  }
}
