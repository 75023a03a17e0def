import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { release } from 'node:os'
import { Host, openDevice, rescanDevice, resetByMethod, VfioSystemError } from 'vfio'
import { skip } from '../fixtures/skip.js'
import { driverOf, isPresent, put } from './binding.js'
import { modes } from './modes.js'
import { freeAll, refused, returnAll, since, spare } from './spare.js'

const fileOf = (address: string) => `/sys/bus/pci/devices/${address}/reset_method`
const methodsOf = (address: string) => readFileSync(fileOf(address), 'utf8').trim()

/** What the kernel itself says of resets by one method, and of devices that are found anew. */
describe(`resets by method and rescans on ${release()}`, function () {
  this.timeout(120_000)
  before(freeAll)
  after(returnAll)

  it('asks the kernel for each method that it tells of, and leaves all that fit, whatever it answers', async function () {
    if (!since(5, 15)) skip(this, 'this kernel does not tell its methods')
    const done: string[] = []
    for (const { address, resetMethods } of spare) {
      for (const method of resetMethods ?? []) {
        const before = methodsOf(address)
        // One that does not fit goes with the first list that is put back.
        if (!before.split(' ').includes(method)) continue
        const seen = new Host().snapshot({ around: [address] })
        try {
          const report = await resetByMethod(seen, address, method)
          assert.deepEqual([report.method, report.methods.join(' ')], [method, methodsOf(address)])
          done.push(`${address} ${method}`)
        } catch (error) {
          // A method that was found when the device was added need not fit it as it stands.
          assert(
            error instanceof VfioSystemError && error.code === 'ENOTTY',
            `${address} ${method}: ${error}`,
          )
        }
        const after = methodsOf(address).split(' ')
        const fitting = before.split(' ').filter((name) => after.includes(name))
        assert(after.length > 0 && after.join() === fitting.join(), `${address} after ${method}: ${after}`)
      }
    }
    assert(done.length > 3, `only ${done}`)
  })

  it('resets by no method that the kernel has not for it', async () => {
    const [device] = spare
    assert(device)
    const seen = new Host().snapshot({ around: [device.address] })
    await refused(resetByMethod(seen, device.address, 'acpi'), 'ERR_VFIO_NO_RESET')
  })

  for (const { name, backend } of modes)
    it(`leaves a device alone that is open in VFIO by ${name}`, async function () {
      const device = spare.find(
        ({ resetMethods, group }) => (resetMethods?.length ?? 0) > 0 && group !== null,
      )
      if (!device) skip(this, 'no device tells its methods')
      const { address } = device
      for (const other of spare) if (other.group === device.group) put(other.address, 'vfio-pci')
      await using _opened = await openDevice(address, { backend })
      const seen = new Host().snapshot({ around: [address] })
      const [method = ''] = device.resetMethods ?? []
      await refused(resetByMethod(seen, address, method), 'ERR_VFIO_IN_USE')
      await refused(rescanDevice(seen, address), 'ERR_VFIO_IN_USE')
      assert.equal(driverOf(address), 'vfio-pci')
    })

  it('finds a device anew, with its override and without', async () => {
    const device = spare.find(({ sriov, parent }) => sriov === null && parent !== null)
    assert(device)
    const { address } = device
    for (const other of spare) if (other.group === device.group) put(other.address, 'vfio-pci')
    const again = await rescanDevice(new Host().snapshot({ around: [address] }), address)
    assert.deepEqual([again.driver, driverOf(address), isPresent(address)], ['vfio-pci', 'vfio-pci', true])
    put(address, 'none')
    const fresh = await rescanDevice(new Host().snapshot({ around: [address] }), address)
    assert.equal(fresh.driver, driverOf(address))
    assert.equal(isPresent(address), true)
  })
})
