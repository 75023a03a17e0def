import { Option } from 'commander'
import { type ResetMethodReport, type ResetReport, resetByMethod, resetDevice, VfioError } from '../index.js'
import { type Declare, deadlineOf, force, forced, journal, json, look, run, timeout } from './options.js'
import { answer } from './output.js'
import { progress, type Verbose, verbose, waiting } from './progress.js'
import { stoppable } from './signals.js'

interface ResetOptions extends Verbose {
  readonly hot?: boolean
  readonly method?: string
  readonly force?: readonly string[]
  readonly timeout?: number
  readonly journal?: string
  readonly json?: boolean
}

/** `vfio reset`: resets a device through VFIO, by itself or with all of its slot or bus; or by a method of the kernel. */
export const reset: Declare = (vfio) => {
  vfio
    .command('reset')
    .description('reset a device that is bound to VFIO, or any that is not in use by a method of the kernel')
    .argument('<address>', 'PCI address, like 59:00.0, or the UUID of a mediated device')
    .addOption(
      new Option('--hot', 'reset its whole slot or bus; all that is there must be bound to VFIO').conflicts(
        'method',
      ),
    )
    .option('--method <name>', 'by this one of the methods that the kernel has for it, like flr or bus')
    .addOption(force('with --method: disturb'))
    .addOption(timeout())
    .addOption(verbose())
    .addOption(journal())
    .addOption(json())
    .action(run(act))
}

async function act(address: string, options: ResetOptions): Promise<number> {
  const seen = look({}, { around: [address] })
  const { hot = false, method } = options
  if (method === undefined) {
    if (options.force || options.verbose || options.timeout !== undefined || options.journal !== undefined)
      throw new VfioError(
        'ERR_VFIO_BAD_ARGUMENT',
        '--force, --timeout, --journal and --verbose go with --method',
      )
    const report = await waiting(`resetting ${address}`, resetDevice(seen, address, { hot }))
    answer(report, options.json, render)
    return 0
  }
  const kinds = forced(options.force)
  return await stoppable('putting back the reset methods', async (signal) => {
    const report = await resetByMethod(seen, address, method, {
      force: kinds,
      signal,
      ...progress(options),
      journal: options.journal,
      deadline: deadlineOf(options),
    })
    answer(report, options.json, renderMethod)
    return 0
  })
}

function render({ address, method, affected, milliseconds }: ResetReport): string {
  const how = method === 'hot' ? 'a hot reset' : 'a function reset'
  const others = affected.filter((other) => other !== address)
  const along = others.length > 0 ? ` together with ${others.join(', ')}` : ''
  return `${address} was reset${along} by ${how} in ${milliseconds} ms\n`
}

function renderMethod({ address, method, milliseconds, methods }: ResetMethodReport): string {
  return `${address} was reset by ${method} in ${milliseconds} ms; the kernel has ${methods.join(', ')} for it again\n`
}
