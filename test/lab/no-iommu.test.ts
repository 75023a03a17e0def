import assert from 'node:assert/strict'
import { assess, diagnose, Host, kernelParameters, planAssignment } from 'vfio'
import { isAt, put, tryVfio } from './binding.js'

const NIC = '0000:00:05.0'

/** The kernel of this guest was told `intel_iommu=off`; Debian builds none with the no-IOMMU mode. */
describe('a host without an IOMMU', () => {
  const seen = new Host().snapshot()

  it('is told by its command line', () => {
    assert.equal(seen.host.iommu.present, false)
    const { ready, checks } = diagnose(seen)
    assert.equal(ready, false)
    const { cure } = checks.find(({ name }) => name === 'iommu') ?? {}
    // The kernel remaps interrupts all the same, so the firmware has it on.
    assert.equal(cure, 'remove the kernel parameter intel_iommu=off, and boot with intel_iommu=on')
    assert.deepEqual(
      [kernelParameters(seen).add, kernelParameters(seen).remove].map((all) =>
        all.map(({ parameter }) => parameter),
      ),
      [['intel_iommu=on'], ['intel_iommu=off']],
    )
  })

  it('is a machine, and no container', () => {
    const { architecture, hypervisor, container } = seen.host.platform
    assert.deepEqual([architecture, hypervisor === null, container], ['x86', false, null])
  })

  it('can give nothing away, and the kernel agrees: vfio-pci refuses what has no group', () => {
    for (const { address } of seen.devices) assert.equal(assess(seen, address).verdict, 'blocked', address)
    assert.match(planAssignment(seen, [NIC]).blockers[0]?.reason ?? '', /in no IOMMU group/)
    assert.equal(tryVfio(NIC), 'EINVAL')
    put(NIC, 'none')
    assert.ok(isAt(NIC, 'none'))
  })
})
