import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { Host, type PciDevice, planVfs, setVfs, VfioError } from 'vfio'
import { skip } from '../fixtures/skip.js'
import { driverOf, inUse, isPresent, load, put } from './binding.js'

const used = inUse()
const look = () => new Host().snapshot()
const pfs = look().devices.filter(({ sriov, address }) => sriov?.role === 'pf' && !used.has(address))
const attribute = (address: string, name: string) =>
  readFileSync(`/sys/bus/pci/devices/${address}/${name}`, 'utf8').trim()
const isCode = (code: string) => (error: unknown) => error instanceof VfioError && error.code === code

/** What drives physical functions in the lab. */
const DRIVERS = ['igb', 'nvme']

describe('virtual functions', () => {
  before(function () {
    if (pfs.length === 0) skip(this, 'the topology has no SR-IOV')
    load(DRIVERS)
  })

  for (const pf of pfs) {
    describe(`of ${pf.address} (${pf.vendor.toString(16)}:${pf.device.toString(16)})`, () => {
      before(function () {
        if (put(pf.address, 'host') === null) skip(this, 'this kernel has no driver for it')
      })
      after(async () => {
        if (driverOf(pf.address) !== null) await setVfs(look(), pf.address, 0)
        put(pf.address, 'none')
      })
      declare(pf)
    })
  }
})

function declare({ address }: PciDevice): void {
  const total = () => Number(attribute(address, 'sriov_totalvfs'))

  it('come without drivers, in any number, and go', async () => {
    const autoprobe = attribute(address, 'sriov_drivers_autoprobe')
    for (const count of [1, total(), 0]) {
      const { vfs } = await setVfs(look(), address, count)
      assert.equal(vfs.length, count)
      assert.equal(attribute(address, 'sriov_numvfs'), String(count))
      const seen = look()
      for (const vf of vfs) {
        assert.equal(driverOf(vf), null, `${vf} has no driver`)
        assert.deepEqual(seen.device(vf).sriov, { role: 'vf', pf: address })
      }
      assert.equal(attribute(address, 'sriov_drivers_autoprobe'), autoprobe)
    }
    const { vfs } = await setVfs(look(), address, total())
    await setVfs(look(), address, 0)
    for (const vf of vfs) assert.equal(isPresent(vf), false)
  })

  it('are refused beyond their number, and nothing is changed', async () => {
    await assert.rejects(setVfs(look(), address, total() + 1), isCode('ERR_VFIO_NO_VFS'))
    assert.equal(attribute(address, 'sriov_numvfs'), '0')
  })

  it('stay while VFIO has one of them', async () => {
    const { vfs } = await setVfs(look(), address, 1)
    const [vf] = vfs
    assert(vf)
    assert.equal(put(vf, 'vfio-pci'), 'vfio-pci')
    await assert.rejects(setVfs(look(), address, 0), isCode('ERR_VFIO_IN_USE'))
    put(vf, 'none')
    await setVfs(look(), address, 0)
  })

  it('are refused where the kernel refuses them: without a driver, and on vfio-pci', async () => {
    const write = () => {
      try {
        writeFileSync(`/sys/bus/pci/devices/${address}/sriov_numvfs`, '1')
        return 'ok'
      } catch (error) {
        return (error as NodeJS.ErrnoException).code
      }
    }
    for (const place of ['none', 'vfio-pci'] as const) {
      put(address, place)
      const { blockers } = planVfs(look(), address, 1, { vfioSriov: false })
      assert.equal(blockers[0]?.code, 'ERR_VFIO_NO_VFS', place)
      assert.notEqual(write(), 'ok', place)
    }
    put(address, 'host')
  })
}
