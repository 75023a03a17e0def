// What npm runs before it packs: everything is built, and what is not complete or does not work is not packed.
import { cpSync, existsSync, readdirSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { messageOf } from '../lab/errors.js'
import { buildAll } from './build.js'
import { check } from './check.js'
import { binaryOf, ROOT, targets } from './targets.js'

const say = (line: string) => process.stderr.write(`prepack: ${line}\n`)

/** What `npm run build:addon` needs in the package: the headers that npm brings a checkout, and binding.gyp by another name. */
function addSources(): void {
  const require = createRequire(import.meta.url)
  const from = dirname(require.resolve('node-addon-api/package.json'))
  const names = readdirSync(from).filter((name) => /^napi.*\.h$|^LICENSE/.test(name))
  for (const name of names) cpSync(join(from, name), join(ROOT, 'native/node-addon-api', name))
  cpSync(join(ROOT, 'binding.gyp'), join(ROOT, 'addon.gyp'))
}

/** @throws Error with all that keeps the package from being packed. */
async function pack(): Promise<void> {
  addSources()
  const problems: string[] = []
  for (const file of [
    'dist/index.js',
    'dist/index.d.ts',
    'dist/cli/main.js',
    'addon.gyp',
    'native/node-addon-api/napi.h',
  ]) {
    if (!existsSync(join(ROOT, file))) problems.push(`${file} is not there`)
  }
  problems.push(...(await buildAll(targets, say)))
  for (const target of targets) {
    try {
      const { bytes, glibc, runtime, reason } = await check(target, ROOT, say)
      const needs = glibc === null ? 'musl' : `glibc ${glibc}`
      const loaded = runtime === null ? `NOT RUN: ${reason}` : `runs in ${runtime}`
      say(`${binaryOf(target)}: ${bytes} bytes, ${needs}, ${loaded}`)
    } catch (error) {
      problems.push(messageOf(error))
    }
  }
  if (problems.length > 0) throw new Error(`the package is not complete:\n  ${problems.join('\n  ')}`)
}

try {
  await pack()
} catch (error) {
  say(messageOf(error))
  process.exitCode = 1
}
