import assert from 'node:assert/strict'
import { readdirSync, readlinkSync } from 'node:fs'
import { release } from 'node:os'
import {
  DmaBuffer,
  Host,
  type PciDevice,
  VfioContainer,
  type VfioDevice,
  VfioError,
  VfioGroup,
  VfioSystemError,
} from 'vfio'
import { skip } from '../fixtures/skip.js'
import { inUse, load, meetIommu, put } from './binding.js'
import { byContainer } from './modes.js'
import { growsMsix, isZpci, PAGE } from './spare.js'

const [major = 0, minor = 0] = release().split('.').map(Number)
const since = (wantedMajor: number, wantedMinor: number) =>
  major > wantedMajor || (major === wantedMajor && minor >= wantedMinor)
/** Viability is DMA ownership, and SET_CONTAINER asks for it. */
const ASKS_OWNERSHIP = since(5, 18)
/** Else iommufd provides the container, and asks when a device is opened. */
const { isType1 } = byContainer

const used = inUse()
meetIommu(used)
const seen = new Host().snapshot()
const isEndpoint = ({ headerType, address }: PciDevice) => headerType === 'normal' && !used.has(address)

/** Groups of endpoints that this guest can spare, with the members that are no bridges. */
const groups = seen.groups
  .map(({ group, members }) => ({ number: group, members: members.map((address) => seen.device(address)) }))
  .filter(({ members }) => members.every(({ address }) => !used.has(address)))
  .map(({ number, members }) => ({ number, members, endpoints: members.filter(isEndpoint) }))
  .filter(({ endpoints }) => endpoints.length > 0)

type Group = (typeof groups)[number]

/** `null` on Linux on Z, where each function is alone, behind no bridge, and has a hot reset. */
const chooseUnlessZpci = (what: string, fits: (group: Group) => boolean): Group | null =>
  isZpci ? (groups.find(fits) ?? null) : choose(what, fits)

/** A test of a group that Linux on Z may not have. */
function itWith(
  what: string,
  group: Group | null,
  title: string,
  run: (group: Group) => Promise<void>,
): void {
  it(title, async function () {
    if (group === null) skip(this, `zPCI has no ${what}`)
    await run(group)
  })
}

function choose(what: string, fits: (group: Group) => boolean): Group {
  const group = groups.find(fits)
  if (!group) throw new Error(`the topology has no ${what}`)
  return group
}

const onlyMember = ({ endpoints }: Group) => {
  const [device] = endpoints
  assert(device)
  return device
}
const hasFlr = ({ capabilities }: PciDevice) => capabilities.pcie?.flr === true
const hasMsix = ({ capabilities }: PciDevice) => capabilities.msix !== null

const bindAll = ({ endpoints }: Group, place: 'vfio-pci' | 'none' = 'vfio-pci') => {
  for (const { address } of endpoints) put(address, place)
}

async function refused(
  of: Promise<unknown> | (() => unknown),
  code: string | readonly string[],
  hint?: RegExp,
) {
  let error: unknown
  try {
    await (typeof of === 'function' ? of() : of)
  } catch (thrown) {
    error = thrown
  }
  assert(error instanceof VfioError, `${of} should have failed with ${code}, not with ${error}`)
  assert([code].flat().includes(error.code), `${error.code} instead of ${code}: ${error.message}`)
  if (hint) assert.match(error.message, hint)
  if (error instanceof VfioSystemError) assert(error.hint, `${error.request} ${error.code} has no hint`)
}

interface Opened extends AsyncDisposable {
  container: VfioContainer
  group: VfioGroup
}

/** A group in a container with an IOMMU. */
function openGroup(number: number): Opened {
  const container = VfioContainer.open()
  const group = VfioGroup.open(number)
  group.setContainer(container)
  container.setIommu('type1v2')
  return {
    container,
    group,
    async [Symbol.asyncDispose]() {
      await container.close()
      await group.close()
    },
  }
}

describe(`the kernel's objects on ${release()}`, function () {
  this.timeout(120_000)

  const alone = choose('PCI Express device alone in its group, with FLR and MSI-X', (group) => {
    const [device] = group.endpoints
    return group.members.length === 1 && !!device && hasFlr(device) && hasMsix(device)
  })
  // Not where a bridge is on shpchp, which keeps its group from VFIO.
  const shared = chooseUnlessZpci('group of two endpoints behind a bridge', ({ members, endpoints }) => {
    const [first] = endpoints
    return endpoints.length === 2 && !!first?.parent && members.every(({ driver }) => driver !== 'shpchp')
  })
  const poor = chooseUnlessZpci(
    'device alone in its group without any reset',
    ({ members }) => members.length === 1 && members[0]?.resettable === false,
  )

  before(() => load(['uio_pci_generic', 'pci-stub']))
  beforeEach(() => {
    for (const group of groups) bindAll(group, 'none')
  })
  after(() => {
    for (const { endpoints } of groups) for (const { address } of endpoints) put(address, 'host')
  })

  describe('a container', () => {
    it('tells version and extensions', async () => {
      await using container = VfioContainer.open()
      assert.equal(container.apiVersion(), 0)
      assert.equal(container.checkExtension('type1v2'), true)
      assert.equal(container.checkExtension('type1'), true)
      assert.equal(container.checkExtension(4711), false)
    })

    it('has no IOMMU before it has a group', async () => {
      await using container = VfioContainer.open()
      const code = isType1 ? 'EINVAL' : 'ENODEV'
      await refused(() => container.setIommu('type1v2'), code, /no group/)
      await refused(() => container.iommuInfo(), code, isType1 ? /setIommu\(\)/ : /no group yet/)
    })

    it('takes one IOMMU type that exists, once, and tells what it maps', async () => {
      bindAll(alone)
      await using container = VfioContainer.open()
      await using group = VfioGroup.open(alone.number)
      group.setContainer(container)
      // iommufd has one from the first group on, and knows of it what a device that is open tells.
      if (isType1) await refused(() => container.iommuInfo(), 'EINVAL')
      else assert.equal(container.iommuInfo().iovaRanges?.length, 1)
      await refused(() => container.setIommu(99), isType1 ? 'ENODEV' : 'EINVAL', /no such IOMMU type/)
      container.setIommu('type1v2')
      if (isType1) await refused(() => container.setIommu('type1v2'), 'EINVAL', /already/)
      else container.setIommu('type1v2')
      await using _device = isType1 ? null : await group.openDevice(onlyMember(alone).address)
      const info = container.iommuInfo()
      assert.deepEqual(container.dma.ranges, info.iovaRanges)
      assert(info.pageSizes.includes(BigInt(PAGE)), String(info.pageSizes))
      const ranges = info.iovaRanges
      assert(ranges && ranges.length > 0)
      for (const { start, end } of ranges) assert(start < end)
      // What is reserved, such as the window of the message-signalled interrupts, is never among them.
      const { reservedRegions } = new Host()
        .snapshot({ around: [onlyMember(alone).address] })
        .group(alone.number)
      for (const region of reservedRegions.filter(({ type }) => type !== 'direct-relaxable'))
        assert(!ranges.some(({ start, end }) => start <= region.end && end >= region.start), region.type)
      assert(isZpci || reservedRegions.length > 0)
      assert.equal(info.dmaAvailable, isType1 ? 65535 : 2 ** 32 - 1)
      assert.equal(info.migration !== null, isType1)
      if (info.migration)
        assert(info.migration.pageSizes.length > 0 && info.migration.maxDirtyBitmapSize > 0n)
    })

    it('is no other file', async () => {
      bindAll(alone)
      await using container = VfioContainer.open('/dev/null')
      await using group = VfioGroup.open(alone.number)
      await refused(() => container.apiVersion(), 'ENOTTY')
      await refused(() => group.setContainer(container), ['EBADFD', 'EINVAL'])
      await refused(() => VfioContainer.open('/dev/vfio/there-is-none'), 'ENOENT')
    })
  })

  describe('a group', () => {
    it('is there while one of its devices is bound', async () => {
      await refused(() => VfioGroup.open(alone.number), 'ENOENT', /bound to a vfio driver/)
      bindAll(alone)
      await VfioGroup.open(alone.number).close()
      await refused(() => VfioGroup.open(2 ** 31 - 1), 'ENOENT')
    })

    it('opens once', async () => {
      bindAll(alone)
      await using group = VfioGroup.open({ path: `/dev/vfio/${alone.number}` })
      await refused(() => VfioGroup.open(alone.number), 'EBUSY', /somebody has it open/)
      await group.close()
      await VfioGroup.open(alone.number).close()
    })

    it('tells its status and joins one container', async () => {
      bindAll(alone)
      await using container = VfioContainer.open()
      await using other = VfioContainer.open()
      await using group = VfioGroup.open(alone.number)
      assert.deepEqual(group.status(), { viable: true, containerSet: false, flags: 1 })
      await refused(() => group.unsetContainer(), 'EINVAL', /no container/)
      group.setContainer(container)
      assert.equal(group.container, container)
      assert.deepEqual(group.status(), { viable: true, containerSet: true, flags: 3 })
      await refused(() => group.setContainer(other), 'EINVAL', /already/)
      group.unsetContainer()
      assert.equal(group.container, null)
      assert.equal(group.status().containerSet, false)
      group.setContainer(other)
    })

    it('does not leave its container while a device is open', async function () {
      if (!isType1) skip(this, 'a container that iommufd provides lets it go')
      bindAll(alone)
      await using opened = openGroup(alone.number)
      const device = await opened.group.openDevice(onlyMember(alone).address)
      await refused(() => opened.group.unsetContainer(), 'EBUSY', /close them first/)
      await device.close()
      opened.group.unsetContainer()
    })

    it('leaves a container of iommufd and its devices there, and all that is mapped', async function () {
      if (isType1) skip(this, 'type1 lets no group go whose devices are open')
      bindAll(alone)
      await using opened = openGroup(alone.number)
      const { container, group } = opened
      const device = await group.openDevice(onlyMember(alone).address)
      using buffer = DmaBuffer.allocate(PAGE)
      const mapping = await container.dma.map(buffer)
      group.unsetContainer()
      assert.deepEqual([group.container, group.status().containerSet], [null, false])
      assert.deepEqual([mapping.mapped, buffer.mapped, device.closed], [true, true, false])
      assert.equal(device.info().pci, true)
      // It may join another, and the device goes with the one that has it.
      await using other = VfioContainer.open()
      group.setContainer(other)
      await container.close()
      assert.deepEqual([device.closed, buffer.mapped, group.closed], [true, false, false])
      await (await group.openDevice(onlyMember(alone).address)).close()
    })

    itWith(
      'group of two',
      shared,
      'that is not viable says so at once, or on old kernels when a device is opened',
      async (shared) => {
        const [first, second] = shared.endpoints
        assert(first && second)
        put(first.address, 'vfio-pci')
        assert.equal(put(second.address, 'uio_pci_generic'), 'uio_pci_generic')
        await using container = VfioContainer.open()
        await using group = VfioGroup.open(shared.number)
        assert.equal(group.status().viable, false)
        if (!isType1) {
          group.setContainer(container)
          container.setIommu('type1v2')
          await refused(group.openDevice(first.address), 'EPERM', /not viable.*vfio check/)
          group.unsetContainer()
          assert.equal(group.status().viable, false)
        } else if (ASKS_OWNERSHIP) {
          await refused(() => group.setContainer(container), 'EPERM', /not viable.*vfio check/)
        } else {
          group.setContainer(container)
          container.setIommu('type1v2')
          await refused(group.openDevice(first.address), 'EINVAL', /before Linux 5\.18.*not viable/)
        }
        put(second.address, 'none')
        assert.equal(group.status().viable, true)
      },
    )

    it('opens only its own devices, and only with a container and an IOMMU', async () => {
      const other = choose(
        'second device alone in its group',
        (group) => group !== alone && group.members.length === 1,
      )
      bindAll(alone)
      bindAll(other)
      const { address } = onlyMember(alone)
      await using container = VfioContainer.open()
      await using group = VfioGroup.open(alone.number)
      await refused(group.openDevice(address), 'EINVAL', /setContainer\(\), setIommu\(\)/)
      group.setContainer(container)
      if (isType1) await refused(group.openDevice(address), 'EINVAL', /setContainer\(\), setIommu\(\)/)
      else await (await group.openDevice(address)).close()
      container.setIommu('type1v2')
      await refused(group.openDevice(onlyMember(other).address), 'ENODEV', /not in this group/)
      await refused(group.openDevice('ffff:ff:1f.7'), 'ENODEV', /not in this group/)
      await refused(
        group.openDevice(address, { vfToken: '01234567-89ab-cdef-0123-456789abcdef' }),
        'EINVAL',
        /VF token/,
      )
      await (await group.openDevice(address)).close()
    })

    itWith('group of two', shared, 'does not open a device of it that is not bound', async (shared) => {
      const [first, second] = shared.endpoints
      assert(first && second)
      put(first.address, 'vfio-pci')
      await using opened = openGroup(shared.number)
      await refused(opened.group.openDevice(second.address), 'ENODEV', /not bound to a vfio driver/)
    })

    it('whose last device was unbound is gone', async () => {
      bindAll(alone)
      await using container = VfioContainer.open()
      await using group = VfioGroup.open(alone.number)
      bindAll(alone, 'none')
      await refused(() => VfioGroup.open(alone.number), ['ENOENT', 'EBUSY'])
      // Since 6.2 the open file knows; before, the group is merely empty.
      if (since(6, 2)) {
        await refused(() => group.status(), 'ENODEV', /close the group/)
        await refused(() => group.setContainer(container), 'ENODEV', /close the group/)
      } else {
        await refused(group.openDevice(onlyMember(alone).address), ['EINVAL', 'ENODEV'])
      }
      await group.close()
      bindAll(alone)
      await VfioGroup.open(alone.number).close()
    })
  })

  describe('a device', () => {
    it('tells what it has', async () => {
      bindAll(alone)
      const seenDevice = onlyMember(alone)
      await using opened = openGroup(alone.number)
      const device = await opened.group.openDevice(seenDevice.address)
      assert.equal(device.address, seenDevice.address)
      const info = device.info()
      assert.deepEqual([info.pci, info.platform, info.reset], [true, false, true])
      assert(info.regions >= 9 && info.irqs === 5)

      for (const [index, name] of (['bar0', 'bar1', 'bar2', 'bar3', 'bar4', 'bar5'] as const).entries()) {
        const region = device.regionInfo(name)
        const bar = seenDevice.bars.find((bar) => bar.index === index)
        assert.equal(region.index, index)
        assert.equal(region.size, BigInt(bar?.size ?? 0), name)
        if (bar) assert.deepEqual([region.read, region.write], [true, true])
        assert.deepEqual(device.regionInfo(index), region)
      }
      const config = device.regionInfo('config')
      assert.deepEqual([config.size, config.mmap], [isZpci ? 256n : 4096n, false])
      const offsets = [0, 1, 2, 3, 4, 5, 6, 7].map((index) => device.regionInfo(index).offset)
      assert.equal(new Set(offsets).size, offsets.length)
      const { msix } = seenDevice.capabilities
      assert(msix)
      // Where nothing is mapped nothing is said of it.
      const { capabilities, mmap } = device.regionInfo(msix.tableBar)
      assert.equal(
        capabilities.some(({ name }) => name === 'msix-mappable'),
        mmap,
      )
      assert.equal(mmap, !isZpci)

      assert.deepEqual([device.irqInfo('msix').eventfd, device.irqInfo('msix').noresize], [true, !growsMsix])
      assert.equal(device.irqInfo('msix').count, msix.vectors)
      assert.equal(device.irqInfo('req').count, 1)
      assert.equal(device.irqInfo('err').count, 1)
      // Said of it where there is none, too.
      assert.equal(device.irqInfo('intx').automasked, true)
      await refused(() => device.regionInfo('vga'), 'EINVAL', /VGA/)
      await refused(() => device.regionInfo(4711), 'EINVAL', /no region/)
      await refused(() => device.irqInfo(4711), 'EINVAL', /no interrupt/)
    })

    const old = chooseUnlessZpci(
      'conventional PCI device',
      ({ endpoints, members }) =>
        members.every(({ driver }) => driver !== 'shpchp') &&
        endpoints.some(({ capabilities }) => !capabilities.pcie),
    )
    itWith(
      'conventional device',
      old,
      'of the old bus has no error interrupt before Linux 7',
      async (group) => {
        const conventional = group.endpoints.find(({ capabilities }) => !capabilities.pcie)
        assert(conventional)
        bindAll(group)
        await using opened = openGroup(group.number)
        const device = await opened.group.openDevice(conventional.address)
        if (since(7, 0)) assert.equal(device.irqInfo('err').count, 1)
        else await refused(() => device.irqInfo('err'), 'EINVAL', /PCI Express/)
        assert.equal(device.regionInfo('config').size, 256n)
      },
    )

    it('opens twice in a process, and each one closes for itself', async () => {
      bindAll(alone)
      await using opened = openGroup(alone.number)
      const { address } = onlyMember(alone)
      const devices = await Promise.all([opened.group.openDevice(address), opened.group.openDevice(address)])
      await devices[0]?.close()
      assert.equal(devices[1]?.info().pci, true)
    })

    it('resets by itself where it can', async () => {
      bindAll(alone)
      await using opened = openGroup(alone.number)
      const device = await opened.group.openDevice(onlyMember(alone).address)
      await device.reset()
      await Promise.all([device.reset(), device.reset()])
    })

    itWith('device without any reset', poor, 'that has no reset of its own says so', async (poor) => {
      bindAll(poor)
      await using other = openGroup(poor.number)
      const without = await other.group.openDevice(onlyMember(poor).address)
      assert.equal(without.info().reset, false)
      await refused(without.reset(), 'EINVAL', /no function reset/)
    })

    const onRoot = isZpci
      ? null
      : choose('device on a root bus', ({ endpoints }) => endpoints.every(({ parent }) => parent === null))
    itWith('root bus without slots', onRoot, 'on a root bus has no hot reset', async (group) => {
      bindAll(group)
      await using opened = openGroup(group.number)
      const device = await opened.group.openDevice(onlyMember(group).address)
      await refused(() => device.hotResetInfo(), 'ENODEV', /root bus/)
      await refused(device.hotReset([opened.group]), ['ENODEV', 'EINVAL'])
    })

    it('on a root bus is reset through its slot', async function () {
      if (!isZpci) skip(this, 'only slots of Linux on Z are on a root bus')
      bindAll(alone)
      await using opened = openGroup(alone.number)
      const { address } = onlyMember(alone)
      const device = await opened.group.openDevice(address)
      assert.deepEqual(
        device.hotResetInfo().devices.map((one) => [one.address, one.group]),
        [[address, alone.number]],
      )
      await device.hotReset([opened.group])
      assert.equal(device.info().reset, true)
    })

    itWith(
      'group of two',
      shared,
      'resets its whole bus with the groups that own it, and not without',
      async (shared) => {
        bindAll(shared)
        bindAll(alone)
        await using opened = openGroup(shared.number)
        await using foreign = openGroup(alone.number)
        const [first, second] = shared.endpoints
        assert(first && second)
        const device = await opened.group.openDevice(first.address)
        const { devices, owned } = device.hotResetInfo()
        assert.equal(owned, null)
        assert.deepEqual(
          devices.map(({ address, group }) => `${address} ${group}`).sort(),
          shared.endpoints.map(({ address }) => `${address} ${shared.number}`).sort(),
        )
        await device.hotReset([opened.group])
        await refused(device.hotReset([]), 'EINVAL')
        await refused(device.hotReset([foreign.group]), 'EINVAL', /every affected device/)
        put(second.address, 'none')
        await refused(device.hotReset([opened.group]), 'EINVAL', /every affected device/)
      },
    )

    it('is not closed before its group and container are told to, and then all three are', async () => {
      bindAll(alone)
      const { container, group } = openGroup(alone.number)
      const device = await group.openDevice(onlyMember(alone).address)
      await container.close()
      assert.deepEqual([device.closed, group.closed], [true, false])
      assert.equal(group.status().containerSet, false)
      await group.close()
      await closedRefuses(container, group, device)
      await VfioGroup.open(alone.number).close()
    })

    it('is let go at the end of a using block', async () => {
      bindAll(alone)
      const before = openFiles()
      {
        await using container = VfioContainer.open()
        using group = VfioGroup.open(alone.number)
        group.setContainer(container)
        container.setIommu('type1v2')
        using device = await group.openDevice(onlyMember(alone).address)
        assert.equal(openFiles(), before + 3)
        device.info()
      }
      assert.equal(openFiles(), before)
    })
  })

  describe('an AbortSignal', () => {
    it('that was aborted before asks nothing of the kernel', async () => {
      bindAll(alone)
      await using opened = openGroup(alone.number)
      const { address } = onlyMember(alone)
      const signal = AbortSignal.abort()
      await assert.rejects(opened.group.openDevice(address, { signal }), { name: 'AbortError' })
      const device = await opened.group.openDevice(address)
      await assert.rejects(device.reset({ signal }), { name: 'AbortError' })
      await assert.rejects(device.hotReset([opened.group], { signal }), { name: 'AbortError' })
    })

    it('during a reset ends the wait, and close waits for the reset', async () => {
      bindAll(alone)
      await using opened = openGroup(alone.number)
      const device = await opened.group.openDevice(onlyMember(alone).address)
      const controller = new AbortController()
      const reset = device.reset({ signal: controller.signal })
      controller.abort()
      const started = performance.now()
      const order: string[] = []
      const closing = device.close().then(() => order.push('closed'))
      await assert.rejects(
        reset.finally(() => order.push('ended')),
        { name: 'AbortError' },
      )
      await closing
      const closed = performance.now() - started
      // A function level reset takes 100 ms at least: the wait ended before, the close did not.
      assert.deepEqual(order, ['ended', 'closed'])
      assert(closed >= 100, `${closed} ms`)
      await (await opened.group.openDevice(device.address)).close()
    })

    it('during the opening leaves no device open', async () => {
      bindAll(alone)
      const before = openFiles()
      const { container, group } = openGroup(alone.number)
      const controller = new AbortController()
      const opening = group.openDevice(onlyMember(alone).address, { signal: controller.signal })
      controller.abort()
      await assert.rejects(opening, { name: 'AbortError' })
      await group.close()
      await container.close()
      assert.equal(openFiles(), before)
      await VfioGroup.open(alone.number).close()
    })
  })
})

async function closedRefuses(container: VfioContainer, group: VfioGroup, device: VfioDevice) {
  const calls = [
    () => container.apiVersion(),
    () => container.checkExtension('type1'),
    () => container.setIommu('type1'),
    () => container.iommuInfo(),
    () => group.status(),
    () => group.setContainer(container),
    () => group.unsetContainer(),
    () => group.openDevice('0000:00:00.0'),
    () => device.info(),
    () => device.regionInfo(0),
    () => device.irqInfo(0),
    () => device.hotResetInfo(),
    () => device.reset(),
    () => device.hotReset([]),
    () => device.feature('migration').probe('get'),
    () => device.feature(4711).get(8),
    () => device.feature(4711).set(),
    () => device.setVfToken('00112233-4455-6677-8899-aabbccddeeff'),
    () => device.lowPower.enter(),
    () => device.lowPower.exit(),
    () => device.migration.state(),
    () => device.migration.setState('stop'),
    () => device.dmaLogging.start({ ranges: [{ iova: 0, length: 4096 }] }),
    () => device.dmaLogging.stop(),
    () => device.dmaLogging.report(0, 4096, 4096),
    () => device.ioeventfd({ region: 0, offset: 0, width: 8, data: 0, eventfd: 3 }),
  ]
  for (const call of calls) await refused(call, 'ERR_VFIO_CLOSED', /is closed/)
}

/** Descriptors of VFIO that this process has open. */
function openFiles(): number {
  return readdirSync('/proc/self/fd').filter((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`).includes('vfio')
    } catch {
      return false
    }
  }).length
}
