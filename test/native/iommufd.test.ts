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

      assert.equal(addon.iommufdUnmap(iommufd.id, first, iova, BigInt(2 * PAGE)), BigInt(2 * PAGE))
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
        assert.deepEqual(iommufd.noiommuPa(6, big), { address: 0n, length: 0n })
        assert.deepEqual(words(), ['iommu.95', 40, 0, 6, 0, 0x33334444, 0x11112222, 0, 0, 0, 0])

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
          const device = await addon.Device.openCdev('/dev/vfio/devices/vfio0')
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
