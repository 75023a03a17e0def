import { type Assessment, assess, elsewhere, makersOf } from '../assess/assessment.js'
import { opensByIommufd } from '../assess/backends.js'
import { lackingBars } from '../assess/bars.js'
import { driverOfModule, moduleOf } from '../assess/driver-names.js'
import { VFIO_MDEV } from '../assess/mediated.js'
import { howToAllowNoIommu, NO_IOMMU_RISK } from '../assess/no-iommu.js'
import { refusalOf } from '../assess/refusals.js'
import { iommuIn, isBridge } from '../assess/topology.js'
import type { HostUse } from '../assess/uses.js'
import type { FormerState } from '../change/former.js'
import type { VfioErrorCode } from '../errors.js'
import { compareAddresses, isUuid } from '../sysfs/address.js'
import { idsOf, isByOwnDriver, isVfioDriver, isWithVfio, type PciDevice } from '../sysfs/devices.js'
import type { HostPaths } from '../sysfs/facts.js'
import type { MediatedDevice } from '../sysfs/mediated.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import { chooseResets } from './resets.js'
import { bySlot } from './slots.js'
import type { Step } from './steps.js'

/** When devices are reset: never, once they are bound, or also before the host gets them back. */
export type ResetPolicy = 'none' | 'before' | 'before-and-after'

export interface PlanOptions {
  /** `auto` takes the best VFIO variant driver that claims the device, else vfio-pci; or one is named. */
  readonly driver?: 'auto' | string
  /** Take every device of the groups along. Without it an incomplete group is a blocker. */
  readonly group?: boolean
  /** Bind by adding ids to the driver (`new_id`), which grabs every other device with these ids too. */
  readonly ids?: boolean
  /** Default `before-and-after`. */
  readonly reset?: ResetPolicy
  /**
   * Take devices without an IOMMU too, while VFIO's no-IOMMU mode is on: nothing keeps such a device from any memory of the host.
   * Without it they are blockers.
   */
  readonly noIommu?: boolean
  /** Kinds of use that are to be disturbed all the same. A device that is open in VFIO never can be. */
  readonly force?: readonly HostUse['kind'][]
}

export interface PlannedDevice {
  /** Of the function; of a mediated device the UUID. */
  readonly address: string
  /** `null` where it gets its group only when VFIO binds it: without an IOMMU, or on ARM before 6.15. */
  readonly group: number | null
  /** The VFIO driver that it is to be bound to. */
  readonly driver: string
  readonly former: FormerState
}

/** What keeps a plan from being carried out. */
export interface Blocker {
  readonly address: string
  readonly reason: string
  readonly code: VfioErrorCode
}

/** All that `assign` will do. Plain data: it prints as JSON and can be compared. */
export interface Plan {
  /** What was asked for. */
  readonly addresses: readonly string[]
  /** The devices that are not bound yet and have to be, in the order of the steps. */
  readonly toBind: readonly string[]
  readonly steps: readonly Step[]
  readonly uses: readonly HostUse[]
  readonly blockers: readonly Blocker[]
  readonly warnings: readonly string[]
  readonly reset: ResetPolicy
  /** All devices that the assignment holds. */
  readonly devices: readonly PlannedDevice[]
  /** With `ids`: devices without a driver that were not asked for and are taken along; they are given back as well. */
  readonly grabbed: readonly PlannedDevice[]
  /** Every member of their groups, and what is grabbed, as it was seen: `assign` refuses when one has changed. */
  readonly basis: readonly {
    readonly address: string
    readonly driver: string | null
    readonly override: string | null
    /** Vendor and device, as `lspci -n` writes them, of a mediated device its type: another device may come to the same address. */
    readonly ids: string
  }[]
  /** The ids that are added to the driver, as `vendor device`. */
  readonly ids: readonly string[]
  readonly paths: HostPaths
  /** The options that it was made with: `assign` plans once more under the lock. */
  readonly options: Required<PlanOptions>
}

/**
 * Plans an assignment: pure, and total over every address of the host, and every UUID of a mediated device. What stands in the way is in `blockers`; a plan
 * with blockers still shows its steps, so that a person sees what it would have done.
 * @throws VfioError `ERR_VFIO_BAD_ADDRESS`, `ERR_VFIO_NO_DEVICE`
 */
export function planAssignment(
  seen: Snapshot,
  addresses: readonly string[],
  options: PlanOptions = {},
): Plan {
  return new Planner(seen, addresses, options).plan()
}

/** What tells a device from another one of the same name; `null` where there is none of it. */
export function identityOf(seen: Snapshot, name: string): string | null {
  if (seen.has(name)) {
    const { vendor, device } = seen.device(name)
    return idsOf(vendor, device)
  }
  const mediated = seen.mediated.find(({ uuid }) => uuid === name)
  return mediated ? (mediated.type ?? 'of no type') : null
}

const hex = (value: number) => value.toString(16).padStart(4, '0')
/** Stands for a group that does not exist yet. */
const NOT_YET = -1

class Planner {
  readonly #seen: Snapshot
  readonly #options: PlanOptions
  readonly #asked: readonly PciDevice[]
  readonly #mediated: readonly MediatedDevice[]
  readonly #blockers: Blocker[] = []
  readonly #warnings: string[] = []
  readonly #steps: Step[] = []
  readonly #grabbed: PlannedDevice[] = []

  constructor(seen: Snapshot, addresses: readonly string[], options: PlanOptions) {
    this.#seen = seen
    this.#options = options
    const named = [...new Set(addresses.flatMap((name) => seen.named(name)))]
    this.#asked = named.filter((device) => 'address' in device)
    this.#mediated = named.filter((device) => 'uuid' in device)
  }

  plan(): Plan {
    for (const { address } of this.#asked) this.#checkDevice(address)
    for (const { uuid } of this.#mediated) this.#checkDevice(uuid)
    const mediated = this.#mediated.map((device) => this.#planMediated(device))
    const devices = [...this.#chosen().map((device) => this.#planDevice(device)), ...mediated]
    this.#checkGroups(devices)
    this.#warnUnprotected(devices)
    this.#warnLacking(devices)
    const rebound = devices.filter(({ former, driver }) => former.driver !== driver)
    this.#warnUnknownVariants(rebound)
    const uses = this.#checkUses(devices)
    for (const driver of new Set(rebound.map((device) => device.driver))) this.#planDriver(driver)
    const ids = this.#options.ids ? this.#planIds(rebound.filter(({ address }) => !isUuid(address))) : []
    const isFunction = ({ address }: PlannedDevice) => !isUuid(address)
    if (!this.#options.ids) {
      for (const functions of bySlot(rebound.filter(isFunction))) this.#planBinding(functions)
    }
    for (const device of rebound) if (!isFunction(device)) this.#planProbe(device, 'mdev')
    const reset = this.#options.reset ?? 'before-and-after'
    if (reset !== 'none') this.#planResets(devices)
    return {
      addresses: [...this.#asked.map(({ address }) => address), ...this.#mediated.map(({ uuid }) => uuid)],
      toBind: rebound.map(({ address }) => address),
      steps: this.#steps,
      uses,
      blockers: this.#blockers,
      warnings: this.#warnings,
      reset,
      devices,
      grabbed: this.#grabbed,
      basis: this.#basis(devices),
      ids,
      paths: this.#seen.host.paths,
      options: {
        driver: this.#options.driver ?? 'auto',
        group: this.#options.group ?? false,
        ids: this.#options.ids ?? false,
        reset,
        noIommu: this.#options.noIommu ?? false,
        force: [...(this.#options.force ?? [])],
      },
    }
  }

  #assess(address: string): Assessment {
    return assess(this.#seen, address)
  }

  #uses(address: string): HostUse[] {
    return this.#assess(address).uses.filter((use) => use.address === address)
  }

  #block(address: string, code: VfioErrorCode, reason: string): void {
    if (!this.#blockers.some((known) => known.reason === reason))
      this.#blockers.push({ address, reason, code })
  }

  /** Only where it was asked for, and never without a warning. */
  #warnUnprotected(devices: readonly PlannedDevice[]): void {
    const unprotected = devices.filter(({ address }) => this.#assess(address).noIommu)
    const [first] = unprotected
    if (first === undefined) return
    const names = unprotected.map(({ address }) => address).join(', ')
    const risk = `in the no-IOMMU mode ${NO_IOMMU_RISK}`
    if (this.#options.noIommu) this.#warnings.push(`${names}: ${risk}`)
    else
      this.#block(
        first.address,
        'ERR_VFIO_NOT_VIABLE',
        `${names}: ${risk}; to take it all the same, say so with --noiommu`,
      )
  }

  /** Said before a guest starts and its driver fails. */
  #warnLacking(devices: readonly PlannedDevice[]): void {
    for (const { address } of devices) {
      const lack = this.#seen.has(address) ? lackingBars(this.#seen.device(address)) : ''
      if (lack !== '') this.#warnings.push(`${address}: ${lack}`)
    }
  }

  /** Whoever needs a variant driver (for migration, say) would get vfio-pci without a word. */
  #warnUnknownVariants(rebound: readonly PlannedDevice[]): void {
    if (!this.#isAutomatic() || this.#options.ids || this.#seen.host.variantsUnknown !== true) return
    const names = rebound.filter(({ address }) => !isUuid(address)).map(({ address }) => address)
    if (names.length > 0)
      this.#warnings.push(
        `whether a variant driver is made for ${names.join(', ')} is not known, since there is no modules.alias of this kernel to read: vfio-pci is taken (--driver names another)`,
      )
  }

  #checkDevice(name: string): void {
    const { verdict, reason } = this.#assess(name)
    if (verdict !== 'blocked') return
    const how =
      this.#options.noIommu && this.#seen.has(name)
        ? howToAllowNoIommu(this.#seen, this.#seen.device(name))
        : null
    this.#block(name, 'ERR_VFIO_NOT_VIABLE', how === null ? reason : `${reason}; ${how}`)
  }

  /** What was asked for, and with `group` all that shares a group with it. */
  #chosen(): PciDevice[] {
    // What is in no group, and will be in none, is named by its blocker alone.
    const mayBeBound = (device: PciDevice) =>
      device.group !== null || this.#assess(device.address).verdict !== 'blocked'
    const chosen = new Set(this.#asked.filter((device) => !isBridge(device) && mayBeBound(device)))
    const asked = new Set(this.#asked.map(({ address }) => address))
    if (this.#options.group) {
      for (const { group } of this.#asked) {
        if (group === null) continue
        for (const address of this.#seen.group(group).members) {
          const member = this.#seen.device(address)
          // What the driver of one that goes has made goes with it.
          const vanishes = makersOf(this.#seen, member).some((maker) => asked.has(maker))
          if (!isBridge(member) && !iommuIn(this.#seen, member) && !vanishes) chosen.add(member)
        }
      }
    }
    return [...chosen].sort((a, b) => compareAddresses(a.address, b.address))
  }

  #planDevice(device: PciDevice): PlannedDevice {
    const { address, group, driver, driverOverride } = device
    if (isByOwnDriver(device) && !this.#isAutomatic() && this.#options.driver !== driver) {
      this.#block(
        address,
        'ERR_VFIO_BAD_ARGUMENT',
        `${address} is with VFIO through its own driver ${driver}, without which it is no such device any more: leave --driver out`,
      )
    }
    const target =
      isWithVfio(device) && driver !== null && this.#isAutomatic() ? driver : this.#driverFor(device)
    return {
      address,
      group,
      driver: target,
      former: { driver, override: driverOverride },
    }
  }

  /** It has the driver that made it, and no other can have it; on old kernels it may wait for the one that gives it to VFIO. */
  #planMediated({ uuid, group, driver }: MediatedDevice): PlannedDevice {
    const wanted = this.#options.driver ?? 'auto'
    if (wanted !== 'auto' && wanted !== driver) {
      this.#block(
        uuid,
        'ERR_VFIO_BAD_ARGUMENT',
        `${uuid} is a mediated device, which the driver that made it gives to VFIO: ${wanted} cannot take it`,
      )
    }
    return { address: uuid, group, driver: driver ?? VFIO_MDEV, former: { driver, override: null } }
  }

  #isAutomatic(): boolean {
    return (this.#options.driver ?? 'auto') === 'auto'
  }

  #driverFor(device: PciDevice): string {
    const wanted = this.#options.driver ?? 'auto'
    if (wanted !== 'auto') {
      // It becomes a part of paths.
      if (!isVfioDriver(wanted) || !/^[\w-]+$/.test(wanted)) {
        this.#block(
          device.address,
          'ERR_VFIO_BAD_ARGUMENT',
          `${wanted} is not a VFIO driver: take vfio-pci or a variant of it`,
        )
      }
      return driverOfModule(this.#seen, wanted).name
    }
    // Adding ids works with vfio-pci alone: a variant has its devices built in.
    const [variant = 'vfio-pci'] = this.#options.ids ? [] : device.variantDrivers
    return driverOfModule(this.#seen, variant).name
  }

  /** A group goes as a whole or not at all: names who has to come along. */
  #checkGroups(devices: readonly PlannedDevice[]): void {
    const bound = new Set(devices.map(({ address }) => address))
    for (const { address } of this.#asked) {
      const missing = this.#assess(address).toBind.filter((member) => !bound.has(member))
      const vital = missing.flatMap((member) => this.#uses(member)).find((use) => use.vital)
      if (vital) {
        this.#block(
          address,
          'ERR_VFIO_INCOMPLETE_GROUP',
          `${address} shares its group with ${vital.address}, which the host cannot do without (${vital.what}): it stays too${elsewhere(this.#seen, address, vital.address)}`,
        )
      } else if (missing.length > 0) {
        this.#block(
          address,
          'ERR_VFIO_INCOMPLETE_GROUP',
          `${address} shares its group with ${missing.join(', ')}, which must be bound too: name them as well, or take the whole group with --group`,
        )
      }
    }
  }

  #isTouched(device: PlannedDevice): boolean {
    const { former, driver } = device
    return former.driver !== driver || (this.#isReset(device) && this.#options.reset !== 'none')
  }

  /** What its own driver has given to VFIO is opened by nobody but a VMM: opening a vGPU by itself may fail. */
  #isReset({ address, driver }: PlannedDevice): boolean {
    return isVfioDriver(driver) && !isUuid(address)
  }

  #checkUses(devices: readonly PlannedDevice[]): HostUse[] {
    const uses = devices.flatMap(({ address }) => this.#uses(address))
    const touched = new Set(devices.filter((device) => this.#isTouched(device)).map(({ address }) => address))
    for (const use of uses) {
      // A device that is not touched may be in use.
      if (use.unknown && !touched.has(use.address)) continue
      const driver = this.#seen.named(use.address)[0]?.driver ?? null
      const reason = refusalOf(use, driver, this.#options.force)
      if (reason !== null) this.#block(use.address, 'ERR_VFIO_IN_USE', reason)
    }
    return uses
  }

  #planDriver(driver: string): void {
    const { sysfs, proc } = this.#seen.host.paths
    // On which bus a driver is, only the list of those for PCI tells.
    if (this.#seen.host.drivers.includes(driver)) return
    const module = moduleOf(driver)
    const state = module === 'vfio_pci' ? this.#seen.host.modules.vfio_pci : null
    if (state === 'missing' && this.#seen.host.kernel !== '') {
      this.#block(
        this.#asked[0]?.address ?? '',
        'ERR_VFIO_NO_DRIVER',
        `this kernel has no module vfio-pci: "vfio doctor" tells what to install`,
      )
    }
    this.#steps.push({
      kind: 'load',
      action: 'load',
      path: this.#seen.host.modprobe,
      value: driver,
      address: null,
      why:
        driver === VFIO_MDEV
          ? `${driver} may not be loaded, and is what gives mediated devices to VFIO`
          : `${driver} is not loaded: there is no ${sysfs}/bus/pci/drivers/${driver}${proc === null ? '' : ' yet'}`,
    })
  }

  #deviceFile(address: string, file: string): string {
    return `${this.#seen.host.paths.sysfs}/bus/pci/devices/${address}/${file}`
  }

  #planUnbind({ address, former }: PlannedDevice): void {
    if (former.driver === null) return
    this.#steps.push({
      kind: 'unbind',
      action: 'write',
      path: this.#deviceFile(address, 'driver/unbind'),
      value: address,
      address,
      why: `takes it from ${former.driver}`,
      expectDriver: null,
    })
  }

  #planProbe({ address, driver }: PlannedDevice, bus = 'pci'): void {
    this.#steps.push({
      kind: 'bind',
      action: 'write',
      path: `${this.#seen.host.paths.sysfs}/bus/${bus}/drivers_probe`,
      value: address,
      address,
      why: `binds it to ${driver}`,
      expectDriver: driver,
    })
  }

  #planOverride({ address, driver }: PlannedDevice, why: string): void {
    const path = this.#deviceFile(address, 'driver_override')
    this.#steps.push({ kind: 'override', action: 'write', path, value: driver, address, why })
  }

  /** All functions of a slot leave the host before the first is with VFIO: ehci_hcd looks into its companions. */
  #planBinding(functions: readonly PlannedDevice[]): void {
    for (const device of functions) {
      const { driver, former } = device
      if (former.override !== driver) {
        const only = `lets only ${driver} take this device, and no other device with the same ids`
        const isVariant = this.#isAutomatic() && driver !== 'vfio-pci'
        this.#planOverride(
          device,
          isVariant ? `${only}: the variant driver that modules.alias names for it` : only,
        )
      }
      this.#planUnbind(device)
    }
    for (const device of functions) this.#planProbe(device)
  }

  #planIds(devices: readonly PlannedDevice[]): string[] {
    if (this.#seen.isPartial) {
      this.#block(
        this.#asked[0]?.address ?? '',
        'ERR_VFIO_BAD_ARGUMENT',
        'ids may fit devices that were not looked at: plan on a snapshot of the whole host, without around',
      )
    }
    const ids = new Map<string, PlannedDevice>()
    for (const device of devices) {
      const { vendor, device: id } = this.#seen.device(device.address)
      ids.set(`${hex(vendor)} ${hex(id)}`, device)
    }
    for (const device of devices) {
      const { driver, former } = device
      if (former.override !== null && former.override !== driver)
        this.#planOverride(device, `its override ${former.override} would keep ${driver} away`)
      this.#planUnbind(device)
    }
    const ours = new Set(devices.map(({ address }) => address))
    for (const [id, { driver }] of ids) {
      this.#steps.push({
        kind: 'add-id',
        action: 'write',
        path: `${this.#seen.host.paths.sysfs}/bus/pci/drivers/${driver}/new_id`,
        value: id,
        address: null,
        why: `lets ${driver} take every device with these ids, now and later`,
      })
      for (const other of this.#seen.devices) {
        if (ours.has(other.address) || `${hex(other.vendor)} ${hex(other.device)}` !== id) continue
        this.#grab(other, driver, id.replace(' ', ':'))
      }
    }
    for (const device of devices) this.#planProbe(device)
    return [...ids.keys()]
  }

  #grab(
    { address, group, driver: now, driverOverride: override, headerType }: PciDevice,
    driver: string,
    ids: string,
  ): void {
    // vfio-pci refuses bridges and what can have no group, and another override keeps it away.
    const isRefused = group === null && this.#assess(address).verdict === 'blocked'
    if (isRefused || headerType !== 'normal' || (override !== null && override !== driver)) return
    const when = now === null ? 'at once' : `as soon as ${now} lets it go`
    this.#warnings.push(`${address} has the ids ${ids} too, so ${driver} takes it ${when}`)
    if (now === null) this.#grabbed.push({ address, group, driver, former: { driver: null, override } })
  }

  /** Judged on the host as it will be, with everything bound. */
  #planResets(devices: readonly PlannedDevice[]): void {
    const drivers = new Map(devices.map(({ address, driver }) => [address, driver]))
    const after = this.#seen.with({
      devices: this.#seen.devices.map((device) => ({
        ...device,
        // Once bound it has a group, whatever its number.
        group: device.group ?? (drivers.has(device.address) ? NOT_YET : null),
        driver: drivers.get(device.address) ?? device.driver,
      })),
    })
    const ours = devices.filter((device) => this.#isReset(device))
    const { resets, without } = chooseResets(
      after,
      ours.map(({ address }) => address),
    )
    for (const { address, reason } of without) {
      this.#warnings.push(`${address} ${reason}`)
    }
    for (const { address, kind, why } of resets) {
      this.#steps.push({
        kind: 'reset',
        action: 'reset',
        path: this.#nodeToOpen(address),
        value: kind,
        address,
        why,
        ...(this.#isByIommufd(address) && { iommufd: true as const }),
      })
    }
  }

  /** Where there is a choice it is the group, whose number is known before the device is bound. */
  #isByIommufd(address: string): boolean {
    return opensByIommufd(this.#seen.host) && !this.#assess(address).noIommu
  }

  /** The directory of such nodes where this one's name is not known yet. */
  #nodeToOpen(address: string): string {
    const directory = `${this.#seen.host.paths.dev ?? '/dev'}/vfio`
    const { group, vfioDevice } = this.#seen.device(address)
    if (this.#isByIommufd(address))
      return `${directory}/devices${vfioDevice === null ? '' : `/${vfioDevice}`}`
    if (group === null) return directory
    return `${directory}/${this.#seen.group(group).noIommu ? 'noiommu-' : ''}${group}`
  }

  #basis(devices: readonly PlannedDevice[]): Plan['basis'] {
    const groups = new Set(devices.map(({ group }) => group))
    const alone = devices
      .filter(({ address, group }) => group === null && !isUuid(address))
      .map(({ address }) => address)
    const members = [...groups].flatMap((group) => (group === null ? alone : this.#seen.group(group).members))
    return [...new Set([...members, ...this.#grabbed.map(({ address }) => address)])]
      .map((address) => {
        const { driver, driverOverride: override, vendor, device } = this.#seen.device(address)
        return { address, driver, override, ids: idsOf(vendor, device) }
      })
      .concat(
        this.#mediated.map(({ uuid, driver }) => ({
          address: uuid,
          driver,
          override: null,
          ids: identityOf(this.#seen, uuid) ?? '',
        })),
      )
  }
}
