import { type RescanReport, rescanDevice } from '../index.js'
import { type Declare, deadlineOf, force, forced, journal, json, look, run, timeout } from './options.js'
import { answer } from './output.js'
import { progress, type Verbose, verbose } from './progress.js'
import { stoppable } from './signals.js'

interface RescanOptions extends Verbose {
  readonly force?: readonly string[]
  readonly timeout?: number
  readonly journal?: string
  readonly json?: boolean
}

/** `vfio rescan`: removes a device and lets the kernel find it anew. */
export const rescan: Declare = (vfio) => {
  vfio
    .command('rescan')
    .description('remove a device, and let the kernel find it anew')
    .argument('<address>', 'PCI address, like 59:00.0')
    .addOption(force('disturb'))
    .addOption(timeout())
    .addOption(verbose())
    .addOption(journal())
    .addOption(json())
    .action(run(act))
}

async function act(address: string, options: RescanOptions): Promise<number> {
  const seen = look({}, { around: [address] })
  const kinds = forced(options.force)
  return await stoppable('nothing was changed, or what is begun is finished', async (signal) => {
    const report = await rescanDevice(seen, address, {
      force: kinds,
      signal,
      ...progress(options),
      journal: options.journal,
      deadline: deadlineOf(options),
    })
    answer(report, options.json, render)
    return 0
  })
}

function render({ address, driver, former }: RescanReport): string {
  const was =
    former === driver ? ', as before' : `; it was ${former === null ? 'without one' : `bound to ${former}`}`
  return `${address} was found anew, and ${driver === null ? 'has no driver' : `is bound to ${driver}`}${was}\n`
}
