import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { manifest, PATIENCE, ROOT, run, scratchDirectory, succeed, tarball } from './support.js'

/** The package of the device plugin, as `npm pack` makes it of what is built. */
function packed(): { readonly file: string; readonly files: readonly string[] } {
  const directory = scratchDirectory('device-plugin')
  const args = ['--workspace', 'vfio-device-plugin', '--ignore-scripts', '--json', '--pack-destination']
  const { stdout } = succeed(ROOT, ['npm', 'pack', ...args, directory])
  const answer = JSON.parse(stdout) as unknown
  // A list up to npm 11.8, by name since then.
  const [made] = Object.values(answer as Record<string, { filename: string; files: { path: string }[] }>)
  if (made === undefined) throw new Error(stdout)
  return { file: join(directory, made.filename), files: made.files.map(({ path }) => path) }
}

describe('the package of the device plugin', function () {
  this.timeout(PATIENCE)

  const own = JSON.parse(readFileSync(join(ROOT, 'kubernetes/package.json'), 'utf8')) as {
    readonly version: string
    readonly dependencies: Readonly<Record<string, string>>
    readonly engines: object
  }

  it('has what it needs, and nothing else', () => {
    const built = readdirSync(join(ROOT, 'kubernetes/dist')).map((name) => `dist/${name}`)
    assert.deepEqual(
      [...packed().files].sort(),
      [
        ...['LICENSE', 'README.md', 'bin/vfio-device-plugin.js', 'package.json', 'proto/device-plugin.proto'],
        ...['schemas/config.json', ...built],
      ].sort(),
    )
  })

  it('goes with the library of its version', () => {
    assert.equal(own.version, manifest.version)
    assert.equal(own.dependencies.vfio, `^${manifest.version}`)
    assert.deepEqual(own.engines, manifest.engines)
  })

  it('names what it imports, and nothing else', () => {
    const wanted = new Set<string>()
    for (const file of readdirSync(join(ROOT, 'kubernetes/dist'))) {
      const text = readFileSync(join(ROOT, 'kubernetes/dist', file), 'utf8')
      for (const [, name = ''] of text.matchAll(/^(?:import|export) [^;]*? from '([^']+)'/gm))
        wanted.add(name)
    }
    const strangers = [...wanted].filter((name) => !name.startsWith('node:') && !name.startsWith('.'))
    assert.deepEqual(strangers.sort(), Object.keys(own.dependencies).sort())
  })

  it('runs where it is installed beside the library', () => {
    const user = scratchDirectory('user-of-plugin')
    succeed(user, ['npm', 'init', '--yes'])
    succeed(user, ['npm', 'install', '--no-audit', '--no-fund', tarball(), packed().file])
    const help = succeed(user, ['node_modules/.bin/vfio-device-plugin', '--help'])
    assert.match(help.stdout, /--kubelet-dir/)
    const { status, stderr } = run(user, ['node_modules/.bin/vfio-device-plugin', '--config', 'none'])
    assert.equal(status, 1)
    assert.match(stderr, /cannot be read/)
  })
})
