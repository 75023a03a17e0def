import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { release } from 'node:os'
import {
  assess,
  DmaBuffer,
  Host,
  Iommufd,
  openDevice,
  openDevices,
  type PciDevice,
  VfioContainer,
  VfioDevice,
  VfioGroup,
  VfioSystemError,
} from 'vfio'
import { skip } from '../fixtures/skip.js'
import { put } from './binding.js'
import { choose, freeAll, isAlone, isEdu, PAGE, refused, returnAll, spare } from './spare.js'

const BASE = 0x4000_0000

describe(`iommufd and devices by their own nodes on ${release()}`, function () {
  this.timeout(200_000)
  before(function () {
    if (!existsSync('/dev/iommu')) skip(this, 'this kernel has no iommufd')
  })
  beforeEach(freeAll)
  after(returnAll)

  const edu = choose('edu device alone in its group', (device) => isEdu(device) && isAlone(device))
  const other = choose('second device alone in its group', (device) => device !== edu && isAlone(device))
  const pair = (fits: (device: PciDevice) => boolean) =>
    spare.filter(fits).find(({ group }) => spare.filter((one) => one.group === group).length === 2)

  /** Binds a whole group to vfio-pci; returns its address. */
  function bind({ address }: { readonly address: string }): string {
    const { toBind } = assess(new Host().snapshot({ around: [address] }), address)
    for (const one of toBind) put(one, 'vfio-pci')
    return address
  }

  it('opens, allocates address spaces, and destroys them with itself', async () => {
    await using iommufd = Iommufd.open()
    const one = iommufd.allocateIoas()
    const two = iommufd.allocateIoas()
    assert.notEqual(one.id, two.id)
    assert.equal(one.option('huge-pages'), true)
    one.option('huge-pages', false)
    assert.equal(one.option('huge-pages'), false)
    assert.equal(iommufd.option('accounting'), 'user')
    await refused(iommufd.destroy(0xffff), 'ENOENT')
    await one.close()
    await refused(iommufd.destroy(one.id), 'ENOENT')
    await refused(() => one.ranges(), 'ERR_VFIO_CLOSED')
    await iommufd.close()
    assert.equal(two.closed, true)
  })

  it('chooses whom locked memory is charged to before anything is there', async () => {
    await using iommufd = Iommufd.open()
    iommufd.option('accounting', 'process')
    assert.equal(iommufd.option('accounting'), 'process')
    iommufd.allocateIoas()
    await refused(() => iommufd.option('accounting', 'user'), 'EBUSY')
  })

  it('maps without a device, and shares with another address space by copy', async () => {
    await using iommufd = Iommufd.open()
    const [one, two] = [iommufd.allocateIoas(), iommufd.allocateIoas()]
    using buffer = DmaBuffer.allocate(16 * PAGE)
    const mapping = await one.map(buffer, { iova: BASE })
    const copied = await two.copy(mapping, { iova: 2 * BASE })
    assert.equal(copied.iova, BigInt(2 * BASE))
    await refused(two.copy(mapping, { iova: 2 * BASE }), 'EEXIST')
    await mapping.unmap()
    assert.equal(copied.mapped, true)
    assert.equal(await two.unmapAll(), BigInt(buffer.size))
    assert.equal(buffer.mapped, false)
  })

  it('maps a file by its descriptor', async () => {
    await using iommufd = Iommufd.open()
    const ioas = iommufd.allocateIoas()
    using buffer = DmaBuffer.allocate(8 * PAGE)
    const mapping = await ioas.mapFile(buffer.fd, { offset: PAGE, length: 4 * PAGE, iova: BASE })
    assert.equal(mapping.size, 4 * PAGE)
    await refused(ioas.mapFile(buffer.fd, { length: PAGE, iova: BASE }), 'EEXIST', /overlaps the mapping/)
    await mapping.unmap()
    // Now that everything is mapped by its file, it may go to another process.
    await ioas.mapFile(buffer.fd, { length: PAGE, iova: BASE })
    await iommufd.changeProcess()
    assert.equal(await ioas.unmapAll(), BigInt(PAGE))
  })

  it('has the addresses that its devices leave free, and those alone that are allowed', async () => {
    await using opened = await openDevice(bind(edu), { backend: 'iommufd' })
    const { ioas } = opened
    const { alignment, ranges } = ioas.ranges()
    assert.equal(alignment, BigInt(PAGE))
    // The window of message-signalled interrupts is between two of them.
    assert.ok(ranges.length >= 2)
    assert.ok(ranges.every(({ start, end }) => end < 0xfee0_0000n || start > 0xfeef_ffffn))
    using buffer = DmaBuffer.allocate(PAGE)
    await refused(
      ioas.map(buffer, { iova: 0xfee0_0000 }),
      ['EINVAL', 'EADDRINUSE'],
      /not within what the IOMMU maps/,
    )
    ioas.allow([{ start: 0x1000_0000n, end: 0x1fff_ffffn }])
    await refused(() => ioas.allow([{ start: 0xfee0_0000n, end: 0xfee0_0fffn }]), 'EADDRINUSE')
    ioas.allow([])
  })

  it('binds a device, attaches it, moves it and detaches it', async () => {
    const address = bind(edu)
    await using iommufd = Iommufd.open()
    const [one, two] = [iommufd.allocateIoas(), iommufd.allocateIoas()]
    await using device = await VfioDevice.openCdev(address, { iommufd })
    assert.ok((device.devid ?? 0) > 0)
    await device.attach(one)
    await device.attach(two)
    // What nothing uses any more can go.
    await one.close()
    const table = await two.allocateHwpt(device)
    await device.attach(table)
    await device.detach()
    await device.detach()
    await table.close()
    await device.attach(two)
    await refused(device.attach(two, { pasid: 5 }), ['ENOTSUP', 'EINVAL'])
    assert.equal(device.region('bar0').read32(0), 0x010000ed)
    const { type, dirtyTracking } = iommufd.hardwareInfo(device)
    assert.equal(type, 'intel-vtd')
    if (!dirtyTracking) await refused(two.allocateHwpt(device, { dirtyTracking: true }), 'ENOTSUP')
  })

  it('is refused while the group is open, and the other way round', async () => {
    const address = bind(edu)
    const { group } = edu
    assert(group !== null)
    await using iommufd = Iommufd.open()
    {
      await using byGroup = await openDevice(address, { backend: 'group' })
      await refused(VfioDevice.openCdev(address, { iommufd }), 'EBUSY', /group/)
      assert.equal(byGroup.backend, 'group')
    }
    await using device = await VfioDevice.openCdev(address, { iommufd })
    await refused(() => VfioGroup.open(group), 'EBUSY')
    await refused(VfioDevice.openCdev(address, { iommufd }), ['EBUSY', 'EINVAL'])
    await using another = Iommufd.open()
    await refused(VfioDevice.openCdev(address, { iommufd: another }), ['EBUSY', 'EINVAL'])
    await device.close()
    await VfioGroup.open(group).close()
  })

  it('takes nothing for an iommufd that is none', async () => {
    const address = bind(edu)
    await refused(() => Iommufd.open('/dev/iommu-that-is-none'), 'ENOENT', /modprobe iommufd/)
    await using none = Iommufd.open('/dev/vfio/vfio')
    await refused(VfioDevice.openCdev(address, { iommufd: none }), ['EBADFD', 'EBADF'])
  })

  it('is refused for a group that is not viable, as by its group', async function () {
    const first = pair(() => true)
    const second = spare.find((device) => device !== first && device.group === first?.group)
    if (!first || !second) skip(this, 'this topology has no group of two')
    put(first.address, 'vfio-pci')
    assert.equal(put(second.address, 'host') === null, false)
    await using iommufd = Iommufd.open()
    await refused(VfioDevice.openCdev(first.address, { iommufd }), 'EPERM', /not viable|vfio check/)
    put(second.address, 'none')
    await (await VfioDevice.openCdev(first.address, { iommufd })).close()
  })

  it('resets a function, and a whole slot without any group', async () => {
    const resettable: string[] = []
    for (const { address } of spare.filter(isAlone)) {
      await using opened = await openDevice(bind({ address }), { backend: 'iommufd' })
      const { device } = opened
      if (device.info().reset) {
        await device.reset()
        resettable.push(address)
      } else {
        await refused(device.reset(), ['EINVAL', 'ENOTTY'])
      }
      try {
        const { devices, owned } = device.hotResetInfo()
        assert.ok(devices.every(({ group, devid }) => group === null && devid !== null))
        const isAll = devices.every(({ devid }) => (devid ?? -1) >= 0)
        assert.equal(owned, isAll)
        if (isAll) await device.hotReset()
        else await refused(device.hotReset(), ['EINVAL', 'ENOTTY'])
      } catch (error) {
        assert(error instanceof VfioSystemError && ['ENODEV', 'ENOTTY'].includes(error.code), String(error))
      }
    }
    assert.ok(resettable.length > 0)
  })

  it('opens several devices into one address space, or none of them', async () => {
    await using opened = await openDevices([bind(edu), bind(other)], { backend: 'iommufd' })
    using buffer = DmaBuffer.allocate(4 * PAGE)
    const mapping = await opened.dma.map(buffer)
    assert.deepEqual(
      opened.devices.map(({ address }) => address),
      [edu.address, other.address],
    )
    await opened.close()
    assert.equal(mapping.mapped, false)
  })

  it('is what is taken where nothing is said', async () => {
    await using opened = await openDevice(bind(edu))
    assert.equal(opened.backend, 'iommufd')
    await using byGroup = VfioContainer.open()
    assert.equal(byGroup.apiVersion(), 0)
  })
})
