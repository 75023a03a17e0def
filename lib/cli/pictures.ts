import { inventory } from './inventory.js'
import type { Declare } from './options.js'
import { programOf } from './program.js'
import { start } from './start.js'
import { topology } from './topology.js'

/** The commands that tell of a whole host, each of them alone. @see main.ts */
const PICTURES: readonly Declare[] = [topology, inventory]

void start(() => programOf(PICTURES))
