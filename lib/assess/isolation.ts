import type { HostFacts } from '../sysfs/facts.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import { printable } from '../text.js'
import { backendOf, mapsByIommufd } from './backends.js'
import { hypervisorOf } from './hypervisor.js'
import { moduleSwitch, remappingSwitchedOff } from './kernel-parameters.js'
import { onceFor } from './once.js'
import { hasBrokenRemapping } from './quirks.js'

/**
 * Whether a device can raise no interrupts but its own. type1 and iommufd refuse a device that can
 * (`vfio_iommu_type1_attach_group`, `iommufd_device_bind`), spapr and the no-IOMMU mode never ask.
 */
export interface Isolation {
  /** `null`: not known, or nobody asks. */
  readonly isolated: boolean | null
  /** The parameter of the backend accepts the risk. */
  readonly accepted: boolean
  readonly detail: string
  /** What would isolate them, or else how the risk is accepted; `null` where nothing is to be done. */
  readonly cure: string | null
}

/** Judges a host: all of its devices are alike on x86 and s390, and on ARM as far as its interrupts tell. */
export function assessIsolation(seen: Snapshot): Isolation {
  return isolationOf(seen, null)
}

const isolationOf = onceFor((seen: Snapshot, _all: null): Isolation => {
  const { host } = seen
  const backend = backendOf(host)
  const byIommufd = mapsByIommufd(host)
  const module = byIommufd ? 'iommufd' : 'vfio_iommu_type1'
  const asked = byIommufd ? host.iommufdUnsafeInterrupts : host.allowUnsafeInterrupts
  const accepted = (asked ?? moduleSwitch(host, module, 'allow_unsafe_interrupts')) === true
  const isolation = { accepted, cure: null }
  const accept = accepted ? '' : `, or accept the risk with the parameter ${module}.allow_unsafe_interrupts=1`
  if (backend === 'spapr') {
    return {
      ...isolation,
      isolated: null,
      detail: 'VFIO on POWER (spapr) does not ask for isolated interrupts',
    }
  }
  switch (host.iommu.interruptRemapping) {
    case true:
      return { ...isolation, isolated: true, detail: isolatedBy(host) }
    case null:
      return {
        ...isolation,
        isolated: null,
        detail: 'not known: these trees do not tell whether a device can raise the interrupts of others',
      }
    default:
      return {
        ...isolation,
        isolated: false,
        detail:
          host.platform.architecture === 'arm'
            ? 'interrupts of PCI devices do not go through an ITS, so a device may forge them'
            : 'interrupts are not remapped, so a device may forge them',
        cure: `${cureOf(seen)}${accept}`,
      }
  }
})

function isolatedBy({ platform }: HostFacts): string {
  if (platform.architecture === 's390') return 'interrupts of PCI functions are always isolated on s390'
  return platform.architecture === 'arm' ? 'the ITS isolates interrupts' : 'interrupts are remapped'
}

const REMAPPING =
  'with QEMU -machine q35,kernel-irqchip=split -device intel-iommu,intremap=on, with libvirt <driver intremap="on"/> and <ioapic driver="qemu"/>'

function cureOf(seen: Snapshot): string {
  const { host } = seen
  const { architecture, cpuVendor } = host.platform
  const hypervisor = hypervisorOf(seen)
  if (architecture === 'arm') {
    return hypervisor === 'kvm'
      ? 'give the VM a GICv3 with an ITS, outside of it: with QEMU -machine virt,gic-version=3,its=on'
      : 'no setting changes that: the PCI host bridge needs an interrupt controller with an ITS (GICv3)'
  }
  const off = remappingSwitchedOff(host)
  if (off.length > 0) return `remove the kernel parameter${off.length > 1 ? 's' : ''} ${off.join(' and ')}`
  if (seen.devices.some(hasBrokenRemapping)) {
    return 'take another machine, since the interrupt remapping of this chipset (Intel 5500, 5520, X58) has an erratum and the kernel leaves it off whatever the firmware says'
  }
  if (host.iommu.units.some(({ kind }) => kind === 'virtio_iommu')) {
    return `give the VM another virtual IOMMU, outside of it, since virtio-iommu remaps no interrupts: ${REMAPPING}`
  }
  if (hypervisor !== null && host.platform.provider !== undefined) {
    return `only ${printable(host.platform.provider)} can let the virtual IOMMU of this virtual machine remap interrupts: take one of its bare-metal or dedicated servers`
  }
  if (hypervisor === 'kvm') {
    return `let the virtual IOMMU remap interrupts, outside of the VM: ${REMAPPING}`
  }
  if (hypervisor !== null) return "let the hypervisor's virtual IOMMU remap interrupts"
  return cpuVendor === 'amd'
    ? 'switch on interrupt remapping (IOMMU, x2APIC) in the firmware setup, or update the firmware: its IVRS table has to name every IOAPIC'
    : 'switch on interrupt remapping (x2APIC) in the firmware setup'
}
