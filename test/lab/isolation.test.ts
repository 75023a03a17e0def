import assert from 'node:assert/strict'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { assess, diagnose, Host } from 'vfio'
import { put } from './binding.js'
import { byContainer, overModes } from './modes.js'
import { Oracle } from './oracle.js'
import { choose, isAlone, refused } from './spare.js'

const isThere = (path: string) => existsSync(path)
/** Of each module that maps memory for devices: type1 for groups, iommufd for devices by their own nodes and in its place. */
const ACCEPTING = ['vfio_iommu_type1', 'iommufd']
  .map((module) => `/sys/module/${module}/parameters/allow_unsafe_interrupts`)
  .filter(isThere)

/** What the kernel makes of a host that may not isolate the interrupts of its devices, whatever host this is. */
overModes('isolated interrupts', function ({ open, backend }) {
  this.timeout(120_000)
  const { address, group } = choose('device alone in its group', isAlone)
  const before = ACCEPTING.map((path) => readFileSync(path, 'utf8').trim())
  assert(before.length > 0, 'a module that maps memory is loaded')

  beforeEach(() => put(address, 'vfio-pci'))
  after(() => {
    for (const [at, path] of ACCEPTING.entries()) writeFileSync(path, before[at] ?? '')
    put(address, 'none')
  })

  for (const accepts of ['N', 'Y']) {
    it(`are asked for as predicted, with allow_unsafe_interrupts=${accepts}`, async () => {
      for (const path of ACCEPTING) writeFileSync(path, accepts)
      const seen = new Host().snapshot({ around: [address] })
      const { verdict, reason } = assess(seen, address)
      const isReady = verdict === 'ready'
      const [answer] = new Oracle().ask([{ group: group ?? -1, address }])
      if (backend === 'group') {
        // iommufd asks when a device is opened, also where it provides the container.
        const asked = byContainer.isType1 && !isReady ? 'EPERM' : 'ok'
        assert.deepEqual([answer?.setIommu, answer?.device === 'ok'], [asked, isReady], reason)
      } else {
        assert.equal(answer?.cdev?.bind, isReady ? 'ok' : 'EPERM', reason)
      }
      const { interruptRemapping } = seen.host.iommu
      const check = diagnose(seen).checks.find(({ name }) => name === 'interrupt remapping')
      assert.equal(check?.status, interruptRemapping ? 'ok' : isReady ? 'warn' : 'fail', check?.detail)
      assert.equal(isReady, interruptRemapping || accepts === 'Y', reason)
      if (isReady) await (await open(address)).close()
      else await refused(open(address), 'EPERM', /allow_unsafe_interrupts/)
    })
  }
})
