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
        const next = found.commands.find((command) => command.name() === name)
        if (!next) return vfio.error(`error: unknown command '${name}'`)
        found = next
      }
      found.outputHelp()
    })
}
