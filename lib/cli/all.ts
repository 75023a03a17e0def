import { program } from './commands.js'
import { start } from './start.js'

await start(program)
