import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { release as kernelRelease } from 'node:os'
import { fileURLToPath } from 'node:url'
import { assign, diagnose, Host, type PciDevice, planAssignment, recover } from 'vfio'
import { skip } from '../fixtures/skip.js'
import { hostState, Program, place, spare } from './assign-host.js'
import { driverOf } from './binding.js'
import { modes } from './modes.js'
import { isEdu, isZpci } from './spare.js'

const host = new Host()
const NVME_CLASS = 0x010802

const isAmd = host.snapshot().host.iommu.units.some(({ kind }) => kind === 'amd-iommu')
const NO_DMA = 'QEMU translates no DMA of this host (scripts/lab/hosts.ts)'

/**
 * What other suites do many times with many processes, each once: where the processor is emulated, each program takes
 * seconds to start.
 */
describe(`bind, release, recover and the examples, once each, on ${kernelRelease()}`, function () {
  this.timeout(300_000)
  before(() => place('none'))
  after(() => place('none'))

  it('is a host that doctor calls ready, with isolated interrupts or their risk accepted', () => {
    const seen = host.snapshot()
    const { ready, checks } = diagnose(seen)
    assert.deepEqual(
      checks.filter(({ status }) => status === 'fail'),
      [],
    )
    assert.equal(ready, true)
    const isolation = checks.find(({ name }) => name === 'interrupt remapping')
    assert.equal(isolation?.status, seen.host.iommu.interruptRemapping ? 'ok' : 'warn')
  })

  for (const drivers of ['none', 'host'] as const) {
    it(`binds and releases all that can be spared, from ${drivers === 'host' ? 'the drivers of the host' : 'no driver'}`, async () => {
      place(drivers)
      const seen = host.snapshot()
      const before = hostState()
      const reset = drivers === 'host' ? 'before-and-after' : 'none'
      const all = spare(seen).groups.map(([first = '']) => planAssignment(seen, [first], { group: true }))
      const addresses = all.filter(({ blockers }) => blockers.length === 0).flatMap((plan) => plan.addresses)
      const plan = planAssignment(seen, addresses, { group: true, reset })
      assert.deepEqual(plan.blockers, [])
      const assignment = await assign(plan)
      for (const { address, driver } of plan.devices) assert.equal(driverOf(address), driver)
      await assignment.release()
      assert.deepEqual(hostState(), before)
      console.log(`      ${plan.devices.length} devices`)
      assert(plan.devices.length >= 3)
    })
  }

  it('recovers what a program left behind that was killed in the middle', async () => {
    place('host')
    const seen = host.snapshot()
    const before = hostState()
    const [address = ''] =
      spare(seen).groups.find((group) => group.some((one) => driverOf(one) === 'nvme')) ?? []
    const plan = planAssignment(seen, [address], { group: true })
    const program = new Program()
    await program.give({ do: 'assign', plan, dieAfter: 4 })
    assert.equal(await program.line(), '')
    assert.notDeepEqual(hostState(), before)
    assert.deepEqual((await recover()).recovered.toSorted(), plan.addresses.toSorted())
    assert.deepEqual(hostState(), before)
  })

  /** A program of examples/, as people start it but for npm. */
  function example(name: 'edu' | 'nvme', device: PciDevice, ...args: readonly string[]): string {
    const program = fileURLToPath(new URL(`../../examples/${name}.js`, import.meta.url))
    const { status, stdout, stderr } = spawnSync(process.execPath, [program, device.address, ...args], {
      encoding: 'utf8',
    })
    assert.equal(status, 0, stderr)
    return stdout
  }

  for (const { name, backend } of modes) {
    it(`edu: identification, a factorial with its interrupt, DMA both ways, by ${name}`, function () {
      if (isAmd) skip(this, NO_DMA)
      if (isZpci) skip(this, 'zPCI has no edu device, which has no MSI-X')
      place('none')
      const edu = host.snapshot().devices.find(isEdu)
      assert(edu)
      assert.match(example('edu', edu, '--backend', backend), /told by an interrupt\n4096 bytes went/)
      assert.equal(driverOf(edu.address), null)
    })

    it(`NVMe: writes and reads by polling and by MSI-X, by ${name}`, function () {
      if (isAmd) skip(this, NO_DMA)
      place('none')
      const disk = host.snapshot().devices.find((device) => device.class === NVME_CLASS)
      assert(disk)
      const said = example('nvme', disk, '--verify', '--seconds', '0', '--backend', backend)
      assert.match(said, /serial lab-[a-z0-9-]+, /)
      assert.match(said, /65536 bytes written, .* polling\n.*65536 bytes written, .* MSI-X\n/)
      assert.equal(driverOf(disk.address), null)
    })
  }
})
