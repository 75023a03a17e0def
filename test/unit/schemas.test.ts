import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js'
import {
  assign,
  grant,
  grantRule,
  Host,
  type LaunchOptions,
  launch,
  type ResetReport,
  type RunEvent,
  recover,
  rescanDevice,
  resetByMethod,
  revoke,
  setVfs,
} from 'vfio'
import { program } from '../../lib/cli/commands.js'
import { toJson } from '../../lib/cli/output.js'
import { printsJson } from '../../lib/cli/schema.js'
import { makeHost, removeDirectories, temporaryDirectory } from '../fixtures/host.js'
import { describeLargeHost } from '../fixtures/large-host.js'
import { skip } from '../fixtures/skip.js'
import { CASES, journalOf, planOn, prepare, SINGLE, THREE, using } from './assign-hosts.js'
import { makeKernelHost, SimulatedKernel } from './assign-kernel.js'
import { vfio } from './in-process.js'
import { present, ROOT } from './support.js'

const DIRECTORY = join(ROOT, 'dist/schemas')

type Schema = Record<string, unknown>
const schemaOf = (command: string) =>
  JSON.parse(readFileSync(join(DIRECTORY, `${command}.json`), 'utf8')) as Schema

/** The same, refusing what it does not name: a fact that nobody described would be one that nobody knows of. */
function closed(schema: unknown): unknown {
  if (Array.isArray(schema)) return schema.map(closed)
  if (typeof schema !== 'object' || schema === null) return schema
  const parts = Object.fromEntries(Object.entries(schema).map(([key, value]) => [key, closed(value)]))
  return 'properties' in parts && !('additionalProperties' in parts)
    ? { ...parts, additionalProperties: false }
    : parts
}

const isFailure = (value: unknown) =>
  typeof value === 'object' && value !== null && Object.keys(value).join() === 'error'

/** A kernel that takes every write. */
const TAKES_ALL = { write: async () => {}, isOpen: () => false }

const BOUND = { devices: [{ address: '0000:00:04.0', driver: 'vfio-pci', group: 7 }] }

const commands = program().commands.filter(printsJson)

describe('the schemas of what the commands print', function () {
  this.timeout(60_000)
  const validators = new Map<string, ValidateFunction>()
  const seen = new Set<string>()
  before(() => {
    for (const name of commands.map((command) => command.name())) {
      const ajv = new Ajv2020({ strict: true, allErrors: true, allowUnionTypes: true })
      validators.set(name, ajv.compile(closed(schemaOf(name)) as Schema))
    }
  })
  after(removeDirectories)

  function assertFits(command: string, text: string): unknown {
    const value: unknown = JSON.parse(text)
    const validate = present(validators.get(command), command)
    // One of the last alternatives says best what is wrong; all are told.
    assert.ok(
      validate(value),
      `${command}: ${JSON.stringify(validate.errors?.slice(0, 8))}\n${text.slice(0, 2000)}`,
    )
    if (!isFailure(value)) seen.add(command)
    return value
  }

  const runs = async (...args: string[]) =>
    assertFits(args[0] ?? '', (await vfio([...args, '--json'])).stdout) as Record<string, unknown>

  /** What changes something takes the addon, which the package has. */
  const changes = (...args: string[]) =>
    assertFits(
      args[0] ?? '',
      spawnSync(process.execPath, [join(ROOT, 'dist/cli/main.js'), ...args, '--json'], { encoding: 'utf8' })
        .stdout,
    ) as Record<string, unknown>

  it('are one for each command that prints JSON, in JSON Schema 2020-12', () => {
    assert.deepEqual(
      readdirSync(DIRECTORY).sort(),
      commands.map((command) => `${command.name()}.json`).sort(),
    )
    for (const name of commands.map((command) => command.name())) {
      const { $schema, title } = schemaOf(name)
      assert.deepEqual(
        [$schema, title],
        [
          'https://json-schema.org/draft/2020-12/schema',
          `vfio ${name} ${name === 'run' ? '--json-events' : '--json'}`,
        ],
      )
    }
  })

  it('hold for what looks and judges', async () => {
    const { sysfs } = makeHost({ devices: describeLargeHost(24) })
    const host = new Host({ sysfs }).snapshot()
    await runs('list', '--sysfs', sysfs)
    await runs('topology', '--sysfs', sysfs)
    await runs('inventory', '--sysfs', sysfs)
    await runs('inventory', '--nfd', '--sysfs', sysfs)
    await runs('doctor', '--sysfs', sysfs)
    await runs('topology', '--sysfs', sysfs)
    for (const { address, group } of host.devices) {
      await runs('show', address, '--sysfs', sysfs)
      await runs('check', address, '--sysfs', sysfs)
      await runs('bind', address, '--group', '--dry-run', '--sysfs', sysfs)
      if (group !== null) await runs('check', `group:${group}`, '--sysfs', sysfs)
    }
    await runs('list')
    await runs('topology')
    await runs('inventory')
    await runs('doctor')
    const uuid = '83b8f4f2-509f-382f-3c1e-e6bfe0fa1001'
    const type = { id: 'mtty-1', available: 23, deviceApi: 'vfio-pci', name: 'Single port serial' }
    const devices = [{ uuid, type: 'mtty-1', group: 9, driver: 'vfio-mtty', vfioDevice: 'vfio0' }]
    const mediated = makeHost({ mdev: [{ name: 'mtty', types: [type], devices }] }).sysfs
    for (const words of [
      ['mdev', 'list'],
      ['list'],
      ['topology'],
      ['inventory'],
      ['show', uuid],
      ['check', uuid],
      ['export', 'qemu', uuid],
    ])
      await runs(...words, '--sysfs', mediated)
    for (const { host: described } of CASES) {
      const trees = makeHost(described).sysfs
      await runs('list', '--sysfs', trees)
      await runs('topology', '--sysfs', trees)
      for (const { address } of described.devices ?? []) await runs('show', address, '--sysfs', trees)
    }
  })

  it('hold for what hands on', async () => {
    const { sysfs } = makeHost(SINGLE)
    for (const format of ['qemu', 'libvirt', 'cloud-hypervisor'])
      await runs('export', format, '01:00.0', '--machine', 'pc', '--sysfs', sysfs).catch(() =>
        runs('export', format, '01:00.0', '--sysfs', sysfs),
      )
    const containers = ['00:04.0', '--sysfs', makeHost(BOUND).sysfs, '--root', temporaryDirectory()]
    assert.ok('specification' in (await runs('cdi', ...containers)))
    assert.ok('report' in changes('cdi', '--write', ...containers))
    assert.ok('dropped' in changes('cdi', '--remove', ...containers))
    await runs('export', 'kubevirt', '01:00.0', '--resource', 'example.com/gpu', '--sysfs', sysfs)
    const features = temporaryDirectory()
    assert.ok('changed' in changes('inventory', '--nfd', '--write', features, '--sysfs', sysfs))
    const root = temporaryDirectory()
    for (const path of ['etc/modprobe.d', 'etc/udev/rules.d'])
      mkdirSync(join(root, path), { recursive: true })
    const at = ['--root', root, '--sysfs', sysfs]
    await runs('persist', '01:00.0', ...at)
    await runs('persist', '01:00.0', '--by', 'ids', '--initramfs', 'dracut', ...at)
    assert.ok('report' in changes('persist', '01:00.0', '--write', ...at))
    assert.ok('devices' in (await runs('persist', '--check', ...at)))
    assert.ok('removed' in changes('persist', '--remove', '--root', root))
  })

  it('hold for what changes a host', async () => {
    for (const { host, addresses, options } of CASES) {
      const { trees, plan } = prepare({ host, addresses, options })
      const kernel = new SimulatedKernel(trees)
      const at = ['--journal', journalOf(trees)]
      assertFits('bind', toJson(plan))
      const { devices, record } = await assign(plan, using(trees, kernel))
      assertFits('bind', toJson({ devices, record }))
      const { assignments } = await runs('status', ...at)
      assert.equal((assignments as unknown[]).length, 1)
      await runs('recover', ...at)
      assertFits('recover', toJson(await recover(using(trees, kernel))))
    }
    const { trees } = prepare({ host: THREE, addresses: ['0000:02:00.0'], options: { group: true } })
    changes('release', '--all', '--journal', journalOf(trees))
    const single = makeKernelHost(SINGLE)
    const kernel = new SimulatedKernel(single)
    const look = () => new Host({ sysfs: single.sysfs }).snapshot()
    const options = using(single, kernel)
    assertFits('rescan', toJson(await rescanDevice(look(), '01:00.0', options)))
    assertFits(
      'reset',
      toJson(
        await resetByMethod(look(), '01:00.0', 'flr', Object.assign({}, options, { kernel: TAKES_ALL })),
      ),
    )
    const report: ResetReport = { address: '0000:01:00.0', method: 'hot', affected: [], milliseconds: 1.5 }
    assertFits('reset', toJson(report))
    assertFits('bind', toJson(planOn(single, ['01:00.0'])))
  })

  it('hold for what makes functions and gives nodes away', async function () {
    const pf = { address: '0000:60:00.0', driver: 'igb', group: 8, totalVfs: 7, readable: 64 }
    const trees = makeHost({ devices: [pf, { address: '0000:00:04.0', driver: 'vfio-pci', group: 7 }] })
    const options = { sysfs: trees.sysfs, journal: journalOf(trees) }
    assertFits('vfs', toJson(await setVfs(new Host(trees).snapshot(), '60:00.0', 0, options)))
    const directory = join(trees.sysfs, 'class/vfio/7')
    mkdirSync(directory, { recursive: true })
    writeFileSync(join(directory, 'dev'), '1:3\n')
    const dev = join(temporaryDirectory(), 'dev')
    mkdirSync(join(dev, 'vfio'), { recursive: true })
    const { status } = spawnSync('mknod', ['-m', '600', join(dev, 'vfio/7'), 'c', '1', '3'])
    if (status !== 0) return skip(this, 'only root may make device nodes')
    const seenNow = new Host(trees).snapshot()
    const given = await grant(seenNow, '00:04.0', {
      user: 65534,
      memory: 2 ** 34,
      dev,
      journal: options.journal,
    })
    assertFits('grant', toJson(given))
    assertFits('grant', toJson({ ...given, rule: grantRule(seenNow, '00:04.0', { user: 'root' }) }))
    assertFits('revoke', toJson(await revoke('00:04.0', options)))
  })

  it('hold for what happens to a command with devices', async function () {
    if (process.getuid?.() !== 0) return skip(this, 'only root may run a command with devices')
    const { trees, plan } = prepare({ host: SINGLE, addresses: ['01:00.0'], options: { reset: 'none' } })
    const events: RunEvent[] = []
    const options: LaunchOptions = {
      command: ['true'],
      journal: journalOf(trees),
      stdio: ['ignore', 'ignore', 'ignore'],
      onEvent: (event) => events.push(event),
    }
    const run = await launch(plan, Object.assign(options, { kernel: new SimulatedKernel(trees) }))
    await run.released
    const told = events.filter(({ event }) => event !== 'device').map(({ event }) => event)
    assert.deepEqual(told, ['bound', 'started', 'ended', 'released'])
    const others: RunEvent[] = [
      { event: 'device', kind: 'release-requested', address: '0000:01:00.0', what: 'x' },
      { event: 'failed', message: 'x' },
    ]
    for (const event of [...events, ...others]) assertFits('run', toJson(event))
  })

  it('hold for failures, and for nothing else', async () => {
    for (const name of commands.map((command) => command.name())) {
      // Its events have one for that.
      if (name !== 'run') assertFits(name, (await vfio([name, '--nope', '--json'])).stdout)
      const validate = present(validators.get(name))
      for (const wrong of [null, {}, { error: {} }, { error: { code: 1, message: '' } }, 'x'])
        assert.ok(!validate(wrong), `${name}: ${JSON.stringify(wrong)}`)
    }
  })

  it('have been tried with what every command prints', function () {
    const untried = commands.map((command) => command.name()).filter((name) => !seen.has(name))
    if (process.getuid?.() !== 0) return skip(this, 'only root may make device nodes')
    assert.deepEqual(untried, [])
  })

  it('are what vfio schema prints', () => {
    for (const name of ['list', 'vfs']) {
      const args = [join(ROOT, 'dist/cli/main.js'), 'schema', name]
      assert.deepEqual(JSON.parse(execFileSync(process.execPath, args, { encoding: 'utf8' })), schemaOf(name))
    }
  })
})
