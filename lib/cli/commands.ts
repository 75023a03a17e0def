import { readFileSync } from 'node:fs'
import { Command, CommanderError } from 'commander'
import { bind } from './bind.js'
import { check } from './check.js'
import { doctor } from './doctor.js'
import { exportTo } from './export.js'
import { grant } from './grant.js'
import { help } from './help.js'
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
import { vfs } from './vfs.js'

/** In the order of the help. */
const COMMANDS: readonly Declare[] = [
  ...[list, show, check, reset, rescan],
  ...[run, bind, release, status, recover],
  ...[grant, revoke, exportTo, persist, vfs, mdev],
  ...[doctor, schema, help],
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
