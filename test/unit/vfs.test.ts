import assert from 'node:assert/strict'
import { existsSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import fc from 'fast-check'
import { Host, planVfs, recover, setVfs, VfioError, VfioSystemError } from 'vfio'
import {
  type DeviceDescription,
  type HostDescription,
  type HostTrees,
  makeHost,
  removeDirectories,
} from '../fixtures/host.js'
import { journalOf } from './assign-hosts.js'
import { SEED } from './support.js'

const PF = '0000:60:00.0'
const vf = (fn: number, driver?: string): DeviceDescription => ({
  address: `0000:60:10.${fn}`,
  physfn: PF,
  group: 20 + fn,
  ...(driver && { driver }),
})
const host = (pf: Partial<DeviceDescription>, ...others: DeviceDescription[]): HostDescription => ({
  devices: [{ address: PF, driver: 'igb', group: 8, totalVfs: 7, readable: 64, ...pf }, ...others],
})

const isCode = (code: string) => (error: unknown) => error instanceof VfioError && error.code === code

describe('vfs', () => {
  after(removeDirectories)

  /** The writes that reach a host, in order, each of which it takes unless told otherwise. */
  function recorder(trees: HostTrees, refuse: (path: string, text: string) => string | null = () => null) {
    const writes: string[] = []
    const waiting: (() => void)[] = []
    const kernel = {
      write(path: string, text: string): Promise<void> {
        const name = path.slice(path.lastIndexOf('/') + 1)
        writes.push(`${name}=${text.trim()}`)
        const errno = refuse(name, text.trim())
        if (errno === 'hang') return new Promise((resolve) => waiting.push(resolve))
        if (errno === 'nothing') return Promise.resolve()
        if (errno !== null) {
          return Promise.reject(
            new VfioSystemError({ errno: Number(errno), syscall: 'write', request: name, path }),
          )
        }
        writeFileSync(path, text)
        return Promise.resolve()
      },
      read: (path: string) => Promise.resolve(readFileSync(path, 'utf8')),
      load: () => Promise.reject(new Error('nothing is loaded')),
      reset: () => Promise.reject(new Error('nothing is reset')),
      isOpen: () => false,
    }
    const set = (count: number, deadline?: number) =>
      setVfs(
        new Host(trees).snapshot(),
        PF,
        count,
        Object.assign({ sysfs: trees.sysfs, journal: journalOf(trees), deadline }, { kernel }),
      )
    const autoprobe = () =>
      readFileSync(`${trees.sysfs}/bus/pci/devices/${PF}/sriov_drivers_autoprobe`, 'utf8').trim()
    const answerAll = () => {
      for (const answer of waiting) answer()
    }
    return { writes, set, autoprobe, answerAll }
  }

  it('sets the number with autoprobe off, and puts that back', async () => {
    const { set, writes, autoprobe } = recorder(makeHost(host({})))
    const report = await set(4)
    assert.deepEqual(writes, ['sriov_drivers_autoprobe=0', 'sriov_numvfs=4', 'sriov_drivers_autoprobe=1'])
    assert.deepEqual([report.from, report.to], [0, 4])
    assert.equal(autoprobe(), '1')
  })

  it('goes through 0 from one number to another, and names the functions', async () => {
    const { set, writes } = recorder(makeHost(host({}, vf(0), vf(1))))
    assert.deepEqual(await set(2), { address: PF, from: 2, to: 2, vfs: ['0000:60:10.0', '0000:60:10.1'] })
    assert.deepEqual(writes, [])
    assert.deepEqual((await set(1)).vfs, ['0000:60:10.0'])
    assert.deepEqual(writes.slice(1, -1), ['sriov_numvfs=0', 'sriov_numvfs=1'])
  })

  it('leaves autoprobe alone where it is off', async () => {
    const { set, writes, autoprobe } = recorder(makeHost(host({ files: { sriov_drivers_autoprobe: '0\n' } })))
    await set(3)
    assert.deepEqual(writes, ['sriov_numvfs=3'])
    assert.equal(autoprobe(), '0')
  })

  it('writes to the files themselves', async () => {
    const trees = makeHost(host({}))
    const report = await setVfs(new Host(trees).snapshot(), '60:00.0', 7, {
      sysfs: trees.sysfs,
      journal: journalOf(trees),
    })
    assert.equal(report.to, 7)
    assert.equal(readFileSync(`${trees.sysfs}/bus/pci/devices/${PF}/sriov_numvfs`, 'utf8').trim(), '7')
  })

  const BLOCKED: readonly [string, HostDescription, number, string, RegExp][] = [
    [
      'a device without SR-IOV',
      { devices: [{ address: PF, driver: 'nvme', group: 1 }] },
      1,
      'ERR_VFIO_NO_VFS',
      /has no SR-IOV/,
    ],
    ['more than there are', host({}), 8, 'ERR_VFIO_NO_VFS', /at most 7 virtual functions, not 8/],
    ['no driver', host({ driver: '' }), 1, 'ERR_VFIO_NO_VFS', /has no driver/],
    ['a PF that VFIO has', host({ driver: 'vfio-pci' }), 1, 'ERR_VFIO_NO_VFS', /enable_sriov=1/],
    [
      'a function that VFIO has',
      host({}, vf(0, 'vfio-pci')),
      0,
      'ERR_VFIO_IN_USE',
      /60:10\.0 is bound to vfio-pci.*vfio release/,
    ],
    [
      'a function that the host uses',
      host({}, vf(0, 'igbvf')),
      2,
      'ERR_VFIO_IN_USE',
      /60:10\.0 is bound to igbvf.*unbind it/,
    ],
  ]
  for (const [what, description, count, code, text] of BLOCKED) {
    it(`says what is in the way, and changes nothing: ${what}`, async () => {
      const { set, writes } = recorder(makeHost(description))
      await assert.rejects(set(count), (error) => isCode(code)(error) && text.test((error as Error).message))
      assert.deepEqual(writes, [])
    })
  }

  it('asks the PF, not one of its functions', () => {
    const seen = new Host(makeHost(host({}, vf(0)))).snapshot()
    assert.match(
      planVfs(seen, '60:10.0', 1, { vfioSriov: false }).blockers[0]?.reason ?? '',
      /ask for them at 0000:60:00\.0/,
    )
  })

  it('lets vfio-pci make functions where its parameter allows it', () => {
    const seen = new Host(makeHost(host({ driver: 'vfio-pci' }))).snapshot()
    assert.deepEqual(planVfs(seen, PF, 2, { vfioSriov: true }).blockers, [])
  })

  it('puts everything back when the kernel refuses', async () => {
    const { set, writes, autoprobe } = recorder(makeHost(host({}, vf(0), vf(1))), (name, text) =>
      name === 'sriov_numvfs' && text === '5' ? '12' : null,
    )
    await assert.rejects(set(5), (error) => error instanceof VfioSystemError && error.code === 'ENOMEM')
    assert.deepEqual(
      writes.filter((write) => write.startsWith('sriov_numvfs')),
      ['sriov_numvfs=0', 'sriov_numvfs=5', 'sriov_numvfs=2'],
    )
    assert.equal(autoprobe(), '1')
  })

  it('says both when it cannot', async () => {
    const { set } = recorder(makeHost(host({}, vf(0))), (name, text) =>
      name === 'sriov_numvfs' && text !== '0' ? '5' : null,
    )
    await assert.rejects(
      set(5),
      (error) => isCode('ERR_VFIO_NOT_RESTORED')(error) && /EIO.*EIO/.test((error as Error).message),
    )
  })

  it('does not wait for ever, and keeps drivers away until the kernel is done', async () => {
    const trees = makeHost(host({}))
    const { set, autoprobe, answerAll } = recorder(trees, (name) => (name === 'sriov_numvfs' ? 'hang' : null))
    await assert.rejects(set(5, 20), isCode('ERR_VFIO_TIMEOUT'))
    assert.equal(autoprobe(), '0')
    // What is still in the kernel keeps the lock.
    await assert.rejects(recorder(trees).set(3), isCode('ERR_VFIO_LOCKED'))
    answerAll()
    while (existsSync(journalOf(trees))) await new Promise((resolve) => setImmediate(resolve))
    assert.equal(autoprobe(), '1')
    await new Promise((resolve) => setImmediate(resolve))
    await recorder(trees).set(3)
  })

  it('keeps its record where none are left when the kernel is done at last', async () => {
    const trees = makeHost(host({}, vf(0), vf(1)))
    const { set, writes, answerAll } = recorder(trees, (name) => (name === 'sriov_numvfs' ? 'hang' : null))
    await assert.rejects(set(5, 20), isCode('ERR_VFIO_TIMEOUT'))
    assert.deepEqual(writes, ['sriov_drivers_autoprobe=0', 'sriov_numvfs=0'])
    const file = (name: string) => `${trees.sysfs}/bus/pci/devices/${PF}/${name}`
    writeFileSync(file('sriov_numvfs'), '0\n')
    answerAll()
    const options = { journal: journalOf(trees) }
    for (;;) {
      const { busy, recovered } = await recover(options)
      if (busy.length === 0) {
        assert.deepEqual(recovered, [PF])
        break
      }
    }
    assert.equal(readFileSync(file('sriov_numvfs'), 'utf8').trim(), '2')
    assert.equal(readFileSync(file('sriov_drivers_autoprobe'), 'utf8').trim(), '1')
  })

  it('is refused while another program works on one of the functions, or gave it a driver', async () => {
    const trees = makeHost(host({}, vf(0)))
    const slow = recorder(trees, (name) => (name === 'sriov_numvfs' ? 'hang' : null))
    const first = slow.set(0)
    const { set, writes } = recorder(trees)
    await assert.rejects(set(0), isCode('ERR_VFIO_LOCKED'))
    while (!slow.writes.includes('sriov_numvfs=0')) await new Promise((resolve) => setImmediate(resolve))
    slow.answerAll()
    await first.catch(() => {})
    const seen = new Host(trees).snapshot()
    symlinkSync('../../../bus/pci/drivers/igb', `${trees.sysfs}/bus/pci/devices/0000:60:10.0/driver`)
    await assert.rejects(
      setVfs(seen, PF, 0, { sysfs: trees.sysfs, journal: journalOf(trees) }),
      isCode('ERR_VFIO_HOST_CHANGED'),
    )
    assert.deepEqual(writes, [])
  })

  it('sees when the number did not take hold', async () => {
    const trees = makeHost(host({}))
    const { set } = recorder(trees, (name) => (name === 'sriov_numvfs' ? 'nothing' : null))
    await assert.rejects(set(5), isCode('ERR_VFIO_NO_VFS'))
    assert.equal(existsSync(journalOf(trees)), false)
  })

  it('sees when another program has set the number since the look', async () => {
    const trees = makeHost(host({}))
    const seen = new Host(trees).snapshot()
    writeFileSync(`${trees.sysfs}/bus/pci/devices/${PF}/sriov_numvfs`, '3\n')
    const options = { sysfs: trees.sysfs, journal: journalOf(trees) }
    await assert.rejects(setVfs(seen, PF, 5, options), isCode('ERR_VFIO_HOST_CHANGED'))
    assert.equal(existsSync(journalOf(trees)), false)
  })

  it(`takes any count and address, or refuses with a typed error (seed ${SEED})`, () => {
    const seen = new Host(makeHost(host({}, vf(0)))).snapshot()
    const count = fc.oneof(fc.integer({ min: -2, max: 9 }), fc.double(), fc.integer())
    fc.assert(
      fc.property(fc.oneof(fc.constant(PF), fc.string()), count, (address, number) => {
        try {
          const { blockers, writes } = planVfs(seen, address, number, { vfioSriov: false })
          assert.ok(blockers.length > 0 || writes.every((write) => write <= 7))
        } catch (error) {
          if (!(error instanceof VfioError)) throw error
        }
      }),
    )
  })
})
