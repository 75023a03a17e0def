import { didYouMean, nearest } from '../nearest.js'
import type { Declare } from './options.js'

/** `vfio help`: the text of the program or of one command. */
export const help: Declare = (vfio) => {
  vfio
    .command('help')
    .description('this text, or that of a command')
    .argument('[command...]')
    .action((names: readonly string[]) => {
      let found = vfio
      for (const name of names) {
        const { commands } = found
        const next = commands.find((command) => command.name() === name)
        if (!next) {
          const words = commands.map((command) => command.name())
          return vfio.error(`error: unknown command '${name}'${didYouMean(nearest(name, words))}`)
        }
        found = next
      }
      found.outputHelp()
    })
}
