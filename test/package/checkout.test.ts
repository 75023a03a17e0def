import assert from 'node:assert/strict'
import { cpSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { manifest, PATIENCE, ROOT, run, scratchDirectory, succeed } from './support.js'

/** The repository before anything is built or installed, as far as the command is concerned. */
function clone(name: string): string {
  const directory = scratchDirectory(name)
  for (const path of ['package.json', 'bin', 'lib']) {
    cpSync(join(ROOT, path), join(directory, path), { recursive: true })
  }
  return directory
}

describe('a clone that was never built', function () {
  this.timeout(PATIENCE)

  it('says what to do, in one sentence', () => {
    const directory = clone('clone')
    for (const [from, ...command] of [
      [directory, 'npx', '--offline', 'vfio', 'list'],
      ['/', join(directory, 'bin/vfio.js'), '--version'],
    ] as const) {
      const { status, stdout, stderr } = run(from, command)
      assert.match(stderr, /^vfio: [^\n]*`npm run setup`[^\n]*\n$/)
      assert(stderr.includes(directory), stderr)
      assert.equal(stdout, '')
      assert.equal(status, 1)
    }
  })

  it('has its command once it is built, without another step', () => {
    const directory = clone('built')
    const before = run(directory, ['npx', '--offline', 'vfio', '--version'])
    assert.equal(before.status, 1)
    writeFileSync(join(directory, 'package.json'), JSON.stringify({ ...manifest, version: '9.9.9' }))
    cpSync(join(ROOT, 'dist'), join(directory, 'dist'), { recursive: true })
    assert.equal(succeed(directory, ['npx', '--offline', 'vfio', '--version']).stdout.trim(), '9.9.9')
  })
})
