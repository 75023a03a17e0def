import { doctor } from './doctor.js'
import { list } from './list.js'
import type { Declare } from './options.js'
import { leave } from './output.js'
import { programOf } from './program.js'
import { show } from './show.js'
import { start } from './start.js'

/** The commands that only look, each of them alone. @see main.ts */
const LOOKS: Readonly<Record<string, Declare>> = { list, show, doctor }

const { [process.argv[2] ?? '']: typed } = LOOKS
// Nothing is under way when a look is over, and giving back all memory before the end takes as long as a part of it.
void start(() => programOf(typed ? [typed] : Object.values(LOOKS))).then(leave)
