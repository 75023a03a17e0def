import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { release } from 'node:os'
import {
  assess,
  DmaBuffer,
  Host,
  Iommufd,
  type OpenedDevice,
  openDevice,
  openDevices,
  type PciDevice,
  VfioContainer,
  VfioDevice,
  VfioGroup,
} from 'vfio'
import { skip } from '../fixtures/skip.js'
import { put } from './binding.js'
import { byContainer } from './modes.js'
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
  const isFirstOfGroup = ({ group }: PciDevice, at: number) =>
    spare.findIndex((device) => device.group === group) === at
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
    await using container = Iommufd.open('/dev/vfio/vfio')
    if (byContainer.isType1) {
      await refused(VfioDevice.openCdev(address, { iommufd: container }), ['EBADFD', 'EBADF'])
    } else {
      // There it is one, which charges the process as type1 does.
      assert.equal(container.option('accounting'), 'process')
      await (await VfioDevice.openCdev(address, { iommufd: container })).close()
    }
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

  it('resets a function, and a whole slot or bus without any group, where that is predicted', async () => {
    const done: string[] = []
    // The predictions for all of them are another test's: here is one of each group.
    for (const { address, vendor } of spare.filter(isFirstOfGroup)) {
      bind({ address })
      const { reset, verdict } = assess(new Host().snapshot({ around: [address] }), address)
      if (verdict !== 'ready') continue
      await using opened = await openDevice(address, { backend: 'iommufd' })
      const { device } = opened
      assert.equal(device.info().reset, reset.function.supported, reset.function.reason)
      if (reset.function.supported) await device.reset()
      else await refused(device.reset(), 'EINVAL', /no function reset/)
      if (reset.hot.affected.length === 0) {
        await refused(() => device.hotResetInfo(), 'ENODEV', /root bus/)
        await refused(device.hotReset(), 'ENODEV', /root bus/)
        continue
      }
      const { devices, owned } = device.hotResetInfo()
      assert.ok(devices.every(({ group, devid }) => group === null && devid !== null))
      assert.equal(
        owned,
        devices.every(({ devid }) => (devid ?? -1) >= 0),
      )
      if (reset.hot.supported) {
        await device.hotReset()
        assert.equal(device.config.vendor, vendor)
        done.push(address)
      } else {
        // The kernel asks first who owns all of it, and then waits in vain for the link of a port that reports it as down.
        await refused(device.hotReset(), owned ? 'ENOTTY' : 'EINVAL')
        if (owned) assert.match(reset.hot.reason, /reports its link as down/)
        else assert(reset.hot.blockers.length > 0, reset.hot.reason)
      }
    }
    assert.ok(done.length > 0, 'the topology has a device whose slot or bus can be reset')
    console.log(`      ${done.length} hot resets`)
  })

  describe('a dma-buf of a BAR', () => {
    const target = choose(
      'edu device in another group',
      (device) => isEdu(device) && device.group !== edu.group,
    )
    const IN_EDU = 0x40000
    /** Within the 28 bits that such a device can address. */
    const LOW = 0x10_0000
    /** Lets an edu device write from its own memory, or read into that. */
    const copy = async ({ device }: OpenedDevice, source: number, to: number, count: number) => {
      const bar = device.region('bar0')
      bar.write64(0x80, BigInt(source), 'single')
      bar.write64(0x88, BigInt(to), 'single')
      bar.write64(0x90, BigInt(count), 'single')
      bar.write64(0x98, source === IN_EDU ? 3n : 1n, 'single')
      while (bar.read64(0x98, 'single') & 1n) await new Promise(setImmediate)
    }

    it('is mapped for another device, which reaches the registers behind it until they are taken away', async () => {
      await using source = await openDevice(bind(edu), { backend: 'iommufd' })
      await using other = await openDevice(bind(target), { backend: 'iommufd' })
      const { ioas } = source
      source.device.config.setCommand({ memory: true, busMaster: true })
      other.device.config.setCommand({ memory: true })
      const bar = other.device.region('bar0')
      await using whole = await other.device.dmaBuf('bar0', { ranges: [{ offset: 0, length: PAGE }] })
      using buffer = DmaBuffer.allocate(PAGE)
      await source.dma.map(buffer, { iova: LOW })
      const mapping = await ioas.mapFile(whole.fd, { length: PAGE, iova: LOW + PAGE })
      // Writes the other's register for its liveness check, which inverts what it gets.
      Buffer.from(buffer.bytes.buffer).writeUInt32LE(0x12345678)
      await copy(source, LOW, IN_EDU, 4)
      await copy(source, IN_EDU, LOW + PAGE + 4, 4)
      assert.equal(bar.read32(4), 0xedcba987)
      // And reads its identification.
      await copy(source, LOW + PAGE, IN_EDU, 4)
      await copy(source, IN_EDU, LOW, 4)
      assert.equal(Buffer.from(buffer.bytes.buffer).readUInt32LE(), 0x010000ed)

      // With its memory decode the mapping is taken away, and stays so.
      other.device.config.setCommand({ memory: false })
      await refused(
        ioas.mapFile(whole.fd, { length: PAGE, iova: LOW + 2 * PAGE }),
        'ENODEV',
        /dma-buf was taken away/,
      )
      other.device.config.setCommand({ memory: true })
      Buffer.from(buffer.bytes.buffer).writeUInt32LE(0x00c0ffee)
      await copy(source, LOW, IN_EDU, 4)
      await copy(source, IN_EDU, LOW + PAGE + 4, 4)
      assert.equal(bar.read32(4), 0xedcba987)
      await mapping.unmap()
      const again = await ioas.mapFile(whole.fd, { length: PAGE, iova: LOW + PAGE })
      await copy(source, IN_EDU, LOW + PAGE + 4, 4)
      assert.equal(bar.read32(4), ~0x00c0ffee >>> 0)
      await again.unmap()
      await source.dma.unmapAll()
    })

    it('is refused of several ranges, and beyond its end', async () => {
      await using source = await openDevice(bind(edu), { backend: 'iommufd' })
      await using other = await openDevice(bind(target), { backend: 'iommufd' })
      const { ioas } = source
      other.device.config.setCommand({ memory: true })
      const pieces = [0, 2 * PAGE].map((offset) => ({ offset, length: PAGE }))
      await using two = await other.device.dmaBuf('bar0', { ranges: pieces })
      await refused(ioas.mapFile(two.fd, { length: PAGE, iova: LOW }), 'ENOTSUP', /one range/)
      await using one = await other.device.dmaBuf('bar0', { ranges: pieces.slice(0, 1) })
      await refused(ioas.mapFile(one.fd, { length: 2 * PAGE, iova: LOW }), 'EINVAL')
      // Registers are no memory of a process, and nobody is charged.
      await using moved = Iommufd.open()
      const elsewhere = moved.allocateIoas()
      await (await elsewhere.mapFile(one.fd, { length: PAGE, iova: LOW })).unmap()
    })
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
