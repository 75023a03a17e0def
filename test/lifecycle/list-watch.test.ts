import assert from 'node:assert/strict'
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { type HostTrees, removeDirectories, temporaryDirectory } from '../fixtures/host.js'
import { THREE } from '../unit/assign-hosts.js'
import { makeKernelHost } from '../unit/assign-kernel.js'

const PROGRAM = fileURLToPath(new URL('watch-program.js', import.meta.url))
const DRIVER = fileURLToPath(new URL('../../../../test/lifecycle/terminal.py', import.meta.url))
const NIC = '0000:02:00.0'

/** What the kernel does, as commands of a shell. */
interface Happens {
  unbind(): string
  remove(): string
}

function happens({ sysfs }: HostTrees, fifo: string): Happens {
  const tell = (kind: string) => `echo '${JSON.stringify({ kind, address: NIC, what: kind })}' > ${fifo}`
  const bus = `${sysfs}/bus/pci`
  return {
    unbind: () => `!rm ${bus}/devices/${NIC}/driver ${bus}/drivers/e1000e/${NIC} && ${tell('unbound')}`,
    remove: () =>
      `!rm ${bus}/devices/${NIC} ${sysfs}/kernel/iommu_groups/20/devices/${NIC} && ${tell('removed')}`,
  }
}

/** Runs it in a shell at a terminal, and types at it. */
async function watched(typed: (host: Happens) => readonly string[], env: NodeJS.ProcessEnv = {}) {
  const trees = makeKernelHost(THREE)
  const base = temporaryDirectory()
  const fifo = join(base, 'told')
  execFileSync('mkfifo', [fifo])
  const script = join(base, 'watch')
  writeFileSync(`${script}.json`, JSON.stringify({ trees, fifo }))
  writeFileSync(script, `exec ${process.execPath} ${PROGRAM} "$(cat ${script}.json)"\n`)
  const child = spawn('python3', [DRIVER, 'bash', '--norc', '--noprofile', '--noediting', '-i'], {
    stdio: ['pipe', 'pipe', 'inherit'],
    env: {
      ...process.env,
      HISTFILE: '',
      TERM: 'xterm',
      LC_ALL: 'C.UTF-8',
      NO_COLOR: '1',
      COLUMNS: '',
      ...env,
    },
    timeout: 100_000,
    killSignal: 'SIGKILL',
  })
  const lines = ["PS1='PROM''PT '", '%PROMPT', 'unset COLUMNS', '%PROMPT', '=24x80', `sh ${script}`]
  child.stdin.end([...lines, ...typed(happens(trees, fifo)), 'exit 0', ''].join('\n'))
  const [said, [status]] = await Promise.all([text(child.stdout), once(child, 'close')])
  assert.equal(status, 0, said)
  return said
}

const ESCAPE = String.fromCharCode(27)
const END = ['^C', '%PROMPT', 'echo "status $?"', '%status 130', '%PROMPT', 'stty -a', '% echo ', '%PROMPT']

describe('vfio list --watch at a terminal', function () {
  this.timeout(120_000)
  after(removeDirectories)

  it('keeps the table as it is now, in its place, and leaves the terminal as it was', async () => {
    const said = await watched(({ unbind, remove }) => [
      ...['%GROUP ADDRESS', '%02:00.0 Ethernet e1000e', '%02:00.2'],
      ...[unbind(), '%02:00.0 Ethernet -', '%unbound 02:00.0 was unbound from e1000e'],
      // A line that is typed meanwhile is overwritten.
      ...['typed', remove(), '%removed 02:00.0 is gone'],
      ...END,
    ])
    const frames = said.split(`${ESCAPE}?7l`.replace('?', '[?'))
    assert.equal(frames.length - 1, said.split(`${ESCAPE}[?7h`).length - 1)
    for (const frame of frames.slice(1)) {
      assert.ok(frame.startsWith(`${ESCAPE}[HGROUP ADDRESS`), frame)
      assert.ok(frame.includes(`${ESCAPE}[J`))
    }
    const last = frames.at(-1) ?? ''
    assert.doesNotMatch(last, /^ .*02:00\.0/m)
    assert.match(last, /02:00\.1/)
  })

  it('fits its window, whatever size that gets', async () => {
    const said = await watched(({ unbind }) => [
      ...['%GROUP ADDRESS', '%02:00.2'],
      // The columns that a person can do without go.
      ...['=24x40', '%ADDRESS CLASS    VERDICT'],
      ...['=5x80', '%more lines: a higher window shows them'],
      ...['=24x80', '%02:00.2', unbind(), '%unbound 02:00.0'],
      ...END,
    ])
    assert.match(said, /GROUP ADDRESS/)
  })

  it('goes on where it was stopped', async () => {
    await watched(({ unbind }) => [
      ...['%02:00.2', '^Z', '%Stopped', '%PROMPT', unbind(), 'fg'],
      ...['%GROUP ADDRESS', '%unbound 02:00.0', ...END],
    ])
  })

  it('prints lines where nothing can be drawn', async () => {
    const said = await watched(
      ({ unbind }) => ['%CHANGE ', unbind(), '%unbound ', '%02:00.0 Ethernet -', ...END],
      { TERM: 'dumb' },
    )
    assert.ok(!said.includes(`${ESCAPE}[H`))
  })
})
