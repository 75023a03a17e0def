import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { program } from '../../lib/cli/commands.js'
import { ROOT } from './support.js'

const vfio = (...args: readonly string[]) =>
  execFileSync(process.execPath, [join(ROOT, 'dist/cli/main.js'), ...args], { encoding: 'utf8' })

/** What they are built into. */
const text = readFileSync(join(ROOT, 'dist/cli/looks.js'), 'utf8')
const library = readFileSync(join(ROOT, 'dist/index.js'), 'utf8')

describe('the commands that only look', function () {
  this.timeout(120_000)

  const LOOKS = ['list', 'show', 'doctor']

  it('declare themselves alone as among all', () => {
    for (const name of LOOKS) {
      assert(
        program().commands.some((command) => command.name() === name),
        name,
      )
      assert.equal(vfio(name, '--help'), vfio('help', name))
    }
  })

  it('are built without what changes the host or opens a device', () => {
    const has = (file: string, name: string) =>
      new RegExp(`\\bclass _?${name}\\b|\\b${name}=class\\b`).test(file)
    for (const name of ['Snapshot', 'ModuleAliases']) assert(has(text, name), name)
    for (const name of ['VfioDevice', 'Writer', 'GroupLock', 'Guard']) {
      assert(has(library, name), name)
      assert(!has(text, name), name)
    }
  })
})
