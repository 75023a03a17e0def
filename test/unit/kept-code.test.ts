import assert from 'node:assert/strict'
import { type SpawnSyncReturns, spawnSync } from 'node:child_process'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { placeOf } from '../../lib/cli/kept-code.js'
import { makeHost, removeDirectories, temporaryDirectory } from '../fixtures/host.js'
import { writeLargeHost } from '../fixtures/large-host.js'
import { skip } from '../fixtures/skip.js'
import { ROOT } from './support.js'

const KEPT_CODE = pathToFileURL(join(ROOT, 'build/ts/lib/cli/kept-code.js')).href

/** With another bit at an offset. */
function changed(whole: Buffer, at: number): Buffer {
  const bytes = Buffer.from(whole)
  bytes.writeUInt8(bytes.readUInt8(at) ^ 1, at)
  return bytes
}

describe('compiled code that is kept', function () {
  this.timeout(60_000)
  let directory = ''
  let cache = ''
  let place = ''
  before(function () {
    if (process.versions.bun !== undefined || process.versions.deno !== undefined)
      skip(this, 'they keep no code')
  })
  beforeEach(() => {
    directory = temporaryDirectory()
    cache = join(directory, 'cache/vfio')
    place = join(cache, 'said')
    mkdirSync(join(directory, 'cache'))
  })
  after(removeDirectories)

  /** Runs a file that says a word and ends; what V8 compiled is taken for it as long as it is as long. */
  function say(word: string, build = 'a build', status = 0): string {
    const wrapped = `(function (exports, require, module, __filename, __dirname) { process.exitCode = ${status}; console.log('${word}', require('node:path').basename(__filename)) })`
    writeFileSync(join(directory, 'said.js'), wrapped)
    writeFileSync(
      join(directory, 'main.cjs'),
      `import(${JSON.stringify(KEPT_CODE)}).then(({ runKept }) => runKept(module, 'said.js', ${JSON.stringify(place)}, '${build}'))`,
    )
    const ran = spawnSync(process.execPath, [join(directory, 'main.cjs')], { encoding: 'utf8' })
    assert.deepEqual([ran.stderr, ran.status], ['', status])
    assert.match(ran.stdout, /^\w+ said\.js\n$/)
    return ran.stdout.split(' ')[0] ?? ''
  }

  it('is run in the place of the same build, and of no other', () => {
    assert.equal(say('one'), 'one')
    const { ino, mode } = statSync(place)
    assert.equal(mode & 0o777, 0o600)
    assert.equal(statSync(cache).mode & 0o777, 0o700)
    // The same length, so that V8 takes what it made for it: a build tells one content from another.
    assert.equal(say('two'), 'one')
    assert.equal(statSync(place).ino, ino)
    assert.equal(say('two', 'another build'), 'two')
    assert.equal(say('six', 'another build'), 'two')
    assert.deepEqual(readdirSync(cache), ['said'])
  })

  it('is left alone where somebody else may write', () => {
    say('one')
    const undo: readonly [string, () => void, () => void][] = [
      ['the directory is open', () => chmodSync(cache, 0o777), () => chmodSync(cache, 0o700)],
      ['the file is open', () => chmodSync(place, 0o666), () => chmodSync(place, 0o600)],
      [
        'the directory is a link',
        () => {
          renameSync(cache, join(directory, 'elsewhere'))
          symlinkSync(join(directory, 'elsewhere'), cache)
        },
        () => {
          rmSync(cache)
          renameSync(join(directory, 'elsewhere'), cache)
        },
      ],
      [
        'the file is a link',
        () => {
          renameSync(place, join(cache, 'other'))
          symlinkSync(join(cache, 'other'), place)
        },
        () => renameSync(join(cache, 'other'), place),
      ],
    ]
    for (const [what, make, unmake] of undo) {
      make()
      const before = readFileSync(place)
      assert.equal(say('two'), 'two', what)
      // It made its own only where that is safe.
      if (!what.startsWith('the file')) assert.deepEqual(readFileSync(place), before, what)
      unmake()
      rmSync(place)
      assert.equal(say('one'), 'one', what)
    }
  })

  it('is made anew where it is of another kind, or cut', () => {
    say('one')
    const whole = readFileSync(place)
    const key = whole.indexOf('\n') + 1
    const broken = [
      whole.subarray(0, 10),
      whole.subarray(0, key),
      whole.subarray(0, key + 40),
      Buffer.concat([whole.subarray(0, key), Buffer.alloc(whole.length - key)]),
      Buffer.alloc(0),
      // V8 trusts what has the right size and head.
      ...[0.3, 0.6, 0.9].map((part) => changed(whole, Math.floor(part * whole.length))),
      changed(whole, whole.length - 1),
    ]
    for (const [index, bytes] of broken.entries()) {
      writeFileSync(place, bytes)
      assert.equal(say('two'), 'two', `${index}`)
      assert.equal(say('six'), 'two', `${index}`)
    }
  })

  it('is written where a killed program left something, and nothing else is left', () => {
    mkdirSync(cache, { mode: 0o700 })
    writeFileSync(join(cache, 'said.new'), 'half')
    assert.equal(say('one'), 'one')
    assert.equal(say('two'), 'one')
    assert.deepEqual(readdirSync(cache), ['said'])
  })

  it('is none of what failed, and none where it cannot be written', () => {
    assert.equal(say('one', 'a build', 3), 'one')
    assert(!existsSync(cache))
    writeFileSync(cache, 'no directory')
    assert.equal(say('two'), 'two')
    assert.equal(readFileSync(cache, 'utf8'), 'no directory')
  })

  it('is root in the cache of the system, and else that of the user', () => {
    const env = { HOME: '/home/me', XDG_CACHE_HOME: '/else' }
    assert.equal(placeOf('list', 0, env), '/var/cache/vfio/list')
    assert.equal(placeOf('list', 1000, env), '/else/vfio/list')
    assert.equal(placeOf('list', 1000, { ...env, XDG_CACHE_HOME: 'relative' }), '/home/me/.cache/vfio/list')
    assert.equal(placeOf('list', 1000, {}), null)
    assert.equal(placeOf('list', 0, { ...env, NODE_DISABLE_COMPILE_CACHE: '1' }), null)
  })

  describe('of the commands that only look', () => {
    const vfio = (args: readonly string[], env: NodeJS.ProcessEnv = {}): SpawnSyncReturns<string> =>
      spawnSync(process.execPath, [join(ROOT, 'bin/vfio.js'), ...args], {
        encoding: 'utf8',
        env: { ...process.env, ...env },
      })

    it('changes nothing of what they print', () => {
      const address = '0000:01:00.0'
      const { sysfs } = makeHost({ devices: [{ address, driver: 'nvme', group: 1 }] })
      for (const args of [
        ['list'],
        ['list', '--json'],
        ['show', address],
        ['doctor'],
        ['list', '--nonsense'],
      ]) {
        const all = [...args, '--sysfs', sysfs]
        const bare = vfio(all, { NODE_DISABLE_COMPILE_CACHE: '1' })
        for (let round = 0; round < 3; round++) {
          const { stdout, stderr, status } = vfio(all)
          assert.deepEqual([stdout, stderr, status], [bare.stdout, bare.stderr, bare.status], all.join(' '))
        }
      }
    })

    it('is taken for a large host too, which the compiler is told not to optimize for', function () {
      const { sysfs } = writeLargeHost(join(directory, 'large'), 600)
      const kept = placeOf('list--json')
      const env = { XDG_CACHE_HOME: join(directory, 'cache') }
      const file = process.geteuid?.() === 0 ? kept : placeOf('list--json', 1, env)
      const args = ['list', '--json', '--sysfs', sysfs]
      vfio(args, env)
      if (file === null || !existsSync(file)) return skip(this, 'nothing can be kept here')
      const { ino, mtimeMs } = statSync(file)
      assert.equal(vfio(args, env).status, 0)
      const again = statSync(file)
      assert.deepEqual([again.ino, again.mtimeMs], [ino, mtimeMs])
    })
  })
})
