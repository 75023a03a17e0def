import { isVfioDriver, isWithVfio, type PciDevice } from '../sysfs/devices.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import { type BootLine, commandLineIds, type PersistedFacts } from './read.js'

/** How a device that was persisted came out of the boot. */
export interface CheckedDevice {
  readonly address: string
  /** The driver that it was persisted for. */
  readonly wanted: string
  /** The one that it has; `null` for none, or where there is no such device. */
  readonly driver: string | null
  readonly ok: boolean
  readonly reason: string
}

/** Something else that binds devices at boot. */
export interface CheckedLine {
  readonly source: string
  readonly text: string
  /** The devices that it is about, as far as it names any. */
  readonly devices: readonly string[]
  /** It takes devices that were not persisted, or persisted ones to another driver. */
  readonly differs: boolean
}

/** What was persisted, beside what really is. */
export interface PersistCheck {
  /** Everything is as it was persisted, and nothing else is bound at boot. */
  readonly ok: boolean
  readonly devices: readonly CheckedDevice[]
  readonly others: readonly CheckedLine[]
  /** What else is to be known, a sentence each. */
  readonly problems: readonly string[]
}

/** Compares what was persisted with the host as it came out of the boot. */
export function checkPersistence(seen: Snapshot, facts: PersistedFacts): PersistCheck {
  const wanted = new Map(facts.devices.map(({ address, driver }) => [address, driver]))
  const devices = facts.devices.map(({ address, driver }) => checkDevice(seen, address, driver))
  const lines = [...commandLineIds(seen.host.commandLine), ...facts.others]
  const others = lines.map((line) => checkLine(seen, line, wanted))
  const named = new Set(others.flatMap((line) => line.devices))
  const inVain = lines.flatMap((line, index) => whyInVain(seen, line, others[index]?.devices ?? []))
  const overridden = seen.devices.filter(
    ({ address, driverOverride }) => driverOverride !== null && !wanted.has(address) && !named.has(address),
  )
  const problems = [
    ...(facts.devices.length === 0 ? ['nothing is persisted here'] : []),
    ...facts.problems,
    ...inVain,
    ...overridden.map(
      ({ address, driverOverride }) =>
        `${address} has the override ${driverOverride}, which no file asks for: it was set since the boot, and does not last`,
    ),
  ]
  const ok =
    facts.devices.length > 0 &&
    facts.problems.length === 0 &&
    devices.every((device) => device.ok) &&
    others.every(({ differs }) => !differs)
  return { ok, devices, others, problems }
}

function checkDevice(seen: Snapshot, address: string, wanted: string): CheckedDevice {
  const answer = (driver: string | null, reason: string) => ({
    address,
    wanted,
    driver,
    ok: driver === wanted,
    reason,
  })
  if (!seen.has(address)) {
    return answer(
      null,
      `${address} is not there any more: a card more or less moves addresses, so look for it with "vfio list" and persist it anew`,
    )
  }
  const { driver, driverOverride } = seen.device(address)
  if (driver === wanted) return answer(driver, `${address} is bound to ${driver}, as it was persisted`)
  if (driver !== null) {
    return answer(
      driver,
      driverOverride === wanted
        ? `${address} is bound to ${driver}, and not to ${wanted}: that driver had it before the files were read, so rebuild the initramfs, or see that it is not built in`
        : `${address} is bound to ${driver}, and not to ${wanted}: the files were not read at boot, or are newer than it; rebuild the initramfs and boot again`,
    )
  }
  return answer(
    null,
    driverOverride === null
      ? `${address} has no driver: what was persisted did not reach it, perhaps since its ids are others now`
      : `${address} has no driver, although its override is ${driverOverride}: the kernel's log says why that refused it, and "vfio check ${address}" tells what stands in the way`,
  )
}

function checkLine(seen: Snapshot, line: BootLine, wanted: ReadonlyMap<string, string>): CheckedLine {
  const { source, text, driver, ids } = line
  const devices = seen.devices
    .filter((device) => device.address === line.address || ids.some((id) => fits(id, device)))
    .map(({ address }) => address)
  const takes = driver !== null && (isVfioDriver(driver) || driver === 'pci-stub' || line.address !== null)
  const differs = takes && !line.isOurs && devices.some((address) => wanted.get(address) !== driver)
  return { source, text, devices, differs }
}

/** A line that gives devices to VFIO, and others have them: whoever came first. */
function whyInVain(
  seen: Snapshot,
  { source, driver, isOurs }: BootLine,
  devices: readonly string[],
): string[] {
  if (isOurs || !isVfioDriver(driver)) return []
  const taken = devices
    .map((address) => seen.device(address))
    .filter((device) => device.driver !== null && !isWithVfio(device))
  const [first] = taken
  if (first === undefined) return []
  const names = taken.map((device) => `${device.address} (${device.driver})`).join(', ')
  return [
    `${source} gives ${names} to ${driver}, and that came later than the driver which has it: ${driver} has to be loaded before, in the initramfs too (a "softdep ${first.driver} pre: ${driver}" of modprobe.d), as "vfio persist" writes it`,
  ]
}

/** `vendor:device[:subvendor:subdevice[:class[:mask]]]` in hexadecimal; what is left out, or all ones, fits anything. */
function fits(id: string, device: PciDevice): boolean {
  const fields = id.split(':').map((field) => Number.parseInt(field, 16))
  const [vendor, deviceId, subvendor = ANY, subdevice = ANY, code = 0, mask = 0] = fields
  const same = (field: number | undefined, value: number) => field === ANY || field === value
  return (
    same(vendor, device.vendor) &&
    same(deviceId, device.device) &&
    same(subvendor, device.subsystemVendor) &&
    same(subdevice, device.subsystemDevice) &&
    ((device.class ^ code) & mask) === 0
  )
}

const ANY = 0xffffffff
