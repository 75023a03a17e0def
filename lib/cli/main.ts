import { readFileSync } from 'node:fs'
import { Command, CommanderError } from 'commander'
import { VfioError } from '../index.js'
import { bind } from './bind.js'
import { check } from './check.js'
import { doctor } from './doctor.js'
import { statusOf } from './exit.js'
import { exportTo } from './export.js'
import { grant } from './grant.js'
import { help } from './help.js'
import { list } from './list.js'
import type { Declare } from './options.js'
import { note, oneLine } from './output.js'
import { persist } from './persist.js'
import { recover } from './recover.js'
import { release } from './release.js'
import { rescan } from './rescan.js'
import { reset } from './reset.js'
import { revoke } from './revoke.js'
import { run } from './run.js'
import { show } from './show.js'
import { status } from './status.js'
import { vfs } from './vfs.js'

/** In the order of the help. */
const COMMANDS: readonly Declare[] = [
  ...[list, show, check, reset, rescan],
  ...[run, bind, release, status, recover],
  ...[grant, revoke, exportTo, persist, vfs],
  ...[doctor, help],
]

function version(): string {
  const manifest: unknown = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8'))
  return String((manifest as { version: unknown }).version)
}

function program(): Command {
  const vfio = new Command('vfio')
    .description('See and judge PCI devices, assign them to VFIO and give them back, reset them')
    .exitOverride()
    .showSuggestionAfterError(false)
    .helpCommand(false)
    // Long command lines leave little room beside them; the default would rather exceed 80 columns.
    .configureHelp({ minWidthToWrap: 20 })
    .configureOutput({ outputError: (text) => note(oneLine(text).replace(/^error: /, 'vfio: ')) })
  vfio.option('-V, --version', 'print the version').on('option:version', () => {
    process.stdout.write(`${version()}\n`)
    throw new CommanderError(0, 'commander.version', '')
  })
  for (const declare of COMMANDS) declare(vfio)
  return vfio
}

function fail(error: unknown): void {
  process.exitCode = statusOf(error)
  // It has said itself what is wrong.
  if (error instanceof CommanderError) return
  const { message, stack } = error instanceof Error ? error : new Error(String(error))
  // A stack, and the help page of an addon that does not load, have lines of their own.
  const isPage = process.env.VFIO_DEBUG || (error instanceof VfioError && error.code === 'ERR_VFIO_ADDON')
  const text = process.env.VFIO_DEBUG ? (stack ?? message) : `vfio: ${message}`
  for (const line of isPage ? text.split('\n') : [text]) note(line)
}

// A reader that goes away early (`vfio list | head`) has seen what it wanted; output that is lost otherwise is a failure.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') fail(new VfioError('ERR_VFIO_BAD_FILE', `standard output: ${error.message}`))
})
// Who cannot be told is not told: what is being done goes on, and the status says how it ended.
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
