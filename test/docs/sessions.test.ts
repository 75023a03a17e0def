// Sessions of pages that change a host: carried out on trees that act as one, in the order in which they stand.
import assert from 'node:assert/strict'
import { chmodSync, existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createMdev, Host, type LaunchOptions, launch, planAssignment, removeMdev } from 'vfio'
import { entriesOf, Page } from '../../scripts/docs/pages.js'
import { makeHost, removeDirectories, temporaryDirectory } from '../fixtures/host.js'
import { journalOf, photographOf } from '../unit/assign-hosts.js'
import { makeKernelHost, SimulatedKernel } from '../unit/assign-kernel.js'
import { vfio } from '../unit/in-process.js'
import { kernelOf } from '../unit/mdev-kernel.js'
import { present } from '../unit/support.js'

/** The words of each command of a page. */
const typedOn = (path: string) =>
  new Page(path).blocks
    .filter(({ language }) => language === 'console')
    .flatMap((block) => entriesOf(block))
    .map(({ command }) => command.split(' ').slice(1))

describe('what the pages do to a host', function () {
  this.timeout(60_000)
  after(removeDirectories)

  it('makes a mediated device, exports it and takes it away', async () => {
    const words = typedOn('docs/guides/mediated.md')
    assert.deepEqual(
      words.map(([command, second]) => (command === 'mdev' ? `mdev ${second}` : command)),
      ['mdev list', 'mdev create', 'export', 'mdev remove'],
    )
    const [list = [], create = [], exported = [], remove = []] = words
    const [, , type = '', parent = ''] = create
    const uuid = present(exported.at(-1))
    assert.equal(remove.at(-1), uuid)
    const trees = makeHost({
      devices: [{ address: `0000:${parent}`, class: 0x030000, driver: 'i915', group: 1 }],
      mdev: [{ name: `0000:${parent}`, types: [{ id: type, available: 1, deviceApi: 'vfio-pci' }] }],
    })
    const { options } = kernelOf(trees)
    const tree = ['--sysfs', trees.sysfs]
    const look = () => new Host(trees).snapshot()
    const offered = await vfio([...list, ...tree])
    assert.deepEqual([offered.status, offered.stderr], [0, ''])
    assert.match(offered.stdout, new RegExp(`^0000:${parent} +${type} +1 `, 'm'))
    // The page goes on with the UUID that this printed.
    assert.equal((await createMdev(look(), type, parent, { ...options, uuid })).uuid, uuid)
    assert.match((await vfio([...list, ...tree])).stdout, new RegExp(`${uuid} +ready`))
    const xml = await vfio([...exported, ...tree])
    assert.equal(xml.status, 0, xml.stderr)
    assert.match(xml.stdout, new RegExp(`<hostdev .*managed='no'[^]*<address uuid='${uuid}'`))
    await removeMdev(look(), uuid, options)
    assert.doesNotMatch((await vfio([...list, ...tree])).stdout, new RegExp(uuid))
  })

  it('runs a command with a device, gives it its arguments, and has the host as it was', async () => {
    const [line = [], ...others] = typedOn('docs/guides/run.md')
    assert.deepEqual([line[0], others], ['run', []])
    const address = `0000:${line[1]}`
    const [program = '', ...given] = line.slice(line.indexOf('--') + 1)
    const trees = makeKernelHost({
      devices: [
        { address, driver: 'nvme', class: 0x010802, group: 74, resetMethod: 'flr', files: { enable: '0\n' } },
      ],
    })
    const asItWas = photographOf(trees)
    const directory = temporaryDirectory()
    const [fake, said] = [join(directory, program), join(directory, 'said')]
    writeFileSync(fake, `#!/bin/sh\nprintf '%s\\n' "$VFIO_ADDRESSES" "$@" > ${said}\nexit 7\n`)
    chmodSync(fake, 0o755)
    const plan = planAssignment(new Host(trees).snapshot(), [address], { reset: 'none' })
    const options: LaunchOptions = {
      command: [fake, ...given],
      journal: journalOf(trees),
      stdio: ['ignore', 'ignore', 'inherit'],
    }
    const run = await launch(plan, Object.assign(options, { kernel: new SimulatedKernel(trees) }))
    assert.deepEqual(await run.exited, { status: 7, signal: null })
    await run.released
    assert.ok(existsSync(said))
    const [addresses, ...got] = readFileSync(said, 'utf8').trimEnd().split('\n')
    assert.equal(addresses, address)
    assert.deepEqual(got.slice(0, given.length), given)
    assert.match(got.slice(given.length).join(' '), new RegExp(`-device vfio-pci,host=${address},`))
    assert.deepEqual(photographOf(trees), asItWas)
  })
})
