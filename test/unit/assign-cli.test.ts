import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { assign, Host, type JournalRecord, type PlanOptions, planAssignment, recover, status } from 'vfio'
import { type HostTrees, removeDirectories } from '../fixtures/host.js'
import { journalOf, photographOf, prepare, SINGLE, THREE, TWINS, using } from './assign-hosts.js'
import { makeKernelHost, SimulatedKernel } from './assign-kernel.js'
import { present, ROOT } from './support.js'

const NVME = '0000:01:00.0'

interface Ran {
  readonly status: number | null
  readonly stdout: string
  readonly stderr: string
}

/** Runs `vfio`; whatever it is told, it neither sees nor changes this machine. */
function vfio(...args: readonly string[]): Ran {
  const { status, stdout, stderr } = spawnSync(process.execPath, [join(ROOT, 'dist/cli/main.js'), ...args], {
    encoding: 'utf8',
    env: { ...process.env, NO_COLOR: '1', VFIO_DEBUG: undefined },
  })
  return { status, stdout, stderr }
}

const said = (result: Ran, status: number, stdout: string | RegExp, stderr: string | RegExp = '') => {
  assert.equal(result.status, status, JSON.stringify(result))
  for (const [text, wanted] of [
    [result.stdout, stdout],
    [result.stderr, stderr],
  ] as const) {
    if (typeof wanted === 'string') assert.equal(text, wanted)
    else assert.match(text, wanted)
  }
}

const dryRun = ({ sysfs }: HostTrees, ...args: readonly string[]) =>
  vfio('bind', '--dry-run', '--sysfs', sysfs, ...args)

/** A device that is assigned, with its record. */
async function assigned(): Promise<{ trees: HostTrees; path: string; record: JournalRecord }> {
  const { trees, plan } = prepare({ host: SINGLE, addresses: [NVME], options: { reset: 'none' } })
  const { record } = await assign(plan, using(trees, new SimulatedKernel(trees)))
  return { trees, path: `${journalOf(trees)}/assignment-${NVME}.json`, record: present(record) }
}

describe('command line of assignments', function () {
  this.timeout(60_000)
  afterEach(removeDirectories)

  describe('vfio bind --dry-run', () => {
    const cases: readonly [host: typeof SINGLE, args: readonly string[], options: PlanOptions][] = [
      [SINGLE, ['01:00.0'], {}],
      [SINGLE, ['01:00.0', '--reset', 'none'], { reset: 'none' }],
      [SINGLE, ['01:00.0', '--driver', 'nvme'], { driver: 'nvme' }],
      [THREE, ['02:00.0', '--group'], { group: true }],
      [THREE, ['02:00.0'], {}],
      [THREE, ['02:00.1', '02:00.0', '--reset', 'before'], { reset: 'before' }],
      [TWINS, ['03:00.0', '--ids', '--force', 'mount'], { ids: true, force: ['mount'] }],
    ]
    it('prints exactly the plan as JSON, changes nothing, and has status 1 where something blocks', () => {
      for (const [host, args, options] of cases) {
        const trees = makeKernelHost(host)
        const before = photographOf(trees)
        const result = dryRun(trees, '--json', ...args)
        const addresses = args.filter((word) => /^\d\d:/.test(word))
        const plan = planAssignment(new Host({ sysfs: trees.sysfs }).snapshot(), addresses, options)
        assert.equal(result.stderr, '')
        assert.equal(result.stdout, `${JSON.stringify(plan)}\n`)
        assert.equal(result.status, plan.blockers.length > 0 ? 1 : 0)
        assert.deepEqual(photographOf(trees), before)
      }
    })

    it('tells a person each step with its reason, the warnings, and what blocks', () => {
      const trees = makeKernelHost(SINGLE)
      const bus = `${trees.sysfs}/bus/pci`
      said(
        dryRun(trees, '01:00.0'),
        0,
        [
          `echo vfio-pci > ${bus}/devices/${NVME}/driver_override`,
          '    lets only vfio-pci take this device, and no other device with the same ids',
          `echo ${NVME} > ${bus}/devices/${NVME}/driver/unbind`,
          '    takes it from nvme',
          `echo ${NVME} > ${bus}/drivers_probe`,
          '    binds it to vfio-pci',
          'function reset through /dev/vfio/10',
          `    ${NVME} can be reset by itself: PCIe function-level reset (flr)`,
          // A copied tree has no modules of its own.
          `! whether a variant driver is made for ${NVME} is not known, since there is no modules.alias of this kernel to read: vfio-pci is taken (--driver names another)`,
          '',
        ].join('\n'),
      )
      said(dryRun(makeKernelHost(THREE), '02:00.0'), 1, /✗ 0000:02:00.0 shares its group with 0000:02:00.1/)
      said(
        dryRun(makeKernelHost(TWINS), '03:00.0', '--ids'),
        0,
        /! 0000:04:00.0 has the ids 8086:1533 too, so vfio-pci takes it at once/,
      )
      const [bridge, nvme] = SINGLE.devices ?? []
      const bound = { devices: [present(bridge), { ...present(nvme), driver: 'vfio-pci' }] }
      said(dryRun(makeKernelHost(bound), '01:00.0', '--reset', 'none'), 0, 'Nothing has to be done.\n')
    })
  })

  it('answers wrong usage with one line and status 2, and changes nothing', () => {
    const trees = makeKernelHost(SINGLE)
    const before = photographOf(trees)
    const sysfs = ['--sysfs', trees.sysfs]
    const dry = ['--dry-run', ...sysfs]
    const wrong: readonly (readonly [args: readonly string[], message: RegExp])[] = [
      [['bind'], /missing required argument/],
      [['bind', '01:00.9', ...dry], /is not a PCI address/],
      [['bind', '../../x', ...dry], /is not a PCI address/],
      [['bind', '0a:00.0', ...dry], /there is no PCI device 0000:0a:00.0/],
      [['bind', '01:00.0', ...sysfs], /--sysfs is another host: it goes with --dry-run only/],
      [['bind', '01:00.0', '--reset', 'later', ...dry], /Allowed choices are none, before, before-and-after/],
      [['bind', '01:00.0', '--force', 'vfio', ...dry], /--force takes one of mount, .*not vfio/],
      [['bind', '01:00.0', '--timeout', '0', ...dry], /a number of seconds/],
      [['bind', '01:00.0', '--timeout', '1e9', ...dry], /a number of seconds/],
      [['release'], /name the devices to release, or give --all, and not both/],
      [['release', '01:00.0', '--all'], /and not both/],
      [['release', 'x', '--journal', journalOf(trees)], /is not a PCI address/],
      [['status', '01:00.0'], /too many arguments/],
      [['recover', '59:00.8'], /59:00\.8/],
    ]
    for (const [args, message] of wrong) {
      const result = vfio(...args)
      said(result, 2, '', message)
      assert.match(result.stderr, /^vfio: [^\n]+\n$/)
    }
    assert.deepEqual(photographOf(trees), before)
  })

  it('with nothing assigned says so, and makes no journal', () => {
    const journal = journalOf(makeKernelHost(SINGLE))
    const at = ['--journal', journal]
    said(vfio('status', ...at), 0, 'Nothing is assigned.\n')
    said(vfio('status', '--json', ...at), 0, '{"assignments":[],"bad":[]}\n')
    said(vfio('release', '--all', ...at), 0, 'Nothing is assigned.\n')
    said(vfio('release', '--all', '--json', ...at), 0, '{"released":[],"warnings":[]}\n')
    said(vfio('recover', ...at), 0, 'Nothing was left half done.\n')
    said(
      vfio('recover', '--json', ...at),
      0,
      '{"recovered":[],"stale":[],"busy":[],"bad":[],"warnings":[]}\n',
    )
    said(
      vfio('release', '01:00.0', ...at),
      1,
      '',
      `vfio: the journal knows of no assignment of ${NVME}: "vfio status" shows those that there are\n`,
    )
    assert.equal(existsSync(journal), false)
  })

  describe('with a device assigned', () => {
    it('status names it, its driver, who did it and what deviates; it asks for recover only where something is half done', async () => {
      const { trees, path, record } = await assigned()
      const at = ['--journal', journalOf(trees)]
      said(
        vfio('status', ...at),
        0,
        `${NVME} (vfio-pci)  assigned\n  by ${record.program}, pid ${process.pid}, since ${record.since}\n`,
      )
      const { stdout } = vfio('status', '--json', ...at)
      assert.deepEqual(JSON.parse(stdout), await status({ journal: journalOf(trees) }))
      await new SimulatedKernel(trees).write(`${trees.sysfs}/bus/pci/drivers/vfio-pci/unbind`, NVME)
      said(vfio('status', ...at), 0, /! 0000:01:00.0 should be bound to vfio-pci, and has no driver/)
      const write = (other: Partial<JournalRecord>) =>
        writeFileSync(path, JSON.stringify({ ...record, ...other }))
      write({ state: 'broken', failures: ['it is stuck'] })
      said(vfio('status', ...at), 1, /broken\n.*\n {2}! it is stuck/)
      write({ state: 'assigning', pid: 2 ** 22 + 1 })
      said(vfio('status', ...at), 1, /assigning\n {2}by .*, pid 4194305 \(ended\)/)
      write({ state: 'assigning' })
      said(vfio('status', ...at), 0, /assigning/)
      write({ bootId: 'an earlier one' })
      said(vfio('status', ...at), 0, /from before the last boot, which undid it: "vfio recover"/)
      writeFileSync(path, '{')
      said(vfio('status', ...at), 1, '', /^vfio: .*assignment-0000:01:00.0.json is not a record of vfio/)
    })

    it('recover tells what it did, leaves alone what is assigned, and has status 1 where something is left', async () => {
      const { trees, path, record } = await assigned()
      const at = ['--journal', journalOf(trees)]
      const before = photographOf(trees)
      said(vfio('recover', ...at), 0, 'Nothing was left half done.\n')
      assert.deepEqual(photographOf(trees), before)
      // The files of a fixture tree take every write, and nothing moves.
      writeFileSync(path, JSON.stringify({ ...record, state: 'releasing' }))
      said(
        vfio('recover', ...at),
        1,
        '',
        /^vfio: not everything could be given back: 0000:01:00.0 is still bound to vfio-pci/,
      )
      assert.equal((JSON.parse(readFileSync(path, 'utf8')) as JournalRecord).state, 'broken')
      await recover(using(trees, new SimulatedKernel(trees)))
      mkdirSync(journalOf(trees), { mode: 0o700 })
      writeFileSync(path, JSON.stringify({ ...record, state: 'assigning' }))
      said(vfio('recover', ...at), 0, `${NVME} was put in order: the host has it as before\n`)
      mkdirSync(journalOf(trees), { mode: 0o700 })
      writeFileSync(path, JSON.stringify({ ...record, bootId: 'an earlier one' }))
      said(vfio('recover', ...at), 0, `${NVME}: removed a record from before the last boot\n`)
      mkdirSync(journalOf(trees), { mode: 0o700 })
      writeFileSync(path, '{')
      said(
        vfio('recover', ...at),
        1,
        'Nothing was left half done.\n',
        /is not a record of vfio .*look at it and remove it\n$/,
      )
    })

    it('release gives it back and names it, or says what is in the way', async () => {
      const { trees, path, record } = await assigned()
      const at = ['--journal', journalOf(trees)]
      said(vfio('release', NVME, ...at), 1, '', /^vfio: not everything could be given back: .*--rescan/)
      await recover(using(trees, new SimulatedKernel(trees)))
      for (const [args, stdout] of [
        [['01:00.0'], `${NVME} was given back\n`],
        [['--all'], `${NVME} was given back\n`],
        [['--all', '--json'], `{"released":["${NVME}"],"warnings":[]}\n`],
      ] as const) {
        mkdirSync(journalOf(trees), { mode: 0o700 })
        writeFileSync(path, JSON.stringify(record))
        said(vfio('release', ...args, ...at), 0, stdout)
        assert.equal(existsSync(journalOf(trees)), false)
      }
    })

    it('release has status 1 where a grant stays, or a record cannot be read, with everything else given back', async () => {
      const { trees, path, record } = await assigned()
      const at = ['--journal', journalOf(trees)]
      writeFileSync(path, JSON.stringify({ ...record, state: 'releasing' }))
      const put = (name: string, text: string) => {
        mkdirSync(journalOf(trees), { recursive: true, mode: 0o700 })
        writeFileSync(join(journalOf(trees), name), text, { mode: 0o600 })
      }
      await recover(using(trees, new SimulatedKernel(trees)))
      put(`assignment-${NVME}.json`, JSON.stringify(record))
      put(`grant-${NVME}.json`, 'cut')
      const stays = /the grant of 0000:01:00.0 stays, .* is not a record of vfio .*"vfio revoke 0000:01:00.0"/
      said(vfio('release', NVME, ...at), 1, `${NVME} was given back\n`, stays)
      assert.equal(existsSync(path), false)
      put(`assignment-${NVME}.json`, JSON.stringify({ ...record, state: 'releasing' }))
      said(vfio('recover', ...at), 1, `${NVME} was put in order: the host has it as before\n`, stays)
      put(`assignment-${NVME}.json`, JSON.stringify(record))
      put('assignment-0000:07:00.0.json', 'cut')
      rmSync(join(journalOf(trees), `grant-${NVME}.json`))
      said(
        vfio('release', '--all', ...at),
        1,
        `${NVME} was given back\n`,
        /07:00.0.json is not a record of vfio/,
      )
    })
  })
})
