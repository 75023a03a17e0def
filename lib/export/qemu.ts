import { VfioError } from '../errors.js'
import { type AddressParts, directoryOf, isUuid, splitAddress } from '../sysfs/address.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import { checkZpci, guestPlaces, type ZpciIds } from './guest.js'
import { type Machine, parseMachine } from './machine.js'
import {
  byIommufd,
  type ExportSlot,
  exportSlots,
  iommufdNotes,
  isOnPci,
  type MdevModel,
  memoryNotes,
  obstacles,
} from './set.js'
import { shellLines } from './shell.js'

export interface QemuOptions {
  /** Memory of the guest in bytes: the notes tell the limit on locked memory that it needs. */
  readonly memory?: number | undefined
  /** Machine type; default `q35`, with `zpci` `s390-ccw-virtio`. */
  readonly machine?: string | undefined
  /** Open the devices through `/dev/iommu` (QEMU 8.2 and newer); left out: where the kernel has nothing else. */
  readonly iommufd?: boolean | undefined
  /** Where the first slot goes: bus 0 is the machine's root bus, bus N the one with the id `pci.N`. */
  readonly guestAddress?: string | undefined
  /** s390 only. */
  readonly zpci?: ZpciIds | undefined
  /**
   * Descriptors that QEMU inherits (9.0 and newer): of `/dev/iommu`, and of each device's own node by address, not bound yet. It
   * opens nothing itself then.
   */
  readonly descriptors?:
    | { readonly iommufd: number; readonly devices: Readonly<Record<string, number>> }
    | undefined
  /** Further properties of each device `vfio-pci`, like `x-no-mmap: 'on'`. */
  readonly properties?: Readonly<Record<string, string>> | undefined
}

/** A device as QEMU will know it. */
export interface QemuDevice {
  readonly address: string
  /** Its `id` in the guest. */
  readonly id: string
}

/** QEMU's arguments for a set of devices. */
export interface QemuExport {
  readonly format: 'qemu'
  readonly machine: string
  readonly devices: readonly QemuDevice[]
  /** The arguments one by one, as `execve` takes them. */
  readonly arguments: readonly string[]
  /** The same to be pasted in a shell, behind the rest of the command. */
  readonly text: string
  /** What has to happen before, a sentence each. */
  readonly notes: readonly string[]
  /** Why VFIO cannot give them to a guest, a sentence each; all of them are among the notes. */
  readonly blockers: readonly string[]
}

/** Chassis 100 is ours: its slot numbers meet nobody else's. */
const CHASSIS = 100
/** Slots from here on are ours where we have to name them: machines put their own devices at the ends of the bus. */
const FIRST_SLOT = 0x10
const LAST_SLOT = 0x1e
const FUNCTIONS = 8

/**
 * QEMU's arguments for devices: on q35 and virt each slot below a PCI Express port of its own, on pc on the conventional
 * bus, on s390 as zPCI functions.
 * @throws VfioError `ERR_VFIO_BAD_ADDRESS`, `ERR_VFIO_NO_DEVICE`, `ERR_VFIO_BAD_ARGUMENT`
 */
export function exportQemu(
  seen: Snapshot,
  addresses: readonly string[],
  options: QemuOptions = {},
): QemuExport {
  const isOfZ = options.zpci !== undefined || exportSlots(seen, addresses).some((slot) => !isOnPci(slot))
  const machine = parseMachine(options.machine ?? (isOfZ ? 's390-ccw-virtio' : 'q35'))
  // An s390 guest sees every zPCI function as a device of its own.
  const all = exportSlots(seen, addresses, { apart: machine.kind === 'zpci' })
  const slots = all.filter(isOnPci)
  const iommufd = options.descriptors !== undefined || byIommufd(seen, options.iommufd)
  const writer = new Writer(machine, { ...options, iommufd })
  if (iommufd) writer.add('-object', { iommufd: null, id: 'iommufd0', fd: options.descriptors?.iommufd })
  if (machine.kind === 'zpci') writer.addZpci(slots.length)
  if (options.guestAddress !== undefined) writer.atGuestAddress(slots, options.guestAddress)
  else if (machine.kind === 'express') writer.belowPorts(slots)
  else writer.onConventionalBus(slots)
  writer.onNoBus(all.filter((slot) => !isOnPci(slot)))
  const { notes, blockers } = obstacles(seen, all)
  return {
    format: 'qemu',
    machine: machine.name,
    devices: writer.devices,
    arguments: writer.options.flat(),
    text: shellLines(writer.options),
    notes: [...iommufdNotes(seen, iommufd), ...notes, ...memoryNotes(seen, all, { ...options, iommufd })],
    blockers,
  }
}

const hex = (value: number, digits: number) => value.toString(16).padStart(digits, '0')
const place = (slot: number, fn: number) => `${hex(slot, 2)}.${fn}`

type Properties = Readonly<Record<string, string | number | null | undefined>>

/**
 * `type,key=value,…` as QEMU reads it back: a property without a value is the type, one that is not defined is left out,
 * and a comma within a value is written twice.
 */
export function qemuOption(properties: Properties): string {
  const parts = Object.entries(properties).filter(([, value]) => value !== undefined)
  return parts
    .map(([key, value]) => (value === null ? key : `${key}=${String(value).replaceAll(',', ',,')}`))
    .join(',')
}

class Writer {
  readonly options: string[][] = []
  readonly devices: QemuDevice[] = []
  readonly #machine: Machine
  readonly #iommufd: boolean
  readonly #zpci: ZpciIds | undefined
  readonly #descriptors: QemuOptions['descriptors']
  readonly #properties: Properties

  constructor(machine: Machine, options: QemuOptions) {
    if (options.zpci && machine.kind !== 'zpci') {
      throw new VfioError(
        'ERR_VFIO_BAD_ARGUMENT',
        `zPCI ids belong to the machine s390-ccw-virtio, not to ${machine.name}`,
      )
    }
    this.#machine = machine
    this.#iommufd = options.iommufd ?? false
    this.#zpci = options.zpci
    this.#descriptors = options.descriptors
    this.#properties = checkProperties(options.properties ?? {})
  }

  add(option: string, properties: Properties): void {
    this.options.push([option, qemuOption(properties)])
  }

  belowPorts(slots: readonly ExportSlot[]): void {
    // One slot each while there are plenty, since a port with neighbours cannot be hot-plugged alone.
    const packed = slots.length > LAST_SLOT - FIRST_SLOT
    if (slots.length > (LAST_SLOT - FIRST_SLOT + 1) * FUNCTIONS) throw tooMany(slots.length, this.#machine)
    for (const [index, slot] of slots.entries()) {
      const port = `vfio-port${index}`
      const fn = index % FUNCTIONS
      this.add('-device', {
        'pcie-root-port': null,
        id: port,
        bus: this.#machine.rootBus,
        addr: packed ? place(FIRST_SLOT + Math.floor(index / FUNCTIONS), fn) : undefined,
        multifunction: packed && fn === 0 ? 'on' : undefined,
        chassis: CHASSIS,
        slot: index + 1,
      })
      this.#slot(slot, port, 0)
    }
  }

  onConventionalBus(slots: readonly ExportSlot[]): void {
    let next = FIRST_SLOT
    for (const slot of slots) {
      // QEMU finds room for a single function; those that share a slot must be told which.
      const at = slot.functions.length > 1 ? next++ : undefined
      if (at !== undefined && at > LAST_SLOT) throw tooMany(slots.length, this.#machine)
      this.#slot(slot, this.#machine.rootBus, at)
    }
  }

  atGuestAddress(slots: readonly ExportSlot[], address: string): void {
    const places = guestPlaces(address, slots.length, this.#machine)
    for (const [index, slot] of slots.entries()) {
      const { domain, bus, device } = places[index] as AddressParts
      if (domain !== 0) {
        throw new VfioError('ERR_VFIO_BAD_ARGUMENT', `${this.#machine.name} has only the PCI domain 0000`)
      }
      this.#slot(slot, bus === 0 ? this.#machine.rootBus : `pci.${bus}`, device)
    }
  }

  /** Subchannels and crypto adapters, which only machines of Z have, without a bus. */
  onNoBus(slots: readonly ExportSlot[]): void {
    for (const { functions, model } of slots) {
      if (this.#machine.kind !== 'zpci') {
        throw new VfioError(
          'ERR_VFIO_BAD_ARGUMENT',
          `${functions[0]?.address} is driven as ${model}, which ${this.#machine.name} does not have: use s390-ccw-virtio`,
        )
      }
      for (const { address } of functions) this.#device(address, {}, model)
    }
  }

  /** The zPCI side of each device, which finds its other side by id. */
  addZpci(count: number): void {
    const ids = this.#zpci
    if (ids) checkZpci(ids, count)
    for (let index = 0; index < count; index++) {
      this.add('-device', {
        zpci: null,
        id: `vfio-zpci${index}`,
        target: `vfio${index}`,
        uid: ids && ids.uid + index,
        fid: ids?.fid === undefined ? undefined : ids.fid + index,
      })
    }
  }

  #slot({ functions }: ExportSlot, bus: string, at: number | undefined): void {
    for (const { address, function: fn } of functions) {
      this.#device(address, {
        bus,
        addr: at === undefined ? undefined : place(at, fn),
        multifunction: functions.length > 1 && fn === 0 ? 'on' : undefined,
      })
    }
  }

  #device(address: string, where: Properties, model: MdevModel = 'vfio-pci'): void {
    const id = `vfio${this.devices.length}`
    // QEMU's own notation of host addresses ends at 16 bits of domain.
    const isWide = (splitAddress(address)?.domain ?? 0) > 0xffff
    const byPath = isWide || isUuid(address)
    const fd = this.#descriptors?.devices[address]
    const byDescriptor = fd !== undefined
    this.add('-device', {
      [model]: null,
      fd,
      host: byPath || byDescriptor ? undefined : address,
      sysfsdev: byPath && !byDescriptor ? directoryOf('/sys', address) : undefined,
      id,
      ...where,
      iommufd: this.#iommufd ? 'iommufd0' : undefined,
      ...this.#properties,
    })
    this.devices.push({ address, id })
  }
}

/** What is written here itself. */
const OURS = new Set(['fd', 'host', 'sysfsdev', 'id', 'bus', 'addr', 'iommufd'])

function checkProperties(properties: Readonly<Record<string, string>>): Properties {
  return Object.fromEntries(
    Object.entries(properties).map(([key, value]) => {
      if (
        !/^[A-Za-z][\w.-]*$/.test(key) ||
        OURS.has(key) ||
        typeof value !== 'string' ||
        value.includes('\0')
      )
        throw new VfioError(
          'ERR_VFIO_BAD_ARGUMENT',
          `${JSON.stringify(key.slice(0, 40))} is no property of vfio-pci that can be set here: expected a name like x-no-mmap, and its value as text`,
        )
      return [key, value]
    }),
  )
}

function tooMany(count: number, machine: Machine): VfioError {
  return new VfioError(
    'ERR_VFIO_BAD_ARGUMENT',
    `${count} slots do not fit on the bus ${machine.rootBus} of ${machine.name}${machine.kind === 'conventional' ? ': use q35' : ''}`,
  )
}
