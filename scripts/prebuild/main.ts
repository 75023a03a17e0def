// Builds the binaries that the package brings: npm run prebuild [-- TARGET…]
import { messageOf } from '../lab/errors.js'
import { buildAll } from './build.js'
import { targets } from './targets.js'

const USAGE = `usage: npm run prebuild [-- TARGET…]

Builds the binaries of the targets, all without names, into prebuilds/: only what is not there yet or has changed.

targets: ${targets.map(({ name }) => name).join(', ')}`

async function main(names: readonly string[]): Promise<void> {
  const unknown = names.filter((name) => !targets.some((target) => target.name === name))
  if (unknown.length > 0) throw new Error(`there is no target ${unknown.join(', ')}\n${USAGE}`)
  const wanted = targets.filter(({ name }) => names.length === 0 || names.includes(name))
  const say = (line: string) => process.stderr.write(`prebuild: ${line}\n`)
  const failures = await buildAll(wanted, say)
  if (failures.length > 0) throw new Error(failures.join('\n'))
}

try {
  const names = process.argv.slice(2)
  if (names.includes('--help') || names.includes('-h')) console.log(USAGE)
  else await main(names)
} catch (error) {
  console.error(`prebuild: ${messageOf(error)}`)
  process.exitCode = 1
}
