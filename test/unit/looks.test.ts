import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { program } from '../../lib/cli/commands.js'
import { ROOT } from './support.js'

const vfio = (...args: readonly string[]) =>
  execFileSync(process.execPath, [join(ROOT, 'dist/cli/main.js'), ...args], { encoding: 'utf8' })

/** What the file has of the library, by a class of each part. */
const text = readFileSync(join(ROOT, 'dist/cli/looks.js'), 'utf8')

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
    for (const name of ['Snapshot', 'ModuleAliases']) assert.match(text, new RegExp(`class ${name}\\b`))
    for (const name of ['VfioDevice', 'Writer', 'GroupLock', 'Guard'])
      assert.doesNotMatch(text, new RegExp(`class ${name}\\b`))
  })
})
