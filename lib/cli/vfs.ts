import { setVfs, VfioError, type VfsReport } from '../index.js'
import { type Declare, deadlineOf, journal, json, look, run, timeout } from './options.js'
import { answer } from './output.js'
import { progress, type Verbose, verbose } from './progress.js'
import { stoppable } from './signals.js'

interface VfsCommandOptions extends Verbose {
  readonly timeout?: number
  readonly journal?: string
  readonly json?: boolean
}

/** `vfio vfs`: sets the number of virtual functions of a device. */
export const vfs: Declare = (vfio) => {
  vfio
    .command('vfs')
    .description('set the number of virtual functions of a device, and keep drivers from taking them')
    .argument('<address>', 'PCI address of the physical function')
    .argument('<count>', 'how many, 0 for none')
    .addOption(timeout())
    .addOption(verbose())
    .addOption(journal())
    .addOption(json())
    .action(run(act))
}

async function act(address: string, count: string, options: VfsCommandOptions): Promise<number> {
  const seen = look({}, { around: [address] })
  if (!/^\d{1,5}$/.test(count)) {
    throw new VfioError(
      'ERR_VFIO_BAD_ARGUMENT',
      `${JSON.stringify(count.slice(0, 40))} is no number of virtual functions: expected one like 4, or 0 for none`,
    )
  }
  return await stoppable('finishing what was begun', async () => {
    const { journal } = options
    const report = await setVfs(seen, address, Number(count), {
      ...progress(options),
      journal,
      deadline: deadlineOf(options),
    })
    answer(report, options.json, render)
    return 0
  })
}

function render({ address, from, to, vfs: made }: VfsReport): string {
  const now = made.length > 0 ? `: ${made.join(' ')}` : ''
  const change = from === to ? 'as before' : `${from} before`
  return `${address} has ${to} virtual functions, ${change}${now}\n`
}
