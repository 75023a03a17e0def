import { doctor } from './doctor.js'
import { list } from './list.js'
import type { Declare } from './options.js'
import { programOf } from './program.js'
import { show } from './show.js'
import { start } from './start.js'

/** The commands that only look, each of them alone. @see main.ts */
const LOOKS: Readonly<Record<string, Declare>> = { list, show, doctor }

const { [process.argv[2] ?? '']: typed } = LOOKS
void start(() => programOf(typed ? [typed] : Object.values(LOOKS)))
