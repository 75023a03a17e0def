import { VfioError } from '../errors.js'
import { parseAddress } from './address.js'
import type { PciDevice } from './devices.js'
import type { HostFacts } from './facts.js'
import type { IommuGroup } from './groups.js'
import type { Unseen } from './unseen.js'
import { NO_USE, type UseFacts } from './use.js'

/** One look at a host: plain facts that do not change afterwards. What vanished during the look is left out. */
export class Snapshot {
  readonly host: HostFacts
  readonly groups: readonly IommuGroup[]
  readonly devices: readonly PciDevice[]
  /** What the host does with its devices: the raw facts behind `assessUses`. */
  readonly use: UseFacts
  /** Only a part of the host was looked at: see `SnapshotOptions.around`. */
  readonly isPartial: boolean
  /** What verdicts rest on and could not be looked at: whatever it concerns is blocked. */
  readonly unseen: readonly Unseen[]
  readonly #byAddress: ReadonlyMap<string, PciDevice>
  readonly #byNumber: ReadonlyMap<number, IommuGroup>

  constructor(
    host: HostFacts,
    groups: readonly IommuGroup[],
    devices: readonly PciDevice[],
    use: UseFacts = NO_USE,
    isPartial = false,
    unseen: readonly Unseen[] = [],
  ) {
    this.isPartial = isPartial
    this.unseen = unseen
    this.host = host
    this.use = use
    this.groups = Object.freeze(groups)
    this.devices = Object.freeze(devices)
    this.#byAddress = new Map(devices.map((device) => [device.address, device]))
    this.#byNumber = new Map(groups.map((group) => [group.group, group]))
    Object.freeze(this)
  }

  /**
   * The device at an address, written `59:00.0` or `0000:59:00.0`.
   * @throws VfioError `ERR_VFIO_BAD_ADDRESS`, or `ERR_VFIO_NO_DEVICE` where there is none
   */
  device(address: string): PciDevice {
    // Those who already have an address in full are the many: only the others need parsing.
    const known = this.#byAddress.get(address)
    if (known) return known
    const full = parseAddress(address)
    const found = this.#byAddress.get(full)
    if (!found) {
      throw new VfioError(
        'ERR_VFIO_NO_DEVICE',
        this.isPartial
          ? `there is no PCI device ${full} in this part of the host: "vfio list" shows those of all of it`
          : `there is no PCI device ${full} on this host: "vfio list" shows those that there are`,
      )
    }
    return found
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
