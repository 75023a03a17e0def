import { placeOf, runKept } from './kept-code.js'

/** They are built with no more of the library than they take: people wait for them, and all of it takes as long to load. */
const LOOKS: readonly (string | undefined)[] = ['list', 'show', 'doctor']

// What they are built into is known to the build alone.
declare const LOOKS_BUILD: string

// Not by import(), for which Node would load what loads ES modules.
const [, , command = ''] = process.argv
// A stack has the names of the sources there alone.
if (LOOKS.includes(command) && !process.env.VFIO_DEBUG) {
  // Of what helps, or answers programs, other parts are run.
  const name = [
    command,
    ...['--json', '--help', '-h'].filter((option) => process.argv.includes(option)),
  ].join('')
  runKept(module, 'looks.js', placeOf(name), LOOKS_BUILD)
} else require('./all.js')
