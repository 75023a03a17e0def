import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { cpSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import type * as Library from '../../lib/index.js'
import { makeHost, removeDirectories, temporaryDirectory } from '../fixtures/host.js'
import { ROOT } from './support.js'

const built = (name: string) => pathToFileURL(join(ROOT, 'dist', name)).href

const ADDRESS = '0000:01:00.0'

describe('the library in parts', function () {
  this.timeout(60_000)
  let library: typeof Library
  let sysfs = ''
  before(async () => {
    library = (await import(built('index.js'))) as typeof Library
    sysfs = makeHost({ devices: [{ address: ADDRESS, driver: 'vfio-pci', group: 1 }] }).sysfs
  })
  after(removeDirectories)

  /** The parts that a program has loaded when it ends, which uses the library as `vfio`. */
  function loadedBy(program: string): string[] {
    const tell = "console.log(Object.keys(require.cache).map((file) => file.replace(/.*\\//, '')).join(' '))"
    const script = `import(${JSON.stringify(built('index.js'))}).then((vfio) => { ${program}; ${tell} })`
    return execFileSync(process.execPath, ['-e', script, sysfs], { encoding: 'utf8' }).trim().split(' ')
  }

  it('is loaded no further than it is used', () => {
    assert.deepEqual(loadedBy(''), [''])
    assert.deepEqual(loadedBy('vfio.JOURNAL'), [''])
    assert.deepEqual(loadedBy("vfio.parseAddress('01:00.0')"), ['look.cjs'])
    const seen = 'const seen = new vfio.Host({ sysfs: process.argv[1] }).snapshot(); vfio.survey(seen)'
    assert.deepEqual(loadedBy(seen), ['look.cjs', 'vfio.node'])
    assert.deepEqual(loadedBy("vfio.parseSize('1G')"), ['look.cjs', 'export.cjs'])
    assert.deepEqual(loadedBy('try { vfio.VfioContainer.open("/nowhere") } catch {}'), [
      'look.cjs',
      'open.cjs',
      'vfio.node',
    ])
    assert.deepEqual(loadedBy('try { vfio.planAssignment() } catch {}'), ['look.cjs', 'plan.cjs'])
    assert.deepEqual(loadedBy('vfio.detectBootLoader({})'), ['look.cjs', 'plan.cjs', 'persist.cjs'])
  })

  it('is as strict as ES modules are', () => {
    const files = readdirSync(join(ROOT, 'dist')).filter((name) => name.endsWith('.cjs'))
    const cli = readdirSync(join(ROOT, 'dist/cli')).filter((name) => name.endsWith('.js'))
    const built = [...files, ...cli.map((name) => `cli/${name}`)]
    assert(built.length >= 8, built.join(' '))
    for (const name of built)
      assert.match(
        readFileSync(join(ROOT, 'dist', name), 'utf8'),
        /^(?:\(function \([^)]*\) \{)?["']use strict["'][;\n]/,
        name,
      )
  })

  it('exports what the library in one file does, of the same kind', async () => {
    const whole = (await import(built('bundle.js'))) as Readonly<Record<string, unknown>>
    const parts = library as unknown as Readonly<Record<string, unknown>>
    assert.deepEqual(Object.keys(parts), Object.keys(whole))
    for (const [name, value] of Object.entries(whole)) {
      assert.equal(typeof parts[name], typeof value, name)
      if (typeof value !== 'function') assert.equal(parts[name], value)
      else assert.equal((parts[name] as { name: string }).name, value.name.replace(/^_/, ''), name)
    }
  })

  it('has classes that are those of what they make, and can be extended', () => {
    const { Host, VfioContainer, VfioError, VfioSystemError } = library
    const host = new Host({ sysfs })
    assert(host instanceof Host)
    assert.equal(host.constructor, Host)
    class Own extends Host {
      readonly mark = 1
    }
    const own = new Own({ sysfs })
    assert(own instanceof Own && own instanceof Host)
    assert.deepEqual([own.mark, own.snapshot().devices[0]?.address], [1, ADDRESS])
    assert(!(host instanceof Own))
    assert.equal(own.constructor, Own)
    assert('open' in VfioContainer)
    assert(Object.hasOwn(VfioContainer, 'fromDescriptor'))
    assert.equal(Object.getOwnPropertyDescriptor(Host, 'prototype')?.value, Object.getPrototypeOf(host))
    assert.throws(() => (Host as unknown as () => void)(), TypeError)
    const failed = new VfioSystemError({ errno: 1, syscall: 'open', request: 'group', path: '/dev/vfio/1' })
    assert(failed instanceof VfioError && failed instanceof Error)
    assert.equal(failed.constructor, VfioSystemError)
    assert(!(host instanceof VfioError))
  })

  it('has errors that another copy of the package knows, and knows its errors', async () => {
    const whole = (await import(built('bundle.js'))) as typeof Library
    assert.throws(() => library.parseAddress('no address'), whole.VfioError)
    assert.throws(() => whole.parseAddress('no address'), library.VfioError)
    class Mine extends library.VfioError {}
    assert(new Mine('ERR_VFIO_CLOSED', 'mine') instanceof library.VfioError)
    assert(!(new library.VfioError('ERR_VFIO_CLOSED', 'not mine') instanceof Mine))
  })

  it('is of one build: what was replaced meanwhile is not mixed with what is loaded', async () => {
    const directory = join(temporaryDirectory(), 'vfio')
    cpSync(join(ROOT, 'package.json'), join(directory, 'package.json'))
    for (const name of readdirSync(join(ROOT, 'dist')).filter((one) => /\.c?js$/.test(one)))
      cpSync(join(ROOT, 'dist', name), join(directory, 'dist', name))
    const copy = (await import(pathToFileURL(join(directory, 'dist/index.js')).href)) as typeof Library
    copy.parseAddress('01:00.0')
    const part = join(directory, 'dist/export.cjs')
    const text = readFileSync(part, 'utf8')
    writeFileSync(part, text.replace(/\bbuildId !== '\w+'/, "buildId !== 'another'"))
    assert.throws(() => copy.parseSize('1G'), {
      code: 'ERR_VFIO_BAD_FILE',
      message: /start the program again/,
    })
  })

  it('gives functions what they are given, and what they throw or promise back', async () => {
    const { compareAddresses, openDevice } = library
    assert.deepEqual(['0000:02:00.0', ADDRESS].sort(compareAddresses), [ADDRESS, '0000:02:00.0'])
    await assert.rejects(openDevice('zz'), { code: 'ERR_VFIO_BAD_ADDRESS' })
  })
})
