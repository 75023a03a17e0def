import { program } from './commands.js'
import { start } from './start.js'

void start(() => program(process.argv[2]))
