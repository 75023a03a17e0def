import { VfioError } from '../errors.js'
import { type AddressParts, isUuid, splitAddress } from '../sysfs/address.js'
import { isByOwnDriver } from '../sysfs/devices.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import { checkZpci, guestPlaces, type ZpciIds } from './guest.js'
import { type Machine, parseMachine } from './machine.js'
import { byIommufd, type ExportSlot, exportSlots, iommufdNotes, isOnPci, obstacles } from './set.js'

export interface LibvirtOptions {
  /** Machine type of the domain; default `q35`, with `zpci` `s390-ccw-virtio`. */
  readonly machine?: string | undefined
  /**
   * libvirt binds and gives back the devices itself (default), or finds them bound. Without effect on those that their own
   * drivers have given to VFIO, and on mediated devices: these it always finds.
   */
  readonly managed?: boolean | undefined
  /** Open the devices through `/dev/iommu` (libvirt 12 and newer); left out: where the kernel has nothing else. */
  readonly iommufd?: boolean | undefined
  /** Where the first slot goes; the bus is the index of a controller of the domain. */
  readonly guestAddress?: string | undefined
  /** s390 only. */
  readonly zpci?: ZpciIds | undefined
}

/** libvirt's XML for a set of devices. */
export interface LibvirtExport {
  readonly format: 'libvirt'
  readonly machine: string
  readonly managed: boolean
  readonly devices: readonly { readonly address: string; readonly xml: string }[]
  /** All `hostdev` elements, to go into `devices` of a domain. */
  readonly text: string
  /** What has to happen before, a sentence each. */
  readonly notes: readonly string[]
  /** Why VFIO cannot give them to a guest, a sentence each; all of them are among the notes. */
  readonly blockers: readonly string[]
}

/** Beyond what domains have by themselves; libvirt adds the controllers below that are missing. */
const FIRST_BUS = '10:00.0'
const FIRST_SLOT = '00:10.0'

/**
 * `hostdev` elements for devices. Functions of one device get one slot of the guest; where a device stands alone and no
 * place is asked for, libvirt chooses.
 * @throws VfioError `ERR_VFIO_BAD_ADDRESS`, `ERR_VFIO_NO_DEVICE`, `ERR_VFIO_BAD_ARGUMENT`
 */
export function exportLibvirt(
  seen: Snapshot,
  addresses: readonly string[],
  options: LibvirtOptions = {},
): LibvirtExport {
  const isOfZ = options.zpci !== undefined || exportSlots(seen, addresses).some((slot) => !isOnPci(slot))
  const machine = parseMachine(options.machine ?? (isOfZ ? 's390-ccw-virtio' : 'q35'))
  // Its own driver has given such a device to VFIO, and libvirt would take it from that.
  const isOwn = (address: string) => isUuid(address) || isByOwnDriver(seen.device(address))
  const managedOf = (address: string) => (options.managed ?? true) && !isOwn(address)
  // An s390 guest sees every zPCI function as a device of its own.
  const slots = exportSlots(seen, addresses, { apart: machine.kind === 'zpci' })
  if (options.zpci && machine.kind !== 'zpci') {
    throw new VfioError(
      'ERR_VFIO_BAD_ARGUMENT',
      `zPCI ids belong to the machine s390-ccw-virtio, not to ${machine.name}`,
    )
  }
  if (options.zpci) checkZpci(options.zpci, slots.filter(isOnPci).length)
  const iommufd = byIommufd(seen, options.iommufd)
  const places = placesOf(slots.filter(isOnPci), options.guestAddress, machine)
  const devices: { address: string; xml: string }[] = []
  for (const [index, { functions, model }] of slots.entries()) {
    for (const { address, function: fn } of functions) {
      const at = places[index]
      const isPlaced = model === undefined || model === 'vfio-pci'
      const zpci = isPlaced && options.zpci ? zpciElement(options.zpci, devices.length) : undefined
      const guest = [
        ...(at ? pciAttributes({ ...at, function: fn }) : []),
        ...(at && functions.length > 1 && fn === 0 ? ["multifunction='on'"] : []),
      ]
      devices.push({
        address,
        xml:
          model === undefined
            ? hostdev(address, { managed: managedOf(address), iommufd, guest, zpci })
            : mediatedHostdev(address, model, { guest, zpci }),
      })
    }
  }
  const { notes, blockers } = obstacles(seen, slots, options.managed ?? true)
  const own = devices.map(({ address }) => address).filter(isOwn)
  return {
    format: 'libvirt',
    machine: machine.name,
    managed: devices.every(({ address }) => managedOf(address)),
    devices,
    text: devices.map(({ xml }) => xml).join(''),
    notes: [...iommufdNotes(seen, iommufd), ...notes, ...(options.managed ? own.map(neverManaged) : [])],
    blockers,
  }
}

const neverManaged = (address: string) =>
  `${address} is with VFIO through a driver of its own, and libvirt would take it from that: it has managed='no' all the same`

/** The place of each slot; `null` where libvirt may choose. */
function placesOf(
  slots: readonly ExportSlot[],
  guestAddress: string | undefined,
  machine: Machine,
): (AddressParts | null)[] {
  if (guestAddress !== undefined) return guestPlaces(guestAddress, slots.length, machine)
  const shared = slots.filter(({ functions }) => functions.length > 1)
  if (shared.length === 0) return slots.map(() => null)
  const first = machine.kind === 'conventional' ? FIRST_SLOT : FIRST_BUS
  const room = guestPlaces(first, shared.length, machine)
  return slots.map((slot) => room[shared.indexOf(slot)] ?? null)
}

const hex = (value: number, digits: number) => `'0x${value.toString(16).padStart(digits, '0')}'`

function pciAttributes({ domain, bus, device, function: fn }: AddressParts): string[] {
  return [
    `domain=${hex(domain, 4)}`,
    `bus=${hex(bus, 2)}`,
    `slot=${hex(device, 2)}`,
    `function=${hex(fn, 1)}`,
  ]
}

function zpciElement({ uid, fid }: ZpciIds, index: number): string {
  const attributes = [
    `uid=${hex(uid + index, 4)}`,
    ...(fid === undefined ? [] : [`fid=${hex(fid + index, 8)}`]),
  ]
  return `<zpci ${attributes.join(' ')}/>`
}

function hostdev(
  address: string,
  options: GuestPlace & { readonly managed: boolean; readonly iommufd: boolean },
): string {
  const parts = splitAddress(address)
  if (parts === null) throw new VfioError('ERR_VFIO_BAD_ADDRESS', `${address} is not a PCI address`)
  const { managed, iommufd } = options
  const lines = [
    `<hostdev mode='subsystem' type='pci' managed='${managed ? 'yes' : 'no'}'>`,
    `  <driver name='vfio'${iommufd ? " iommufd='yes'" : ''}/>`,
    '  <source>',
    `    <address ${pciAttributes(parts).join(' ')}/>`,
    '  </source>',
    ...guestAddress(options),
    '</hostdev>',
  ]
  return `${lines.join('\n')}\n`
}

interface GuestPlace {
  readonly guest: readonly string[]
  readonly zpci: string | undefined
}

/** libvirt chooses where nothing is said. */
function guestAddress({ guest, zpci }: GuestPlace): string[] {
  const start = ["<address type='pci'", ...guest].join(' ')
  if (zpci) return [`  ${start}>`, `    ${zpci}`, '  </address>']
  return guest.length > 0 ? [`  ${start}/>`] : []
}

/** It is there already, and libvirt binds nothing. */
function mediatedHostdev(uuid: string, model: string, place: GuestPlace): string {
  const lines = [
    `<hostdev mode='subsystem' type='mdev' managed='no' model='${model}'>`,
    '  <source>',
    `    <address uuid='${uuid}'/>`,
    '  </source>',
    ...guestAddress(place),
    '</hostdev>',
  ]
  return `${lines.join('\n')}\n`
}
