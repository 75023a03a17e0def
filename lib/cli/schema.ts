import { createRequire } from 'node:module'
import { Argument, type Command } from 'commander'
import { type Declare, run } from './options.js'
import { print } from './output.js'

/** Has it `--json` or `--json-events`, or a command below it? */
export const printsJson = ({ options, commands }: Command): boolean =>
  options.some(({ long }) => long === '--json' || long === '--json-events') || commands.some(printsJson)

/** `vfio schema`: what the JSON of a command looks like. */
export const schema: Declare = (vfio) => {
  const names = vfio.commands.filter(printsJson).map((command) => command.name())
  vfio
    .command('schema')
    .description('what a command prints with --json (run: --json-events), as JSON Schema (draft 2020-12)')
    .addArgument(new Argument('<command>', 'whose').choices(names))
    .action(
      run((name: string) => {
        // Made from the types when the package is built.
        const schema: unknown = createRequire(import.meta.url)(`../schemas/${name}.json`)
        print(`${JSON.stringify(schema, null, 2)}\n`)
        return 0
      }),
    )
}
