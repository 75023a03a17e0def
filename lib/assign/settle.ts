import type { Changes } from '../change/changes.js'
import type { Journal, JournalRecord } from './journal.js'

/** Removes the record where everything was undone; else keeps it as broken, with what failed. */
export async function settle(
  journal: Journal,
  changes: Changes,
  record: JournalRecord,
  failures: readonly string[],
): Promise<void> {
  if (failures.length > 0) {
    await journal.write({ ...record, state: 'broken', failures })
    changes.done('marked the record as broken')
  } else {
    await journal.remove(record.id)
    changes.done('removed the record')
  }
}
