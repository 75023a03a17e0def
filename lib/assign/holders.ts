import { vfioUses } from '../assess/uses-open.js'
import { printable } from '../assess/uses-text.js'
import { linkName, listNames, readText } from '../sysfs/files.js'
import { NO_PROCESSES, readProcesses } from '../sysfs/use-processes.js'

/**
 * Who has a device open through VFIO, a sentence each, as far as it can be seen. Reads no more than it takes: while the
 * device is let go, the kernel makes readers of some of its files wait (`driver_override`, on some kernels `uevent`).
 */
export function holdersOf(sysfs: string, address: string): string[] {
  const device = `${sysfs}/bus/pci/devices/${address}`
  const group = linkName(`${device}/iommu_group`)
  // Beside another tree the processes of this machine tell nothing.
  const processes = sysfs === '/sys' ? readProcesses('/proc', new Set()) : NO_PROCESSES
  const isEnabled = Number(readText(`${device}/enable`) ?? 0) > 0
  const uses = vfioUses(
    { processes, enabled: isEnabled ? [address] : [] },
    {
      address,
      group: group === null ? null : Number(group),
      driver: linkName(`${device}/driver`),
      vfioDevice: listNames(`${device}/vfio-dev`)[0] ?? null,
    },
  )
  return uses.map(({ what }) => printable(what))
}
