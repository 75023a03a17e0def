import { release as giveBack, VfioError } from '../index.js'
import { NOT_READY } from './exit.js'
import { type Declare, deadlineOf, journal, json, rescanOption, run, timeout } from './options.js'
import { answer, note } from './output.js'
import { progress, type Verbose, verbose } from './progress.js'
import { stoppable } from './signals.js'
import { NOTHING_ASSIGNED } from './words.js'

interface ReleaseCommandOptions extends Verbose {
  readonly all?: boolean
  readonly rescan?: boolean
  readonly timeout?: number
  readonly journal?: string
  readonly json?: boolean
}

/** `vfio release`: gives devices back to the host, as they were. Exit status 1 also where a grant could not be revoked. */
export const release: Declare = (vfio) => {
  vfio
    .command('release')
    .description('give devices back to the host, as they were')
    .argument('[address...]', 'PCI addresses')
    .option('--all', 'everything that is assigned')
    .addOption(rescanOption())
    .addOption(timeout())
    .addOption(verbose())
    .addOption(journal())
    .addOption(json())
    .action(run(act))
}

async function act(addresses: readonly string[], options: ReleaseCommandOptions): Promise<number> {
  const { all, rescan, journal, json } = options
  if ((all === true) === addresses.length > 0) {
    throw new VfioError('ERR_VFIO_BAD_ARGUMENT', 'name the devices to release, or give --all, and not both')
  }
  return await stoppable('finishing what is being given back', async (signal) => {
    const deadline = deadlineOf(options)
    const report = await giveBack(all ? 'all' : addresses, {
      ...progress(options),
      rescan,
      journal,
      deadline,
      signal,
    })
    for (const warning of report.warnings) note(`vfio: ${warning}`)
    answer(
      report,
      json,
      ({ released }) => released.map((address) => `${address} was given back\n`).join('') || NOTHING_ASSIGNED,
    )
    return report.granted || report.bad ? NOT_READY : 0
  })
}
