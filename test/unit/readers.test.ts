import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, openSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type DeviceDescription, makeHost, removeDirectories, temporaryDirectory } from '../fixtures/host.js'
import { ROOT } from './support.js'

const MAIN = join(ROOT, 'dist/cli/main.js')

type Stream = 'stdout' | 'stderr'
type Ended = { status: number | null; signal: NodeJS.Signals | null }

/** Runs the command line while nobody reads one of its streams any more, from before its first word. */
function withoutReader(stream: Stream, args: readonly string[]): Promise<Ended> {
  // It waits for its standard input to end, which is after its reader has gone.
  const script = 'cat > /dev/null; exec "$@"'
  const child = spawn('sh', ['-c', script, 'sh', process.execPath, MAIN, ...args], {
    stdio: ['pipe', 'pipe', 'pipe'],
    env: { ...process.env, VFIO_DEBUG: undefined },
  })
  const other = stream === 'stdout' ? child.stderr : child.stdout
  other.resume()
  child[stream].destroy()
  child[stream].once('close', () => child.stdin.end())
  return new Promise((resolve, reject) => {
    child.once('error', reject).once('exit', (status, signal) => resolve({ status, signal }))
  })
}

/** What takes part in a boot display only warns when it is taken. */
const WARNS: DeviceDescription = {
  address: '0000:01:00.0',
  class: 0x020000,
  driver: 'vfio-pci',
  group: 5,
  resetMethod: 'flr',
}

/** One whose group the firmware keeps, so that it cannot be given away. */
const KEPT: DeviceDescription = { address: '0000:02:00.0', class: 0x020000, driver: 'igb', group: 6 }

describe('a reader that is gone', function () {
  this.timeout(60_000)
  let sysfs = ''
  let journal = ''
  before(() => {
    sysfs = makeHost({
      devices: [WARNS, KEPT],
      groups: { 6: { reservedRegions: '0x0000000000000000 0x0000000000ffffff direct\n' } },
    }).sysfs
    journal = temporaryDirectory()
    writeFileSync(join(journal, 'assignment-1.json'), 'no record', { mode: 0o600 })
  })
  after(removeDirectories)

  /** Each with the status that it has with a reader. */
  const cases: readonly (readonly [status: number, ...args: string[]])[] = [
    [2, 'show', 'zz'],
    [2, 'nonsense'],
    [2, 'list', '--sysfs', '/nowhere'],
    [0, 'list'],
    [0, 'export', 'qemu', '01:00.0'],
    [0, 'persist', '01:00.0'],
    [1, 'persist', '02:00.0'],
  ]
  for (const stream of ['stderr', 'stdout'] as const) {
    for (const [status, ...args] of cases) {
      it(`changes no status: ${args.join(' ')} without ${stream}`, async () => {
        const looks = ['list', 'export', 'persist'].includes(args[0] ?? '') && !args.includes('--sysfs')
        const whole = looks ? [...args, '--sysfs', sysfs] : args
        assert.deepEqual(await withoutReader(stream, whole), { status, signal: null })
      })
    }
    it(`leaves a warning unsaid and goes on: status without ${stream}`, async () => {
      const names = readdirSync(journal)
      // What is no record wants a look, with a reader or without.
      assert.deepEqual(await withoutReader(stream, ['status', '--journal', journal]), {
        status: 1,
        signal: null,
      })
      assert.deepEqual(readdirSync(journal), names)
    })
  }

  it('is none that is slow: a pipe that is full, and does not wait, gets the rest when there is room', async () => {
    const output = new URL('../../lib/cli/output.js', import.meta.url).href
    const prints = `
      import { print, writeDirectly } from '${output}'
      writeDirectly((error) => { throw error })
      // In parts that are encoded in the same place, and in one that is too long for it.
      for (let part = 0; part < 100; part++) print(String.fromCharCode(97 + (part % 26)).repeat(10_000))
      print('x'.repeat(1_000_000))
      print('end')
      process.stderr.write('printed')`
    // What starts it makes its pipe one that does not wait, before it begins.
    const starts = `
      const { spawn } = require('node:child_process')
      const args = ['-c', 'cat > /dev/null; exec "$@"', 'sh', process.execPath, '--input-type=module', '-e', process.argv[1]]
      const child = spawn('sh', args, { stdio: ['pipe', 'inherit', 'inherit'] })
      child.once('spawn', () => {
        process.stdout._handle.setBlocking(false)
        child.stdin.end()
      })`
    const child = spawn(process.execPath, ['-e', starts, prints], { stdio: ['ignore', 'pipe', 'pipe'] })
    const [said] = (await once(child.stderr, 'data')) as [Buffer]
    assert.equal(said.toString(), 'printed')
    const parts: Buffer[] = []
    for await (const part of child.stdout) parts.push(part as Buffer)
    const text = Buffer.concat(parts).toString()
    const letters = Array.from({ length: 100 }, (_, part) =>
      String.fromCharCode(97 + (part % 26)).repeat(10_000),
    )
    assert(text === `${letters.join('')}${'x'.repeat(1_000_000)}end`, `${text.length} characters`)
  })

  it('is not output that could not be written: that fails, with a sentence', async () => {
    const full = openSync('/dev/full', 'w')
    try {
      const child = spawn(process.execPath, [MAIN, 'list', '--sysfs', sysfs], {
        stdio: ['ignore', full, 'pipe'],
      })
      let said = ''
      child.stderr?.setEncoding('utf8').on('data', (text: string) => {
        said += text
      })
      const status = await new Promise((resolve, reject) => {
        child.once('error', reject).once('close', resolve)
      })
      assert.equal(status, 1)
      assert.match(said, /^vfio: standard output: .*ENOSPC[^\n]*\n$/)
    } finally {
      closeSync(full)
    }
  })
})
