import assert from 'node:assert/strict'
import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { join, normalize } from 'node:path'
import fc from 'fast-check'
import {
  AssignError,
  assign,
  Host,
  type JournalRecord,
  type Plan,
  planAssignment,
  recover,
  release,
  rescanDevice,
  status,
  VfioError,
} from 'vfio'
import { type HostTrees, removeDirectories, temporaryDirectory } from '../fixtures/host.js'
import { skip } from '../fixtures/skip.js'
import { journalOf, photographOf, prepare, SINGLE, TWINS, using } from './assign-hosts.js'
import { photograph, SimulatedKernel } from './assign-kernel.js'
import { present, ROOT, runs } from './support.js'

const NVME = '0000:01:00.0'
const LARGE = 2 ** 24 + 1
const isRoot = process.getuid?.() === 0

interface Assigned {
  readonly trees: HostTrees
  readonly plan: Plan
  readonly journal: string
  /** The file of the record. */
  readonly path: string
  readonly text: string
  readonly record: JournalRecord
}

/** A device that is assigned, and its record. */
async function assigned(): Promise<Assigned> {
  const { trees, plan } = prepare({ host: SINGLE, addresses: [NVME], options: { reset: 'none' } })
  await assign(plan, healthy(trees))
  const path = `${journalOf(trees)}/assignment-${NVME}.json`
  const text = readFileSync(path, 'utf8')
  return { trees, plan, journal: journalOf(trees), path, text, record: JSON.parse(text) as JournalRecord }
}

const healthy = (trees: HostTrees) => using(trees, new SimulatedKernel(trees))

async function rejection(work: Promise<unknown>): Promise<VfioError> {
  try {
    await work
  } catch (error) {
    assert.ok(error instanceof VfioError, String(error))
    return error
  }
  throw new Error('expected a rejection')
}

describe('journal', function () {
  this.timeout(60_000)
  afterEach(removeDirectories)

  it('is private, complete and of one version', async () => {
    const { journal, path, record, plan } = await assigned()
    assert.equal(lstatSync(path).mode & 0o7777, 0o600)
    assert.equal(lstatSync(journal).mode & 0o7777, 0o700)
    assert.deepEqual(
      { ...record, bootId: '', program: '', since: '', sysfs: '' },
      {
        version: 1,
        id: NVME,
        state: 'assigned',
        bootId: '',
        pid: process.pid,
        program: '',
        started: record.started,
        pidNamespace: readlinkSync('/proc/self/ns/pid'),
        lock: record.lock,
        since: '',
        reset: 'none',
        sysfs: '',
        devices: plan.devices,
        ids: [],
        failures: [],
      },
    )
    assert.equal(record.bootId, readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim())
    assert.equal(record.program, readFileSync('/proc/self/comm', 'utf8').trim())
    assert.ok(Math.abs(Date.parse(record.since) - Date.now()) < 60_000)
    assert.equal(
      String(record.started),
      readFileSync('/proc/self/stat', 'utf8').split(') ')[1]?.split(' ')[19],
    )
    assert.match(record.lock ?? '', /^\d+:\d+$/)
  })

  describe('reports what is no record, and neither follows nor changes it', () => {
    const others: readonly (readonly [
      name: string,
      put: (path: string, text: string) => void,
      reason: RegExp,
    ])[] = [
      ['an empty file', (path) => writeFileSync(path, ''), /Unexpected end of JSON/],
      ['half a record', (path, text) => writeFileSync(path, text.slice(0, text.length / 2)), /JSON/],
      [
        'another JSON file',
        (path) => writeFileSync(path, '{"name":"vfio"}'),
        /its version is missing or wrong/,
      ],
      ['an array', (path) => writeFileSync(path, '[]'), /is not an object/],
      ['zero bytes', (path) => writeFileSync(path, '\0\0\0\0'), /JSON/],
      [
        'a later version',
        (path, text) => writeFileSync(path, text.replace('"version": 1', '"version": 2')),
        /version/,
      ],
      [
        'the record of another device',
        (path, text) => writeFileSync(path, text.replaceAll(NVME, '0000:01:00.1')),
        /name of another/,
      ],
      ['a file without end', (path) => truncateSync(path, LARGE), /too large/],
      [
        'a directory',
        (path) => {
          rmSync(path)
          mkdirSync(path)
        },
        /not a regular file/,
      ],
      [
        'a FIFO',
        (path) => {
          rmSync(path)
          execFileSync('mkfifo', [path])
        },
        /not a regular file/,
      ],
      [
        'a symbolic link to a record',
        (path) => {
          renameSync(path, `${path}.kept`)
          symlinkSync(`${path}.kept`, path)
        },
        /ELOOP/,
      ],
      [
        'a symbolic link to /dev/zero',
        (path) => {
          rmSync(path)
          symlinkSync('/dev/zero', path)
        },
        /ELOOP/,
      ],
      ['a record of another user', (path) => chownSync(path, 1000, 1000), /belongs to user 1000/],
    ]
    for (const [name, put, reason] of others) {
      it(name, async function () {
        if (name.endsWith('another user') && !isRoot) skip(this, 'only root may give a file away')
        const { trees, plan, journal, path, text } = await assigned()
        put(path, text)
        const before = photographOf(trees)
        const { assignments, bad } = await status({ journal })
        assert.deepEqual(assignments, [])
        assert.equal(bad.length, 1)
        assert.equal(bad[0]?.path, path)
        assert.match(bad[0].reason, reason)
        const kernel = new SimulatedKernel(trees)
        assert.deepEqual(await recover(using(trees, kernel)), {
          recovered: [],
          stale: [],
          busy: [],
          bad,
          warnings: [],
        })
        assert.equal((await rejection(release([NVME], using(trees, kernel)))).code, 'ERR_VFIO_NOT_ASSIGNED')
        const all = await release('all', using(trees, kernel))
        assert.deepEqual(all.released, [])
        assert.match(all.warnings.join(), /is not a record of vfio .*: look at it/)
        // It may be the only trace of how the device was.
        await new SimulatedKernel(trees).write(`${trees.sysfs}/bus/pci/devices/${NVME}/driver/unbind`, NVME)
        await new SimulatedKernel(trees).write(`${trees.sysfs}/bus/pci/devices/${NVME}/driver_override`, '\n')
        await new SimulatedKernel(trees).write(`${trees.sysfs}/bus/pci/drivers/nvme/bind`, NVME)
        const error = await rejection(assign(plan, using(trees, kernel)))
        assert.equal(error.code, 'ERR_VFIO_BAD_JOURNAL')
        assert.match(error.message, /is not a record of vfio .*look at it and remove it/)
        assert.deepEqual(kernel.calls, [])
        const isJournal = (line: string) => line.startsWith('journal')
        assert.deepEqual(photographOf(trees).filter(isJournal), before.filter(isJournal))
      })
    }
  })

  it('keeps devices from being bound and found anew of which a record that cannot be read may speak', async () => {
    const [nvme, other] = [NVME, '0000:07:00.0']
    const bad = async (name: string, override: string | null) => {
      const { trees, plan } = prepare({ host: SINGLE, addresses: [nvme], options: { reset: 'none' } })
      const kernel = new SimulatedKernel(trees)
      mkdirSync(journalOf(trees), { mode: 0o700 })
      writeFileSync(`${journalOf(trees)}/assignment-${name}.json`, 'cut', { mode: 0o600 })
      if (override) await kernel.write(`${trees.sysfs}/bus/pci/devices/${nvme}/driver_override`, override)
      const seen = new Host(trees).snapshot()
      const now = override ? planAssignment(seen, [nvme], plan.options) : plan
      return [
        () => rescanDevice(seen, nvme, using(trees, kernel)),
        () => assign(now, using(trees, kernel)),
      ] as const
    }
    // Another device's, when this one looks as nobody has touched it.
    for (const change of await bad(other, null)) await change()
    for (const change of [...(await bad(nvme, null)), ...(await bad(other, 'vfio-pci'))]) {
      const error = await rejection(change())
      assert.equal(error.code, 'ERR_VFIO_BAD_JOURNAL')
      assert.match(error.message, /is not a record of vfio .* how 0000:01:00.0 was: look at it and remove it/)
    }
  })

  it('takes no field for granted: each taken away, or of another kind', async () => {
    const { trees, path, record, journal } = await assigned()
    const wrong = [undefined, null, 7, 'x', '../../x', {}, [], [null], [7], true, '\0', -1, 1.5]
    const allowed = (field: string, value: unknown): boolean =>
      (['program', 'since', 'bootId'].includes(field) && typeof value === 'string') ||
      (['ids', 'failures'].includes(field) && Array.isArray(value) && value.length === 0) ||
      (['pid', 'started'].includes(field) && Number.isSafeInteger(value)) ||
      (['started', 'pidNamespace', 'lock'].includes(field) && value === undefined) ||
      (['pidNamespace', 'lock'].includes(field) && typeof value === 'string') ||
      (field === 'former.driver' && (value === null || value === 'x')) ||
      (field === 'former.override' && (value === null || value === 'x' || value === '../../x')) ||
      // In none until VFIO binds it.
      (field === 'group' && (value === 7 || value === null)) ||
      (field === 'driver' && value === 'x')
    let refused = 0
    const check = async (changed: unknown, field: string, value: unknown) => {
      writeFileSync(path, JSON.stringify(changed))
      const { assignments, bad } = await status({ journal })
      assert.equal(bad.length, allowed(field, value) ? 0 : 1, `${field}: ${JSON.stringify(value)}`)
      assert.equal(assignments.length + bad.length, 1)
      refused += bad.length
    }
    const [device] = record.devices
    for (const value of wrong) {
      for (const field of Object.keys(record)) await check({ ...record, [field]: value }, field, value)
      for (const field of Object.keys(present(device))) {
        if (field !== 'former')
          await check({ ...record, devices: [{ ...device, [field]: value }] }, field, value)
      }
      for (const field of ['driver', 'override']) {
        const former = { ...device?.former, [field]: value }
        await check({ ...record, devices: [{ ...device, former }] }, `former.${field}`, value)
      }
      for (const id of [value, ['8086 1533\n'], ['../../etc 1533'], ['8086']]) {
        if (Array.isArray(id) && id.length === 0) continue
        await check({ ...record, ids: id }, 'id', id)
      }
    }
    assert.ok(refused > 200)
    assert.ok(trees)
  })

  it('writes nowhere but to the devices of its host, whatever a record says', async () => {
    const { trees, journal, path, record } = await assigned()
    const outside = temporaryDirectory()
    writeFileSync(join(outside, 'bind'), '')
    const before = photograph(outside)
    const json = fc.jsonValue()
    const hostile = fc.constantFrom(
      '../../../x',
      `..${outside}`,
      outside,
      '.',
      '..',
      'a/b',
      'a\nb',
      '\0',
      '',
      '-1',
    )
    const name = fc.oneof(fc.constantFrom('nvme', 'vfio-pci', NVME, '8086 1533'), hostile, fc.string())
    const field = <T>(good: T) => fc.oneof({ weight: 40, arbitrary: fc.constant(good) }, name, json)
    const [device] = record.devices
    const records = fc.record({
      version: field(1),
      id: field(NVME),
      state: fc.constantFrom('assigning', 'releasing', 'broken'),
      bootId: fc.constantFrom(record.bootId, 'other'),
      pid: field(1),
      program: field('x'),
      since: field('now'),
      reset: field('none'),
      sysfs: field(trees.sysfs),
      devices: field([
        {
          address: NVME,
          group: 10,
          driver: 'vfio-pci',
          former: { driver: 'nvme', override: null },
        },
      ]),
      ids: fc.oneof(fc.constant([]), fc.array(name, { maxLength: 2 })),
      failures: field([]),
    })
    const devices = fc.array(
      fc.record({
        address: name,
        group: fc.oneof(fc.nat(40), json),
        driver: name,
        former: fc.record({ driver: fc.option(name), override: fc.option(name) }),
      }),
      { minLength: 1, maxLength: 2 },
    )
    const texts = fc.oneof(
      { weight: 4, arbitrary: records.map((value) => JSON.stringify(value)) },
      fc.tuple(records, devices).map(([value, list]) => JSON.stringify({ ...value, devices: list })),
      fc.tuple(records, fc.nat(400)).map(([value, length]) => JSON.stringify(value).slice(0, length)),
      fc.string({ unit: 'binary' }),
      json.map((value) => JSON.stringify(value)),
    )
    let read = 0
    await fc.assert(
      fc.asyncProperty(texts, async (text) => {
        mkdirSync(journal, { recursive: true, mode: 0o700 })
        writeFileSync(path, text)
        const { assignments, bad } = await status({ journal })
        assert.equal(assignments.length + bad.length, 1)
        read += assignments.length
        const kernel = new SimulatedKernel(trees)
        await recover(using(trees, kernel)).catch((error: unknown) => {
          assert.ok(error instanceof VfioError, String(error))
        })
        for (const call of kernel.calls) {
          assert.equal(call.path, normalize(call.path))
          assert.ok(call.path.startsWith(`${trees.sysfs}/bus/pci/`), call.path)
        }
        rmSync(journal, { recursive: true, force: true })
      }),
      { numRuns: runs(300) },
    )
    assert.ok(read > runs(300) / 30, 'some of what is generated is a record')
    assert.deepEqual(photograph(outside), before)
    assert.ok(device)
  })

  it('takes back a driver and an override of any name that the kernel has', async () => {
    for (const name of ['Compaq SMART2 Driver', 'x'.repeat(200), '-v', '--', 'a+b.c_d']) {
      const [bridge, nvme] = SINGLE.devices ?? []
      const host = { devices: [present(bridge), { ...present(nvme), driver: name }] }
      const { trees, plan } = prepare({ host, addresses: [NVME], options: {} })
      const before = photographOf(trees)
      await (await assign(plan, healthy(trees))).release()
      assert.deepEqual(photographOf(trees), before, name)
    }
  })

  it('keeps a record with many and long failures readable', async () => {
    const { journal, path, record } = await assigned()
    const failures = Array.from({ length: 100 }, (_none, index) => `${index}`.repeat(10_000))
    writeFileSync(path, JSON.stringify({ ...record, state: 'broken', failures }))
    assert.deepEqual((await status({ journal })).assignments[0]?.failures, failures)
  })

  describe('of an earlier boot', () => {
    it('is known as such, holds nobody back, and is taken away', async () => {
      const { trees, path, record, journal } = await assigned()
      for (const state of ['assigned', 'assigning', 'broken'] as const) {
        writeFileSync(path, JSON.stringify({ ...record, state, bootId: 'an earlier one' }))
        const [seen] = (await status({ journal })).assignments
        assert.deepEqual([seen?.stale, seen?.deviations], [true, []])
        const kernel = new SimulatedKernel(trees)
        const report = await recover(using(trees, kernel))
        assert.deepEqual(report, { recovered: [], stale: [NVME], busy: [], bad: [], warnings: [] })
        assert.deepEqual(kernel.calls, [])
        assert.equal(existsSync(journal), false)
        mkdirSync(journal, { mode: 0o700 })
      }
      writeFileSync(path, JSON.stringify({ ...record, bootId: 'an earlier one' }))
      const kernel = new SimulatedKernel(trees)
      assert.deepEqual((await release([NVME], using(trees, kernel))).released, [NVME])
      assert.deepEqual(kernel.calls, [])
    })

    it('does not hide the one of this boot that holds the same device', async () => {
      const { trees, plan } = prepare({ host: TWINS, addresses: ['05:00.0'], options: { reset: 'none' } })
      const before = photographOf(trees)
      const { record } = await assign(plan, healthy(trees))
      const stale: JournalRecord = {
        ...present(record),
        id: '0000:03:00.0',
        bootId: 'an earlier one',
        devices: [{ ...present(record?.devices[0]), address: '0000:03:00.0' }, ...present(record).devices],
      }
      writeFileSync(`${journalOf(trees)}/assignment-0000:03:00.0.json`, JSON.stringify(stale))
      await release(['05:00.0'], healthy(trees))
      assert.deepEqual(photographOf(trees), before)
    })
  })

  describe('of a program', () => {
    const aliveOf = async (path: string, journal: string, record: object) => {
      writeFileSync(path, JSON.stringify(record))
      return (await status({ journal })).assignments[0]?.alive
    }

    it('tells one that runs from one that has ended, whoever has its number now', async () => {
      const { path, journal, record } = await assigned()
      assert.equal(await aliveOf(path, journal, record), true)
      // The number and the name alone would fit.
      assert.equal(await aliveOf(path, journal, { ...record, started: (record.started ?? 0) - 1 }), false)
      assert.equal(await aliveOf(path, journal, { ...record, pid: 2 ** 22 + 1 }), false)
      assert.equal(await aliveOf(path, journal, { ...record, bootId: 'an earlier one' }), false)
      const { started: _started, pidNamespace: _namespace, ...unknown } = record
      assert.equal(await aliveOf(path, journal, unknown), null)
    })

    it('of another PID namespace it tells nothing from within, and all from the first', async function () {
      if (!isRoot) skip(this, 'only root may make a PID namespace')
      const { path, journal, record } = await assigned()
      const unshare = ['unshare', '-p', '-f', '--mount-proc']
      const command = [process.execPath, join(ROOT, 'dist/cli/main.js'), 'status', '--journal', journal]
      const [program = '', ...args] = [...unshare, ...command]
      const { status: exit, stdout, stderr } = spawnSync(program, args, { encoding: 'utf8' })
      assert.equal(exit, 0, stderr)
      assert.match(stdout, /pid \d+ \(not to be seen from here\)/)
      const foreign = { ...record, pidNamespace: 'pid:[1]' }
      const isFirst = readlinkSync('/proc/self/ns/pid') === 'pid:[4026531836]'
      assert.equal(await aliveOf(path, journal, foreign), isFirst ? false : null)
    })

    it('recover leaves alone what may still be worked on behind a lock that it cannot see', async () => {
      const { trees, path, record } = await assigned()
      const half = { ...record, state: 'assigning', lock: '1:1' }
      writeFileSync(path, JSON.stringify(half))
      const kernel = new SimulatedKernel(trees)
      const report = await recover(using(trees, kernel))
      assert.deepEqual([report.busy, report.recovered, kernel.calls], [[NVME], [], []])
      assert.match(report.warnings.join(), /locks its groups in another sysfs, and may still be at it/)
      // Nor does a release get in its way.
      assert.equal((await rejection(release([NVME], using(trees, kernel)))).code, 'ERR_VFIO_LOCKED')
      assert.deepEqual(kernel.calls, [])
      writeFileSync(path, JSON.stringify({ ...half, pid: 2 ** 22 + 1 }))
      assert.deepEqual((await recover(using(trees, kernel))).recovered, [NVME])
    })

    it('a device that another program works on is not given back by a record that has come to speak of it', async () => {
      const { trees, path, record } = await assigned()
      // Of a device whose group was not known when it was read.
      const half = { ...record, devices: record.devices.map((device) => ({ ...device, group: null })) }
      writeFileSync(path, JSON.stringify(half))
      const stuck = new SimulatedKernel(trees, { at: (index) => (index === 0 ? 'hang' : null) })
      const other = rescanDevice(new Host(trees).snapshot(), NVME, {
        ...using(trees, stuck),
        journal: temporaryDirectory(),
        force: ['other'],
      })
      while (stuck.hanging === 0) await new Promise((resolve) => setImmediate(resolve))
      try {
        const kernel = new SimulatedKernel(trees)
        const changing = {
          ...using(trees, kernel),
          // In place of a program that learns of the group between the look at the records and the lock.
          signal: {
            get aborted() {
              writeFileSync(path, JSON.stringify(record))
              return false
            },
            throwIfAborted() {
              writeFileSync(path, JSON.stringify({ ...record, state: 'assigning', pid: 2 ** 22 + 1 }))
            },
          } as unknown as AbortSignal,
        }
        assert.equal((await rejection(release([NVME], changing))).code, 'ERR_VFIO_LOCKED')
        writeFileSync(path, JSON.stringify({ ...half, state: 'assigning', pid: 2 ** 22 + 1 }))
        assert.deepEqual((await recover(changing)).busy, [NVME])
        assert.deepEqual(kernel.calls, [])
      } finally {
        stuck.answerAll()
        await other.catch(() => {})
      }
    })

    it('keeps no device from its host by a journal that takes no writes, and tells all that failed', async () => {
      const { trees, path, journal } = await assigned()
      const kernel = new SimulatedKernel(trees)
      /** Others may write there, from the look on until `until` is written. */
      const refusing = (until: string, fault: string | null = null) => {
        let isOver = false
        const set = (mode: number) => chmodSync(journal, mode)
        return {
          journal,
          kernel: {
            isOpen: () => false,
            async read(file: string) {
              if (!isOver) set(0o777)
              return kernel.read(file)
            },
            async write(file: string, text: string) {
              if (file.endsWith(until)) set(0o700)
              isOver ||= file.endsWith(until)
              if (fault && file.endsWith(fault)) throw new Error('it is stuck')
              await kernel.write(file, text)
            },
          },
        }
      }
      const stuck = await rejection(release([NVME], refusing('never', '/bind')))
      assert.equal(stuck.code, 'ERR_VFIO_NOT_RESTORED')
      assert.match(stuck.message, /it is stuck; .*others may write there/)
      chmodSync(journal, 0o700)
      const other = `${journal}/assignment-0000:07:00.0.json`
      const half = JSON.parse(readFileSync(path, 'utf8')) as JournalRecord
      const devices = half.devices.map((device) => ({ ...device, address: '0000:07:00.0', group: 77 }))
      const record = { ...half, state: 'releasing', id: '0000:07:00.0', devices }
      writeFileSync(other, JSON.stringify(record), { mode: 0o600 })
      writeFileSync(path, JSON.stringify({ ...half, state: 'assigning' }))
      // One record that cannot be removed stops no other, and is told with what else failed.
      const failed = await rejection(recover(refusing('never')))
      assert.equal(failed.code, 'ERR_VFIO_NOT_RESTORED')
      assert.match(failed.message, /^not everything could be given back: .*others may write there/)
      chmodSync(journal, 0o700)
      rmSync(other)
      writeFileSync(path, JSON.stringify(half))
      for (const file of ['driver/unbind', 'driver_override']) {
        const device = `${trees.sysfs}/bus/pci/devices/${NVME}`
        await kernel.write(`${device}/${file}`, file.endsWith('unbind') ? NVME : 'vfio-pci')
      }
      await kernel.write(`${trees.sysfs}/bus/pci/drivers_probe`, NVME)
      const { released, warnings } = await release([NVME], refusing('driver/unbind'))
      assert.deepEqual(released, [NVME])
      assert.match(warnings.join(), /was not marked as releasing: .*others may write there/)
      assert.deepEqual([existsSync(path), existsSync(journal)], [false, false])
    })

    it('names itself by one of its devices, so that no other takes its place', async () => {
      const { path, record, journal } = await assigned()
      const devices = record.devices.map((device) => ({ ...device, address: '0000:09:00.0' }))
      writeFileSync(path, JSON.stringify({ ...record, devices }))
      const { bad } = await status({ journal })
      assert.match(bad[0]?.reason ?? '', /the device that it is named by is missing or wrong/)
    })
  })

  describe('its directory, its locks and its drafts', () => {
    const refuses = async (trees: HostTrees, plan: Plan, message: RegExp, journal = journalOf(trees)) => {
      const before = photographOf(trees)
      const kernel = new SimulatedKernel(trees)
      const error = await rejection(assign(plan, { ...using(trees, kernel), journal }))
      assert.equal(error.code, 'ERR_VFIO_BAD_JOURNAL', error.message)
      assert.match(error.message, message)
      assert.doesNotMatch(error.message, /\n/)
      // Nothing was changed, so that there is nothing to be put back.
      assert.doesNotMatch(error.message, /undone|put back/)
      assert.deepEqual(kernel.calls, [])
      assert.deepEqual(photographOf(trees), before)
    }
    const single = () => prepare({ host: SINGLE, addresses: [NVME], options: {} })

    it('a link, a file, a directory of others or one that all may write to is no journal', async () => {
      const { trees, plan } = single()
      const elsewhere = temporaryDirectory()
      const journal = journalOf(trees)
      symlinkSync(elsewhere, journal)
      await refuses(trees, plan, /cannot be used \(it is not a directory\): make it a directory of root/)
      assert.equal((await rejection(status({ journal }))).code, 'ERR_VFIO_BAD_JOURNAL')
      assert.equal((await rejection(recover(healthy(trees)))).code, 'ERR_VFIO_BAD_JOURNAL')
      assert.deepEqual(photograph(elsewhere).length, 1)
      rmSync(journal)
      writeFileSync(journal, '')
      await refuses(trees, plan, /cannot be used/)
      rmSync(journal)
      mkdirSync(journal)
      chmodSync(journal, 0o777)
      await refuses(trees, plan, /others may write there/)
      chmodSync(journal, 0o755)
      if (isRoot) {
        chownSync(journal, 1000, 1000)
        await refuses(trees, plan, /it belongs to user 1000/)
        chownSync(journal, 0, 0)
      }
      await (await assign(plan, healthy(trees))).release()
    })

    it('one that cannot be made is told in one sentence', async () => {
      const { trees, plan } = single()
      await refuses(
        trees,
        plan,
        /^the journal \/proc\/none\/here cannot be used \(ENOENT\): /,
        '/proc/none/here',
      )
      await refuses(trees, plan, /^the journal \/dev\/null\/x cannot be used \(ENOTDIR\): /, '/dev/null/x')
    })

    it('one that only root may use says so to others', function () {
      if (!isRoot) skip(this, 'only root may become another user')
      const directory = temporaryDirectory()
      for (const args of [['status'], ['recover'], ['release', NVME]]) {
        const { status: exit, stderr } = spawnSync(
          process.execPath,
          [join(ROOT, 'dist/cli/main.js'), ...args, '--journal', `${directory}/journal`],
          { encoding: 'utf8', uid: 65534, gid: 65534 },
        )
        assert.equal(exit, 1)
        assert.equal(stderr, `vfio: the journal ${directory}/journal cannot be used (EACCES): run as root\n`)
      }
    })

    it('one in which nothing can be made is told, and not tried for ever', async () => {
      const { trees, plan } = single()
      for (const journal of ['/proc', '/proc/self', '/sys', '/sys/kernel', '/dev/null', '/nonexistent/x']) {
        await refuses(trees, plan, /^the journal \/.* cannot be used \(/, journal)
      }
      const gone = join(temporaryDirectory(), 'gone')
      const program = `process.chdir('/'); const fs = await import('node:fs')
        fs.mkdirSync('${gone}'); process.chdir('${gone}'); fs.rmdirSync('${gone}')
        const { assign } = await import('${join(ROOT, 'dist/index.js')}')
        await assign(${JSON.stringify(plan)}, { journal: '.' }).catch((error) => console.log(error.code, error.message))`
      const { stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', program], {
        encoding: 'utf8',
      })
      assert.match(stdout, /^ERR_VFIO_BAD_JOURNAL the journal \.\/.* cannot be used/, stderr)
    })

    it('a link in place of a draft, or of a record that is written anew, is replaced and not followed', async () => {
      const { trees, plan } = single()
      const outside = join(temporaryDirectory(), 'precious')
      writeFileSync(outside, 'precious')
      mkdirSync(journalOf(trees), { mode: 0o700 })
      const path = `${journalOf(trees)}/assignment-${NVME}.json`
      symlinkSync(outside, `${path}.new`)
      const onChange = (change: string) => {
        if (!change.startsWith('wrote') || lstatSync(path).isSymbolicLink()) return
        rmSync(path)
        symlinkSync(outside, path)
      }
      await assign(plan, { ...healthy(trees), onChange })
      assert.equal(lstatSync(path).isFile(), true)
      assert.equal(readFileSync(outside, 'utf8'), 'precious')
    })

    it('the record cannot be written any more: everything is put back, and the first cause is told first', async () => {
      const { trees, plan } = single()
      const before = photographOf(trees).filter((line) => !line.startsWith('journal'))
      const last = plan.steps.length + 1
      let changes = 0
      const onChange = () => {
        if (++changes === last) chmodSync(journalOf(trees), 0o777)
      }
      const error = await rejection(assign(plan, { ...healthy(trees), onChange }))
      assert.ok(error instanceof AssignError)
      assert.equal(error.code, 'ERR_VFIO_BAD_JOURNAL')
      assert.match(error.message, /^the journal .* cannot be used \(others may write there\)/)
      assert.equal(error.failures.length, 1)
      assert.deepEqual(
        photographOf(trees).filter((line) => !line.startsWith('journal')),
        before,
      )
      chmodSync(journalOf(trees), 0o700)
      await recover(healthy(trees))
      assert.equal(existsSync(journalOf(trees)), false)
    })

    it('recover sweeps the drafts that a crash left, and none that is being written', async () => {
      const { trees } = single()
      const before = photographOf(trees)
      mkdirSync(journalOf(trees), { mode: 0o700 })
      const draft = `${journalOf(trees)}/.0123456789ab-assignment-${NVME}.json.new`
      writeFileSync(draft, '{')
      // As earlier versions called them.
      writeFileSync(`${journalOf(trees)}/assignment-${NVME}.json.new`, '{')
      const writer = spawn('flock', [draft, 'sh', '-c', 'echo held; read line'], {
        stdio: ['pipe', 'pipe', 'inherit'],
      })
      const ended = once(writer, 'close')
      await once(writer.stdout, 'data')
      await recover(healthy(trees))
      assert.deepEqual(readdirSync(journalOf(trees)), [draft.slice(journalOf(trees).length + 1)])
      writer.stdin.end('\n')
      await ended
      await recover(healthy(trees))
      assert.deepEqual(photographOf(trees), before)
    })

    it('keeps files that it knows nothing of', async () => {
      const { trees, plan } = single()
      mkdirSync(journalOf(trees), { mode: 0o700 })
      writeFileSync(`${journalOf(trees)}/README`, 'mine')
      const before = photographOf(trees)
      await (await assign(plan, healthy(trees))).release()
      await recover(healthy(trees))
      assert.deepEqual(photographOf(trees), before)
    })
  })
})
