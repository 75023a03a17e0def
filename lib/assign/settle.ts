import type { Changes } from '../change/changes.js'
import type { Journal, JournalRecord } from './journal.js'

/**
 * Removes the record where everything was undone; else keeps it as broken, with what failed.
 * @param failures gets what keeps it from being marked so
 * @throws VfioError `ERR_VFIO_BAD_JOURNAL` where everything was undone, and the record cannot be removed
 */
export async function settle(
  journal: Journal,
  changes: Changes,
  record: JournalRecord,
  failures: string[],
): Promise<void> {
  if (failures.length > 0) {
    try {
      await journal.write({ ...record, state: 'broken', failures })
      changes.done('marked the record as broken')
    } catch (error) {
      // What could not be undone has to be told before this.
      failures.push(error instanceof Error ? error.message : String(error))
    }
  } else {
    await journal.remove(record.id)
    changes.done('removed the record')
  }
}
