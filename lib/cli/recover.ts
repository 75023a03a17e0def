import { recover as putInOrder, type RecoveryReport } from '../index.js'
import { NOT_READY } from './exit.js'
import { type Declare, deadlineOf, journal, json, rescanOption, run, timeout } from './options.js'
import { answer, note } from './output.js'
import { progress, type Verbose, verbose } from './progress.js'
import { stoppable } from './signals.js'
import { badRecord } from './words.js'

interface RecoverOptions extends Verbose {
  readonly kill?: boolean
  readonly rescan?: boolean
  readonly timeout?: number
  readonly journal?: string
  readonly json?: boolean
}

/** `vfio recover`: puts in order what a crash left half done. */
export const recover: Declare = (vfio) => {
  vfio
    .command('recover')
    .description('put in order what a crash left half done')
    .argument('[address...]', 'only what has to do with these PCI addresses')
    .option('--kill', 'end what a "vfio run" that died has left running')
    .addOption(rescanOption())
    .addOption(timeout())
    .addOption(verbose())
    .addOption(journal())
    .addOption(json())
    .action(run(act))
}

async function act(addresses: readonly string[], options: RecoverOptions): Promise<number> {
  return await stoppable('finishing what is being put in order', async (signal) => {
    const { rescan, kill, journal, json } = options
    const only = addresses.length > 0 ? addresses : undefined
    const deadline = deadlineOf(options)
    // Who ends what is left of a run waits also for what that was changing.
    const patience = kill ? (deadline ?? 30_000) : undefined
    const report = await putInOrder({
      ...progress(options),
      ...{ rescan, kill, only, journal, deadline, patience, signal },
    })
    answer(report, json, render)
    for (const warning of report.warnings) note(`vfio: ${warning}`)
    for (const record of report.bad) note(badRecord(record))
    const { bad, busy, granted = [] } = report
    return bad.length + busy.length + granted.length > 0 ? NOT_READY : 0
  })
}

function render({ recovered, stale, busy }: RecoveryReport): string {
  const lines = [
    ...recovered.map((address) => `${address} was put in order: the host has it as before`),
    ...stale.map((address) => `${address}: removed a record from before the last boot`),
    ...busy.map(
      (address) => `${address}: left alone: a program works on it, or the kernel has not answered yet`,
    ),
  ]
  return `${lines.join('\n') || 'Nothing was left half done.'}\n`
}
