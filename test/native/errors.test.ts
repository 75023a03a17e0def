import assert from 'node:assert/strict'
import { constants } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { type Iommufd, VfioError, VfioSystemError } from 'vfio'
import { allHints, type Hint, hintFor } from '../../lib/hints.js'
import { bytes, region } from './bytes.js'
import { type FakeAnswer, type IOCTL, OPENS, ROOT, withFake } from './fake.js'

const HINTS = allHints()

const ERRNOS: ReadonlyMap<string, number> = new Map(Object.entries(constants.errno))
/** Node has no constants for these. */
const MORE: Readonly<Record<string, number>> = { EBADFD: 77, EUSERS: 87 }
const numberOf = (code: string) => MORE[code] ?? ERRNOS.get(code)

/** The calls of this package by the request that errors name. */
const CALLS: Record<string, keyof typeof IOCTL> = {
  VFIO_SET_IOMMU: 'setIommu',
  VFIO_GROUP_GET_STATUS: 'groupStatus',
  VFIO_GROUP_SET_CONTAINER: 'setContainer',
  VFIO_GROUP_UNSET_CONTAINER: 'unsetContainer',
  VFIO_GROUP_GET_DEVICE_FD: 'openDevice',
  VFIO_IOMMU_GET_INFO: 'iommuInfo',
  VFIO_DEVICE_GET_INFO: 'deviceInfo',
  VFIO_DEVICE_GET_REGION_INFO: 'regionInfo',
  VFIO_DEVICE_GET_IRQ_INFO: 'irqInfo',
  VFIO_DEVICE_RESET: 'reset',
  VFIO_DEVICE_GET_PCI_HOT_RESET_INFO: 'hotResetInfo',
  VFIO_DEVICE_PCI_HOT_RESET: 'hotReset',
  VFIO_DEVICE_FEATURE: 'lowPowerExit',
  VFIO_DEVICE_IOEVENTFD: 'ioeventfd',
  KVM_CREATE_DEVICE: 'kvmCreate',
  KVM_SET_DEVICE_ATTR: 'kvmAttribute',
  VFIO_DEVICE_SET_IRQS: 'setIrqs',
  VFIO_IOMMU_MAP_DMA: 'mapDma',
  VFIO_IOMMU_UNMAP_DMA: 'unmapDma',
  VFIO_IOMMU_DIRTY_PAGES: 'dirtyPages',
  region: 'read',
  memory: 'mmap',
  hugepages: 'memfd',
}

/** The same of iommufd and of devices by their own nodes. */
const IOMMUFD_CALLS: Record<string, FakeAnswer['call']> = {
  iommufd: 'open:iommu',
  cdev: 'open:vfio0',
  VFIO_DEVICE_BIND_IOMMUFD: 'bindIommufd',
  VFIO_DEVICE_ATTACH_IOMMUFD_PT: 'attachPt',
  VFIO_DEVICE_DETACH_IOMMUFD_PT: 'detachPt',
  IOMMU_DESTROY: 'destroy',
  IOMMU_IOAS_ALLOW_IOVAS: 'allowIovas',
  IOMMU_IOAS_CHANGE_PROCESS: 'changeProcess',
  IOMMU_IOAS_COPY: 'ioasCopy',
  IOMMU_IOAS_IOVA_RANGES: 'iovaRanges',
  IOMMU_IOAS_MAP: 'ioasMap',
  IOMMU_IOAS_MAP_FILE: 'ioasMapFile',
  IOMMU_IOAS_NOIOMMU_GET_PA: 'noiommuPa',
  IOMMU_IOAS_UNMAP: 'ioasUnmap',
  IOMMU_OPTION: 'option',
  IOMMU_HWPT_ALLOC: 'hwptAlloc',
  IOMMU_HWPT_SET_DIRTY_TRACKING: 'setDirtyTracking',
  IOMMU_HWPT_GET_DIRTY_BITMAP: 'getDirtyBitmap',
  IOMMU_GET_HW_INFO: 'hwInfo',
}

/** A device that has a region and a vector. */
const PRESENT: FakeAnswer[] = [
  { call: 'regionInfo', bytes: region(32, 3, 0, 0x1000n).done() },
  { call: 'irqInfo', bytes: bytes().u32(16, 1, 0, 1).done() },
]

/** The answers that make a call of the package fail with the errno of a hint. */
function answersFor({ request, code }: Hint): FakeAnswer[] | null {
  const returns = -(numberOf(code) ?? 0)
  if (request === 'container') return [{ call: 'open:vfio', returns }]
  if (request === 'group') return [{ call: 'open:1', returns }]
  const call = CALLS[request]
  if (!call) return null
  const failing: FakeAnswer = { call, returns }
  // Memory is not asked of VFIO, so that nothing else is either.
  if (request === 'memory' || request === 'hugepages') return [failing]
  // Closing leaves the container too, so that one call of it has to work.
  if (call === 'openDevice') return [failing]
  // A BAR that is there, for the write that an eventfd sets off.
  if (call === 'ioeventfd')
    return [OPENS, { call: 'regionInfo', bytes: region(32, 7, 0).done() }, PRESENT[1] as FakeAnswer, failing]
  return [OPENS, ...PRESENT.filter((answer) => answer.call !== call), failing]
}

describe('the hints', () => {
  it('are each there once', () => {
    const keys = HINTS.map(({ request, code }) => `${request} ${code}`)
    assert.deepEqual(keys, [...new Set(keys)])
  })

  for (const { request, code, hint } of HINTS) {
    it(`for ${code} of ${request} is found and is a sentence`, () => {
      const found = request === '*' ? 'VFIO_ANYTHING' : request
      assert.equal(hintFor(found, code), hint)
      assert.match(hint, /^[a-z`]/, 'it goes on after a colon')
      assert.doesNotMatch(hint, /[.\s]$/)
      assert(hint.length >= 20 && hint.length <= 320, `${hint.length} characters`)
      const errno = numberOf(code)
      assert(errno, `${code} is an errno of this platform`)
      assert.equal(new VfioSystemError({ errno, syscall: 'ioctl', request: found, path: '/' }).code, code)
    })
  }

  it('reach the person who made the call', async function () {
    this.timeout(300_000)
    for (const entry of HINTS) {
      const answers = answersFor(entry)
      if (!answers) continue
      await withFake(
        answers,
        async ({ vfio, input, openGroup, failure, memoryOf }) => {
          const error = await failure(async () => {
            vfio.DmaBuffer.allocate(4096, { hugepages: input.request === 'hugepages' })
            const { container, group } = openGroup()
            group.status()
            container.iommuInfo()
            const buffer = vfio.DmaBuffer.allocate(4096)
            await container.dma.map(buffer, { iova: 0x1000 })
            await container.dma.unmap(0x1000, 4096)
            await container.dma.dirty.start()
            const device = await group.openDevice('0000:01:00.0')
            const { truncateSync } = await import('node:fs')
            truncateSync(memoryOf('0000:01:00.0'), 0x1000)
            device.info()
            device.regionInfo('vga')
            device.irqInfo('err')
            const irq = device.irq('msix')
            if (irq.info.count > 0) irq.enable()
            const config = device.region('config')
            if (config.size > 0) config.read8(0)
            device.hotResetInfo()
            await device.reset()
            await device.hotReset([group])
            await device.lowPower.exit()
            if (input.request === 'VFIO_DEVICE_IOEVENTFD')
              device.ioeventfd({ region: 0, offset: 0, width: 8, data: 0, eventfd: 3 })
            const { openSync } = await import('node:fs')
            vfio.KvmVfio.create(openSync('/dev/vfio/machine', 'r+')).add(group)
            group.unsetContainer()
          })
          assert(error instanceof vfio.VfioSystemError, error.stack)
          assert.deepEqual(
            { request: error.request, code: error.code },
            { request: input.request, code: input.code },
          )
          // What is known of these limits says more: test/native/dma-errors.test.ts.
          const more = input.request === 'VFIO_IOMMU_MAP_DMA' && ['ENOMEM', 'ENOSPC'].includes(input.code)
          const hint = more ? error.hint : input.hint
          assert(hint)
          assert.equal(error.hint, hint)
          assert(error.message.endsWith(`failed with ${input.code}: ${hint}`), error.message)
          assert(error.message.includes(error.path))
          assert.doesNotMatch(error.message, /\n/)
        },
        { input: entry },
      )
    }
  })

  it('of iommufd reach the person who made the call', async function () {
    this.timeout(300_000)
    const entries = HINTS.flatMap(({ request, code, hint }) => {
      const call = IOMMUFD_CALLS[request]
      return call === undefined ? [] : [{ request, code, hint, call, errno: numberOf(code) ?? 0 }]
    })
    assert.deepEqual(
      [...new Set(entries.map(({ request }) => request))].sort(),
      Object.keys(IOMMUFD_CALLS).sort(),
    )
    await withFake(
      [],
      async ({ vfio, input, failNext, failNoMore, failure }) => {
        for (const { request, code, hint, call, errno } of input) {
          const iommufds: Iommufd[] = []
          const open = () => {
            const iommufd = vfio.Iommufd.open()
            iommufds.push(iommufd)
            return iommufd
          }
          failNext(call, errno)
          const error = await failure(async () => {
            const iommufd = open()
            iommufd.option('accounting')
            const [ioas, other] = [iommufd.allocateIoas(), iommufd.allocateIoas()]
            const path = '/dev/vfio/devices/vfio0'
            const device = await vfio.VfioDevice.openCdev('0000:01:00.0', { iommufd, path })
            iommufd.hardwareInfo(device)
            await device.attach(ioas)
            ioas.allow([])
            ioas.ranges()
            const buffer = vfio.DmaBuffer.allocate(4096)
            const mapping = await ioas.map(buffer, { iova: 0x1000 })
            const copy = await other.copy(mapping, { iova: 0x1000 })
            const file = await other.mapFile(buffer.fd, { length: 4096, iova: 0x5000 })
            await ioas.physicalAddress(0x1000, 4096)
            for (const each of [copy, file]) await each.unmap()
            await mapping.unmap()
            const table = await ioas.allocateHwpt(device, { dirtyTracking: true })
            await device.attach(table)
            await table.setDirtyTracking(true)
            await table.dirtyBitmap(0x1000, 4096)
            await device.detach()
            await iommufd.changeProcess()
            await iommufd.destroy(other.id)
          })
          failNoMore()
          await Promise.all(iommufds.map((iommufd) => iommufd.close()))
          assert(error instanceof vfio.VfioSystemError, `${request} ${code}: ${error.stack}`)
          assert.deepEqual([error.request, error.code], [request, code])
          // What is known of a mapping says more: test/native/iommufd-objects.test.ts.
          const more = /^IOMMU_IOAS_(MAP|MAP_FILE|COPY)$/.test(request)
          assert.equal(error.hint, more ? error.hint : hint, `${request} ${code}`)
          assert(error.hint && error.message.endsWith(`failed with ${code}: ${error.hint}`), error.message)
        }
      },
      { input: entries, machine: { linux: '7.3' } },
    )
  })
})

describe('an error', () => {
  const failure = { errno: 1, syscall: 'ioctl', request: 'VFIO_GROUP_SET_CONTAINER', path: '/dev/vfio/7' }

  it('has its class by name and by instanceof', () => {
    const error = new VfioSystemError(failure)
    assert(error instanceof VfioSystemError && error instanceof VfioError && error instanceof Error)
    assert.equal(error.name, 'VfioSystemError')
    assert.equal(error.code, 'EPERM')
    const plain = new VfioError('ERR_VFIO_CLOSED', 'it is closed')
    assert(plain instanceof VfioError)
    assert(!(plain instanceof VfioSystemError))
    assert.equal(plain.name, 'VfioError')
    for (const other of [null, undefined, 1, 'text', {}, new Error('other')])
      assert(!((other as unknown) instanceof VfioError))
  })

  it('is known across two copies of the package', async () => {
    const copy = `${pathToFileURL(join(ROOT, 'dist/index.js'))}?copy`
    const { VfioSystemError: Other } = (await import(copy)) as { VfioSystemError: typeof VfioSystemError }
    assert.notEqual(Other, VfioSystemError)
    const error: unknown = new Other(failure)
    assert(error instanceof VfioSystemError)
    assert(error instanceof VfioError)
  })

  it('leaves the subclasses of a program alone', () => {
    class Mine extends VfioError {}
    assert(new Mine('ERR_VFIO_CLOSED', 'mine') instanceof Mine)
    assert(!(new VfioError('ERR_VFIO_CLOSED', 'not mine') instanceof Mine))
  })

  it('says the errno where nothing more is known', () => {
    const error = new VfioSystemError({ ...failure, errno: constants.errno.ENOTEMPTY })
    assert.equal(error.hint, null)
    assert.equal(error.message, 'VFIO_GROUP_SET_CONTAINER on /dev/vfio/7 failed with ENOTEMPTY')
  })

  it('names the device that was to be opened, and keeps its token to itself', async () => {
    const token = '01234567-89ab-cdef-0123-456789abcdef'
    await withFake(
      [{ call: 'openDevice', returns: -13 }, OPENS, { call: 'reset', returns: -22 }],
      async ({ openGroup, failure, log, input }) => {
        const { group } = openGroup()
        const refused = await failure(group.openDevice('01:00.0', { vfToken: input }))
        assert.match(
          refused.message,
          /^VFIO_GROUP_GET_DEVICE_FD of 0000:01:00\.0 on \/dev\/vfio\/1 failed with EACCES: the VF token .*give openDevice\(\) as vfToken/,
        )
        assert(log().includes(`begin 6 0000:01:00.0 vf_token=${input}`))
        const device = await group.openDevice('01:00.0', { vfToken: input })
        const error = await failure(device.reset())
        assert(!refused.message.includes(input) && !error.message.includes(input))
        assert.match(error.message, /^VFIO_DEVICE_RESET on 0000:01:00\.0 failed/)
      },
      { input: token },
    )
  })
})

/** Does any text fit this type? */
type IsOpen<T extends string> = string extends T ? true : false

describe('the codes of errors', () => {
  it('are closed unions in their types too', () => {
    const codes: [IsOpen<VfioError['code']>, IsOpen<VfioSystemError['code']>] = [false, false]
    assert.deepEqual(codes, [false, false])
  })

  it('of the kernel are names, and the number where there is none', () => {
    const codeOf = (errno: number) =>
      new VfioSystemError({ errno, syscall: 'ioctl', request: 'VFIO_ANYTHING', path: '/' }).code
    for (const [name, errno] of ERRNOS) {
      // Two of them have two names.
      const names: readonly string[] = [name, { EOPNOTSUPP: 'ENOTSUP', EWOULDBLOCK: 'EAGAIN' }[name] ?? name]
      assert.ok(names.includes(codeOf(errno)), `${name} became ${codeOf(errno)}`)
    }
    assert.deepEqual([77, 121, 123, 524].map(codeOf), ['EBADFD', 'EREMOTEIO', 'ENOMEDIUM', 'ENOTSUPP'])
    assert.deepEqual([999, 4095].map(codeOf), ['errno 999', 'errno 4095'])
  })
})
