import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { program } from '../../lib/cli/commands.js'
import { EXAMPLES } from '../../lib/cli/examples.js'
import { skip } from '../fixtures/skip.js'
import { ROOT } from './support.js'

const DIRECTORY = join(ROOT, 'dist/man')
const pages = readdirSync(DIRECTORY)
const textOf = (page: string) => readFileSync(join(DIRECTORY, page), 'utf8')

describe('the manual', function () {
  this.timeout(30_000)
  const commands = program().commands.filter((command) => !command.name().startsWith('__'))

  it('has a page for the program and for each command, which npm installs', () => {
    const wanted = ['vfio.1', ...commands.map((command) => `vfio-${command.name()}.1`)].sort()
    assert.deepEqual([...pages].sort(), wanted)
    const { man } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { man: string[] }
    assert.deepEqual(
      [...man].sort(),
      wanted.map((page) => `./dist/man/${page}`),
    )
  })

  it('has nothing that mandoc would complain of', function () {
    const { error, stdout, stderr } = spawnSync('mandoc', ['-T', 'lint', ...pages], {
      cwd: DIRECTORY,
      encoding: 'utf8',
    })
    if (error) return skip(this, 'mandoc is not installed')
    // Whether the pages that they name are there is seen below: mandoc looks among those that are installed.
    const complaints = `${stdout}${stderr}`
      .split('\n')
      .filter((line) => !line.includes('referenced manual not found'))
    assert.deepEqual(complaints, [''])
  })

  it('names pages that there are, every option, every choice and every example', () => {
    for (const page of pages)
      for (const [, name] of textOf(page).matchAll(/^\.Xr (\S+) 1/gm))
        assert.ok(pages.includes(`${name}.1`), name)
    for (const command of commands) {
      const text = textOf(`vfio-${command.name()}.1`)
      for (const { long, hidden, argChoices = [] } of command.options) {
        if (!hidden && long) assert.ok(text.includes(`Fl ${long.slice(1)}`), `${command.name()} ${long}`)
        for (const choice of argChoices) assert.ok(text.includes(choice), choice)
      }
      for (const [typed] of EXAMPLES[command.name()] ?? [])
        assert.ok(
          text.includes(`.Dl ${typed.replaceAll('…', '\\[u2026]').replace(' -- ', ' \\-\\- ')}`),
          typed,
        )
    }
  })
})
