import type { Command } from 'commander'
import { VfioError } from '../index.js'
import { complain, fail } from './failure.js'
import { writeDirectly } from './output.js'

/** Runs what was typed. */
export async function start(program: () => Command): Promise<void> {
  writeDirectly((error) => complain(new VfioError('ERR_VFIO_BAD_FILE', `standard output: ${error.message}`)))

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
