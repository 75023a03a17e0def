import type { Snapshot } from '../sysfs/snapshot.js'
import { printable, several, unseenCure, unseenText } from './uses-text.js'
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
    checkIommu(seen),
    checkGroups(seen),
    checkInterruptRemapping(seen),
    ...checkModules(seen),
    checkContainer(seen),
    checkGroupNodes(seen),
    checkMemlock(seen),
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

function checkIommu({ host, groups }: Snapshot): Check {
  if (host.iommu.units.length > 0) {
    return ok('iommu', host.iommu.units.map((unit) => `${unit.kind} (${unit.name})`).join(', '))
  }
  // Some platforms (s390, POWER) have groups without registering units.
  if (groups.length > 0) return ok('iommu', 'the platform has IOMMU groups')
  const off = /\b(?:intel_iommu|amd_iommu|iommu)=off\b/.exec(host.commandLine)?.[0]
  if (off)
    return fail('iommu', `the kernel was told to use no IOMMU (${off})`, `remove the kernel parameter ${off}`)
  // iommu=pt asks for a way to use it, and switches nothing on.
  const asked = /\b(?:intel_iommu|amd_iommu)=\S+/.exec(host.commandLine)?.[0]
  return fail(
    'iommu',
    asked ? `no IOMMU is active, though the kernel was asked for it (${asked})` : 'no IOMMU is active',
    asked
      ? 'switch on VT-d (Intel) or AMD-Vi/IOMMU (AMD) in the firmware setup'
      : 'switch on VT-d or AMD-Vi in the firmware setup, and on Intel boot with the kernel parameter intel_iommu=on',
  )
}

function checkGroups({ groups, devices }: Snapshot): Check {
  const grouped = devices.filter((device) => device.group !== null).length
  return groups.length > 0
    ? ok('groups', `${groups.length} IOMMU groups hold ${grouped} of ${devices.length} PCI functions`)
    : fail('groups', 'there are no IOMMU groups', 'they appear once an IOMMU is active')
}

function checkInterruptRemapping({ host }: Snapshot): Check {
  const name = 'interrupt remapping'
  if (host.iommu.interruptRemapping === true) return ok(name, 'interrupts are remapped')
  if (host.iommu.interruptRemapping === null) {
    return ok(name, 'this platform isolates interrupts in its own way, which sysfs does not tell')
  }
  return host.allowUnsafeInterrupts
    ? warn(
        name,
        'interrupts are not remapped, and allow_unsafe_interrupts accepts that a device may forge them',
        'switch on interrupt remapping (x2APIC) in the firmware setup',
      )
    : fail(
        name,
        'interrupts are not remapped, so VFIO refuses every device',
        'switch on interrupt remapping (x2APIC) in the firmware setup, or accept the risk with vfio_iommu_type1.allow_unsafe_interrupts=1',
      )
}

function checkModules({ host }: Snapshot): Check[] {
  return (['vfio', 'vfio_iommu_type1', 'vfio_pci'] as const).map((module) => {
    const name = `module ${module}`
    const state = host.modules[module]
    if (state === 'loaded' || state === 'builtin') return ok(name, state === 'loaded' ? 'loaded' : 'built in')
    return state === 'loadable'
      ? fail(name, 'there, and not loaded', 'load it: modprobe vfio-pci')
      : fail(
          name,
          'this kernel does not have it',
          `install the full module package of the kernel, or build it with CONFIG_${module.toUpperCase()}`,
        )
  })
}

function checkContainer({ host }: Snapshot): Check {
  const { container, iommu } = host.nodes
  const node = container ?? iommu
  if (!node) return fail('device node', '/dev/vfio/vfio is not there', 'load the modules: modprobe vfio-pci')
  return node.accessible
    ? ok('device node', `${node.path} can be opened`)
    : fail(
        'device node',
        `you may not open ${node.path}`,
        `run as root, or allow it to all as is usual: chmod 0666 ${node.path}`,
      )
}

function checkGroupNodes({ host }: Snapshot): Check {
  const { groups } = host.nodes
  const closed = groups.filter((node) => !node.accessible)
  if (groups.length === 0) return ok('group nodes', 'no device is bound to VFIO yet, so there is none')
  const [first] = closed
  if (!first) return ok('group nodes', `${groups.length} can be opened`)
  return fail(
    'group nodes',
    `you may not open ${closed.map((node) => node.path).join(', ')}`,
    `run as root, or let root hand them to you: chown "$USER" ${first.path}`,
  )
}

/** What could not be looked at may be anything. */
function checkView({ host, unseen }: Snapshot): Check[] {
  const all = [...unseen, ...host.unseen]
  return all.length === 0
    ? []
    : [
        fail(
          'view',
          `this could not be looked at: ${printable(several(all.map(unseenText)))}`,
          unseenCure(all),
        ),
      ]
}

/** What a small device driver needs; a VM needs the size of its memory. */
const LITTLE_LOCKED_MEMORY = 64 * 2 ** 20

function checkMemlock({ host }: Snapshot): Check {
  const name = 'locked memory'
  if (host.memlock === null) return ok(name, 'the limit is not known')
  const { soft } = host.memlock
  if (soft === null) return ok(name, 'no limit')
  const size = `${Math.floor(soft / 2 ** 20)} MiB may be locked, which bounds what devices can reach by DMA`
  return soft >= LITTLE_LOCKED_MEMORY
    ? ok(name, size)
    : warn(
        name,
        size,
        'raise it to the memory of the VM and a bit more (ulimit -l, LimitMEMLOCK=); root is exempt',
      )
}
