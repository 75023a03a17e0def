import { cut } from '../columns.js'
import {
  assess,
  type Bar,
  type CapabilityEntry,
  driverOfModule,
  type MediatedDevice,
  type PciDevice,
  type Snapshot,
  shortAddress,
} from '../index.js'
import { printable } from '../text.js'
import type { Shown, ShownMediated } from './answers.js'
import { renderOne } from './check.js'
import { type Common, type Declare, json, look, run, sysfs } from './options.js'
import { answer, colour, width, wrap } from './output.js'
import { bytes, classCode, deviceName, headOf, ids, inOneLine } from './words.js'

/** `vfio show`: everything that is known of one device, its group and its assessment. */
export const show: Declare = (vfio) => {
  vfio
    .command('show')
    .description('everything about one device, and its assessment')
    .argument('<address>', 'PCI address, like 59:00.0, or the UUID of a mediated device')
    .addOption(json())
    .addOption(sysfs())
    .action(run(act))
}

function act(address: string, options: Common): number {
  const seen = look(options, { around: [address], overrides: true })
  const [named, ...others] = seen.named(address)
  if (named && 'uuid' in named) return showMediated(seen, named, options)
  // Which one, the error tells.
  const device = named === undefined || others.length > 0 ? seen.device(address) : named
  const group = device.group === null ? null : seen.group(device.group)
  const assessment = assess(seen, device.address)
  answer({ device, group, assessment }, options.json, (shown) => render(shown, aroundOf(seen, device), seen))
  return 0
}

/** What is not said of the device itself, and a person asks next. */
interface Around {
  readonly variants: readonly string[]
  /** Bridges from the root bus down to it. */
  readonly above: readonly string[]
  /** What is directly below it. */
  readonly below: readonly string[]
  readonly units: readonly string[]
}

function showMediated(seen: Snapshot, device: MediatedDevice, options: Common): number {
  const parent = seen.mdevParents.find(({ name }) => name === device.parent)
  const type = parent?.types.find(({ id }) => id === device.type) ?? null
  const group = device.group === null ? null : seen.group(device.group)
  const assessment = assess(seen, device.uuid)
  answer({ device, type, group, assessment }, options.json, (shown) => renderMediated(shown, seen))
  return 0
}

function renderMediated({ device, type, group, assessment }: ShownMediated, seen: Snapshot): string {
  const head = `${device.uuid} mdev: ${type?.name ?? device.type ?? 'of no type'}`
  const lines: string[] = [colour.strong(cut(head, width()))]
  const line = labelled(lines)
  line('type', device.type)
  line('description', type?.description ? inOneLine(type.description) : null)
  line('parent', device.parent)
  line('function', device.function === device.parent ? null : device.function)
  line('driven as', device.deviceApi)
  line('vfio device', nodeText(device))
  line('group', group ? `${group.group}` : '-')
  return `${lines.join('\n')}\n\n${renderOne(assessment, seen, { isBelow: true })}`
}

const nodeText = ({ vfioDevice }: { readonly vfioDevice: string | null }) =>
  vfioDevice && `${vfioDevice}, opened by /dev/vfio/devices/${vfioDevice}`

const labelled = (lines: string[]) => (label: string, text: string | null) => {
  if (text) lines.push(wrap(text, 15, `  ${label.padEnd(12)} `))
}

function aroundOf(seen: Snapshot, device: PciDevice): Around {
  const above: string[] = []
  for (
    let at = device.parent;
    at !== null && seen.has(at) && !above.includes(at);
    at = seen.device(at).parent
  )
    above.unshift(at)
  const below = seen.devices.filter(({ parent }) => parent === device.address).map(({ address }) => address)
  return {
    variants: device.variantDrivers.map((module) => driverOfModule(seen, module).name),
    above,
    below,
    units: [...new Set(seen.host.iommu.units.map(({ kind }) => kind))],
  }
}

function render({ device, group, assessment }: Shown, around: Around, seen: Snapshot): string {
  const lines: string[] = [colour.strong(cut(headOf(device), width()))]
  const line = labelled(lines)
  line('name', deviceName(device))
  line('address', device.address)
  line('ids', `${ids(device)}, revision ${device.revision.toString(16).padStart(2, '0')}`)
  line('subsystem', subsystem(device))
  line('class', `${classCode(device)}${device.names.class ? ` ${device.names.class}` : ''}`)
  line('override', device.driverOverride)
  line('modules', device.modules.join(' '))
  line('variants', around.variants.map(printable).join(' '))
  line('modalias', device.modalias)
  line('header', `${device.headerType}${device.multifunction ? ', multifunction' : ''}`)
  line('above', around.above.map(shortAddress).join(' > ') || (device.parent ?? 'a root bus'))
  line('below', around.below.map(shortAddress).join(' '))
  line('link', link(device))
  line('slot', device.slot && `${device.slot.name}${device.slot.driver ? ` (${device.slot.driver})` : ''}`)
  line('NUMA node', device.numaNode === null ? null : String(device.numaNode))
  line('IOMMU', group?.noIommu ? null : around.units.map(printable).join(', '))
  line('SR-IOV', sriov(device))
  line('boot display', device.bootVga ? 'yes' : null)
  line('vfio device', nodeText(device))
  line('answers', device.answers === false ? 'no: its config space reads as all ones' : null)
  line('made by', device.madeBy && `${shortAddress(device.madeBy)}, whose driver makes its bus`)
  for (const bar of device.bars) line(bar.index === 'rom' ? 'ROM' : `BAR ${bar.index}`, describeBar(bar))
  line('resets', device.resetMethods === null ? null : device.resetMethods.join(' ') || 'none')
  line('capabilities', capabilities(device))
  if (group === null) line('group', '-')
  else {
    const about = [group.type, group.noIommu ? 'no IOMMU' : null].filter(Boolean).join(', ')
    line('group', `${group.group}${about ? ` (${about})` : ''}: ${group.members.map(shortAddress).join(' ')}`)
    for (const { name, driver } of group.others) line('', `${name} (${driver ?? 'no driver'})`)
    for (const { start, end, type } of group.reservedRegions) {
      line('reserved', `0x${start.toString(16)}–0x${end.toString(16)} ${type}`)
    }
  }
  return `${lines.join('\n')}\n\n${renderOne(assessment, seen, { isBelow: true })}`
}

function subsystem(device: PciDevice): string | null {
  if (device.subsystemVendor === 0 && device.subsystemDevice === 0) return null
  const numbers = ids({ vendor: device.subsystemVendor, device: device.subsystemDevice })
  return device.names.subsystem ? `${numbers} ${device.names.subsystem}` : numbers
}

/** GT/s by the codes of LNKCAP and LNKSTA. */
const SPEEDS: readonly string[] = ['', '2.5', '5', '8', '16', '32', '64', '128']

/** How fast and wide the link is, and what it could be where that is more. */
function link({ capabilities: { pcie } }: PciDevice): string | null {
  if (!pcie || pcie.maxLinkWidth === 0) return null
  const text = (speed: number, lanes: number) => `${SPEEDS[speed] || '?'} GT/s x${lanes}`
  const most = text(pcie.maxLinkSpeed, pcie.maxLinkWidth)
  if (pcie.linkWidth === 0) return `down (up to ${most})`
  const now = text(pcie.linkSpeed, pcie.linkWidth)
  return now === most ? now : `${now} (up to ${most})`
}

function sriov({ sriov: role }: PciDevice): string | null {
  if (role === null) return null
  if (role.role === 'vf') return `virtual function of ${shortAddress(role.pf)}`
  const enabled = `${role.numVfs} of ${role.totalVfs} virtual functions enabled`
  return role.vfs.length > 0 ? `${enabled}: ${role.vfs.map(shortAddress).join(' ')}` : enabled
}

function describeBar(bar: Bar): string {
  const at = bar.address === null ? '' : ` at 0x${bar.address.toString(16)}`
  if (bar.kind === 'io') return `I/O ports${at}, ${bytes(bar.size)}`
  const traits = [bar.is64 ? '64-bit' : null, bar.prefetchable ? 'prefetchable' : null].filter(Boolean)
  return [`memory${at}`, bytes(bar.size), ...traits].join(', ')
}

function capabilities({ capabilities: found }: PciDevice): string | null {
  const name = (entry: CapabilityEntry, digits: number) =>
    entry.name ?? `0x${entry.id.toString(16).padStart(digits, '0')}`
  const names = [
    ...found.standard.map((entry) => name(entry, 2)),
    ...found.extended.map((entry) => name(entry, 4)),
  ]
  if (found.pcie?.flr) names.push('(FLR)')
  if (!found.complete) names.push(`… (only ${found.readable} bytes are readable: run as root to see all)`)
  return names.join(', ').replace(', (FLR)', ' (FLR)') || null
}
