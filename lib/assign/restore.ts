import { exists } from '../sysfs/files.js'
import type { Changes } from './changes.js'
import { isAsBefore, type JournalRecord } from './journal.js'
import type { PlannedDevice } from './plan.js'

export interface RestoreOptions {
  /** Removes a device that cannot be bound again and lets the kernel find it anew. */
  readonly rescan?: boolean | undefined
}

/**
 * Puts every device of a record back as it was, in reverse order, as far as it goes: one that fails does not keep the
 * others. Looks at each device first, so it can start from any point that a crash left behind. Answers with what could
 * not be undone, a sentence each.
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
  for (const device of [...record.devices].reverse()) {
    await attempt(async () => {
      try {
        await restoreDevice(changes, device)
      } catch (error) {
        if (!options.rescan) throw error
        await rediscover(changes, device)
      }
    })
  }
  return failures
}

/** An id that is not there (any more) is what was wanted. */
async function removeId(changes: Changes, driver: string, id: string): Promise<void> {
  const path = changes.bus(`drivers/${driver}/remove_id`)
  if (!exists(path)) return
  try {
    await changes.write(path, id)
  } catch (error) {
    if ((error as { code?: unknown }).code !== 'ENODEV') throw error
  }
}

async function restoreDevice(changes: Changes, device: PlannedDevice): Promise<void> {
  const { address, group, former, driver } = device
  if (!exists(changes.device(address))) throw new Error(`${address} is gone from the host`)
  if (isAsBefore(changes.state(address), former)) return
  const now = changes.state(address)
  if (now.driver !== null && now.driver !== former.driver) {
    if (now.driver === driver && changes.kernel.isOpen(group)) {
      throw new Error(
        `group ${group} is still open in a program, and unbinding ${address} would hang: close it there`,
      )
    }
    await changes.write(`${changes.device(address)}/driver/unbind`, address)
    changes.expectDriver(address, null)
  }
  // Before binding: the override decides which driver may take the device.
  if (changes.state(address).override !== former.override) {
    await changes.write(`${changes.device(address)}/driver_override`, former.override ?? '')
  }
  if (former.driver !== null && changes.state(address).driver === null)
    await bind(changes, address, former.driver)
}

async function bind(changes: Changes, address: string, driver: string): Promise<void> {
  const path = changes.bus(`drivers/${driver}/bind`)
  // Its module may be gone meanwhile; then the kernel may know another way to the same driver.
  if (exists(path)) await changes.write(path, address)
  else await changes.write(changes.bus('drivers_probe'), address)
  changes.expectDriver(address, driver)
}

async function rediscover(changes: Changes, { address, former }: PlannedDevice): Promise<void> {
  if (exists(changes.device(address))) await changes.write(`${changes.device(address)}/remove`, '1')
  await changes.write(changes.bus('rescan'), '1')
  if (former.override !== null)
    await changes.write(`${changes.device(address)}/driver_override`, former.override)
  if (former.driver !== null && changes.state(address).driver === null)
    await bind(changes, address, former.driver)
  changes.expectDriver(address, former.driver)
}
