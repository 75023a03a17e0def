import type { Command } from 'commander'
import { VfioError } from '../index.js'
import { complain, fail } from './failure.js'

/** Runs what was typed. */
export async function start(program: () => Command): Promise<void> {
  // A reader that goes away early (`vfio list | head`) has seen what it wanted; output that is lost otherwise is a failure.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE')
      complain(new VfioError('ERR_VFIO_BAD_FILE', `standard output: ${error.message}`))
  })
  // Without standard error the command goes on, and its exit status tells how it ended.
  process.stderr.on('error', () => {})

  // The name by which the journal, ps and error messages of others know this program.
  process.title = 'vfio'

  try {
    const vfio = program()
    if (process.argv.length <= 2) vfio.outputHelp()
    else await vfio.parseAsync()
  } catch (error) {
    fail(error)
  }
}
