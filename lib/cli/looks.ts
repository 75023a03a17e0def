import { setFlagsFromString } from 'node:v8'
import { doctor } from './doctor.js'
import { list } from './list.js'
import type { Declare } from './options.js'
import { programOf } from './program.js'
import { show } from './show.js'
import { start } from './start.js'

/** The commands that only look, each of them alone. @see main.ts */
const LOOKS: readonly Declare[] = [list, show, doctor]

// What runs once is not worth optimizing, which takes a second processor for as long as the command runs.
if (!process.argv.includes('--watch')) setFlagsFromString('--no-opt')

await start(() => programOf(LOOKS))
