import { vfioUses } from '../assess/uses-open.js'
import { directoryOf } from '../sysfs/address.js'
import { linkName, listNames, readText } from '../sysfs/files.js'
import { leavingOut } from '../sysfs/unseen.js'
import { NO_PROCESSES, readProcesses } from '../sysfs/use-processes.js'
import { printable } from '../text.js'

/**
 * Who has a device open through VFIO, a sentence each, as far as it can be seen: for messages, never for decisions. Reads few
 * files only: while the device is being unbound, readers of some of its files wait for the device lock (`driver_override`, on
 * some kernels `uevent`).
 */
export function holdersOf(sysfs: string, address: string): string[] {
  try {
    return leavingOut(() => look(sysfs, address))
  } catch {
    // Nobody can look while descriptors or memory are short, and what is to be said has to be said all the same.
    return []
  }
}

function look(sysfs: string, address: string): string[] {
  const device = directoryOf(sysfs, address)
  const group = linkName(`${device}/iommu_group`)
  const vfioDevice = listNames(`${device}/vfio-dev`)[0] ?? null
  const wanted = [
    ...[`${group}`, `noiommu-${group}`].map((name) => ({
      node: `vfio/${name}`,
      number: numberIn(`${sysfs}/class/vfio/${name}`),
    })),
    { node: `vfio/devices/${vfioDevice}`, number: numberIn(`${device}/vfio-dev/${vfioDevice}`) },
  ]
  // Beside another tree the processes of this machine tell nothing.
  const processes = sysfs === '/sys' ? readProcesses('/proc', wanted) : NO_PROCESSES
  const isEnabled = Number(readText(`${device}/enable`) ?? 0) > 0
  const uses = vfioUses(
    { processes, enabled: isEnabled ? [address] : [] },
    {
      address,
      group: group === null ? null : Number(group),
      driver: linkName(`${device}/driver`),
      vfioDevice,
    },
  )
  return uses.map(({ what }) => printable(what))
}

function numberIn(directory: string): string | null {
  const number = readText(`${directory}/dev`)
  return number === null ? null : `c${number}`
}
