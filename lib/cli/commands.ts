import type { Command } from 'commander'
import { bind } from './bind.js'
import { cdi } from './cdi.js'
import { check } from './check.js'
import { completeFor } from './complete.js'
import { completion } from './completion.js'
import { doctor } from './doctor.js'
import { exportTo } from './export.js'
import { grant } from './grant.js'
import { help } from './help.js'
import { inventory } from './inventory.js'
import { list } from './list.js'
import { mdev } from './mdev.js'
import type { Declare } from './options.js'
import { persist } from './persist.js'
import { programOf } from './program.js'
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
const COMMANDS: Readonly<Record<string, Declare>> = {
  ...{ list, topology, show, check, inventory, reset, rescan },
  ...{ run, bind, release, status, recover },
  ...{ grant, revoke, export: exportTo, cdi, persist, vfs, mdev },
  ...{ doctor, schema, completion, help },
}

/** They tell of the others. */
const OF_ALL: readonly Declare[] = [schema, completion, help]

/**
 * The whole command line: what parses it, its help, and all that is made of them.
 * @param typed the command that will run: the others take as long to declare as a small one takes
 */
export function program(typed = ''): Command {
  const alone = Object.hasOwn(COMMANDS, typed) ? COMMANDS[typed] : undefined
  if (alone && !OF_ALL.includes(alone)) return programOf([alone])
  const vfio = programOf(Object.values(COMMANDS))
  completeFor(vfio)
  return vfio
}
