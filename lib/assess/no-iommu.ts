import type { PciDevice } from '../sysfs/devices.js'
import { isKernelSince } from '../sysfs/kernel.js'
import type { Hypervisor } from '../sysfs/platform.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import { printable } from '../text.js'
import { bridgesAbove } from './answering.js'
import { hypervisorOf } from './hypervisor.js'
import {
  graphicsLeftOut,
  hasVtd,
  iommuAskedFor,
  iommuSwitchedOff,
  isLeftOutGraphics,
  kernelParameters,
  moduleSwitch,
} from './kernel-parameters.js'
import { iommuIn, isBridge } from './topology.js'

/** Why no IOMMU is active on a host, and what to do about it. */
export interface NoIommu {
  readonly why: string
  readonly cure: string
}

/** What it means to give a device away in VFIO's no-IOMMU mode (`MODULE_PARM_DESC` of `enable_unsafe_noiommu_mode`). */
export const NO_IOMMU_RISK =
  'nothing keeps the device from reading and writing all memory of this host, only root (CAP_SYS_RAWIO) may open it, it taints the kernel, and no VM can be given the device'

/**
 * Is the no-IOMMU mode on? The module's parameter decides, and can be switched at any time; while the module is not
 * loaded, what it is given when it is.
 */
export const isNoIommuMode = ({ host }: Snapshot) =>
  host.noIommuMode ?? moduleSwitch(host, 'vfio', MODE) ?? false

const MODE = 'enable_unsafe_noiommu_mode'

/** How the mode is switched on for a function that is in no group, and at what risk; `null` where that is not what it lacks. */
export function howToAllowNoIommu(seen: Snapshot, device: PciDevice): string | null {
  const { host } = seen
  if (device.group !== null || isBridge(device) || isNoIommuMode(seen) || !host.iommu.known) return null
  const isThere = host.modules.vfio === 'loaded' || host.modules.vfio === 'builtin'
  if (isThere && host.noIommuMode === null)
    return 'this kernel has no no-IOMMU mode (CONFIG_VFIO_NOIOMMU) either'
  const command = isThere
    ? `echo 1 > ${host.paths.sysfs}/module/vfio/parameters/${MODE}`
    : `modprobe vfio ${MODE}=1`
  return `without one it takes VFIO's no-IOMMU mode, which nobody but you switches on (${command}), and in which ${NO_IOMMU_RISK}`
}

/** Where a virtual machine gets its IOMMU from: what its owner has to set. By the pages of each hypervisor. */
const VIRTUAL_IOMMU: Readonly<Record<Hypervisor, string>> = {
  // QEMU's and libvirt's documentation: docs/system/i386/intel-iommu, formatdomain "IOMMU devices".
  kvm: 'give the VM a virtual IOMMU, outside of it: with QEMU -machine q35,kernel-irqchip=split -device intel-iommu,intremap=on,caching-mode=on, with libvirt <iommu model="intel"><driver intremap="on" caching_mode="on"/></iommu> and <ioapic driver="qemu"/>, with OpenStack the image property hw_viommu_model=intel; then boot the VM with intel_iommu=on',
  // VMware: "Enable I/O MMU virtualization", EFI and hardware version 14; vvtd.enable in the .vmx file.
  vmware:
    'give the VM a virtual IOMMU, outside of it: with the VM off choose "Expose IOMMU to the guest OS" in its CPU settings (vvtd.enable = "TRUE"; it takes EFI firmware and hardware version 14); then boot it with intel_iommu=on',
  'hyper-v': 'Hyper-V gives its virtual machines no IOMMU: run this on bare metal, or on another hypervisor',
  xen: 'Xen gives its guests no virtual IOMMU: assign the device from dom0, or run this on another hypervisor',
  // VBoxManage modifyvm: --chipset=ich9 --iommu=intel|amd.
  virtualbox:
    'give the VM a virtual IOMMU, outside of it, while it is off: VBoxManage modifyvm NAME --chipset=ich9 --iommu=intel; then boot it with intel_iommu=on',
  parallels:
    'Parallels gives its virtual machines no IOMMU: run this on bare metal, or on another hypervisor',
  bhyve: 'bhyve gives its virtual machines no IOMMU: run this on bare metal, or on another hypervisor',
  apple:
    "Apple's virtualization framework gives its virtual machines no IOMMU: run this on bare metal, or on another hypervisor",
  amazon:
    'instances of Amazon EC2 have no IOMMU but for the bare-metal ones: take an instance type that ends in .metal',
  google:
    'virtual machines of Compute Engine have no IOMMU: take one of its bare-metal instances, or nest a VM with a virtual IOMMU',
  azure:
    'virtual machines of Azure have no IOMMU: run this on bare metal, or on another hypervisor that has a virtual IOMMU',
  zvm: 'let z/VM dedicate the function to this guest (ATTACH PCIF): the kernel makes the group of each function by itself',
  powervm:
    'let the HMC assign the adapter to this partition: the kernel makes the group of each slot by itself',
  wsl: 'WSL runs in a virtual machine of Hyper-V that has no IOMMU and gets no PCI devices: run this on bare metal',
  other:
    'give the VM a virtual IOMMU, outside of it, in the settings of its hypervisor; not every hypervisor has one for its virtual machines',
}

const KVM_ON_ARM =
  'give the VM a virtual SMMU, outside of it: with QEMU -machine virt,iommu=smmuv3, with libvirt <iommu model="smmuv3"/>'

const ARM_CURE =
  'switch on the SMMU in the firmware setup: the firmware has to describe it and the PCI host bridges behind it (IORT, or iommu-map in the device tree), and the kernel needs CONFIG_ARM_SMMU_V3 or CONFIG_ARM_SMMU'

/** Why no IOMMU is active, most certain cause first: each cause has its own cure, by where this host is. */
export function explainNoIommu(seen: Snapshot): NoIommu {
  return causeElsewhere(seen) ?? causeByArchitecture(seen)
}

/** Causes that lie outside of the kernel that runs here, or in what it was told. */
function causeElsewhere(seen: Snapshot): NoIommu | null {
  const { host } = seen
  const { platform } = host
  if (platform.xenDom0) {
    return {
      why: 'no IOMMU is active in dom0: Xen keeps it to itself',
      cure: 'VFIO does not work under Xen: hide the device with xen-pciback (xl pci-assignable-add) and let xl give it to a guest, or boot without Xen',
    }
  }
  if (platform.acpiTables?.includes('VIOT')) {
    return {
      why: 'no IOMMU is active, though this virtual machine has a virtio-iommu (VIOT)',
      cure: 'load its driver: modprobe virtio_iommu, from the initramfs where the root disk is behind it (CONFIG_VIRTIO_IOMMU)',
    }
  }
  const off = iommuSwitchedOff(host)
  if (off.length === 0) return null
  const names = off.join(' and ')
  const remove = `remove the kernel parameter${off.length > 1 ? 's' : ''} ${names}`
  const why = `the kernel was told to use no IOMMU (${names})`
  // Without a table there is none to use, whatever the kernel is told.
  const isDescribed = hasVtd(host) || (platform.acpiTables?.includes('IVRS') ?? hypervisorOf(seen) === null)
  if (!isDescribed) return { why, cure: `${remove}, and ${onX86(seen).cure}` }
  const missing = kernelParameters(seen).add.map(({ parameter }) => parameter)
  return { why, cure: missing.length > 0 ? `${remove}, and boot with ${missing.join(' ')}` : remove }
}

function causeByArchitecture(seen: Snapshot): NoIommu {
  const { platform } = seen.host
  const none = (cure: string) => ({ why: 'no IOMMU is active', cure })
  switch (platform.architecture) {
    case 'arm':
      if (hypervisorOf(seen) === 'kvm') return inVirtualMachine(seen, KVM_ON_ARM)
      return hypervisorOf(seen) ? inVirtualMachine(seen) : none(ARM_CURE)
    case 's390':
      return none(
        'the kernel makes a group of each PCI function by itself (CONFIG_S390_IOMMU): see that the functions are assigned to this LPAR or guest, and that pci=off is not on the command line',
      )
    case 'power':
      return none(
        'the kernel makes the groups by itself (CONFIG_SPAPR_TCE_IOMMU): boot one that has it, on OPAL firmware or as a PowerVM or KVM guest with PCI devices of its own',
      )
    case 'riscv':
      return hypervisorOf(seen)
        ? inVirtualMachine(
            seen,
            'give the VM a virtual IOMMU, outside of it: with QEMU -machine virt,iommu-sys=on',
          )
        : none(
            'boot a kernel with CONFIG_RISCV_IOMMU (6.13 or newer) on hardware whose firmware describes its IOMMU (RIMT, or iommu-map in the device tree)',
          )
    case 'loongarch':
      return none('Linux drives no IOMMU of this architecture that VFIO could use')
    default:
      return onX86(seen)
  }
}

function inVirtualMachine(seen: Snapshot, cure?: string): NoIommu {
  const hypervisor = hypervisorOf(seen)
  const { provider } = seen.host.platform
  const rented =
    provider === undefined
      ? null
      : `only ${printable(provider)} can give this virtual machine a virtual IOMMU, and who rents out virtual machines seldom does: take one of its bare-metal or dedicated servers`
  return {
    why: 'no IOMMU is active: this is a virtual machine, and it has no virtual IOMMU',
    cure: rented ?? cure ?? VIRTUAL_IOMMU[hypervisor ?? 'other'],
  }
}

/** The tables DMAR (VT-d) and IVRS (AMD-Vi) are there exactly where the firmware has it on; many kernels want to be asked too. */
function onX86(seen: Snapshot): NoIommu {
  const { host } = seen
  const { platform } = host
  const asked = iommuAskedFor(host).join(' ')
  const inVain =
    asked === '' ? 'no IOMMU is active' : `no IOMMU is active, though the kernel was asked for it (${asked})`
  const missing = kernelParameters(seen).add.map(({ parameter }) => parameter)
  const vtd = hasVtd(host)
  if (vtd || platform.acpiTables?.includes('IVRS')) {
    const [name, table, option, log] = vtd
      ? ['VT-d', 'DMAR', 'CONFIG_INTEL_IOMMU', 'dmar']
      : ['AMD-Vi', 'IVRS', 'CONFIG_AMD_IOMMU', 'amd-vi']
    if (missing.length > 0) {
      return {
        why: `no IOMMU is active, though the firmware has ${name} on (${table})`,
        cure: `boot with the kernel parameter ${missing.join(' ')}`,
      }
    }
    return {
      why: `${inVain}, and the firmware has ${name} on (${table})`,
      cure: `look into the kernel's log for why (dmesg | grep -i ${log}): a kernel without ${option}, or a fault in the firmware's table that an update may mend`,
    }
  }
  if (hypervisorOf(seen) !== null) return inVirtualMachine(seen)
  const firmware = {
    intel: 'switch on VT-d (Intel) in the firmware setup',
    amd: 'switch on AMD-Vi/IOMMU (AMD) in the firmware setup',
    none: 'switch on VT-d (Intel) or AMD-Vi/IOMMU (AMD) in the firmware setup',
  }[platform.cpuVendor ?? 'none']
  const parameter =
    platform.cpuVendor === 'intel'
      ? ', and boot with the kernel parameter '
      : ', and on Intel boot with the kernel parameter '
  const known = platform.acpiTables !== null && platform.acpiTables.length > 0
  return {
    why: known ? `${inVain}: the firmware describes none (neither DMAR nor IVRS)` : inVain,
    cure: missing.length > 0 ? `${firmware}${parameter}${missing.join(' ')}` : firmware,
  }
}

/** How a function that is in no group stands to VFIO. */
export type Ungrouped =
  /** VFIO makes a group without an IOMMU when it binds (`vfio_group_find_or_alloc`). */
  | { readonly kind: 'no-iommu' }
  /** The kernel looks for its IOMMU only when a driver binds: what group it gets, and whether any, is not known before. */
  | { readonly kind: 'when-bound' }
  | { readonly kind: 'none'; readonly reason: string }

/** Judges a function without a group. */
export function judgeUngrouped(seen: Snapshot, device: PciDevice): Ungrouped {
  if (mayGetGroup(seen, device)) {
    const taken = takenStream(seen, device)
    return taken === null ? { kind: 'when-bound' } : { kind: 'none', reason: taken }
  }
  if (isNoIommuMode(seen)) return { kind: 'no-iommu' }
  const { address } = device
  if (!seen.host.iommu.known) {
    return { kind: 'none', reason: `${address} is in no IOMMU group in sight: the groups were not copied` }
  }
  if (!seen.host.iommu.present) {
    return {
      kind: 'none',
      reason: `${address} is in no IOMMU group: this host has no IOMMU switched on ("vfio doctor" tells what to do)`,
    }
  }
  const [leftOut] = isLeftOutGraphics(seen.host, device) ? graphicsLeftOut(seen.host) : []
  if (leftOut !== undefined) {
    return {
      kind: 'none',
      reason: `${address} is in no IOMMU group: the kernel was told to keep Intel's graphics out of its IOMMU (${leftOut}): boot without igfx_off`,
    }
  }
  const why =
    isMapped(seen, device) === false
      ? ': the device tree leads its host bridge to none (no iommu-map)'
      : isVirtioAlone(seen) && isAliased(seen, device)
        ? ', since it is behind a conventional PCI bridge, which virtio-iommu does not see through'
        : ''
  return { kind: 'none', reason: `${address} is in no IOMMU group: the IOMMU does not cover it${why}` }
}

/** IOMMUs that are found by ACPI's IORT and VIOT or by the device tree, not by the tables of VT-d and AMD-Vi. */
const FOUND_BY_FIRMWARE = /^(arm-smmu|virtio.iommu|riscv.iommu|apple.dart|dart$)/

/**
 * Before 6.15 those IOMMUs are looked up in `dma_configure`, as the driver of a device binds (`really_probe`; since then
 * in `iommu_init_device`): an endpoint without a driver shows no group, whether or not it will get one. One of the same
 * host bridge that has a driver and no group, be it this one, tells of all that reach the bridge in the same way.
 */
function mayGetGroup(seen: Snapshot, device: PciDevice): boolean {
  const { host } = seen
  if (isBridge(device) || iommuIn(seen, device) || isKernelSince(host.kernel, 6, 15)) return false
  const isCovered = isMapped(seen, device)
  if (isCovered === false || host.iommu.units.length === 0) return false
  if (isCovered === null && !host.iommu.units.some(({ kind }) => FOUND_BY_FIRMWARE.test(kind))) return false
  const domain = domainOf(device)
  const aliased = isAliased(seen, device)
  if (aliased && isVirtioAlone(seen)) return false
  return !seen.devices.some(
    (other) =>
      domainOf(other) === domain &&
      other.driver !== null &&
      other.group === null &&
      isAliased(seen, other) === aliased &&
      // It translates for others, and not for itself.
      iommuIn(seen, other) === null,
  )
}

/**
 * Behind a conventional bus a function goes by the number of a bridge too (`pci_for_each_dma_alias`). QEMU's virtio-iommu
 * knows none but the bridge (`virtio_iommu_probe` finds no such endpoint), and the kernel wants both.
 */
const isAliased = (seen: Snapshot, device: PciDevice) =>
  [...bridgesAbove(seen, device)].some(
    ({ capabilities: { pcie, complete } }) =>
      complete && (pcie === null || pcie.type === 'pcie-to-pci-bridge'),
  )

const isVirtioAlone = ({ host }: Snapshot) =>
  host.iommu.units.length > 0 && host.iommu.units.every(({ kind }) => kind === 'virtio_iommu')

/**
 * To the IOMMU all behind a PCIe-to-PCI bridge are one requester, and the SMMUv3 driver of these kernels takes the first of
 * them alone (`arm_smmu_insert_master`: "stream already in tree").
 */
function takenStream(seen: Snapshot, device: PciDevice): string | null {
  if (!seen.host.iommu.units.some(({ kind }) => kind.startsWith('arm-smmu-v3'))) return null
  const bridge = conventionalBridge(seen, device)
  if (bridge === null) return null
  const first = seen.devices.find(
    (other) => other.group !== null && !isBridge(other) && conventionalBridge(seen, other) === bridge,
  )
  return first === undefined
    ? null
    : `${device.address} gets no IOMMU group: behind the bridge ${bridge} the SMMU cannot tell it from ${first.address}, and the driver of this kernel takes only the first of them`
}

/** The bridge in whose name a conventional device asks for memory. */
function conventionalBridge(seen: Snapshot, device: PciDevice): string | null {
  for (let at = device.parent; at !== null && seen.has(at); at = seen.device(at).parent) {
    if (seen.device(at).capabilities.pcie?.type === 'pcie-to-pci-bridge') return at
  }
  return null
}

const domainOf = ({ address }: PciDevice) => address.slice(0, address.indexOf(':'))

/** What the device tree says of the host bridge; `null` where there is none, or the bridge is not in it. */
function isMapped({ host }: Snapshot, device: PciDevice): boolean | null {
  const bridges = Object.entries(host.platform.iommuMaps).filter(([bus]) =>
    bus.startsWith(`${domainOf(device)}:`),
  )
  if (bridges.length === 0) return null
  return bridges.some(([, isCovered]) => isCovered)
}
