import assert from 'node:assert/strict'
import { cpSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { publint } from 'publint'
import { formatMessage } from 'publint/utils'
import { everythingIn } from '../fixtures/tree.js'
import {
  contents,
  type manifest,
  PATIENCE,
  PREBUILD,
  ROOT,
  run,
  scratchDirectory,
  succeed,
  tarball,
  user,
} from './support.js'

const files = () =>
  everythingIn(contents())
    .filter(({ entry }) => !entry.isDirectory())
    .map(({ path }) => path.slice(contents().length + 1))

const CLI = ['all', 'looks', 'main'].map((name) => `dist/cli/${name}.js`)

/** What names all that is exported, the parts that it loads, and all in one for bundlers. */
const PARTS = ['change', 'export', 'launch', 'look', 'open', 'persist', 'plan']
const LIBRARY = [
  'dist/bundle.js',
  'dist/index.cjs',
  'dist/index.js',
  ...PARTS.map((name) => `dist/${name}.cjs`),
]

/** What says that they are CommonJS, and what stands for the text of others in them. */
const BIN = ['bin/package.json', 'bin/vfio.js']
const BESIDE = ['dist/cli/commander.LICENSE', 'dist/cli/package.json']

describe('the tarball', function () {
  this.timeout(PATIENCE)

  it('has what its users need', () => {
    const needed = [...BIN, ...LIBRARY, 'dist/index.d.ts', ...CLI, PREBUILD]
    for (const file of [...needed, 'README.md', 'LICENSE', 'CHANGELOG.md', 'SECURITY.md']) {
      assert(files().includes(file), `${file} is missing`)
    }
  })

  it('has nothing else', () => {
    const known = /^(bin|dist|prebuilds|native)\/|^(package\.json|[A-Z]+(\.md)?|addon\.gyp)$/
    assert.deepEqual(
      files().filter((file) => !known.test(file)),
      [],
    )
    assert.deepEqual(
      files()
        .filter((file) => /^(bin|dist)\//.test(file))
        .sort(),
      [
        ...BIN,
        ...CLI,
        ...BESIDE,
        'dist/index.d.ts',
        ...LIBRARY,
        ...['schemas', 'man'].flatMap((directory) =>
          readdirSync(join(ROOT, 'dist', directory)).map((name) => `dist/${directory}/${name}`),
        ),
      ].sort(),
    )
    // npm runs node-gyp by itself where it finds one.
    assert(!files().includes('binding.gyp'))
  })

  it('keeps its texts small', () => {
    const texts = files().filter((file) => file.startsWith('dist/') && !/\.c?js$/.test(file))
    const size = texts.reduce((sum, file) => sum + statSync(join(contents(), file)).size, 0)
    assert(size < 400_000, `${size} bytes`)
  })

  it('runs no script when it is installed, and imports on every platform', () => {
    const { scripts, os } = JSON.parse(
      readFileSync(join(contents(), 'package.json'), 'utf8'),
    ) as typeof manifest
    for (const name of ['preinstall', 'install', 'postinstall', 'prepare']) assert(!(name in scripts), name)
    assert.equal(os, undefined)
  })

  it('has a command that can be run as it is', () => {
    assert.equal(statSync(join(contents(), 'bin/vfio.js')).mode & 0o777, 0o755)
  })

  it('names nothing that the user does not get', () => {
    const { dependencies = {} } = JSON.parse(
      readFileSync(join(contents(), 'package.json'), 'utf8'),
    ) as typeof manifest
    const wanted = new Set<string>()
    for (const file of [...LIBRARY, ...CLI]) {
      const text = readFileSync(join(contents(), file), 'utf8')
      for (const [, name = ''] of text.matchAll(/(?:^|;)(?:import|export)\b[^;"']*?\bfrom\s*"([^"]+)"/gm))
        wanted.add(name)
      for (const [, name = ''] of text.matchAll(/\brequire\w*\("([^"]+)"\)/g)) wanted.add(name)
    }
    const strangers = [...wanted].filter((name) => !name.startsWith('node:') && !name.startsWith('.'))
    assert.deepEqual(strangers.sort(), Object.keys(dependencies).sort())
  })

  it('brings the licence of what is in its command line, which needs no other package', () => {
    assert.match(readFileSync(join(contents(), 'dist/cli/commander.LICENSE'), 'utf8'), /^\(The MIT License\)/)
    assert.match(readFileSync(join(contents(), 'dist/cli/looks.js'), 'utf8'), /commander\.helpDisplayed/)
  })

  it('passes publint', async () => {
    const { messages, pkg } = await publint({ pkgDir: contents(), strict: true })
    assert.deepEqual(
      messages.map((message) => formatMessage(message, pkg)),
      [],
    )
  })

  it('passes arethetypeswrong', () => {
    succeed(ROOT, ['node_modules/.bin/attw', tarball(), '--profile', 'esm-only', '--no-color'])
  })
})

describe('an installed package without its addon', function () {
  this.timeout(PATIENCE)

  it('says what to do, and judges all the same', () => {
    const copy = join(scratchDirectory('without'), 'user')
    cpSync(user(), copy, { recursive: true, verbatimSymlinks: true })
    rmSync(join(copy, 'node_modules/vfio/prebuilds'), { recursive: true })
    // Looking takes none; what opens a device does.
    assert.equal(run(copy, ['node_modules/.bin/vfio', 'list']).status, 0)
    const { stdout: diagnosis } = run(copy, ['node_modules/.bin/vfio', 'doctor'])
    assert.match(diagnosis.replace(/\s+/g, ' '), /npm run build:addon/)
    const opening =
      "import { VfioContainer } from 'vfio'; try { VfioContainer.open() } catch (error) { console.error(error.message) }"
    const { stderr } = run(copy, [process.execPath, '--input-type=module', '-e', opening])
    assert.match(stderr, /^The native addon of the package "vfio" could not be loaded\./)
    for (const part of [
      `linux-${process.arch}`,
      process.version,
      PREBUILD,
      'VFIO_ADDON',
      'npm run build:addon',
    ]) {
      assert(stderr.includes(part), part)
    }
    assert.doesNotMatch(stderr, /^ {4}at /m)
    const pure = "import { parseAddress } from 'vfio'; console.log(parseAddress('59:00.0'))"
    const imported = succeed(copy, [process.execPath, '--input-type=module', '-e', pure])
    assert.equal(imported.stdout.trim(), '0000:59:00.0')
  })
})
