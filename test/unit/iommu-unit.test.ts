import assert from 'node:assert/strict'
import { assess, assessUses, planAssignment } from 'vfio'
import { READY_MODULES, removeDirectories } from '../fixtures/host.js'
import { type PlatformDescription, seePlatform } from '../fixtures/platform.js'

const NO_IOMMU_MODE = {
  ...READY_MODULES,
  vfio: { state: 'loaded', parameters: { enable_unsafe_noiommu_mode: 'Y' } },
} as const

/** AMD's IOMMU is a function that no driver binds (`iommu_init_pci`: match_driver), virtio-iommu one of virtio-pci. */
const HOSTS: readonly (readonly [address: string, host: PlatformDescription])[] = [
  ['0000:00:00.2', { iommu: 'amd', devices: [{ address: '0000:00:00.2', class: 0x080600, group: 0 }] }],
  ['0000:00:02.0', { iommu: 'virtio', devices: [{ address: '0000:00:02.0', driver: 'virtio-pci' }] }],
]

describe('a function that is an IOMMU of the host', function () {
  this.timeout(20_000)
  afterEach(removeDirectories)

  for (const [address, host] of HOSTS) {
    it(`stays with the host (${host.iommu})`, () => {
      const { verdict, reason } = assess(seePlatform(host), address)
      assert.equal(verdict, 'blocked')
      assert.match(reason, /is an IOMMU of this host itself/)
    })

    it(`is in use, whatever is forced (${host.iommu})`, () => {
      const [use] = assessUses(seePlatform(host), address)
      assert.deepEqual([use?.kind, use?.severity, use?.vital], ['other', 'blocks', true])
    })

    it(`is not taken in the no-IOMMU mode (${host.iommu})`, () => {
      const seen = seePlatform({ ...host, modules: NO_IOMMU_MODE, devices: [{ address }] })
      assert.equal(assess(seen, address).verdict, 'blocked')
    })
  }

  it('is left out where the whole of its group is taken', () => {
    const devices = [
      { address: '0000:00:00.2', class: 0x080600, group: 0 },
      { address: '0000:00:00.3', class: 0x020000, group: 0, driver: 'igb' },
    ]
    const plan = planAssignment(seePlatform({ iommu: 'amd', devices }), ['00:00.3'], { group: true })
    assert.deepEqual([plan.blockers, plan.devices.map(({ address }) => address)], [[], ['0000:00:00.3']])
  })
})
