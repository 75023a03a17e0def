import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { publint } from 'publint'
import { formatMessage } from 'publint/utils'

const ROOT = fileURLToPath(new URL('../../../..', import.meta.url))
const PREBUILD = 'prebuilds/linux-x64/vfio.glibc.node'
const SHIPPED = ['package.json', 'dist', 'README.md', 'LICENSE', 'CHANGELOG.md']

interface Run {
  readonly status: number | null
  readonly stdout: string
  readonly stderr: string
}

function run(cwd: string, program: string, ...args: string[]): Run {
  const { status, stdout, stderr, error } = spawnSync(program, args, {
    cwd,
    encoding: 'utf8',
    // npm's own settings of the run that tests it must not reach the one that is tested.
    env: { PATH: process.env.PATH, HOME: process.env.HOME, NO_COLOR: '1' },
  })
  if (error) throw error
  return { status, stdout, stderr }
}

const node = (cwd: string, ...args: string[]) => run(cwd, process.execPath, ...args)

describe('the package', function () {
  this.timeout(120_000)
  let scratch = ''
  let staged = ''
  let tarball = ''
  let files: string[] = []
  let user = ''

  before(() => {
    scratch = mkdtempSync(join(tmpdir(), 'vfio-package-'))
    staged = join(scratch, 'staged')
    for (const name of SHIPPED) cpSync(join(ROOT, name), join(staged, name), { recursive: true })
    // What `npm run prebuild` makes, without taking the build of this checkout away.
    mkdirSync(dirname(join(staged, PREBUILD)), { recursive: true })
    execFileSync('strip', ['-o', join(staged, PREBUILD), join(ROOT, 'build/Release/vfio.node')])
    const packed = run(staged, 'npm', 'pack', '--json', '--pack-destination', scratch)
    assert.equal(packed.status, 0, packed.stderr)
    const [report] = JSON.parse(packed.stdout) as [{ filename: string; files: { path: string }[] }]
    tarball = join(scratch, report.filename)
    files = report.files.map(({ path }) => path)
    user = join(scratch, 'user')
    mkdirSync(user)
    writeFileSync(join(user, 'package.json'), '{ "name": "user", "private": true, "type": "module" }')
    const installed = run(
      user,
      'npm',
      'install',
      '--prefer-offline',
      '--no-audit',
      '--no-fund',
      '--foreground-scripts',
      tarball,
    )
    assert.equal(installed.status, 0, installed.stderr)
    assert.doesNotMatch(installed.stdout + installed.stderr, /gyp/, 'npm must not build anything by itself')
  })

  after(() => rmSync(scratch, { recursive: true, force: true }))

  it('has what its users need', () => {
    for (const file of [
      'dist/index.js',
      'dist/index.d.ts',
      'dist/cli/main.js',
      PREBUILD,
      'README.md',
      'LICENSE',
      'CHANGELOG.md',
    ]) {
      assert(files.includes(file), `${file} is missing`)
    }
  })

  it('has nothing else', () => {
    const strange = files.filter((file) => !/^(dist|prebuilds)\//.test(file) && !SHIPPED.includes(file))
    assert.deepEqual(strange, [])
    // npm runs node-gyp by itself where it finds one.
    assert(!files.includes('binding.gyp'))
  })

  it('runs no script when it is installed, and imports on every platform', () => {
    const manifest = JSON.parse(readFileSync(join(staged, 'package.json'), 'utf8')) as Record<string, unknown>
    const scripts = Object.keys(manifest.scripts as object)
    for (const name of ['preinstall', 'install', 'postinstall', 'prepare'])
      assert(!scripts.includes(name), name)
    assert.equal(manifest.os, undefined)
  })

  it('has an addon of at most 200 kB', () => {
    const { size } = statSync(join(staged, PREBUILD))
    console.log(`the stripped addon has ${size} bytes`)
    assert(size <= 200_000)
  })

  it('passes publint', async () => {
    const { messages, pkg } = await publint({ pkgDir: staged, strict: true })
    assert.deepEqual(
      messages.map((message) => formatMessage(message, pkg)),
      [],
    )
  })

  it('passes arethetypeswrong', () => {
    const attw = join(ROOT, 'node_modules/.bin/attw')
    const { status, stdout, stderr } = run(scratch, attw, tarball, '--profile', 'esm-only', '--no-color')
    assert.equal(status, 0, stdout + stderr)
  })

  it('can be imported and required', () => {
    const question = 'typeof Host + typeof assess + typeof VfioContainer.open'
    const imported = node(
      user,
      '--input-type=module',
      '-e',
      `import { assess, Host, VfioContainer } from 'vfio'; console.log(${question})`,
    )
    assert.equal(imported.stdout.trim(), 'functionfunctionfunction', imported.stderr)
    const required = node(
      user,
      '--input-type=commonjs',
      '-e',
      `const { assess, Host, VfioContainer } = require('vfio'); console.log(${question})`,
    )
    assert.equal(required.stdout.trim(), 'functionfunctionfunction', required.stderr)
  })

  it('has types that a strict program compiles against', () => {
    writeFileSync(
      join(user, 'use.ts'),
      `import { assess, type Assessment, Host, VfioError } from 'vfio'
const verdict: Assessment = assess(new Host().snapshot(), '59:00.0')
export const scope: 'function' | 'hot' | 'none' = verdict.reset.scope
// @ts-expect-error a verdict is one of three words
export const wrong: 'perhaps' = verdict.verdict
export const code = (error: unknown) => (error instanceof VfioError ? error.code : null)
`,
    )
    // Users of Node's types have them installed; they bring the types of disposal along.
    const types = ['--types', 'node', '--typeRoots', join(ROOT, 'node_modules/@types')]
    const options = ['--noEmit', '--strict', '--module', 'nodenext', '--target', 'es2022', ...types]
    const { status, stdout } = run(user, join(ROOT, 'node_modules/.bin/tsc'), ...options, 'use.ts')
    assert.equal(status, 0, stdout)
  })

  it('runs its command from the prebuilt addon', () => {
    const vfio = join(user, 'node_modules/.bin/vfio')
    const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { version: string }
    assert.equal(run(user, vfio, '--version').stdout.trim(), version)
    const listed = run(user, vfio, 'list', '--json')
    assert.equal(listed.status, 0, listed.stderr)
    assert.deepEqual(Object.keys(JSON.parse(listed.stdout) as object), ['host', 'groups', 'devices'])
  })

  it('says what to do where there is no addon', () => {
    const copy = join(scratch, 'without')
    cpSync(user, copy, { recursive: true, verbatimSymlinks: true })
    rmSync(join(copy, 'node_modules/vfio/prebuilds'), { recursive: true })
    const { status, stderr } = run(copy, join(copy, 'node_modules/.bin/vfio'), 'list')
    assert.equal(status, 1)
    assert.match(stderr, /^vfio: The native addon of the package "vfio" could not be loaded\./)
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
    const imported = node(
      copy,
      '--input-type=module',
      '-e',
      "import { parseAddress } from 'vfio'; console.log(parseAddress('59:00.0'))",
    )
    assert.equal(imported.stdout.trim(), '0000:59:00.0', imported.stderr)
  })
})
