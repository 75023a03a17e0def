import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ROOT } from './fake.js'

const run = (source: string, env: NodeJS.ProcessEnv = {}, cwd = ROOT) =>
  spawnSync(process.execPath, ['--input-type=module', '-e', source], {
    cwd,
    encoding: 'utf8',
    env: { ...process.env, ...env },
  })

const OPEN = `import { VfioContainer } from 'vfio'
try { VfioContainer.open('/nowhere') } catch (error) { console.log(error.code); console.log(error.message) }`

describe('the addon', () => {
  it('is not loaded by the import', () => {
    const source = `import 'vfio'; import fs from 'node:fs'
      console.log(fs.readFileSync('/proc/self/maps', 'utf8').includes('vfio.node'))`
    assert.equal(run(source).stdout, 'false\n')
  })

  it('is loaded on first use', () => {
    assert.match(run(OPEN).stdout, /^ENOENT\n/)
  })

  it('comes from where VFIO_ADDON says, and from nowhere else', () => {
    const { stdout } = run(OPEN, { VFIO_ADDON: '/nowhere/vfio.node' })
    assert.match(stdout, /^ERR_VFIO_ADDON\n/)
    assert.match(stdout, /VFIO_ADDON=\/nowhere\/vfio\.node: not there/)
    assert.doesNotMatch(stdout, /build\/Release/)
  })

  it('that cannot be loaded is explained on a page', () => {
    const directory = mkdtempSync(join(tmpdir(), 'vfio-bare-'))
    try {
      cpSync(join(ROOT, 'dist'), join(directory, 'dist'), { recursive: true })
      cpSync(join(ROOT, 'package.json'), join(directory, 'package.json'))
      const { stdout, stderr } = run(OPEN, { VFIO_ADDON: '' }, directory)
      assert.equal(stderr, '')
      assert.match(stdout, /^ERR_VFIO_ADDON\nThe native addon of the package "vfio" could not be loaded\.\n/)
      assert.match(stdout, new RegExp(`linux-${process.arch}, (glibc [0-9.]+|musl), Node ${process.version}`))
      assert.match(stdout, /build\/Release\/vfio\.node: not there/)
      assert.match(stdout, /prebuilds\/linux-\w+\/vfio\.(glibc|musl)\.node: not there/)
      assert.match(stdout, /What to do:\n {4}- /)
      for (const line of stdout.split('\n')) assert(line.length <= 160, line)
    } finally {
      rmSync(directory, { recursive: true })
    }
  })

  it('that is no addon is explained with what the loader says', () => {
    const directory = mkdtempSync(join(tmpdir(), 'vfio-bad-'))
    try {
      const path = join(directory, 'vfio.node')
      writeFileSync(path, 'this is no machine code')
      assert.match(
        run(OPEN, { VFIO_ADDON: path }).stdout,
        /vfio\.node: .*(invalid ELF header|file too short)/,
      )
    } finally {
      rmSync(directory, { recursive: true })
    }
  })

  it('is machine code: no JavaScript that VFIO_ADDON names is run', () => {
    const directory = mkdtempSync(join(tmpdir(), 'vfio-js-'))
    try {
      for (const name of ['addon.js', 'addon.cjs', 'addon.node', 'index.json', 'addon']) {
        const path = join(directory, name)
        writeFileSync(path, `console.log('it ran'); module.exports = {}`)
        const { stdout } = run(OPEN, { VFIO_ADDON: path })
        assert.match(stdout, /^ERR_VFIO_ADDON\n/)
        assert.doesNotMatch(stdout, /it ran/)
      }
      assert.match(run(OPEN, { VFIO_ADDON: directory }).stdout, /^ERR_VFIO_ADDON\n/)
    } finally {
      rmSync(directory, { recursive: true })
    }
  })

  it('is named by an absolute path: where a program was started must not choose it', () => {
    const { stdout } = run(OPEN, { VFIO_ADDON: './build/Release/vfio.node' })
    assert.match(stdout, /^ERR_VFIO_ADDON\n/)
    assert.match(stdout, /not an absolute path/)
  })

  it('is for Linux only, and says so', () => {
    const source = `Object.defineProperty(process, 'platform', { value: 'darwin' })
      const { VfioContainer } = await import('vfio')
      try { VfioContainer.open() } catch (error) { console.log(error.code, error.message) }`
    assert.match(run(source).stdout, /^ERR_VFIO_ADDON VFIO is a part of Linux, and this is darwin/)
  })
})
