import type { HostTopology } from './model.js'

/** What is to be said of a host as a whole, whatever is drawn of it. */
export function notesOf({ host, devices }: HostTopology): string[] {
  if (devices.length === 0) return ['No PCI function was seen: "vfio doctor" tells why.']
  if (host.iommu === null) return ['Whether an IOMMU is on could not be seen.']
  if (host.iommu) return []
  return [
    host.noIommuMode
      ? 'No IOMMU is on, and the no-IOMMU mode is: what is given away reaches all memory of this host ("vfio doctor").'
      : 'No IOMMU is on, so nothing here can be given away: "vfio doctor" tells what to do.',
  ]
}
