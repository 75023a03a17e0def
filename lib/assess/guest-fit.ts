import type { Bar, PciDevice } from '../sysfs/devices.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import { lackingBars } from './bars.js'

/** No host has a smaller one. */
const SMALLEST_PAGE = 4096

/** A container takes so many mappings unless its module was told otherwise. */
const USUAL_ENTRIES = 65_535

/** What QEMU's `intel-iommu` translates where nothing is said (before QEMU 9.2), and what else its `aw-bits` may be. */
const GUEST_BITS = 39
const WIDER = [48, 57]

/**
 * What a hypervisor will do worse than it could with a device, or refuse, a sentence each: known before it starts.
 * Nothing is said where the host does not tell.
 */
export function guestWarnings(seen: Snapshot, address: string): string[] {
  const device = seen.device(address)
  const lack = lackingBars(device)
  return [
    ...(lack === '' ? [] : [`${address}: ${lack}`]),
    ...displayWarnings(device),
    ...resetWarnings(device),
    ...device.bars.flatMap((bar) => barWarnings(seen, device, bar)),
    ...tableWarnings(seen, device),
  ]
}

/** A picture before the guest's driver is there takes the video BIOS, and all of an Intel processor's graphics takes its place. */
function displayWarnings({
  address,
  vendor,
  class: code,
  parent,
  bars,
  bootVga,
  sriov,
}: PciDevice): string[] {
  if (code >>> 8 !== 0x0300 || sriov?.role === 'vf' || bars.length === 0) return []
  if (vendor === 0x8086 && parent === null) {
    return [
      `${address} is the graphics of the processor: as a guest's only display QEMU wants it at the guest's address 00:02.0 with x-igd-opregion=on, and a machine and firmware that its docs/igd-assign.txt names`,
    ]
  }
  if (!bars.some(({ index }) => index === 'rom')) {
    return [
      `${address} has no video BIOS of its own (no ROM): a guest shows nothing on it before its driver is there, unless the hypervisor has a file with one (romfile= of QEMU)`,
    ]
  }
  return bootVga
    ? [
        `${address} was the display of this host's boot, so its video BIOS has run already: where a guest shows nothing on it, give the hypervisor a file with an unused copy (romfile= of QEMU)`,
      ]
    : []
}

/** AMD's displays that have no reset but that of their bus: gnif/vendor-reset knows some that do not come back from it. */
function resetWarnings({ address, vendor, class: code, resetMethods, sriov }: PciDevice): string[] {
  const isReset = resetMethods?.some((method) => method === 'flr' || method === 'device_specific') ?? true
  return vendor === 0x1002 && code >>> 16 === 0x03 && sriov?.role !== 'vf' && !isReset
    ? [
        `${address} has no reset of its own: many displays of AMD's without one do not come back once a guest had them, until the host is switched off and on; the module vendor-reset, which is not the kernel's, resets some`,
      ]
    : []
}

/** The same of the host, once for any number of devices. */
export function containerWarnings({ host }: Snapshot): string[] {
  const { dmaEntries } = host.limits
  return dmaEntries !== null && dmaEntries < USUAL_ENTRIES
    ? [
        `a container takes ${dmaEntries} mappings on this host: a guest with a virtual IOMMU runs out of them, and fails with ENOSPC, unless the parameter dma_entry_limit of vfio_iommu_type1 is raised`,
      ]
    : []
}

const size = (bytes: number) => {
  const units = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB']
  let unit = 0
  let count = bytes
  for (; count >= 1024 && unit < units.length - 1; unit++) count /= 1024
  return `${count} ${units[unit]}`
}

function barWarnings({ host }: Snapshot, { address }: PciDevice, bar: Bar): string[] {
  if (bar.kind !== 'memory' || bar.index === 'rom') return []
  const page = host.limits.pageSize ?? SMALLEST_PAGE
  const what = `BAR ${bar.index} of ${address}`
  // `vfio_pci_probe_mmaps`: a page that begins with it is given away whole, any other is not.
  if (bar.size < page && bar.address !== null && bar.address % page !== 0) {
    return [
      `${what} is smaller than a page (${size(page)}) and does not begin one, so each access of the guest goes through the hypervisor, slowly: boot with pci=resource_alignment=${Math.log2(page)}@${address} to move it`,
    ]
  }
  const widths = [
    ['processor', host.limits.processorBits],
    ['IOMMU', host.limits.iommuBits],
  ] as const
  // A BAR lies at a multiple of its size, and memory is below it.
  const needed = Math.ceil(Math.log2(bar.size)) + 1
  const narrow = widths.find(([, bits]) => bits !== null && bits < needed)
  if (narrow) {
    return [
      `${what} is ${size(bar.size)} large, and takes addresses of ${needed} bits, where the ${narrow[0]} of this host has ${narrow[1]}: a guest cannot map it; a smaller one may be chosen by resizable BARs (resource${bar.index}_resize)`,
    ]
  }
  // With the guest's memory below it, what just fits does not.
  const fitting = needed < GUEST_BITS ? undefined : WIDER.find((bits) => bits >= needed)
  return fitting === undefined
    ? []
    : [
        `${what} is ${size(bar.size)} large: a virtual intel-iommu in the guest needs aw-bits=${fitting} to reach it`,
      ]
}

/** The table of MSI-X is the hypervisor's, and with it all that shares its pages. */
function tableWarnings({ host }: Snapshot, { address, capabilities, bars }: PciDevice): string[] {
  const { msix } = capabilities
  const page = host.limits.pageSize ?? SMALLEST_PAGE
  const bar = bars.find(({ index }) => index === msix?.tableBar)
  if (!msix || !bar) return []
  const ENTRY = 16
  const first = msix.tableOffset - (msix.tableOffset % page)
  const end = Math.ceil((msix.tableOffset + ENTRY * msix.vectors) / page) * page
  // Behind the table a page of 4 KiB has what the specification wants there: nothing.
  const isShared =
    msix.tableOffset > first || (page > SMALLEST_PAGE && bar.size > msix.tableOffset + ENTRY * msix.vectors)
  return isShared
    ? [
        `the MSI-X table of ${address} shares the pages 0x${first.toString(16)}–0x${(end - 1).toString(16)} of BAR ${msix.tableBar} with registers, so accesses to these go through the hypervisor, slowly: QEMU's x-msix-relocation=auto moves the table`,
      ]
    : []
}
