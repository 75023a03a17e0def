import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { NEEDED_GLIBC } from '../../lib/native/help.js'
import { check } from '../../scripts/prebuild/check.js'
import { binaryOf, GLIBC_FLOOR, type Target, targets } from '../../scripts/prebuild/targets.js'
import { contents, look, program, ROOT, run, scratchDirectory, sees, succeed, user } from './support.js'

const { headersDirectory } = (await import(
  join(ROOT, 'scripts/headers.mjs')
)) as typeof import('../../scripts/headers.mjs')

const objdump = (option: string, target: Target) =>
  execFileSync('objdump', [option, join(contents(), binaryOf(target))], { encoding: 'utf8' })

const named = (name: string) => {
  const target = targets.find((each) => each.name === name)
  assert(target)
  return target
}

describe('the binaries in the tarball', function () {
  this.timeout(900_000)

  before(() => void contents())

  for (const target of targets) {
    it(`${target.name}: has at most ${target.bytes} bytes`, () => {
      const { size } = statSync(join(contents(), binaryOf(target)))
      console.log(`${target.name} has ${size} bytes`)
      assert(size <= target.bytes)
    })

    it(`${target.name}: exports what Node looks for, and nothing else`, () => {
      const exported = objdump('-T', target)
        .split('\n')
        .filter((line) => / g {4,5}D[FO ] /.test(line))
        .map((line) => line.trim().split(/\s+/).at(-1))
      assert.deepEqual(exported.sort(), ['napi_register_module_v1', 'node_api_module_get_api_version_v1'])
    })

    it(`${target.name}: needs its C library alone, and stays in memory`, () => {
      const header = objdump('-p', target)
      const needed = [...header.matchAll(/NEEDED\s+(\S+)/g)].map(([, name = '']) => name)
      const own = target.libc === 'musl' ? /^libc\.so$/ : /^(lib(c|pthread|dl)\.so\.\d+|ld.*\.so\.\d+)$/
      assert.deepEqual(
        needed.filter((name) => !own.test(name)),
        [],
      )
      const flags = execFileSync('readelf', ['-dW', join(contents(), binaryOf(target))], { encoding: 'utf8' })
      assert.match(flags, /\(FLAGS_1\).*NODELETE/)
    })
  }

  for (const target of targets.filter(({ libc }) => libc === 'glibc')) {
    it(`${target.name}: asks for no glibc above ${GLIBC_FLOOR}`, () => {
      const minors = [...objdump('-T', target).matchAll(/GLIBC_2\.(\d+)/g)].map(([, minor]) => Number(minor))
      console.log(`${target.name} runs with glibc 2.${Math.max(...minors)} and newer`)
      assert(minors.length > 0)
      assert(Math.max(...minors) <= Number(GLIBC_FLOOR.slice('2.'.length)))
    })
  }

  it('for glibc are refused by musl, which would take glibc for itself', () => {
    const binary = join(contents(), binaryOf(named('linux-x64-glibc')))
    // As ldd(1) does: it prints what it does not find, Node's own functions among it.
    const { stderr } = run(ROOT, ['/lib/ld-musl-x86_64.so.1', '--list', binary])
    assert.match(stderr, /gnu_get_libc_version: symbol not found/)
    assert.doesNotMatch(stderr, /library libc\.so\.6/)
  })

  it('are those that the page about a failure tells of', () => {
    assert.equal(NEEDED_GLIBC, GLIBC_FLOOR)
  })
})

describe('what is packed', function () {
  this.timeout(900_000)

  /** A folder in which the binary of a target is one of another. */
  function instead(target: Target, other: Target): string {
    const root = scratchDirectory(`instead/${target.name}`)
    mkdirSync(dirname(join(root, binaryOf(target))), { recursive: true })
    cpSync(join(contents(), binaryOf(other)), join(root, binaryOf(target)))
    return root
  }

  const refused = (target: Target, root: string, reason: RegExp) =>
    assert.rejects(
      check(target, root, () => {}),
      (error: Error) => reason.test(error.message),
    )

  it('is refused without a binary', async () => {
    for (const target of targets) await refused(target, scratchDirectory('empty'), /is not there/)
  })

  it('is refused with a binary for another C library', async () => {
    const [glibc, musl] = [named('linux-x64-glibc'), named('linux-x64-musl')]
    await refused(glibc, instead(glibc, musl), /is not for glibc/)
    await refused(musl, instead(musl, glibc), /is not for musl/)
  })

  it('is refused with a binary that does not load', async () => {
    const [x64, arm64] = [named('linux-x64-glibc'), named('linux-arm64-glibc')]
    await refused(x64, instead(x64, arm64), /does not work in Node/)
    await refused(arm64, instead(arm64, x64), /does not work in Node for arm64/)
  })

  it('is refused with one that somebody made larger', async () => {
    const target = named('linux-x64-glibc')
    const root = instead(target, target)
    truncateSync(join(root, binaryOf(target)), target.bytes + 1)
    await refused(target, root, /bytes are the most|are the most/)
  })
})

describe('npm run build:addon in the installed package', function () {
  this.timeout(900_000)

  it('has the sources, and no file that lets npm build by itself', () => {
    const needed = ['native/vfio.cc', 'native/build.mjs', 'native/exports.map', 'addon.gyp']
    const vendored = ['napi.h', 'napi-inl.h', 'LICENSE.md'].map((name) => `native/node-addon-api/${name}`)
    for (const file of [...needed, ...vendored]) assert(existsSync(join(contents(), file)), file)
    for (const file of ['binding.gyp', 'native/CMakeLists.txt'])
      assert(!existsSync(join(contents(), file)), file)
  })

  it('builds the addon where there is no binary for the machine, without a warning', () => {
    const copy = join(scratchDirectory('built'), 'user')
    cpSync(user(), copy, { recursive: true, verbatimSymlinks: true })
    rmSync(join(copy, 'node_modules/vfio/prebuilds'), { recursive: true })
    assert.match(
      run(copy, ['node_modules/.bin/vfio', 'doctor']).stdout.replace(/\s+/g, ' '),
      /npm explore vfio -- npm run build:addon/,
    )
    // Where Node's headers are not beside it, npm is told of those that set-up fetched: nothing else is reached here.
    const nodedir = headersDirectory() ?? ''
    const { stdout, stderr } = succeed(copy, ['npm', 'explore', 'vfio', '--', 'npm', 'run', 'build:addon'], {
      npm_config_nodedir: nodedir,
    })
    assert.match(stdout, /vfio\.node/)
    assert.doesNotMatch(stdout + stderr, /warning/i)
    writeFileSync(join(copy, 'look.mjs'), program())
    sees(look(copy, [process.execPath, 'look.mjs']))
  })
})
