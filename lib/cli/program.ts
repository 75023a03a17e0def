import { createRequire } from 'node:module'
import { type Argument, Command, CommanderError, InvalidArgumentError, Option } from 'commander'
import { didYouMean, nearest } from '../nearest.js'
import { EXAMPLES } from './examples.js'
import type { Declare } from './options.js'
import { note, oneLine, print } from './output.js'

function version(): string {
  const manifest: unknown = createRequire(import.meta.url)('../../package.json')
  return String((manifest as { version: unknown }).version)
}

/** The command line with some commands as they declare themselves: what parses it, and its help. */
export function programOf(commands: readonly Declare[]): Command {
  const vfio = new Command('vfio')
    .description('See and judge PCI devices, assign them to VFIO and give them back, reset them')
    .exitOverride()
    .helpCommand(false)
    // Long command lines leave little room beside them; the default would rather exceed 80 columns.
    .configureHelp({ minWidthToWrap: 20 })
    .configureOutput({
      writeOut: print,
      outputError: (text) => note(oneLine(text).replace(/^error: /, 'vfio: ')),
    })
  const printVersion = () => {
    print(`${version()}\n`)
    throw new CommanderError(0, 'commander.version', '')
  }
  vfio.option('-V, --version', 'print the version').on('option:version', printVersion)
  // Of a command it means something else; many programs print their version by it where there is none.
  vfio.addOption(new Option('-v').hideHelp()).on('option:v', printVersion)
  for (const declare of commands) declare(vfio)
  for (const command of everyCommand(vfio)) {
    for (const choice of [...command.options, ...command.registeredArguments]) suggest(choice)
    command.addHelpText('after', () => examplesOf(command))
  }
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
