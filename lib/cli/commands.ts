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
const COMMANDS: readonly Declare[] = [
  ...[list, topology, show, check, inventory, reset, rescan],
  ...[run, bind, release, status, recover],
  ...[grant, revoke, exportTo, cdi, persist, vfs, mdev],
  ...[doctor, schema, completion, help],
]

/** The whole command line: what parses it, its help, and all that is made of them. */
export function program(): Command {
  const vfio = programOf(COMMANDS)
  completeFor(vfio)
  return vfio
}
