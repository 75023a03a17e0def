import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { VfioError, watchDevices } from 'vfio'
import { skip } from '../fixtures/skip.js'
import { ROOT } from './fake.js'

const START = `import * as fs from 'node:fs'
  import { watchDevices } from 'vfio'
  const watch = watchDevices('all', () => {})
`

const run = (source: string, ...before: string[]) => {
  const [program = '', ...args] = [...before, process.execPath, '--input-type=module', '-e', START + source]
  return spawnSync(program, args, { cwd: ROOT, encoding: 'utf8', timeout: 100_000 })
}

/** Says whether the log is heard, and whether it can be opened. */
const LOG = `
  const said = watch.unseen.filter((line) => line.startsWith('the log of the kernel cannot be read here'))
  let code = null
  try {
    fs.closeSync(fs.openSync('/dev/kmsg', fs.constants.O_RDONLY | fs.constants.O_NONBLOCK))
    if (fs.statSync('/dev/kmsg').rdev !== 0x10b) code = 'something else'
  } catch (error) {
    code = error.code === 'ENOENT' ? 'there is no' : error.code
  }
  const deaf = watch.unseen.some((line) => line.startsWith('what the kernel tells of devices'))
  console.log(JSON.stringify({ said, code, deaf, hears: watch.hears.has('devices') }))
  watch.close()`

function checkLog({ status, stdout, stderr }: { status: number | null; stdout: string; stderr: string }) {
  assert.equal(status, 0, stderr)
  const { said, code, deaf, hears } = JSON.parse(stdout) as {
    said: string[]
    code: string | null
    deaf: boolean
    hears: boolean
  }
  // Whoever cannot read the log hears of devices all the same.
  assert.equal(hears, !deaf, stdout)
  assert.equal(said.length, code === null ? 0 : 1, stdout)
  if (code !== null) assert.ok(said[0]?.includes(code), stdout)
}

describe('a watch', function () {
  this.timeout(120_000)

  it('keeps a program alive until it is closed or let go', () => {
    for (const end of ['watch.unref()', 'watch.close(); watch.close()', 'watch[Symbol.dispose]()']) {
      const { status, stderr } = run(end)
      assert.equal(status, 0, `${end}: ${stderr}`)
    }
    const kept = run(`
      watch.unref().ref()
      setTimeout(() => {
        console.log('kept')
        watch.close()
        console.log(watch.closed, watch.ref() === watch, watch.unref() === watch)
      }, 100).unref()`)
    assert.deepEqual([kept.stdout, kept.stderr, kept.status], ['kept\ntrue true true\n', '', 0])
  })

  it('says whether the log of the kernel is heard', () => checkLog(run(LOG)))

  it('says that it is not where this user may not read it', function () {
    if (process.getuid?.() !== 0) skip(this, 'only root can become somebody else')
    checkLog(run(LOG, 'setpriv', '--reuid=65534', '--regid=65534', '--clear-groups'))
  })

  it('says that a network of another user namespace hears nothing of devices', function () {
    const apart = ['unshare', '--user', '--map-root-user', '--net']
    if (run('watch.close()', ...apart.slice(0, 1), '--user').status !== 0)
      skip(this, 'no user namespace may be made here')
    const { status, stdout, stderr } = run(
      "console.log(watch.hears.has('devices'), watch.unseen[0]); watch.close()",
      ...apart,
    )
    assert.equal(status, 0, stderr)
    assert.match(
      stdout,
      /^false .*cannot be heard here \(the network namespace here belongs to another user namespace than the first\)/,
    )
  })

  it('is told with the right arguments alone', () => {
    const refused = (call: () => unknown, code: string) =>
      assert.throws(call, (error) => error instanceof VfioError && error.code === code)
    refused(() => watchDevices(['nonsense'], () => {}), 'ERR_VFIO_BAD_ADDRESS')
    refused(() => watchDevices('59:00.0' as never, () => {}), 'ERR_VFIO_BAD_ARGUMENT')
    refused(() => watchDevices('all', null as never), 'ERR_VFIO_BAD_ARGUMENT')
  })
})
