import assert from 'node:assert/strict'
import { bytes } from './bytes.js'
import { type FakeAnswer, type Machine, type Program, withFake } from './fake.js'

/** The addon over the model of a kernel. */
const overModel = (machine: Machine, program: (given: Program<null>) => unknown) =>
  withFake([], program, { machine })

/** The addon over answers. */
const over = (answers: readonly FakeAnswer[], program: (given: Program<null>) => unknown) =>
  withFake(answers, program)

describe('an iommufd', () => {
  it('makes address spaces, maps memory in them and lets it go', () =>
    overModel({ linux: '6.12' }, async ({ addon, state }) => {
      const PAGE = 4096
      const FIXED = 1
      const WRITE = 2
      const READ = 4
      const iommufd = addon.Iommufd.open('/dev/iommu')
      const first = iommufd.allocateIoas()
      const second = iommufd.allocateIoas()
      assert.deepEqual([first, second], [1, 2])
      const file = addon.MemoryFile.create(16 * PAGE, 0)
      const memory = file.map(0, 16 * PAGE, 0)
      const all = FIXED | WRITE | READ

      const iova = 0x10000n
      assert.equal(addon.iommufdMap(iommufd.id, first, memory.id, PAGE, 2 * PAGE, iova, all), iova)
      assert.equal(await iommufd.map(first, memory.id, 0, PAGE, 0x20000n, all), 0x20000n)
      // Without FIXED it is the kernel that chooses, never 0.
      const chosen = addon.iommufdMap(iommufd.id, first, memory.id, 0, PAGE, 0n, READ)
      assert(chosen > 0n && chosen !== iova)
      assert.equal(await iommufd.copy(second, first, 2n * BigInt(PAGE), 0x5000n, iova, all), 0x5000n)
      const mappings = () =>
        state()
          .model.iommufds[0]?.objects.filter(({ type }) => type === 'ioas')
          .map((ioas) => ioas.mappings)
      assert.deepEqual(mappings(), [
        [
          [`0x${chosen.toString(16)}`, PAGE],
          ['0x10000', 2 * PAGE],
          ['0x20000', PAGE],
        ],
        [['0x5000', 2 * PAGE]],
      ])

      assert.equal(addon.iommufdUnmap(iommufd.id, first, iova, 2 * PAGE), 2 * PAGE)
      // Of a superset, what is there.
      assert.equal(await iommufd.unmap(first, 0x1f000n, BigInt(3 * PAGE)), BigInt(PAGE))
      assert.equal(await iommufd.unmap(second, 0n, 2n ** 64n - 1n), BigInt(2 * PAGE))
      assert.equal(await iommufd.unmap(second, 0n, 2n ** 64n - 1n), 0n)
      await iommufd.destroy(second)
      assert.deepEqual(mappings(), [[[`0x${chosen.toString(16)}`, PAGE]]])
      await iommufd.close()
      assert.deepEqual(state().model.iommufds, [])
      file.closeNow()
      memory.close()
    }))

  it('puts every argument where the kernel looks for it', () =>
    over(
      [
        ...(['destroy', 'changeProcess', 'setDirtyTracking', 'allowIovas'] as const).map((call) => ({
          call,
        })),
        { call: 'ioasCopy' },
        { call: 'ioasUnmap' },
        { call: 'option' },
        { call: 'hwptAlloc' },
        { call: 'noiommuPa' },
        { call: 'ioasMap' },
        { call: 'ioasMapFile' },
      ],
      async ({ addon, log }) => {
        const { openSync, readlinkSync, closeSync } = await import('node:fs')
        const iommufd = addon.Iommufd.open('/dev/iommu')
        const sent = () => (log().findLast((line) => line.startsWith('sent ')) ?? '').split(' ').slice(1)
        /** The words of what the kernel got, low half first. */
        const words = () => {
          const [what, hex = ''] = sent()
          const found = [...Buffer.from(hex, 'hex')]
          return [what, ...Array.from(new Uint32Array(Uint8Array.from(found).buffer))]
        }
        const big = 0x1111_2222_3333_4444n
        await iommufd.destroy(7)
        assert.deepEqual(words(), ['iommu.80', 8, 7])
        await iommufd.changeProcess()
        assert.deepEqual(words(), ['iommu.92', 8, 0])
        await iommufd.setDirtyTracking(9, 1)
        assert.deepEqual(words(), ['iommu.8b', 16, 1, 9, 0])
        const copied = await iommufd.copy(3, 4, 0x5000n, big, 0x7000n, 6)
        assert.deepEqual(words(), [
          ...['iommu.83', 40, 6, 3, 4],
          ...[0x5000, 0, 0x33334444, 0x11112222, 0x7000, 0],
        ])
        assert.equal(copied, big)
        assert.equal(await iommufd.unmap(5, big, 0x2000n), 0x2000n)
        assert.deepEqual(words(), ['iommu.86', 24, 5, 0x33334444, 0x11112222, 0x2000, 0])
        assert.equal(iommufd.option(1, 1, 8, big), big)
        assert.deepEqual(words(), ['iommu.87', 24, 1, 1, 8, 0x33334444, 0x11112222])
        assert.equal(await iommufd.allocateHwpt(1, 2, 3, 0, null, 5), 0)
        assert.deepEqual(words(), ['iommu.89', 48, 3, 1, 2, 0, 0, 0, 0, 0, 0, 5, 0])
        assert.deepEqual(await iommufd.noiommuPa(6, big, 0x3000n), { address: 0n, length: 0x3000n })
        assert.deepEqual(words(), ['iommu.95', 40, 0, 6, 0, 0x33334444, 0x11112222, 0x3000, 0, 0, 0])

        const data = new Uint8Array([1, 2, 3])
        await iommufd.allocateHwpt(1, 2, 0, 1, data, 0)
        const [, size, , , , , , type, length, ...pointer] = words()
        assert.deepEqual([size, type, length], [48, 1, 3])
        assert.notDeepEqual(pointer.slice(0, 2), [0, 0])
        iommufd.allowIovas(4, new BigUint64Array([1n, 2n, 3n, 4n]))
        assert.deepEqual(words().slice(0, 5), ['iommu.82', 24, 4, 2, 0])
        iommufd.allowIovas(4, new BigUint64Array(0))
        assert.deepEqual(words().slice(0, 5), ['iommu.82', 24, 4, 0, 0])

        const file = addon.MemoryFile.create(8192, 0)
        const memory = file.map(0, 8192, 0)
        addon.iommufdMap(iommufd.id, 2, memory.id, 0, 8192, big, 7)
        const [, ...base] = words()
        assert.deepEqual(
          [...base.slice(0, 4), ...base.slice(6)],
          [40, 7, 2, 0, 8192, 0, 0x33334444, 0x11112222],
        )
        addon.iommufdMap(iommufd.id, 2, memory.id, 4096, 4096, big, 7)
        const [, ...next] = words()
        assert.equal(Number(next[4]) - Number(base[4]), 4096)

        // A descriptor of its own, for the caller may close this one at once.
        const descriptor = openSync('/dev/null', 'r')
        const mapped = iommufd.mapFile(2, descriptor, 0x1000n, 0x2000n, big, 7)
        closeSync(descriptor)
        assert.equal(await mapped, big)
        const [, ...ofFile] = words()
        assert.notEqual(ofFile[3], descriptor)
        assert.deepEqual(
          [...ofFile.slice(0, 3), ...ofFile.slice(4)],
          [40, 7, 2, 0x1000, 0, 0x2000, 0, 0x33334444, 0x11112222],
        )
        // And none is left.
        let left = ''
        try {
          left = readlinkSync(`/proc/self/fd/${ofFile[3]}`)
        } catch {}
        assert.notEqual(left, '/dev/null')
        memory.close()
      },
    ))

  it('is told of more ranges than were asked for, and grows once', async () => {
    const ranges = Array.from({ length: 20 }, (_, at) => [BigInt(at) << 20n, (BigInt(at) << 20n) + 0xffffn])
    const answer = (count: number, listed = ranges) =>
      bytes()
        .u32(32, 1, count, 0)
        .u64(0n, 4096n)
        .u64(...listed.flat())
        .done()
    await over(
      [
        { call: 'iovaRanges', returns: -90, bytes: answer(20, ranges.slice(0, 8)) },
        { call: 'iovaRanges', bytes: answer(20) },
      ],
      ({ addon, log }) => {
        const found = addon.Iommufd.open('/dev/iommu').iovaRanges(1)
        assert.equal(found.alignment, 4096n)
        assert(found.ranges instanceof BigUint64Array)
        assert.deepEqual(
          Array.from(found.ranges),
          Array.from({ length: 20 }, (_, at) => [BigInt(at) << 20n, (BigInt(at) << 20n) + 0xffffn]).flat(),
        )
        const asked = log().filter((line) => line.startsWith('sent iommu.84'))
        // Eight fit at first, then twenty.
        assert.deepEqual(
          asked.map((line) => Buffer.from(line.slice(14), 'hex').readUInt32LE(8)),
          [8, 20],
        )
      },
    )
    const wrong: [string, FakeAnswer[], string | number][] = [
      ['grows again', [{ call: 'iovaRanges', returns: -90, bytes: answer(20, []) }], 90],
      ['asks for nothing more', [{ call: 'iovaRanges', returns: -90, bytes: answer(8, []) }], 90],
      [
        'asks for an impossible size',
        [{ call: 'iovaRanges', returns: -90, bytes: answer(2 ** 20, []) }],
        'ERR_VFIO_BAD_KERNEL_DATA',
      ],
      [
        'announces more than it was given',
        [{ call: 'iovaRanges', bytes: answer(9, []) }],
        'ERR_VFIO_BAD_KERNEL_DATA',
      ],
    ]
    for (const [what, answers, expected] of wrong) {
      await withFake(
        answers,
        async ({ addon, failure, input }) => {
          const error = await failure(() => addon.Iommufd.open('/dev/iommu').iovaRanges(1))
          const { errno, code } = error as { errno?: number; code?: string }
          assert.equal(errno ?? code, input.expected, `${input.what}: ${error}`)
        },
        { input: { expected, what } },
      )
    }
  })

  it('reads data of an IOMMU of any length, and refuses what cannot be one', async () => {
    const head = (length: number) => bytes().u32(40, 0, 3, length).u64(0n).u32(2).u8(20, 0, 0, 0).u64(5n)
    const data = Array.from({ length: 200 }, (_, at) => at)
    await over(
      [
        { call: 'hwInfo', bytes: head(200).done() },
        {
          call: 'hwInfo',
          bytes: head(200)
            .u8(...data)
            .done(),
        },
        { call: 'hwInfo', bytes: head(3).u8(7, 8, 9).done() },
        { call: 'hwInfo', bytes: head(0).done() },
        { call: 'hwInfo', bytes: head(2 ** 30).done() },
        { call: 'hwInfo', bytes: head(200).done() },
        { call: 'hwInfo', bytes: head(400).done() },
      ],
      async ({ addon, failure }) => {
        const iommufd = addon.Iommufd.open('/dev/iommu')
        const { data, ...rest } = iommufd.hwInfo(3, 1, 2)
        assert.deepEqual(rest, { type: 2, capabilities: 5n, pasidBits: 20 })
        assert.deepEqual(
          [...new Uint8Array(data)],
          Array.from({ length: 200 }, (_, at) => at),
        )
        assert.deepEqual([...new Uint8Array(iommufd.hwInfo(3, 0, 0).data)], [7, 8, 9])
        assert.equal(iommufd.hwInfo(3, 0, 0).data.byteLength, 0)
        for (const what of ['impossible', 'growing']) {
          const error = await failure(() => iommufd.hwInfo(3, 0, 0))
          assert.equal((error as { code?: string }).code, 'ERR_VFIO_BAD_KERNEL_DATA', what)
        }
      },
    )
  })

  it('asks an older kernel with zeros behind what that knows, and says E2BIG for the rest', async () => {
    const kernels = [
      // E2BIG, since it has no such member; then ENOENT, since there is no such queue.
      { linux: '6.6', length: 24, capabilities: 0, pasidBits: 0, errno: 7 },
      { linux: '6.12', length: 24, capabilities: 1, pasidBits: 0, errno: 2 },
      { linux: '6.18', length: 24, capabilities: 1, pasidBits: 20, errno: 2 },
      { linux: '7.3', length: 32, capabilities: 1, pasidBits: 20, errno: 2 },
    ] as const
    for (const { linux, ...told } of kernels) {
      await withFake(
        [],
        async ({ addon, failure, input }) => {
          const iommufd = addon.Iommufd.open('/dev/iommu')
          const device = addon.Device.openCdev('/dev/vfio/devices/vfio0')
          const devid = await device.bindIommufd(iommufd, null)
          const ioas = iommufd.allocateIoas()
          assert((await iommufd.allocateHwpt(devid, ioas, 0, 0, null, 0)) > 0)
          const { data, type, capabilities, pasidBits } = iommufd.hwInfo(devid, 0, 0)
          const error = await failure(iommufd.allocateHwpt(devid, ioas, 4, 0, null, 9))
          assert.deepEqual(
            { length: data.byteLength, type, capabilities: Number(capabilities), pasidBits, ...error },
            {
              ...input,
              type: 1,
              syscall: 'ioctl',
              request: 'IOMMU_HWPT_ALLOC',
              path: '/dev/iommu',
            },
          )
        },
        { input: told, machine: { linux } },
      )
    }
  })
})

describe('the errors of an iommufd', () => {
  it('are those of the kernel, each with its request', () =>
    overModel({ linux: '7.3', locked: 64 * 4096 }, async ({ addon, failure }) => {
      const PAGE = 4096
      const [FIXED, WRITE, READ] = [1, 2, 4]
      const all = FIXED | WRITE | READ
      const size = BigInt(PAGE)
      const NOWHERE = 99
      const END = 2n ** 64n - 1n
      const iommufd = addon.Iommufd.open('/dev/iommu')
      const ioas = iommufd.allocateIoas()
      const file = addon.MemoryFile.create(128 * PAGE, 0)
      const memory = file.map(0, 128 * PAGE, 0)
      const map = (iova: bigint, flags = all, pages = 1, to = ioas) =>
        addon.iommufdMap(iommufd.id, to, memory.id, 0, pages * PAGE, iova, flags)
      map(0x10000n, all, 2)
      const device = addon.Device.openCdev('/dev/vfio/devices/vfio0')
      const devid = await device.bindIommufd(iommufd, null)
      // With pages mapped where the window of interrupts is.
      const beside = iommufd.allocateIoas()
      map(0xfee00000n, all, 1, beside)
      const large = iommufd.allocateIoas()
      map(0x10000n, all, 128, large)
      const empty = iommufd.allocateIoas()
      const hwpt = await device.attach(ioas, null)
      const tracking = await iommufd.allocateHwpt(devid, ioas, 2, 0, null, 0)
      const other = addon.Iommufd.open('/dev/iommu')
      const mate = addon.Device.openCdev('/dev/vfio/devices/vfio1')
      const again = addon.Device.openCdev('/dev/vfio/devices/vfio0')
      const vf = addon.Device.openCdev('/dev/vfio/devices/vfio7')
      const token = new Uint8Array(16).fill(1)
      const group = addon.Group.open('/dev/vfio/3')
      const ofGroup = addon.Device.openCdev('/dev/vfio/devices/vfio4')

      const cases: [string, string, () => unknown][] = [
        ['ENOENT', 'IOMMU_DESTROY', () => iommufd.destroy(NOWHERE)],
        ['EBUSY', 'IOMMU_DESTROY', () => iommufd.destroy(ioas)],
        ['EBUSY', 'IOMMU_DESTROY', () => iommufd.destroy(hwpt)],
        ['EBUSY', 'IOMMU_DESTROY', () => iommufd.destroy(devid)],
        ['ENOENT', 'IOMMU_IOAS_IOVA_RANGES', () => iommufd.iovaRanges(hwpt)],
        ['ENOENT', 'IOMMU_IOAS_ALLOW_IOVAS', () => iommufd.allowIovas(NOWHERE, new BigUint64Array(0))],
        ['EINVAL', 'IOMMU_IOAS_ALLOW_IOVAS', () => iommufd.allowIovas(ioas, new BigUint64Array([2n, 1n]))],
        [
          'EINVAL',
          'IOMMU_IOAS_ALLOW_IOVAS',
          () => iommufd.allowIovas(ioas, new BigUint64Array([0n, 5n, 4n, 9n])),
        ],
        [
          'EADDRINUSE',
          'IOMMU_IOAS_ALLOW_IOVAS',
          () => iommufd.allowIovas(ioas, new BigUint64Array([0n, 2n ** 32n])),
        ],
        ['ENOENT', 'IOMMU_IOAS_MAP', () => map(0x30000n, all, 1, NOWHERE)],
        ['EEXIST', 'IOMMU_IOAS_MAP', () => map(0x11000n)],
        ['EINVAL', 'IOMMU_IOAS_MAP', () => map(0x30001n)],
        ['EINVAL', 'IOMMU_IOAS_MAP', () => map(0xfee00000n)],
        ['EINVAL', 'IOMMU_IOAS_MAP', () => map(0x30000n, all, 0)],
        ['EINVAL', 'IOMMU_IOAS_MAP', () => map(0x30000n, FIXED)],
        ['ENOTSUP', 'IOMMU_IOAS_MAP', () => map(0x30000n, all | 8)],
        ['EOVERFLOW', 'IOMMU_IOAS_MAP', () => map(END)],
        ['EOVERFLOW', 'IOMMU_IOAS_MAP', () => map(2n ** 64n - size, all, 2)],
        ['ENOMEM', 'IOMMU_IOAS_MAP', () => map(0x100000n, all, 64)],
        ['ENOENT', 'IOMMU_IOAS_MAP', () => iommufd.map(NOWHERE, memory.id, 0, PAGE, 0n, all)],
        ['ENOENT', 'IOMMU_IOAS_UNMAP', () => iommufd.unmap(ioas, 0x11000n, size)],
        ['ENOENT', 'IOMMU_IOAS_UNMAP', () => addon.iommufdUnmap(iommufd.id, ioas, 0x10000n, Number(size))],
        ['EINVAL', 'IOMMU_IOAS_UNMAP', () => iommufd.unmap(ioas, 0x10000n, 0n)],
        ['EOVERFLOW', 'IOMMU_IOAS_UNMAP', () => iommufd.unmap(ioas, END - 1n, 4n)],
        ['ENOENT', 'IOMMU_IOAS_COPY', () => iommufd.copy(empty, ioas, 3n * size, 0n, 0x10000n, all)],
        ['ENOENT', 'IOMMU_IOAS_COPY', () => iommufd.copy(NOWHERE, ioas, size, 0n, 0x10000n, all)],
        ['EBADF', 'IOMMU_IOAS_MAP_FILE', () => iommufd.mapFile(ioas, 1_000_000, 0n, size, 0n, all)],
        ['EINVAL', 'IOMMU_IOAS_CHANGE_PROCESS', () => iommufd.changeProcess()],
        ['EBUSY', 'IOMMU_OPTION', () => iommufd.option(0, 0, 0, 1n)],
        ['ENOTSUP', 'IOMMU_OPTION', () => iommufd.option(7, 1, 0, 0n)],
        ['EINVAL', 'IOMMU_OPTION', () => iommufd.option(1, 0, ioas, 0n)],
        ['ENOENT', 'IOMMU_HWPT_ALLOC', () => iommufd.allocateHwpt(NOWHERE, ioas, 0, 0, null, 0)],
        ['EINVAL', 'IOMMU_HWPT_ALLOC', () => iommufd.allocateHwpt(devid, NOWHERE, 0, 0, null, 0)],
        ['EINVAL', 'IOMMU_HWPT_ALLOC', () => iommufd.allocateHwpt(devid, ioas, 0, 0, token, 0)],
        [
          'EINVAL',
          'IOMMU_HWPT_ALLOC',
          () => iommufd.allocateHwpt(devid, tracking, 0, 1, new Uint8Array(24), 0),
        ],
        ['ENOENT', 'IOMMU_HWPT_ALLOC', () => iommufd.allocateHwpt(devid, ioas, 4, 0, null, 5)],
        ['EADDRINUSE', 'IOMMU_HWPT_ALLOC', () => iommufd.allocateHwpt(devid, beside, 0, 0, null, 0)],
        ['ENOMEM', 'IOMMU_HWPT_ALLOC', () => iommufd.allocateHwpt(devid, large, 0, 0, null, 0)],
        ['ENOTSUP', 'IOMMU_HWPT_SET_DIRTY_TRACKING', () => iommufd.setDirtyTracking(hwpt, 1)],
        ['ENOENT', 'IOMMU_HWPT_SET_DIRTY_TRACKING', () => iommufd.setDirtyTracking(ioas, 1)],
        ['EINVAL', 'IOMMU_HWPT_GET_DIRTY_BITMAP', () => iommufd.dirtyBitmap(tracking, 0n, size, size, 0)],
        ['EINVAL', 'IOMMU_HWPT_GET_DIRTY_BITMAP', () => iommufd.dirtyBitmap(tracking, 1n, size, size, 0)],
        [
          'EOVERFLOW',
          'IOMMU_HWPT_GET_DIRTY_BITMAP',
          () => iommufd.dirtyBitmap(tracking, END - 4095n, 2n * size, size, 0),
        ],
        ['ENOENT', 'IOMMU_GET_HW_INFO', () => iommufd.hwInfo(ioas, 0, 0)],
        ['ENOTSUP', 'IOMMU_GET_HW_INFO', () => iommufd.hwInfo(devid, 1, 4)],
        ['ENOENT', 'IOMMU_IOAS_NOIOMMU_GET_PA', () => iommufd.noiommuPa(ioas, 0n, size)],
        ['EINVAL', 'IOMMU_IOAS_NOIOMMU_GET_PA', () => iommufd.noiommuPa(ioas, 0x10000n, 0n)],
        // Devices.
        ['EINVAL', 'VFIO_DEVICE_BIND_IOMMUFD', () => device.bindIommufd(iommufd, null)],
        ['EINVAL', 'VFIO_DEVICE_BIND_IOMMUFD', () => device.bindAndAttach(iommufd, null, ioas, null)],
        ['EINVAL', 'VFIO_DEVICE_BIND_IOMMUFD', () => again.bindIommufd(other, null)],
        ['EPERM', 'VFIO_DEVICE_BIND_IOMMUFD', () => mate.bindIommufd(other, null)],
        ['EACCES', 'VFIO_DEVICE_BIND_IOMMUFD', () => vf.bindIommufd(other, null)],
        ['EACCES', 'VFIO_DEVICE_BIND_IOMMUFD', () => vf.bindIommufd(other, token)],
        ['EINVAL', 'VFIO_DEVICE_BIND_IOMMUFD', () => mate.bindIommufd(iommufd, token)],
        ['EBUSY', 'VFIO_DEVICE_BIND_IOMMUFD', () => ofGroup.bindIommufd(iommufd, null)],
        ['EINVAL', 'VFIO_DEVICE_GET_INFO', () => mate.info(new ArrayBuffer(0))],
        ['EINVAL', 'VFIO_DEVICE_ATTACH_IOMMUFD_PT', () => mate.attach(ioas, null)],
        ['ENOENT', 'VFIO_DEVICE_ATTACH_IOMMUFD_PT', () => device.attach(NOWHERE, null)],
        ['EINVAL', 'VFIO_DEVICE_ATTACH_IOMMUFD_PT', () => device.attach(devid, null)],
        ['EADDRINUSE', 'VFIO_DEVICE_ATTACH_IOMMUFD_PT', () => device.attach(beside, null)],
        ['ENOMEM', 'VFIO_DEVICE_ATTACH_IOMMUFD_PT', () => device.attach(large, null)],
        ['ENOTSUP', 'VFIO_DEVICE_ATTACH_IOMMUFD_PT', () => device.attach(ioas, 5)],
        ['ENOTSUP', 'VFIO_DEVICE_DETACH_IOMMUFD_PT', () => device.detach(5)],
        ['EINVAL', 'VFIO_DEVICE_PCI_HOT_RESET', () => device.hotReset([])],
        ['EINVAL', 'VFIO_DEVICE_PCI_HOT_RESET', () => device.hotReset([group])],
        ['EBUSY', 'group', () => addon.Group.open('/dev/vfio/1')],
        ['ENOENT', 'cdev', () => addon.Device.openCdev('/dev/vfio/devices/vfio8')],
      ]
      const { getSystemErrorName } = await import('node:util')
      for (const [at, [name, request, call]] of cases.entries()) {
        const what = `${at}: ${request}`
        const error = (await failure(call).catch((error) => assert.fail(`${what}: ${error}`))) as Error & {
          errno?: number
          request?: string
          path?: string
        }
        const { errno = 0 } = error
        assert.deepEqual(
          [errno && getSystemErrorName(-errno), error.request],
          [name, request],
          `${what}: ${error}`,
        )
        assert.equal(typeof error.path, 'string')
      }
      memory.close()
    }))

  it('say of a kernel without iommufd or device nodes that there is none', async () => {
    for (const linux of ['5.10', '6.6'] as const) {
      await withFake(
        [],
        async ({ addon, failure, input }) => {
          const isOld = input.linux === '5.10'
          const errno = async (call: () => unknown) =>
            ((await failure(call)) as { errno?: number }).errno ?? 'no errno'
          if (isOld) {
            assert.equal(await errno(() => addon.Iommufd.open('/dev/iommu')), 2)
            assert.equal(await errno(() => addon.Device.openCdev('/dev/vfio/devices/vfio0')), 2)
            return
          }
          const iommufd = addon.Iommufd.open('/dev/iommu')
          // ENOTTY.
          assert.equal(await errno(iommufd.setDirtyTracking(1, 0) as never), 25)
          assert.equal(await errno(iommufd.changeProcess() as never), 25)
          assert.equal(await errno(iommufd.noiommuPa(1, 0n, 1n) as never), 25)
        },
        { input: { linux }, machine: { linux } },
      )
    }
  })

  it('are told before the kernel is asked where an argument makes no sense', () =>
    over([], async ({ addon, failure, log }) => {
      const iommufd = addon.Iommufd.open('/dev/iommu')
      const device = addon.Device.openCdev('/dev/vfio/devices/vfio0')
      const file = addon.MemoryFile.create(8192, 0)
      const memory = file.map(0, 8192, 0)
      const untyped = (value: unknown) => value as never
      const gone = addon.Iommufd.open('/dev/iommu')
      await gone.close()
      const cases: [unknown, () => unknown][] = [
        ['BAD_ARGUMENT', () => addon.iommufdMap(iommufd.id, 1, memory.id, 4096, 8192, 0n, 7)],
        ['BAD_ARGUMENT', () => addon.iommufdMap(iommufd.id, 1, memory.id, -1, 4096, 0n, 7)],
        ['BAD_ARGUMENT', () => addon.iommufdMap(iommufd.id, 1, iommufd.id, 0, 4096, 0n, 7)],
        ['BAD_ARGUMENT', () => addon.iommufdMap(memory.id, 1, memory.id, 0, 4096, 0n, 7)],
        ['BAD_ARGUMENT', () => addon.iommufdMap(iommufd.id, 1, memory.id, 0, 4096, untyped(0), 7)],
        ['BAD_ARGUMENT', () => addon.iommufdMap(iommufd.id, 1, memory.id, 0, 4096, -1n, 7)],
        ['BAD_ARGUMENT', () => iommufd.map(1, memory.id, 0, 8193, 0n, 7)],
        ['BAD_ARGUMENT', () => iommufd.destroy(1.5)],
        ['BAD_ARGUMENT', () => iommufd.destroy(2 ** 32)],
        ['BAD_ARGUMENT', () => iommufd.destroy(untyped(undefined))],
        ['BAD_ARGUMENT', () => iommufd.option(1, 65536, 0, 0n)],
        ['BAD_ARGUMENT', () => iommufd.allowIovas(1, new BigUint64Array(3))],
        ['BAD_ARGUMENT', () => iommufd.allowIovas(1, untyped([1n, 2n]))],
        ['BAD_ARGUMENT', () => iommufd.allowIovas(1, new BigUint64Array(2 * 4097))],
        ['BAD_ARGUMENT', () => iommufd.allocateHwpt(1, 2, 0, 1, untyped('text'), 0)],
        ['BAD_ARGUMENT', () => iommufd.allocateHwpt(1, 2, 0, 1, new Uint8Array(65537), 0)],
        ['BAD_ARGUMENT', () => iommufd.mapFile(1, -1, 0n, 1n, 0n, 7)],
        // The kernel would count as many bits as the lowest of the size's bits says.
        ['BAD_ARGUMENT', () => iommufd.dirtyBitmap(1, 0n, 0x6000n, 0x3000n, 0)],
        ['BAD_ARGUMENT', () => iommufd.dirtyBitmap(1, 0n, 0x6000n, 0n, 0)],
        ['BAD_ARGUMENT', () => iommufd.dirtyBitmap(1, 0n, 2n ** 63n, 1n, 0)],
        ['BAD_ARGUMENT', () => device.bindIommufd(untyped(device), null)],
        ['BAD_ARGUMENT', () => device.bindIommufd(untyped(Object.create(iommufd)), null)],
        ['BAD_ARGUMENT', () => device.bindIommufd(iommufd, new Uint8Array(15))],
        ['BAD_ARGUMENT', () => device.bindIommufd(iommufd, new Uint8Array(17))],
        ['BAD_ARGUMENT', () => device.attach(1, -1)],
        ['BAD_ARGUMENT', () => device.dmaBuf(0, 0, new BigUint64Array(3))],
        ['BAD_ARGUMENT', () => addon.Iommufd.open('')],
        ['BAD_ARGUMENT', () => addon.Device.openCdev('a\0b')],
        ['CLOSED', () => gone.allocateIoas()],
        ['CLOSED', () => gone.destroy(1)],
        ['CLOSED', () => gone.iovaRanges(1)],
        // It would be all of the address space.
        ['BAD_ARGUMENT', () => addon.iommufdUnmap(iommufd.id, 1, 0n, -1)],
        ['CLOSED', () => addon.iommufdUnmap(gone.id, 1, 0n, 1)],
        ['CLOSED', () => device.bindIommufd(gone, null)],
      ]
      for (const [at, [code, call]] of cases.entries()) {
        const error = await failure(call).catch(() => assert.fail(`${at}: ${call} was taken`))
        assert.equal(error.code, `ERR_VFIO_${code}`, `${at}: ${call}: ${error}`)
      }
      assert.deepEqual(
        log().filter((line) => /^(begin|sent)/.test(line)),
        [],
      )
      memory.close()
    }))
})

describe('a device by its own node', () => {
  it('is bound, attached to an address space or a page table, moved and let go', () =>
    overModel({ linux: '7.3' }, async ({ addon, state, log }) => {
      const iommufd = addon.Iommufd.open('/dev/iommu')
      const device = addon.Device.openCdev('/dev/vfio/devices/vfio0')
      assert.deepEqual(
        state().model.devices.map(({ name, devid }) => [name, devid]),
        [['vfio0', 0]],
      )
      const devid = await device.bindIommufd(iommufd, null)
      assert.equal(state().model.devices[0]?.devid, devid)
      assert(device.info(new ArrayBuffer(128)).byteLength > 0)
      const first = iommufd.allocateIoas()
      const second = iommufd.allocateIoas()
      assert.deepEqual(Array.from(iommufd.iovaRanges(first).ranges), [0n, 2n ** 64n - 1n])
      assert.equal(iommufd.iovaRanges(first).alignment, 1n)
      const attached = () => state().model.iommufds[0]?.objects.find(({ id }) => id === devid)?.attached
      // The kernel makes a page table for it.
      const made = await device.attach(first, null)
      assert(![first, second, devid].includes(made))
      assert.equal(attached(), made)
      assert.deepEqual(Array.from(iommufd.iovaRanges(first).ranges), [
        0n,
        0xfedfffffn,
        0xfef00000n,
        2n ** 48n - 1n,
      ])
      assert.equal(iommufd.iovaRanges(first).alignment, 4096n)
      // Without letting it go first.
      const table = await iommufd.allocateHwpt(devid, second, 3, 0, null, 0)
      assert.equal(await device.attach(table, null), table)
      assert.equal(attached(), table)
      const within = await iommufd.allocateHwpt(devid, table, 0, 1, new Uint8Array(24), 0)
      assert.equal(await device.attach(within, null), within)
      await device.detach(null)
      assert.equal(attached(), undefined)
      await iommufd.destroy(within)
      await iommufd.destroy(table)
      // It holds what it is bound to.
      await iommufd.close()
      assert.equal(state().model.iommufds[0]?.open, undefined)
      assert(device.info(new ArrayBuffer(128)).byteLength > 0)
      await device.close()
      assert.deepEqual([state().model.iommufds, state().model.devices], [[], []])
      assert.equal(log().at(-1), 'close /dev/vfio/devices/vfio0')
    }))

  it('gives a token where it is a virtual function', () =>
    overModel({ linux: '7.3' }, async ({ addon }) => {
      const iommufd = addon.Iommufd.open('/dev/iommu')
      const device = addon.Device.openCdev('/dev/vfio/devices/vfio7')
      // It is read before the call returns.
      const token = Uint8Array.from({ length: 16 }, (_, at) => at + 1)
      const bound = device.bindIommufd(iommufd, token)
      token.fill(0)
      assert.equal(await bound, 1)
    }))

  it('is reset with its slot where all of that is its iommufd’s', () =>
    overModel({ linux: '7.3' }, async ({ addon, failure }) => {
      const iommufd = addon.Iommufd.open('/dev/iommu')
      const [device, slot] = await Promise.all(
        [0, 2].map(async (number) => {
          const opened = addon.Device.openCdev(`/dev/vfio/devices/vfio${number}`)
          return { opened, devid: number === 0 ? await opened.bindIommufd(iommufd, null) : 0 }
        }),
      )
      assert(device && slot)
      const info = () => Array.from(new Uint32Array(device.opened.hotResetInfo(new ArrayBuffer(128)), 4, 6))
      // Flags, count, and of each its number and place; -1 for what is not its own.
      assert.deepEqual([info()[0], info()[1], info()[2], info()[4]], [1, 2, device.devid, 0xffffffff])
      assert.equal(((await failure(device.opened.hotReset([]))) as { errno?: number }).errno, 22)
      const devid = await slot.opened.bindIommufd(iommufd, null)
      assert.deepEqual([info()[0], info()[4]], [3, devid])
      await device.opened.hotReset([])
    }))

  it('tells which pages it has written to', () =>
    overModel({ linux: '6.12' }, async ({ addon }) => {
      const iommufd = addon.Iommufd.open('/dev/iommu')
      const device = addon.Device.openCdev('/dev/vfio/devices/vfio0')
      const devid = await device.bindIommufd(iommufd, null)
      const ioas = iommufd.allocateIoas()
      const hwpt = await iommufd.allocateHwpt(devid, ioas, 2, 0, null, 0)
      const file = addon.MemoryFile.create(0x200000, 0)
      const memory = file.map(0, 0x200000, 0)
      for (const iova of [0x10000n, 0x60000n])
        addon.iommufdMap(iommufd.id, ioas, memory.id, 0, 0x1000, iova, 7)
      await iommufd.setDirtyTracking(hwpt, 1)
      const bits = async (flags: number, pageSize = 0x1000n) =>
        Array.from(new BigUint64Array(await iommufd.dirtyBitmap(hwpt, 0x10000n, 0x100000n, pageSize, flags)))
      const both = [1n, 1n << 16n, 0n, 0n]
      assert.deepEqual(await bits(1), both)
      assert.deepEqual(await bits(0), both)
      assert.deepEqual(await bits(0), [0n, 0n, 0n, 0n])
      await iommufd.setDirtyTracking(hwpt, 0)
      memory.close()
    }))

  it('shares its BAR as a dma-buf', () =>
    over([{ call: 'dmaBuf', returns: 'fd' }], async ({ addon, log }) => {
      const { fstatSync } = await import('node:fs')
      const device = addon.Device.openCdev('/dev/vfio/devices/vfio0')
      const shared = await device.dmaBuf(2, 2, new BigUint64Array([0n, 0x1000n, 0x4000n, 0x2000n]))
      assert(fstatSync(shared.number()).isFile())
      const sent = log().find((line) => line.startsWith('sent 17.11')) ?? ''
      const words = new Uint32Array(Uint8Array.from(Buffer.from(sent.split(' ')[2] ?? '', 'hex')).buffer)
      const O_CLOEXEC = 0o2000000
      assert.deepEqual(
        [...words],
        [56, 0x1000b, 2, 2 | O_CLOEXEC, 0, 2, ...[0, 0, 0x1000, 0, 0x4000, 0, 0x2000, 0]],
      )
      await shared.close()
      assert(log().includes('close dma-buf'))
    }))
})

describe('objects on their way to another thread', () => {
  it('are as many as are given, of any kind, in their order', () =>
    overModel({ linux: '7.3' }, async ({ addon, state, failure }) => {
      const iommufd = addon.Iommufd.open('/dev/iommu')
      const devices = await Promise.all(
        [0, 2, 4].map((number) => addon.Device.openCdev(`/dev/vfio/devices/vfio${number}`)),
      )
      for (const device of devices) await device.bindIommufd(iommufd, null)
      const ioas = iommufd.allocateIoas()
      const offer = addon.offer(...devices, iommufd)
      assert.equal((await failure(() => iommufd.allocateIoas())).code, 'ERR_VFIO_CLOSED')
      const accepted = addon.accept(offer)
      assert.deepEqual(
        accepted.map((each) => each.constructor.name),
        ['Device', 'Device', 'Device', 'Iommufd'],
      )
      const third = accepted[2] as (typeof devices)[number]
      const taken = accepted[3] as typeof iommufd
      assert.equal(await third.attach(ioas, null), ioas + 1)
      assert.equal(taken.allocateIoas(), ioas + 2)
      assert.equal((await failure(() => addon.accept(offer))).code, 'ERR_VFIO_BAD_ARGUMENT')
      const untyped = (value: unknown) => value as never
      const file = addon.MemoryFile.create(4096, 0)
      for (const parts of [
        [],
        [taken, taken],
        [taken, file],
        [untyped(null)],
        [taken, untyped({})],
        [iommufd],
      ]) {
        const error = await failure(() => addon.offer(...parts))
        assert.match(String(error.code), /^ERR_VFIO_(BAD_ARGUMENT|CLOSED)$/)
      }
      // What was refused has not changed.
      assert.equal(taken.allocateIoas(), ioas + 3)
      await Promise.all(accepted.map((each) => each.close()))
      assert.deepEqual([state().model.iommufds, state().model.devices], [[], []])
    }))
})
