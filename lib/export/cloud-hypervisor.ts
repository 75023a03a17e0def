import { VfioError } from '../errors.js'
import { directoryOf } from '../sysfs/address.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import { guestPlaces } from './guest.js'
import { parseMachine } from './machine.js'
import { byIommufd, exportSlots, iommufdNotes, isOnPci, memoryNotes, obstacles } from './set.js'
import { shellLines } from './shell.js'

export interface CloudHypervisorOptions {
  /** Memory of the guest in bytes: the notes tell the limit on locked memory that it needs. */
  readonly memory?: number | undefined
  /** Open the devices through `/dev/iommu`, on versions that know `--platform iommufd=on`; left out: where the kernel has nothing else. */
  readonly iommufd?: boolean | undefined
  /** Where the first device goes: the domain is the PCI segment, the bus is 0. */
  readonly guestAddress?: string | undefined
}

/** Cloud Hypervisor's arguments for a set of devices. */
export interface CloudHypervisorExport {
  readonly format: 'cloud-hypervisor'
  readonly devices: readonly { readonly address: string; readonly id: string }[]
  /** The arguments one by one, as `execve` takes them. */
  readonly arguments: readonly string[]
  /** The same to be pasted in a shell, behind the rest of the command. */
  readonly text: string
  /** What has to happen before, and what differs from the host, a sentence each. */
  readonly notes: readonly string[]
  /** Why VFIO cannot give them to a guest, a sentence each; all of them are among the notes. */
  readonly blockers: readonly string[]
}

/** `MAX_NUM_PCI_SEGMENTS` of vmm/src/config.rs. */
const MOST_SEGMENTS = 96

/**
 * Cloud Hypervisor's `--device` for devices. It has no multifunction devices: each function becomes a device.
 * @throws VfioError `ERR_VFIO_BAD_ADDRESS`, `ERR_VFIO_NO_DEVICE`, `ERR_VFIO_BAD_ARGUMENT`
 */
export function exportCloudHypervisor(
  seen: Snapshot,
  addresses: readonly string[],
  { iommufd: asked, guestAddress, memory }: CloudHypervisorOptions = {},
): CloudHypervisorExport {
  const iommufd = byIommufd(seen, asked)
  const slots = exportSlots(seen, addresses, { apart: true })
  const functions = slots.flatMap((slot) => slot.functions)
  const places =
    guestAddress === undefined ? [] : guestPlaces(guestAddress, functions.length, parseMachine('pc'))
  const devices = functions.map(({ address }, index) => ({ address, id: `vfio${index}` }))
  const values = devices.map(({ address, id }, index) => {
    const at = places[index]
    if (at && at.bus !== 0) {
      throw new VfioError(
        'ERR_VFIO_BAD_ARGUMENT',
        `the guest address ${guestAddress} names bus ${at.bus.toString(16)}: Cloud Hypervisor has only bus 00 of each segment`,
      )
    }
    if (at && at.domain >= MOST_SEGMENTS) {
      throw new VfioError(
        'ERR_VFIO_BAD_ARGUMENT',
        `the guest address ${guestAddress} has the domain ${at.domain.toString(16)}: Cloud Hypervisor has at most ${MOST_SEGMENTS} segments, 0000 to ${(MOST_SEGMENTS - 1).toString(16).padStart(4, '0')}`,
      )
    }
    const where = at
      ? [...(at.domain === 0 ? [] : [`pci_segment=${at.domain}`]), `pci_device_id=${at.device}`]
      : []
    return [`path=${directoryOf('/sys', address)}`, `id=${id}`, ...where].join(',')
  })
  // A guest has one segment unless it is given more.
  const segments = 1 + Math.max(0, ...places.map(({ domain }) => domain))
  const platform = [
    ...(segments > 1 ? [`num_pci_segments=${segments}`] : []),
    ...(iommufd ? ['iommufd=on'] : []),
  ]
  // One option for all: versions differ in whether a second one adds to the first.
  const options = [
    ...(platform.length > 0 ? [['--platform', platform.join(',')]] : []),
    ['--device', ...values],
  ]
  const apart = exportSlots(seen, addresses)
    .filter((slot) => slot.functions.length > 1)
    .map(
      (slot) =>
        `Cloud Hypervisor has no multifunction devices: ${slot.functions.map(({ address }) => address).join(', ')} become devices of their own in the guest`,
    )
  const found = obstacles(seen, slots)
  const foreign = slots
    .filter((slot) => !isOnPci(slot))
    .map(
      ({ functions, model }) =>
        `${functions[0]?.address} is driven as ${model}: Cloud Hypervisor has only PCI devices`,
    )
  const blockers = [...found.blockers, ...foreign]
  const notes = [...foreign, ...found.notes]
  return {
    format: 'cloud-hypervisor',
    devices,
    arguments: options.flat(),
    text: shellLines(options),
    notes: [
      ...apart,
      ...iommufdNotes(seen, iommufd),
      ...notes,
      ...memoryNotes(seen, slots, { iommufd, memory }),
    ],
    blockers,
  }
}
