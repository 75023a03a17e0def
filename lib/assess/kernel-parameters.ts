import type { PciDevice } from '../sysfs/devices.js'
import type { HostFacts } from '../sysfs/facts.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import { hypervisorOf } from './hypervisor.js'

/** One parameter of the kernel command line, as it is written there, and why it should come or go. */
export interface ParameterAdvice {
  readonly parameter: string
  /** The end of a sentence: `intel_iommu=on` because … */
  readonly why: string
}

/** What the command line of the next boot needs so that devices can be given away. Empty where nothing is known to be wrong. */
export interface KernelParameters {
  readonly add: readonly ParameterAdvice[]
  readonly remove: readonly ParameterAdvice[]
}

/** A word of the command line: a name with `_` for `-`, and a value; as written. */
interface Word {
  readonly name: string
  readonly value: string
  readonly text: string
}

/** The kernel takes `-` and `_` for one (`parameqn`), and leaves what is behind `--` to init. */
function words(commandLine: string): Word[] {
  const all = commandLine.split(/\s+/).filter((word) => word !== '')
  const end = all.indexOf('--')
  return (end < 0 ? all : all.slice(0, end)).map((word) => {
    const text = word.replaceAll('"', '')
    const at = text.indexOf('=')
    const name = (at < 0 ? text : text.slice(0, at)).replaceAll('-', '_')
    return { name, value: at < 0 ? '' : text.slice(at + 1), text }
  })
}

/** Values are lists, and the kernel compares only as many letters as it knows: `offline` is `off` too. */
const lists = ({ value }: Word, option: string) => value.split(',').some((item) => item.startsWith(option))

/** The words that leave something off; the last of those that switch it decides. */
function leftOff(all: readonly Word[], switches: (word: Word) => 'on' | 'off' | null): Word[] {
  const off: Word[] = []
  for (const word of all) {
    const to = switches(word)
    if (to === 'on') off.length = 0
    if (to === 'off') off.push(word)
  }
  return off
}

/** Of `on,off` in one value the later one holds (`intel_iommu_setup`, `setup_irqremap`). */
function lastSwitch({ value }: Word): 'on' | 'off' | null {
  const item = value.split(',').findLast((option) => /^(on|off)/.test(option))
  if (item === undefined) return null
  return item.startsWith('off') ? 'off' : 'on'
}

const isX86 = ({ platform }: HostFacts) => platform.architecture === 'x86' || platform.architecture === null

/** The words that `kstrtobool` takes for yes. */
const YES = /^(?:[yt1]|on)/i

/**
 * A parameter of a module that is yes or no, as the command line gives it to the module when it comes: what holds while the module
 * is not there to be asked. `null`: the line does not say.
 */
export function moduleSwitch(host: HostFacts, module: string, name: string): boolean | null {
  const last = words(host.commandLine).findLast((word) => word.name === `${module}.${name}`)
  return last === undefined ? null : YES.test(last.value) || !last.text.includes('=')
}

/**
 * The parameters that leave the IOMMU of an x86 host off (`drivers/iommu/intel/iommu.c: intel_iommu_setup`,
 * `drivers/iommu/amd/init.c: parse_amd_iommu_options`, `arch/x86/kernel/pci-dma.c: iommu_setup`). `iommu=pt` and
 * `iommu=soft` leave none off.
 */
export function iommuSwitchedOff(host: HostFacts): readonly string[] {
  if (!isX86(host)) return []
  const all = words(host.commandLine)
  const { cpuVendor } = host.platform
  const intel =
    cpuVendor === 'amd' ? [] : leftOff(all, (word) => (word.name === 'intel_iommu' ? lastSwitch(word) : null))
  const others = all.filter(
    (word) =>
      (word.name === 'amd_iommu' && lists(word, 'off') && cpuVendor !== 'intel') ||
      (word.name === 'iommu' && lists(word, 'off')) ||
      // Without ACPI nobody finds the tables that describe an IOMMU.
      (word.name === 'acpi' && word.value === 'off'),
  )
  return [...intel, ...others].map(({ text }) => text)
}

/**
 * The parameters that keep the graphics of an Intel processor out of the IOMMU (`intel_iommu_setup`: igfx_off; then the unit for
 * graphics alone is ignored, and what is behind it gets no group).
 */
export function graphicsLeftOut(host: HostFacts): readonly string[] {
  if (!isX86(host) || host.platform.cpuVendor === 'amd') return []
  return words(host.commandLine)
    .filter((word) => word.name === 'intel_iommu' && lists(word, 'igfx_off'))
    .map(({ text }) => text)
}

/** A display of Intel's on a root bus that has no group where others have one. */
export const isLeftOutGraphics = (
  { iommu }: HostFacts,
  { vendor, class: code, parent, group }: PciDevice,
): boolean => iommu.present && group === null && parent === null && vendor === 0x8086 && code >>> 16 === 0x03

/** The parameters that leave interrupt remapping off (`drivers/iommu/irq_remapping.c`, `enable_IR_x2apic` for the APIC). */
export function remappingSwitchedOff(host: HostFacts): readonly string[] {
  if (!isX86(host)) return []
  const all = words(host.commandLine)
  const off = leftOff(all, (word) => {
    if (word.name === 'nointremap') return 'off'
    return word.name === 'intremap' ? lastSwitch(word) : null
  })
  const noApic = all.filter(({ name }) => ['noapic', 'nolapic', 'disableapic'].includes(name))
  return [...off, ...noApic].map(({ text }) => text)
}

/**
 * The parameters that let a kernel which knows them (those of Proxmox and Unraid, zen and others, by a patch) take ports for
 * isolating that do not say so.
 */
export const isolationAssumed = (host: HostFacts): readonly string[] =>
  words(host.commandLine)
    .filter(({ name, value }) => name === 'pcie_acs_override' && value !== '')
    .map(({ text }) => text)

/** The parameters that ask for an IOMMU, as they are written. AMD's is on by itself, and `amd_iommu=on` means nothing. */
export function iommuAskedFor(host: HostFacts): readonly string[] {
  return words(host.commandLine)
    .filter((word) => /^(intel|amd)_iommu$/.test(word.name) && !lists(word, 'off'))
    .map(({ text }) => text)
}

/** Has Intel's IOMMU been switched on by a parameter? */
function isIntelOn(host: HostFacts): boolean {
  const last = words(host.commandLine)
    .filter(({ name }) => name === 'intel_iommu')
    .map(lastSwitch)
    .findLast((to) => to !== null)
  return last === 'on'
}

/**
 * Which parameters are missing, and which are in the way. What the trees do not tell is not advised: without the command
 * line nothing is, and in a virtual machine without a virtual IOMMU no parameter helps.
 */
export function kernelParameters(seen: Pick<Snapshot, 'host' | 'devices'>): KernelParameters {
  const { host } = seen
  const isActive = host.iommu.present
  const isLost = seen.devices.some((device) => isLeftOutGraphics(host, device))
  const graphics = isLost ? graphicsLeftOut(host) : []
  if (host.commandLine === '' || host.platform.xenDom0) return { add: [], remove: [] }
  const remove = [
    ...(isActive ? [] : iommuSwitchedOff(host)).map((parameter) => ({
      parameter,
      why: 'it leaves the IOMMU off',
    })),
    ...(host.iommu.interruptRemapping === true ? [] : remappingSwitchedOff(host)).map((parameter) => ({
      parameter,
      why: 'it leaves interrupt remapping off',
    })),
    ...graphics.map((parameter) => ({ parameter, why: "it keeps Intel's graphics out of the IOMMU" })),
  ]
  const { cpuVendor, architecture } = host.platform
  const needsIntel =
    !isActive &&
    architecture === 'x86' &&
    cpuVendor !== 'amd' &&
    !isIntelOn(host) &&
    (hypervisorOf(seen) === null || hasVtd(host))
  const why =
    cpuVendor === 'intel'
      ? "many kernels leave Intel's IOMMU off without it"
      : "on Intel many kernels leave the IOMMU off without it; AMD's needs no parameter"
  // What else the word said has to be said again.
  const again = graphics.flatMap((text) => {
    const rest = text.slice(text.indexOf('=') + 1).split(',')
    const kept = rest.filter((option) => !option.startsWith('igfx_off')).join(',')
    return kept === '' ? [] : [{ parameter: `intel_iommu=${kept}`, why: 'the rest of it stays' }]
  })
  return { add: [...(needsIntel ? [{ parameter: 'intel_iommu=on', why }] : []), ...again], remove }
}

/** The firmware has VT-d on: it gave the table, or the kernel remaps interrupts by it already. */
export function hasVtd({ platform, iommu }: HostFacts): boolean {
  if (platform.acpiTables?.includes('DMAR')) return true
  return iommu.interruptRemapping === true && platform.cpuVendor === 'intel'
}
