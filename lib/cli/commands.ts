import { readFileSync } from 'node:fs'
import { type Argument, Command, CommanderError, InvalidArgumentError, Option } from 'commander'
import { didYouMean, nearest } from '../nearest.js'
import { bind } from './bind.js'
import { cdi } from './cdi.js'
import { check } from './check.js'
import { completeFor } from './complete.js'
import { completion } from './completion.js'
import { doctor } from './doctor.js'
import { EXAMPLES } from './examples.js'
import { exportTo } from './export.js'
import { grant } from './grant.js'
import { help } from './help.js'
import { inventory } from './inventory.js'
import { list } from './list.js'
import { mdev } from './mdev.js'
import type { Declare } from './options.js'
import { note, oneLine } from './output.js'
import { persist } from './persist.js'
import { recover } from './recover.js'
import { release } from './release.js'
import { rescan } from './rescan.js'
import { reset } from './reset.js'
import { revoke } from './revoke.js'
import { run } from './run.js'
import { schema } from './schema.js'
import { show } from './show.js'
import { status } from './status.js'
import { topology } from './topology.js'
import { vfs } from './vfs.js'

/** In the order of the help. */
const COMMANDS: readonly Declare[] = [
  ...[list, topology, show, check, inventory, reset, rescan],
  ...[run, bind, release, status, recover],
  ...[grant, revoke, exportTo, cdi, persist, vfs, mdev],
  ...[doctor, schema, completion, help],
]

function version(): string {
  const manifest: unknown = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8'))
  return String((manifest as { version: unknown }).version)
}

/** The whole command line as its commands declare it: what parses it, its help, and all that is made of them. */
export function program(): Command {
  const vfio = new Command('vfio')
    .description('See and judge PCI devices, assign them to VFIO and give them back, reset them')
    .exitOverride()
    .helpCommand(false)
    // Long command lines leave little room beside them; the default would rather exceed 80 columns.
    .configureHelp({ minWidthToWrap: 20 })
    .configureOutput({ outputError: (text) => note(oneLine(text).replace(/^error: /, 'vfio: ')) })
  const printVersion = () => {
    process.stdout.write(`${version()}\n`)
    throw new CommanderError(0, 'commander.version', '')
  }
  vfio.option('-V, --version', 'print the version').on('option:version', printVersion)
  // Of a command it means something else; many programs print their version by it where there is none.
  vfio.addOption(new Option('-v').hideHelp()).on('option:v', printVersion)
  for (const declare of COMMANDS) declare(vfio)
  for (const command of everyCommand(vfio)) {
    for (const choice of [...command.options, ...command.registeredArguments]) suggest(choice)
    command.addHelpText('after', () => examplesOf(command))
  }
  completeFor(vfio)
  return vfio
}

/** With those below a command. */
const everyCommand = (command: Command): Command[] =>
  command.commands.flatMap((one) => [one, ...everyCommand(one)])

function examplesOf(command: Command): string {
  const lines = (EXAMPLES[command.name()] ?? []).map(([typed, does]) => `  ${typed}\n      ${does}`)
  return lines.length > 0 ? `\nExamples:\n${lines.join('\n')}` : ''
}

/** Who mistypes a choice is told the nearest. */
function suggest(choice: Option | Argument): void {
  const { argChoices, parseArg } = choice
  if (argChoices === undefined || parseArg === undefined) return
  choice.argParser((value: string, previous: unknown) => {
    try {
      return parseArg(value, previous as never)
    } catch (error) {
      if (!(error instanceof InvalidArgumentError)) throw error
      throw new InvalidArgumentError(`${error.message}${didYouMean(nearest(value, argChoices))}`)
    }
  })
}
