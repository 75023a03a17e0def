import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { basename, join, relative } from 'node:path'
import {
  assign,
  Host,
  recover,
  rescanDevice,
  resetByMethod,
  setVfs,
  status,
  type UnfinishedStep,
  VfioError,
} from 'vfio'
import { type HostDescription, type HostTrees, makeHost, removeDirectories } from '../fixtures/host.js'
import { journalOf, planOn, SINGLE, using } from './assign-hosts.js'
import { makeKernelHost, SimulatedKernel } from './assign-kernel.js'
import { present, ROOT } from './support.js'

const ADDRESS = '0000:60:00.0'
const RESET: HostDescription = {
  devices: [{ address: ADDRESS, driver: 'igb', group: 8, resetMethod: 'flr bus' }],
}
const vf = (fn: number) => ({ address: `0000:60:10.${fn}`, physfn: ADDRESS, group: 20 + fn })
const PF = { address: ADDRESS, driver: 'igb', group: 8, totalVfs: 7, readable: 64 }
const VFS: HostDescription = { devices: [PF] }
const TWO: HostDescription = { devices: [PF, vf(0), vf(1)] }

/** Makes one step, and is killed where it would write this. */
const PROGRAM = `
  import { writeFileSync, readFileSync } from 'node:fs'
  import { Host, rescanDevice, resetByMethod, setVfs } from '${join(ROOT, 'dist/index.js')}'
  import { SimulatedKernel } from '${join(ROOT, 'build/ts/test/unit/assign-kernel.js')}'
  const [trees, journal, fatal, step, value] = JSON.parse(process.argv[1])
  const kernel = {
    async write(path, text) {
      if (path.slice(path.lastIndexOf('/') + 1) + '=' + text.trim() === fatal) process.kill(process.pid, 'SIGKILL')
      if (step === 'rescan') return new SimulatedKernel(trees).write(path, text)
      writeFileSync(path, text)
    },
    read: async (path) => readFileSync(path, 'utf8'),
  }
  const seen = new Host(trees).snapshot()
  const options = { sysfs: trees.sysfs, journal, kernel }
  if (step === 'rescan') await rescanDevice(seen, value, options)
  else await (step === 'vfs' ? setVfs : resetByMethod)(seen, '${ADDRESS}', value, options)`

function killed(
  trees: HostTrees,
  fatal: string,
  step: 'vfs' | 'reset' | 'rescan',
  value: number | string,
  cwd = ROOT,
): void {
  assert.ok(maybeKilled(trees, fatal, step, value, cwd))
}

/** Did it come so far? */
function maybeKilled(
  trees: HostTrees,
  fatal: string,
  step: 'vfs' | 'reset' | 'rescan',
  value: number | string,
  cwd = ROOT,
): boolean {
  const task = JSON.stringify([trees, journalOf(trees), fatal, step, value])
  const args = ['--input-type=module', '-e', PROGRAM, task]
  const { signal, status: exit, stderr } = spawnSync(process.execPath, args, { cwd, encoding: 'utf8' })
  assert.ok(signal === 'SIGKILL' || exit === 0, stderr)
  return signal === 'SIGKILL'
}

const text = (trees: HostTrees, file: string) =>
  readFileSync(`${trees.sysfs}/bus/pci/devices/${ADDRESS}/${file}`, 'utf8').trim()

const isCode = (code: string) => (error: unknown) => error instanceof VfioError && error.code === code

async function puts(trees: HostTrees, expected: Readonly<Record<string, string>>): Promise<void> {
  const journal = journalOf(trees)
  const { unfinished = [], bad } = await status({ journal })
  assert.deepEqual([unfinished.map(({ address }) => address), bad], [[ADDRESS], []])
  const { recovered, warnings } = await recover({ journal })
  assert.deepEqual([recovered, warnings], [[ADDRESS], []])
  for (const [file, value] of Object.entries(expected)) assert.equal(text(trees, file), value, file)
  assert.equal(existsSync(journal), false)
}

describe('a step that a crash ended', function () {
  this.timeout(60_000)
  after(removeDirectories)

  it('a reset by one method: the others are put back', async () => {
    const trees = makeHost(RESET)
    killed(trees, 'reset=1', 'reset', 'bus')
    assert.equal(text(trees, 'reset_method'), 'bus')
    await puts(trees, { reset_method: 'flr bus' })
  })

  it('is told by "vfio status" until it is in order', async () => {
    const trees = makeHost(RESET)
    killed(trees, 'reset=1', 'reset', 'bus')
    const vfio = (command: string) => {
      const args = [join(ROOT, 'dist/cli/main.js'), command, '--journal', journalOf(trees)]
      return spawnSync(process.execPath, args, { encoding: 'utf8' })
    }
    const half = vfio('status')
    assert.equal(half.status, 1)
    assert.match(
      half.stdout,
      /^0000:60:00\.0 {2}a reset by one method, half done\n {2}by .*\(ended\), since /,
    )
    assert.equal(vfio('recover').status, 0)
    const { status: exit, stdout } = vfio('status')
    assert.deepEqual([exit, stdout], [0, 'Nothing is assigned.\n'])
    assert.equal(text(trees, 'reset_method'), 'flr bus')
  })

  it('is told with status 1 also where its record cannot be read', () => {
    const trees = makeHost(RESET)
    killed(trees, 'reset=1', 'reset', 'bus')
    writeFileSync(recordOf(trees).path, 'cut')
    for (const command of ['status', 'recover']) {
      const args = [join(ROOT, 'dist/cli/main.js'), command, '--journal', journalOf(trees)]
      const { status: exit, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' })
      assert.equal(exit, 1, command)
      assert.match(stderr, /is not a record of vfio/)
    }
  })

  it('has a record by which it is put in order from any directory', async () => {
    const trees = makeHost(RESET)
    const top = join(trees.sysfs, '..')
    const near = Object.fromEntries(Object.entries(trees).map(([name, path]) => [name, relative(top, path)]))
    killed({ ...trees, ...near }, 'reset=1', 'reset', 'bus', top)
    await puts(trees, { reset_method: 'flr bus' })
  })

  it('virtual functions: drivers may take them again, whether they came or not', async () => {
    for (const [fatal, count] of [
      ['sriov_numvfs=4', '0'],
      ['sriov_drivers_autoprobe=1', '4'],
    ] as const) {
      const trees = makeHost(VFS)
      killed(trees, fatal, 'vfs', 4)
      assert.equal(text(trees, 'sriov_drivers_autoprobe'), '0')
      await puts(trees, { sriov_numvfs: count, sriov_drivers_autoprobe: '1' })
    }
  })

  it('virtual functions on the way to another number: those from before come back', async () => {
    const trees = makeHost(TWO)
    killed(trees, 'sriov_numvfs=5', 'vfs', 5)
    assert.equal(text(trees, 'sriov_numvfs'), '0')
    await puts(trees, { sriov_numvfs: '2', sriov_drivers_autoprobe: '1' })
  })

  it('virtual functions do not come back while somebody has their physical function open', async () => {
    const trees = makeHost(TWO)
    killed(trees, 'sriov_numvfs=5', 'vfs', 5)
    const driver = `${trees.sysfs}/bus/pci/drivers/vfio-pci`
    mkdirSync(driver, { recursive: true })
    rmSync(`${trees.sysfs}/bus/pci/devices/${ADDRESS}/driver`)
    symlinkSync(driver, `${trees.sysfs}/bus/pci/devices/${ADDRESS}/driver`)
    const options = (isOpen: boolean) => ({ journal: journalOf(trees), kernel: { isOpen: () => isOpen } })
    await assert.rejects(
      recover(options(true)),
      (error) =>
        isCode('ERR_VFIO_NOT_RESTORED')(error) &&
        /is open, and its 2 virtual functions would come while it is used/.test(String(error)),
    )
    assert.equal(text(trees, 'sriov_numvfs'), '0')
    const { recovered } = await recover(options(false))
    assert.deepEqual([recovered, text(trees, 'sriov_numvfs')], [[ADDRESS], '2'])
  })

  it('a rescan: the device is found anew, with the override and the driver that it had', async () => {
    const nvme = '0000:01:00.0'
    for (const override of [null, 'nvme', 'vfio-pci']) {
      for (const fatal of [
        'remove=1',
        'rescan=1',
        `unbind=${nvme}`,
        'driver_override=nvme',
        `bind=${nvme}`,
      ]) {
        const trees = makeKernelHost(SINGLE)
        const kernel = new SimulatedKernel(trees)
        const device = `${trees.sysfs}/bus/pci/devices/${nvme}`
        if (override) await kernel.write(`${device}/driver_override`, override)
        const has = () => [
          existsSync(`${device}/driver`) && basename(readlinkSync(`${device}/driver`)),
          readFileSync(`${device}/driver_override`, 'utf8').trim(),
        ]
        const before = has()
        if (!maybeKilled(trees, fatal, 'rescan', nvme)) continue
        const options = using(trees, kernel)
        const { unfinished = [] } = await status({ journal: journalOf(trees) })
        assert.deepEqual(
          unfinished.map(({ step, address }) => [step, address]),
          [['rescan', nvme]],
        )
        assert.deepEqual((await recover(options)).recovered, [nvme])
        assert.deepEqual(has(), before, `${override} ${fatal}`)
        assert.equal(existsSync(journalOf(trees)), false)
      }
    }
  })

  it('a rescan that the kernel refused has changed nothing, and one that finds nothing stays known', async () => {
    const nvme = '0000:01:00.0'
    const trees = makeKernelHost(SINGLE)
    const seen = new Host(trees).snapshot()
    const refused = new SimulatedKernel(trees, { at: () => 'refuse' })
    await assert.rejects(rescanDevice(seen, nvme, using(trees, refused)), isCode('EIO'))
    assert.equal(existsSync(journalOf(trees)), false)
    const kernel = new SimulatedKernel(trees)
    const gone = {
      write: async (path: string, text: string) => {
        if (!path.endsWith('/rescan')) await kernel.write(path, text)
      },
    }
    const options = { journal: journalOf(trees), kernel: gone }
    await assert.rejects(rescanDevice(seen, nvme, options), isCode('ERR_VFIO_NOT_RESTORED'))
    await assert.rejects(recover(options), isCode('ERR_VFIO_NOT_RESTORED'))
    assert.deepEqual((await recover(using(trees, kernel))).recovered, [nvme])
    assert.equal(existsSync(`${trees.sysfs}/bus/pci/devices/${nvme}`), true)
  })

  it('is put in order before another begins, as what was before is known to its record alone', async () => {
    const trees = makeHost({ devices: [{ ...PF, resetMethod: 'flr bus' }] })
    killed(trees, 'reset=1', 'reset', 'bus')
    const options = { sysfs: trees.sysfs, journal: journalOf(trees) }
    const seen = new Host(trees).snapshot()
    const isLeft = (error: unknown) =>
      isCode('ERR_VFIO_IN_USE')(error) && /"vfio recover"/.test(String(error))
    await assert.rejects(resetByMethod(seen, ADDRESS, 'bus', options), isLeft)
    await assert.rejects(setVfs(seen, ADDRESS, 1, options), isLeft)
    await puts(trees, { reset_method: 'flr bus', sriov_numvfs: '0' })
  })

  it('is put in order before the device is given away or found anew', async () => {
    const [bridge, nvme] = SINGLE.devices ?? []
    const device = { ...present(nvme), address: ADDRESS, driver: 'igb', totalVfs: 7, readable: 64 }
    const steps = [
      ['reset=1', 'reset', 'bus'],
      ['sriov_numvfs=4', 'vfs', 4],
    ] as const
    for (const [fatal, step, value] of steps) {
      const trees = makeKernelHost({ devices: [{ ...present(bridge), secondaryBus: 0x60 }, device] })
      killed(trees, fatal, step, value)
      const kernel = new SimulatedKernel(trees)
      const options = using(trees, kernel)
      const isLeft = (error: unknown) =>
        isCode('ERR_VFIO_IN_USE')(error) && /"vfio recover"/.test(String(error))
      await assert.rejects(assign(planOn(trees, [ADDRESS]), options), isLeft)
      await assert.rejects(rescanDevice(new Host(trees).snapshot(), ADDRESS, options), isLeft)
      assert.deepEqual(kernel.calls, [])
      // A record that nobody can read may be that of such a step.
      const { path, record } = recordOf(trees)
      writeFileSync(path, 'cut')
      await assert.rejects(assign(planOn(trees, [ADDRESS]), options), isCode('ERR_VFIO_BAD_JOURNAL'))
      await assert.rejects(
        rescanDevice(new Host(trees).snapshot(), ADDRESS, options),
        isCode('ERR_VFIO_BAD_JOURNAL'),
      )
      assert.deepEqual(kernel.calls, [])
      writeFileSync(path, JSON.stringify(record))
      await puts(trees, { reset_method: 'flr bus', sriov_numvfs: '0', sriov_drivers_autoprobe: '1' })
      const assignment = await assign(planOn(trees, [ADDRESS]), options)
      await assignment.release()
    }
  })

  it('of an earlier boot is forgotten', async () => {
    const trees = makeHost(RESET)
    killed(trees, 'reset=1', 'reset', 'bus')
    const { path, record } = recordOf(trees)
    writeFileSync(path, JSON.stringify({ ...record, bootId: 'an earlier one' }))
    assert.deepEqual((await recover({ journal: journalOf(trees) })).stale, [ADDRESS])
    assert.equal(text(trees, 'reset_method'), 'bus')
  })

  it('takes no field of its record for granted', async () => {
    const wrong = [undefined, null, 7, 'x', '../../x', {}, [], true, '\0', -1, 1.5, 'a\nb']
    const hosts = [
      [RESET, 'reset=1', 'reset', 'bus', { methods: ['x'] }],
      [VFS, 'sriov_numvfs=4', 'vfs', 4, { from: [7], to: [7], autoprobe: [null] }],
    ] as const
    const free = ['bootId', 'program', 'since', 'started', 'pidNamespace', 'lock', 'pid', 'group']
    for (const [host, fatal, step, value, allowed] of hosts) {
      const trees = makeHost(host)
      killed(trees, fatal, step, value)
      const { path, record } = recordOf(trees)
      for (const name of Object.keys(record).filter((field) => !free.includes(field))) {
        for (const other of wrong) {
          if ((allowed as Record<string, readonly unknown[]>)[name]?.includes(other)) continue
          writeFileSync(path, JSON.stringify({ ...record, [name]: other }))
          const { bad, unfinished = [] } = await status({ journal: journalOf(trees) })
          assert.deepEqual([bad.length, unfinished.length], [1, 0], `${name}: ${JSON.stringify(other)}`)
        }
      }
    }
  })
})

function recordOf(trees: HostTrees): { path: string; record: UnfinishedStep } {
  const journal = journalOf(trees)
  const path = `${journal}/${present(readdirSync(journal)[0])}`
  return { path, record: JSON.parse(readFileSync(path, 'utf8')) as UnfinishedStep }
}
