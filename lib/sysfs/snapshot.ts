import { VfioError } from '../errors.js'
import {
  chooseAddress,
  expandAddress,
  expandName,
  isUuid,
  noSuchDevice,
  parseUuid,
  readUuid,
} from './address.js'
import type { PciDevice } from './devices.js'
import type { HostFacts } from './facts.js'
import type { IommuGroup } from './groups.js'
import { type MdevParent, type MediatedDevice, type MediatedFacts, NO_MEDIATED } from './mediated.js'
import type { Unseen } from './unseen.js'
import { NO_USE, type UseFacts } from './use.js'

/** Of two with one key the later. Without an entry made for each. */
function indexed<K, T>(all: readonly T[], keyOf: (one: T) => K): ReadonlyMap<K, T> {
  const index = new Map<K, T>()
  all.forEach((one) => {
    index.set(keyOf(one), one)
  })
  return index
}

/** One look at a host: plain facts that do not change afterwards. What vanished during the look is left out. */
export class Snapshot {
  readonly host: HostFacts
  readonly groups: readonly IommuGroup[]
  readonly devices: readonly PciDevice[]
  /** Devices that drivers of others make: virtual GPUs, I/O subchannels, … */
  readonly mediated: readonly MediatedDevice[]
  /** The devices whose drivers make them, with the types that they offer. */
  readonly mdevParents: readonly MdevParent[]
  /** What the host does with its devices: the raw facts behind `assessUses`. */
  readonly use: UseFacts
  /** Only a part of the host was looked at: see `SnapshotOptions.around`. */
  readonly isPartial: boolean
  /** What verdicts rest on and could not be looked at: whatever it concerns is blocked. */
  readonly unseen: readonly Unseen[]
  readonly #byAddress: ReadonlyMap<string, PciDevice>
  readonly #byNumber: ReadonlyMap<number, IommuGroup>
  #all: readonly string[] | null = null
  readonly #byUuid: ReadonlyMap<string, MediatedDevice>

  constructor(
    host: HostFacts,
    groups: readonly IommuGroup[],
    devices: readonly PciDevice[],
    use: UseFacts = NO_USE,
    isPartial = false,
    unseen: readonly Unseen[] = [],
    mediated: MediatedFacts = NO_MEDIATED,
  ) {
    this.isPartial = isPartial
    this.unseen = unseen
    this.host = host
    this.use = use
    this.groups = Object.freeze(groups)
    this.devices = Object.freeze(devices)
    this.mediated = mediated.devices
    this.mdevParents = mediated.parents
    this.#byUuid = indexed(mediated.devices, ({ uuid }) => uuid)
    this.#byAddress = indexed(devices, ({ address }) => address)
    this.#byNumber = indexed(groups, ({ group }) => group)
    Object.freeze(this)
  }

  /** The same look, with another host or other devices in it: all else stays, what could not be seen too. @internal */
  with({ host = this.host, devices = this.devices }: Partial<Pick<Snapshot, 'host' | 'devices'>>): Snapshot {
    const mediated = { devices: this.mediated, parents: this.mdevParents }
    const copy = new Snapshot(host, this.groups, devices, this.use, this.isPartial, this.unseen, mediated)
    return this.#all === null ? copy : copy.knowing(this.#all)
  }

  /**
   * The device at an address, in any of the ways in which addresses are written.
   * @throws VfioError `ERR_VFIO_BAD_ADDRESS`, also where it may be one of several; `ERR_VFIO_NO_DEVICE` where there is none
   */
  device(address: string): PciDevice {
    // Those who already have an address in full are the many: only the others need parsing.
    const known = this.#byAddress.get(address)
    if (known) return known
    this.#refuseMediated(address)
    return this.#find(chooseAddress(address, () => this.#byAddress.keys()))
  }

  /**
   * The devices at an address: one, or where it leaves the function open (`59:00`) all functions of that device.
   * @throws VfioError `ERR_VFIO_BAD_ADDRESS`, `ERR_VFIO_NO_DEVICE`
   */
  devicesAt(address: string): readonly PciDevice[] {
    const known = this.#byAddress.get(address)
    if (known) return [known]
    this.#refuseMediated(address)
    return expandAddress(address, () => this.#byAddress.keys()).map((full) => this.#find(full))
  }

  /**
   * The mediated device of a UUID, as it is or as a path of sysfs or libvirt has it.
   * @throws VfioError `ERR_VFIO_BAD_ADDRESS` where it is no UUID; `ERR_VFIO_NO_DEVICE` where there is none of it
   */
  mediatedDevice(uuid: string): MediatedDevice {
    const full = parseUuid(uuid)
    const found = this.#byUuid.get(full)
    if (found) return found
    throw new VfioError(
      'ERR_VFIO_NO_DEVICE',
      `there is no mediated device ${full} on this host${this.isPartial ? ', or it was not looked at' : ''}: "vfio mdev list" shows those that there are`,
    )
  }

  /**
   * What a name means to VFIO: the mediated device of a UUID, or one or all functions at an address.
   * @throws VfioError `ERR_VFIO_BAD_ADDRESS`, `ERR_VFIO_NO_DEVICE`
   */
  named(name: string): readonly (PciDevice | MediatedDevice)[] {
    const known = this.#byAddress.get(name)
    if (known) return [known]
    return expandName(name, () => this.#byAddress.keys()).map((full) =>
      isUuid(full) ? this.mediatedDevice(full) : this.#find(full),
    )
  }

  /** What takes a PCI function says so of what is none. */
  #refuseMediated(text: string): void {
    const uuid = typeof text === 'string' ? readUuid(text) : null
    if (uuid === null) return
    const { parent } = this.mediatedDevice(uuid)
    throw new VfioError(
      'ERR_VFIO_BAD_ADDRESS',
      `${uuid} is a mediated device${parent === null ? '' : ` of ${parent}`}, and this takes PCI functions alone`,
    )
  }

  #find(full: string): PciDevice {
    const found = this.#byAddress.get(full)
    if (found) return found
    const known = this.isPartial ? this.#all : [...this.#byAddress.keys()]
    if (known !== null && !known.includes(full)) throw noSuchDevice(full, known)
    throw new VfioError(
      'ERR_VFIO_NO_DEVICE',
      known === null
        ? `${full} was not looked at: this look was at other devices`
        : `${full} came or went during the look: look again`,
    )
  }

  /**
   * Of a look at a part: the addresses of all functions, where one was missed that was asked for.
   * @internal
   */
  knowing(all: readonly string[]): this {
    this.#all = all
    return this
  }

  /** Is there a device at this address, in the form of sysfs? */
  has(address: string): boolean {
    return this.#byAddress.has(address)
  }

  /**
   * The IOMMU group of this number.
   * @throws VfioError `ERR_VFIO_NO_GROUP` where there is none
   */
  group(number: number): IommuGroup {
    const found = this.#byNumber.get(number)
    if (!found) {
      const cure =
        this.groups.length === 0 && !this.isPartial
          ? 'it has none at all: is the IOMMU switched on? "vfio doctor" tells'
          : '"vfio list" shows those that there are'
      throw new VfioError('ERR_VFIO_NO_GROUP', `there is no IOMMU group ${number} on this host: ${cure}`)
    }
    return found
  }
}
