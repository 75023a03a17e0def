import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { type AssignOptions, assign, Host, setVfs } from 'vfio'
import { program } from '../../lib/cli/commands.js'
import { stoppable } from '../../lib/cli/signals.js'
import { makeHost, removeDirectories } from '../fixtures/host.js'
import { skip } from '../fixtures/skip.js'
import { journalOf, prepare, SINGLE, THREE, using } from './assign-hosts.js'
import { SimulatedKernel } from './assign-kernel.js'
import { capturing } from './in-process.js'
import { ROOT } from './support.js'

const MAIN = join(ROOT, 'dist/cli/main.js')
const NVME = '0000:01:00.0'

describe('what a person is told meanwhile', function () {
  this.timeout(60_000)
  after(removeDirectories)

  it('is each change of an assignment, and nothing of waiting where the kernel answers', async () => {
    const { trees, plan } = prepare({ host: SINGLE, addresses: [NVME], options: { reset: 'none' } })
    const told: string[] = []
    const onChange = (change: string) => told.push(change)
    const onWait = (what: string) => assert.fail(what)
    const options: AssignOptions = { onChange, onWait }
    const assignment = await assign(plan, using(trees, new SimulatedKernel(trees), options))
    for (const file of ['driver_override', 'unbind', 'drivers_probe'])
      assert.ok(
        told.some((change) => change.startsWith('wrote ') && change.endsWith(file)),
        `${file}: ${told}`,
      )
    await assignment.release()
  })

  it('is what the kernel is asked where it takes its time, once', async () => {
    const { trees, plan } = prepare({ host: SINGLE, addresses: [NVME], options: { reset: 'none' } })
    const kernel = new SimulatedKernel(trees)
    const waits: string[] = []
    let answer = () => {}
    const slow = {
      ...kernelOf(kernel),
      async write(path: string, text: string) {
        if (path.endsWith('/unbind') && waits.length === 0)
          await new Promise<void>((resolve) => {
            answer = resolve
          })
        await kernel.write(path, text)
      },
    }
    const onWait = (what: string) => {
      waits.push(what)
      answer()
    }
    await assign(plan, Object.assign({ journal: journalOf(trees), onWait }, { kernel: slow }))
    assert.equal(waits.length, 1)
    assert.match(waits[0] ?? '', new RegExp(`^writing "${NVME}" to .*/unbind$`))
  })

  it('is the same of virtual functions', async () => {
    const pf = { address: '0000:60:00.0', driver: 'igb', group: 8, totalVfs: 7, readable: 64 }
    const trees = makeHost({ devices: [pf] })
    const told: string[] = []
    let answer = () => {}
    const kernel = {
      async write(path: string, text: string) {
        if (path.endsWith('numvfs'))
          await new Promise<void>((resolve) => {
            answer = resolve
          })
        told.push(text.trim())
      },
      read: async () => (told.includes('2') ? '2\n' : '0\n'),
      isOpen: () => false,
    }
    const onWait = (what: string) => {
      told.push(what)
      answer()
    }
    const onChange = (change: string) => told.push(change)
    const options = { sysfs: trees.sysfs, journal: journalOf(trees), onWait, onChange }
    await setVfs(new Host(trees).snapshot(), '60:00.0', 2, Object.assign(options, { kernel }))
    const at = told.findIndex((line) => /^writing 2 to .*sriov_numvfs$/.test(line))
    assert.deepEqual([at >= 0, told[at + 1]], [true, '2'])
    assert.match(told[at + 2] ?? '', /^wrote 2 to .*sriov_numvfs$/)
  })

  it('can be had of every command that makes changes one by one, by -v', () => {
    const verbose = program()
      .commands.filter(({ options }) => options.some(({ short }) => short === '-v'))
      .map((command) => command.name())
    const timed = program()
      .commands.filter(({ options }) => options.some(({ long }) => long === '--timeout'))
      .map((command) => command.name())
    assert.ok(verbose.length > 5)
    assert.deepEqual(
      timed.filter((name) => !verbose.includes(name)),
      [],
    )
  })

  it('is by whom a command was stopped, as JSON too', async () => {
    const { stdout, stderr, status } = await capturing(['vfio', 'bind', '--json'], async () => {
      process.exitCode = await stoppable('putting back what was done', (signal) => {
        process.emit('SIGINT', 'SIGINT')
        return Promise.reject(signal.reason)
      })
    })
    assert.deepEqual(
      { status, error: JSON.parse(stdout).error },
      { status: 130, error: { code: 'SIGINT', message: 'stopped by SIGINT' } },
    )
    assert.match(stderr, /^vfio: SIGINT: putting back what was done/)
  })

  describe('at a terminal', () => {
    /** What a person sees; without `script` of util-linux there is no terminal to be had. */
    function onTerminal(args: readonly string[], env: NodeJS.ProcessEnv = {}): string | null {
      const command = [process.execPath, MAIN, ...args].map((word) => `'${word}'`).join(' ')
      const { stdout, error } = spawnSync('script', ['-qec', command, '/dev/null'], {
        encoding: 'utf8',
        input: '',
        env: { ...process.env, TERM: 'xterm', NO_COLOR: undefined, ...env },
      })
      return error ? null : stdout
    }
    const faint = (text: string) => `\u001b[2mnext: ${text}\u001b[0m\r\n`

    it('is which command comes next, in one faint line', function () {
      const single = makeHost(SINGLE).sysfs
      const three = makeHost(THREE).sysfs
      const [bridge, nvme] = SINGLE.devices ?? []
      assert.ok(bridge && nvme)
      const bound = makeHost({ devices: [bridge, { ...nvme, driver: 'vfio-pci' }] }).sysfs
      const cases: readonly (readonly [args: readonly string[], next: string])[] = [
        [['check', '01:00.0', '--sysfs', single], `vfio bind ${NVME}`],
        [['check', '02:00.0', '--sysfs', three], 'vfio bind 0000:02:00.0 --group'],
        [['check', '01:00.0', '--sysfs', bound], `vfio export qemu ${NVME}`],
        [['bind', '01:00.0', '--dry-run', '--sysfs', single], 'the same without --dry-run does it'],
        [
          ['export', 'qemu', '01:00.0', '--machine', 'q35', '--sysfs', bound],
          'start the guest; afterwards vfio release 01:00.0',
        ],
      ]
      for (const [args, text] of cases) {
        const seen = onTerminal(args)
        if (seen === null) return skip(this, '`script` of util-linux is not installed')
        assert.ok(seen.endsWith(faint(text)), `${args.join(' ')}: ${JSON.stringify(seen)}`)
        const piped = spawnSync(process.execPath, [MAIN, ...args], { encoding: 'utf8' })
        assert.ok(!`${piped.stdout}${piped.stderr}`.includes('next: '))
        assert.ok(!onTerminal([...args, '--json'])?.includes('next: '))
      }
      assert.ok(onTerminal(cases[0]?.[0] ?? [], { NO_COLOR: '1' })?.endsWith(`next: vfio bind ${NVME}\r\n`))
      assert.ok(!onTerminal(['check', '00:01.0', '--sysfs', single])?.includes('next: '), 'blocked')
    })
  })
})

/** A simulated kernel's own methods, which a spread would leave behind. */
function kernelOf(kernel: SimulatedKernel) {
  return { isOpen: (group: number) => kernel.open.has(group), read: kernel.read.bind(kernel) }
}
