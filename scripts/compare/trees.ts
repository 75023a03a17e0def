import { Host, type PciDevice } from 'vfio'
import { type Facts, hex, lspci, parseVerbose } from './facts.js'
import { capabilityFacts } from './ours.js'

/** What a sysfs tree tells: read by the library, and by lspci through its own reader of sysfs. */
export function treeFacts(path: string): { ours: Facts; lspci: Facts } {
  const arguments_ = ['-A', 'linux-sysfs', '-O', `sysfs.path=${path}/bus/pci`, '-D']
  const ours = new Map(new Host({ sysfs: path }).snapshot().devices.flatMap(deviceFacts))
  const theirs = parseVerbose(lspci(...arguments_, '-vvn'))
  for (const block of lspci(...arguments_, '-nvmmk').split('\n\n')) {
    const field = (name: string) => new RegExp(`^${name}:\\t(.*)$`, 'm').exec(block)?.[1]
    const address = field('Slot')
    if (address === undefined) continue
    const fact = (name: string, value: string | undefined) => {
      if (value !== undefined && value !== '') theirs.set(`${address} ${name}`, value)
    }
    fact('ids', `${field('Vendor')}:${field('Device')}`)
    fact('class', field('Class'))
    if (field('SVendor') !== undefined) fact('subsystem', `${field('SVendor')}:${field('SDevice')}`)
    fact('revision', field('Rev') ?? '00')
    fact('driver', field('Driver'))
    fact('NUMA node', field('NUMANode'))
    fact('group', field('IOMMUGroup'))
  }
  return { ours, lspci: theirs }
}

function deviceFacts(device: PciDevice): [string, string][] {
  const { address, vendor, device: id, subsystemVendor, subsystemDevice, revision } = device
  const facts: [string, string][] = [
    [`${address} ids`, `${hex(vendor, 4)}:${hex(id, 4)}`],
    [`${address} class`, hex(device.class >>> 8, 4)],
    [`${address} subsystem`, `${hex(subsystemVendor, 4)}:${hex(subsystemDevice, 4)}`],
    [`${address} revision`, hex(revision, 2)],
    ...capabilityFacts(address, device.capabilities),
  ]
  if (device.driver !== null) facts.push([`${address} driver`, device.driver])
  if (device.numaNode !== null) facts.push([`${address} NUMA node`, String(device.numaNode)])
  if (device.group !== null) facts.push([`${address} group`, String(device.group)])
  return facts
}
