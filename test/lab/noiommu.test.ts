import assert from 'node:assert/strict'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import {
  assess,
  assign,
  diagnose,
  Host,
  kernelParameters,
  openDevice,
  planAssignment,
  resetDevice,
} from 'vfio'
import { driverOf } from './binding.js'

const MODE = '/sys/module/vfio/parameters/enable_unsafe_noiommu_mode'
const NIC = '0000:00:05.0'
const look = () => new Host().snapshot()
const checkOf = (name: string) => diagnose(look()).checks.find((check) => check.name === name)

/** The kernel of this guest was told `intel_iommu=off`. */
describe('a host without an IOMMU', () => {
  after(() => writeFileSync(MODE, 'N'))

  it('is told by its command line, and nothing can be given away', () => {
    writeFileSync(MODE, 'N')
    const seen = look()
    assert.equal(seen.host.iommu.present, false)
    assert.match(checkOf('iommu')?.cure ?? '', /remove the kernel parameter intel_iommu=off.*last resort/)
    const { remove } = kernelParameters(seen)
    assert.deepEqual(
      remove.map(({ parameter }) => parameter),
      ['intel_iommu=off'],
    )
    for (const { address } of seen.devices) assert.equal(assess(seen, address).verdict, 'blocked', address)
    assert.equal(diagnose(seen).ready, false)
  })

  it('gives a function away in the no-IOMMU mode, and takes it back as it was', async () => {
    writeFileSync(MODE, 'Y')
    const before = driverOf(NIC)
    const taint = () => Number(readFileSync('/proc/sys/kernel/tainted', 'utf8'))
    const predicted = assess(look(), NIC)
    assert.deepEqual([predicted.verdict, predicted.noIommu], ['bindable', true])
    {
      await using assignment = await assign(planAssignment(look(), [NIC]))
      const [device] = assignment.devices
      assert.equal(driverOf(NIC), 'vfio-pci')
      assert.ok(existsSync(`/dev/vfio/noiommu-${device?.group}`))
      // TAINT_USER: the kernel says what it thinks of this.
      assert.notEqual(taint() & (1 << 6), 0)
      const seen = look()
      const { verdict, noIommu, reset } = assess(seen, NIC)
      assert.deepEqual([verdict, noIommu], ['ready', true])
      {
        await using opened = await openDevice(NIC)
        assert.equal(opened.device.info().reset, reset.function.supported)
        assert.equal(opened.device.region('config').read16(0), 0x8086)
      }
      // What is bound stays in its group when the mode is switched off, though nothing new is given away.
      writeFileSync(MODE, 'N')
      assert.equal(assess(look(), NIC).noIommu, true)
      writeFileSync(MODE, 'Y')
      if (reset.function.supported) assert.deepEqual((await resetDevice(look(), NIC)).affected, [NIC])
    }
    assert.equal(driverOf(NIC), before)
    assert.equal(look().device(NIC).group, null)
  })

  it('has it bound by a warning, not by a failure', () => {
    writeFileSync(MODE, 'Y')
    assert.deepEqual([checkOf('iommu')?.status, checkOf('groups')?.status], ['warn', 'warn'])
  })
})
