import assert from 'node:assert/strict'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { assess, diagnose, Host } from 'vfio'
import { put } from './binding.js'
import { Oracle } from './oracle.js'
import { choose, isAlone, open, refused } from './spare.js'

/** That of what maps memory for groups: type1, or iommufd in its place. */
const ACCEPTS = ['vfio_iommu_type1', 'iommufd']
  .map((module) => `/sys/module/${module}/parameters/allow_unsafe_interrupts`)
  .find((path) => existsSync(path))

/** What the kernel makes of a host that may not isolate the interrupts of its devices, whatever host this is. */
describe('isolated interrupts', function () {
  this.timeout(120_000)
  const { address, group } = choose('device alone in its group', isAlone)
  assert(ACCEPTS, 'a module that maps memory is loaded')
  const path = ACCEPTS
  const before = readFileSync(path, 'utf8').trim()

  beforeEach(() => put(address, 'vfio-pci'))
  after(() => {
    writeFileSync(path, before)
    put(address, 'none')
  })

  for (const accepts of ['N', 'Y']) {
    it(`are asked for as predicted, with allow_unsafe_interrupts=${accepts}`, async () => {
      writeFileSync(path, accepts)
      const seen = new Host().snapshot({ around: [address] })
      const { verdict, reason } = assess(seen, address)
      const isReady = verdict === 'ready'
      const [answer] = new Oracle().ask([{ group: group ?? -1, address }])
      assert.deepEqual(
        [answer?.setIommu, answer?.device === 'ok'],
        [isReady ? 'ok' : 'EPERM', isReady],
        reason,
      )
      const { interruptRemapping } = seen.host.iommu
      const check = diagnose(seen).checks.find(({ name }) => name === 'interrupt remapping')
      assert.equal(check?.status, interruptRemapping ? 'ok' : isReady ? 'warn' : 'fail', check?.detail)
      assert.equal(isReady, interruptRemapping || accepts === 'Y', reason)
      if (isReady) await (await open(address)).close()
      else await refused(open(address), 'EPERM', /allow_unsafe_interrupts/)
    })
  }
})
