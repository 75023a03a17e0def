import type { Changes } from '../change/changes.js'
import { isUuid } from '../sysfs/address.js'
import { isVfioDriver } from '../sysfs/devices.js'
import { exists, readText } from '../sysfs/files.js'
import { isAsBefore, type JournalRecord } from './journal.js'
import type { PlannedDevice } from './plan.js'
import { bySlot } from './slots.js'

/** A device, and how it was before. */
type Former = Pick<PlannedDevice, 'address' | 'former'>

export interface RestoreOptions {
  /** Removes a device that cannot be bound again and lets the kernel find it anew. */
  readonly rescan?: boolean | undefined
  /** @internal What is gone from the host is forgotten, and told here. */
  readonly onGone?: ((address: string) => void) | undefined
}

/**
 * Gives every device of a record its former driver and override back, in reverse order; a failure of one does not stop the
 * others. All functions of a slot leave VFIO before the first of them goes back to its driver. Looks at each device
 * first, so that it can start from any point of a crash. Returns what could not be undone, a sentence each.
 */
export async function restore(
  changes: Changes,
  record: Pick<JournalRecord, 'devices' | 'ids'>,
  options: RestoreOptions = {},
): Promise<string[]> {
  const failures: string[] = []
  const attempt = async (work: () => Promise<void>) => {
    try {
      await work()
    } catch (error) {
      failures.push(error instanceof Error ? error.message : String(error))
    }
  }
  const drivers = new Set(record.devices.map(({ driver }) => driver))
  for (const id of record.ids)
    for (const driver of drivers) await attempt(() => removeId(changes, driver, id))
  for (const functions of bySlot([...record.devices].reverse())) {
    const free: PlannedDevice[] = []
    for (const device of functions)
      await attempt(async () => {
        if (await takeFromVfio(changes, device)) free.push(device)
      })
    const companion = functions.find((device) => isUsbWithVfio(changes, device))
    for (const device of free) {
      await attempt(() => {
        if (companion && companion !== device && isUsb(changes, device)) {
          throw new Error(
            `${device.address} waits without a driver for ${companion.address}, which is still with VFIO: a USB driver looks into all controllers of its slot`,
          )
        }
        return giveBack(changes, device, options)
      })
    }
  }
  return failures
}

/** `ehci_hcd` takes what drives its companions for a driver like itself, and panics (5.10, 6.1) where that is vfio-pci. */
function isUsbWithVfio(changes: Changes, device: PlannedDevice): boolean {
  return isVfioDriver(changes.driver(device.address)) && isUsb(changes, device)
}

const isUsb = (changes: Changes, { address }: PlannedDevice) =>
  readText(`${changes.device(address)}/class`)?.startsWith('0x0c03') ?? false

/** ENODEV: the id is gone already. */
async function removeId(changes: Changes, driver: string, id: string): Promise<void> {
  changes.expectAnswered(changes.bus(`drivers/${driver}/new_id`))
  const path = changes.bus(`drivers/${driver}/remove_id`)
  if (!exists(path)) return
  try {
    await changes.write(path, id)
  } catch (error) {
    if ((error as { code?: unknown }).code !== 'ENODEV') throw error
  }
}

/** Unbinds a device from its VFIO driver; `false` where it is as before already. */
async function takeFromVfio(changes: Changes, device: PlannedDevice): Promise<boolean> {
  const { address, former, driver } = device
  changes.expectAnswered(address)
  if (!exists(changes.device(address))) return true
  const now = await changes.state(address)
  if (isAsBefore(now, former)) return false
  if (now.driver === null || now.driver === former.driver) return true
  // Somebody else has bound it to another driver, which the host may use.
  if (now.driver !== driver) {
    throw new Error(`${address} is bound to ${now.driver} now, by somebody else: unbind it there first`)
  }
  changes.refuseOpen(device)
  await changes.write(`${changes.device(address)}/driver/unbind`, address)
  changes.expectDriver(address, null)
  return true
}

async function giveBack(
  changes: Changes,
  device: PlannedDevice,
  { rescan, onGone }: RestoreOptions,
): Promise<void> {
  const { address } = device
  if (!exists(changes.device(address))) {
    if (onGone) {
      onGone(address)
      return
    }
    // Whoever has ended a mediated device has left nothing to give back.
    if (isUuid(address)) return
    if (!rescan) {
      throw new Error(
        `${address} is gone from the host: --rescan looks for it once more, and forgets it where it is gone for good`,
      )
    }
    return rediscover(changes, device)
  }
  try {
    await bindFormer(changes, device)
  } catch (error) {
    if (!rescan) throw error
    await rediscover(changes, device)
  }
}

/** Gives an unbound device its driver and its override. */
async function bindFormer(changes: Changes, { address, former }: Former): Promise<void> {
  const override = async (text: string | null) => {
    if ((await changes.state(address)).override !== text)
      await changes.write(`${changes.device(address)}/driver_override`, text ?? '')
  }
  if (former.driver !== null && changes.driver(address) === null) {
    // The override decides which driver may take the device, and may have been set after the driver took it.
    await override(former.override === null ? null : former.driver)
    await bind(changes, address, former.driver)
  }
  await override(former.override)
}

async function bind(changes: Changes, address: string, driver: string): Promise<void> {
  const path = changes.bus(`drivers/${driver}/bind`)
  // Its module may be gone meanwhile; then the kernel may know another way to the same driver.
  if (exists(path)) await changes.write(path, address)
  else await changes.write(changes.bus('drivers_probe'), address)
  changes.expectDriver(address, driver)
}

/** Removes a device, lets the kernel find it anew, and gives it its driver and override back. */
async function rediscover(changes: Changes, device: Former): Promise<void> {
  const { address } = device
  const wasThere = exists(changes.device(address))
  if (wasThere) await changes.write(`${changes.device(address)}/remove`, '1')
  await changes.write(changes.bus('rescan'), '1')
  if (!exists(changes.device(address))) {
    if (wasThere) throw new Error(`${address} is gone: the kernel did not find it anew`)
    // Nothing is left to give back: were it kept, its record could never be removed.
    return
  }
  await restoreState(changes, device)
}

/** Gives a device that the kernel has just found its driver and its override. */
export async function restoreState(changes: Changes, device: Former): Promise<void> {
  const { address, former } = device
  const driver = changes.driver(address)
  // The kernel gives what it finds to the first driver that matches.
  if (driver !== null && driver !== former.driver)
    await changes.write(`${changes.device(address)}/driver/unbind`, address)
  await bindFormer(changes, device)
  changes.expectDriver(address, former.driver)
}
