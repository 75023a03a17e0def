import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { closeSync, openSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { choose, Host, survey } from 'vfio'
import { toJson } from '../../lib/cli/output.js'
import { beginFunctions, type DeviceContext, readDevices } from '../../lib/sysfs/devices.js'
import { ModuleAliases } from '../../lib/sysfs/modules.js'
import { PciNames } from '../../lib/sysfs/names.js'
import { makeHost, removeDirectories, temporaryDirectory } from '../fixtures/host.js'
import { describeLargeHost, writeLargeHost } from '../fixtures/large-host.js'
import { ROOT } from './support.js'

const COUNT = 200

describe('a look at many functions', function () {
  this.timeout(60_000)
  let sysfs = ''
  let names: readonly string[] = []
  before(() => {
    sysfs = writeLargeHost(temporaryDirectory(), COUNT).sysfs
    names = readdirSync(join(sysfs, 'bus/pci/devices'))
    assert.equal(names.length, COUNT)
  })
  after(removeDirectories)

  for (const brief of [true, false])
    it(`has the same of them in parts of any size${brief ? ', in brief' : ''}`, () => {
      const context: DeviceContext = {
        aliases: ModuleAliases.read(null),
        names: PciNames.read(undefined),
        publishesResetMethods: true,
        brief,
        overrides: new Map(),
        slotRule: 'device',
      }
      const read = (part: number, isFirst: boolean) =>
        readDevices(sysfs, beginFunctions(sysfs, names, { brief, isFirst, part })(context), context, null)
          .devices
      const whole = read(COUNT, true)
      assert.equal(whole.length, COUNT)
      for (const part of [1, 7, 64, COUNT - 1, COUNT + 1])
        for (const isFirst of [true, false])
          assert.deepEqual(read(part, isFirst), whole, `${part} ${isFirst}`)
    })

  it('is the same where a process may have few descriptors open', () => {
    const main = join(ROOT, 'dist/cli/main.js')
    const list = `'${process.execPath}' '${main}' list --json --sysfs '${sysfs}'`
    const listed = (limit: string) =>
      execFileSync('sh', ['-c', `ulimit -n ${limit}; ${list}`], { encoding: 'utf8' })
    const many = listed('2048')
    assert.equal((JSON.parse(many) as { devices: unknown[] }).devices.length, COUNT)
    // Below it descriptors are closed one by one.
    for (const limit of ['60', '511', '512']) assert.equal(listed(limit), many, limit)
  })

  it('is printed as it is surveyed, though each part of it is judged when it is printed', () => {
    const { sysfs } = makeHost({
      devices: describeLargeHost(COUNT),
      // A group without anybody is left out.
      groups: { 99999: {} },
      mdev: [
        {
          name: 'mtty',
          types: [{ id: 'mtty-1', available: 1 }],
          devices: [{ uuid: '83b8f4f2-509f-382f-3c1e-e6bfe0fa1001', type: 'mtty-1', group: 77777 }],
        },
      ],
    })
    const whole = survey(new Host({ sysfs }).snapshot({ brief: true }))
    assert.deepEqual(
      [99999, 77777].map((number) => whole.groups.some(({ group }) => group === number)),
      [true, true],
    )
    const printed = execFileSync(
      process.execPath,
      [join(ROOT, 'dist/cli/main.js'), 'list', '--json', '--sysfs', sysfs],
      { encoding: 'utf8' },
    )
    assert.equal(printed, toJson(choose(whole, {})))
    assert.doesNotMatch(printed, /99999/)
    assert.match(printed, /"mediated":\[\{[^\]]*77777/)
  })

  it('is lost with one sentence where there is no room for it', () => {
    const full = openSync('/dev/full', 'w')
    const { status, stderr } = spawnSync(
      process.execPath,
      [join(ROOT, 'dist/cli/main.js'), 'list', '--json', '--sysfs', sysfs],
      { stdio: ['ignore', full, 'pipe'], encoding: 'utf8' },
    )
    closeSync(full)
    assert.match(stderr, /^vfio: standard output: [^\n]*no space left[^\n]*\n$/i)
    assert.notEqual(status, 0)
  })

  it('tells all of each group in an overview', () => {
    const seen = new Host({ sysfs }).snapshot()
    const { groups } = survey(seen)
    assert(groups.length > 100)
    for (const [at, { viable: _viable, blockers: _blockers, ...group }] of groups.entries())
      assert.deepEqual(group, seen.groups[at])
  })
})
