import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { program } from '../../lib/cli/commands.js'
import { makeHost, removeDirectories, temporaryDirectory } from '../fixtures/host.js'
import { skip } from '../fixtures/skip.js'
import { ROOT } from './support.js'

const vfio = (...args: readonly string[]) =>
  execFileSync(process.execPath, [join(ROOT, 'dist/cli/main.js'), ...args], { encoding: 'utf8' })

/** What they are built into. */
const text = readFileSync(join(ROOT, 'dist/cli/looks.js'), 'utf8')
const library = readFileSync(join(ROOT, 'dist/bundle.js'), 'utf8')

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

  describe('load of Node', () => {
    /** The modules of Node's own that a program has loaded when it ends. */
    function loadedBy(program: string, ...args: readonly string[]): string[] {
      const hook = join(temporaryDirectory(), 'hook.cjs')
      const tell = `process.on('exit', () => require('fs').writeSync(2, JSON.stringify(process.moduleLoadList)))`
      writeFileSync(hook, tell)
      const { stderr, stdout, status } = spawnSync(process.execPath, ['--require', hook, program, ...args], {
        encoding: 'utf8',
      })
      assert.equal(status, 0, stdout)
      return (JSON.parse(stderr) as string[]).filter((name) => name.startsWith('NativeModule '))
    }
    after(removeDirectories)

    it('two small modules, and neither streams nor what loads ES modules', function () {
      if (process.versions.bun !== undefined || process.versions.deno !== undefined)
        skip(this, "the list of loaded modules is Node's own")
      const { sysfs } = makeHost({ devices: [{ address: '0000:01:00.0', driver: 'nvme', group: 1 }] })
      const empty = join(temporaryDirectory(), 'empty.cjs')
      writeFileSync(empty, '')
      const before = loadedBy(empty)
      const more = loadedBy(join(ROOT, 'dist/cli/main.js'), 'list', '--sysfs', sysfs).filter(
        (name) => !before.includes(name),
      )
      assert.deepEqual(more.sort(), ['NativeModule os', 'NativeModule vm'])
    })
  })

  it('like all others are declared alone where they are typed, and no other way', () => {
    const all = program().commands
    assert(all.length > 20)
    for (const command of all) {
      const name = command.name()
      const typed = program(name).commands
      const alone = typed.find((one) => one.name() === name)
      assert.equal(alone?.helpInformation(), command.helpInformation(), name)
      const tellsOfOthers = ['schema', 'completion', 'help', '__complete'].includes(name)
      assert.equal(typed.length, tellsOfOthers ? all.length : 1, name)
    }
    for (const typed of ['toString', 'nonsense', '']) assert.equal(program(typed).commands.length, all.length)
  })

  it('are built without what changes the host or opens a device', () => {
    // What the compiler leaves of names: those of the addon's functions.
    for (const name of ['readTree', 'readWaiting']) assert(text.includes(name), name)
    for (const name of ['openCdev', 'startWriter', 'tryLockByte', 'Guard', 'mapDma']) {
      assert(library.includes(name), name)
      assert(!text.includes(name), name)
    }
  })
})
