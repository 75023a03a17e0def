import { didYouMean, nearest } from '../nearest.js'
import type { Declare } from './options.js'

/** `vfio help`: the text of the program or of one command. */
export const help: Declare = (vfio) => {
  vfio
    .command('help')
    .description('this text, or that of a command')
    .argument('[command]')
    .action((name: string | undefined) => {
      const found = name === undefined ? vfio : vfio.commands.find((command) => command.name() === name)
      if (found) found.outputHelp()
      else {
        const names = vfio.commands.map((command) => command.name())
        vfio.error(`error: unknown command '${name}'${didYouMean(nearest(name ?? '', names))}`)
      }
    })
}
