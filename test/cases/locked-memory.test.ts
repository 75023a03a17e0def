import assert from 'node:assert/strict'
import { exportCloudHypervisor, exportQemu, Host, lockedMemory } from 'vfio'
import { makeHost, removeDirectories } from '../fixtures/host.js'

const GIB = 2 ** 30

/**
 * What a VM is charged for (`drivers/vfio/vfio_iommu_type1.c: vfio_lock_acct` by container,
 * `drivers/iommu/iommufd/pages.c` by user), with the BARs that QEMU maps for peer-to-peer (`vfio_listener_region_add`).
 */
describe('locked memory', () => {
  after(removeDirectories)
  const bar = (index: 0 | 2 | 4, size: number) => ({ index, address: 0x38_0000_0000, size, is64: true })
  const seen = new Host(
    makeHost({
      devices: [
        {
          address: '0000:01:00.0',
          driver: 'vfio-pci',
          group: 2,
          bars: [
            bar(0, 16 * 2 ** 20),
            bar(2, 32 * GIB - 16 * 2 ** 20),
            { index: 4, address: 0xe000, size: 128, io: true },
          ],
        },
        { address: '0000:02:00.0', driver: 'vfio-pci', group: 3, bars: [bar(0, 16 * GIB)] },
      ],
    }),
  ).snapshot()

  const HOSTS: readonly [
    what: string,
    options: Parameters<typeof lockedMemory>[0],
    gib: number,
    by: string,
  ][] = [
    ['one container', { memory: 16 * GIB, user: 'alice' }, 17, 'process'],
    ['a virtual IOMMU and three groups', { memory: 16 * GIB, containers: 3, user: 'alice' }, 51, 'process'],
    ['a GPU with a large BAR', { memory: 16 * GIB, bars: 32 * GIB, user: 'alice' }, 49, 'process'],
    [
      'two containers that both map it',
      { memory: 16 * GIB, bars: 32 * GIB, containers: 2, user: 'alice' },
      98,
      'process',
    ],
    ['iommufd', { memory: 16 * GIB, bars: 32 * GIB, iommufd: true, user: 'alice' }, 49, 'user'],
  ]
  for (const [what, options, gib, by] of HOSTS) {
    it(`of ${what}: ${gib} GiB, for each ${by}`, () => {
      const { bytes, charged, arithmetic } = lockedMemory(options)
      assert.deepEqual([bytes, charged], [gib * GIB, by])
      assert.equal(/BARs/.test(arithmetic), options.bars !== undefined)
    })
  }

  it('refuses BARs of no size', () => {
    assert.throws(() => lockedMemory({ memory: GIB, bars: -1, user: 'alice' }), /BARs/)
  })

  it('is told with the arguments of a hypervisor, for the whole set', () => {
    const note =
      /limit on locked memory of 69793218560 bytes: 16 GiB .*48 GiB of the devices' BARs.*each container/
    assert.match(exportQemu(seen, ['01:00.0', '02:00.0'], { memory: 16 * GIB }).notes.join(), note)
    const options = { memory: 16 * GIB, iommufd: true }
    assert.match(exportQemu(seen, ['01:00.0', '02:00.0'], options).notes.join(), /charges the user once/)
    assert.match(
      exportCloudHypervisor(seen, ['01:00.0'], { memory: GIB }).notes.join(),
      /limit on locked memory/,
    )
    assert.deepEqual(exportQemu(seen, ['01:00.0']).notes, [])
  })
})
