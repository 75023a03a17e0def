import assert from 'node:assert/strict'
import { iommu, region } from './bytes.js'
import { type FakeAnswer, OPENS, withFake } from './fake.js'

const KIB = 1024

/** An IOMMU with these sizes of pages, and all addresses below 2⁴⁸. */
const iommuOf = (pageSizes: bigint): FakeAnswer => ({
  call: 'iommuInfo',
  bytes: iommu(56, 3, pageSizes, 24).u16(1, 1).u32(0, 1, 0).u64(0n, 0xffffffffffffn).done(),
})

/** What the system has, and what the IOMMU: the kernel says that it maps no smaller pages than the system's. */
const HOSTS = [4, 16, 64].flatMap((system) =>
  [4, 16, 64]
    .filter((iommu) => iommu >= system)
    .map((iommu) => ({ system: system * KIB, iommu: iommu * KIB })),
)

describe('pages of the host', function () {
  this.timeout(60_000)

  for (const sizes of HOSTS) {
    const answers: FakeAnswer[] = [
      OPENS,
      { call: 'pageSize', returns: sizes.system },
      // Each size up to 1 GiB.
      iommuOf(BigInt(2 ** 31 - sizes.iommu)),
    ]
    const name = `of ${sizes.system / KIB} KiB, with ${sizes.iommu / KIB} KiB of the IOMMU`

    it(`${name}, are what a buffer and its address are made of`, async () => {
      await withFake(
        answers,
        async ({ openGroup, vfio, asked, failure, input }) => {
          const { ftruncateSync } = await import('node:fs')
          const { DmaBuffer } = vfio
          const { container } = openGroup()
          assert.equal(container.iommuInfo().pageSizes[0], BigInt(input.iommu))
          for (const size of [1, 4096, 4097, 16384, 65536, 65537, 300_000, 3 * 2 ** 20]) {
            const buffer = DmaBuffer.allocate(size)
            assert(buffer.size >= size && buffer.size - size < input.iommu && buffer.size % input.iommu === 0)
            await container.dma.map(buffer)
            if (buffer.size > input.iommu) await container.dma.map(buffer, { offset: input.iommu })
          }
          const requests = asked()
            .filter((line) => line.startsWith('13 '))
            .map((line) => (line.match(/0x[0-9a-f]+/g) ?? []).slice(1).map(BigInt))
          assert(requests.length > 8)
          const starts = new Set<bigint>()
          for (const [iova = 0n, size = 0n, from = 0n] of requests) {
            for (const value of [iova, size, from]) assert.equal(value % BigInt(input.iommu), 0n)
            assert(iova > 0n && !starts.has(iova))
            starts.add(iova)
          }
          // One page after the other: nothing is wasted.
          assert.equal(requests[0]?.[0], BigInt(input.iommu))
          // What has a large page's size lies where one can be.
          const large = (input.iommu * input.iommu) / 8
          if (large <= 2 ** 25)
            assert.equal((await container.dma.map(DmaBuffer.allocate(large))).iova % BigInt(large), 0n)

          const own = DmaBuffer.allocate(4 * input.iommu)
          for (const options of [
            { size: input.system + 2048 },
            { offset: input.system / 2, size: input.system },
          ]) {
            const uneven = await failure(() => DmaBuffer.fromFd(own.fd, options))
            assert.match(
              uneven.message,
              new RegExp(`^offset and size must be multiples of ${input.system}, not `),
            )
          }
          const part = DmaBuffer.fromFd(own.fd, { offset: input.iommu, size: input.iommu })
          const { iova } = await container.dma.map(part)
          assert.equal(iova % BigInt(input.iommu), 0n)
          part.bytes[5] = 7
          assert.equal(own.bytes[input.iommu + 5], 7)
          const small = await failure(() => DmaBuffer.allocate(4096, { hugepages: input.system }))
          assert.match(small.message, new RegExp(`a power of two above ${input.system}\\)`))
          assert.equal((await failure(() => ftruncateSync(own.fd, 0))).code, 'EPERM')
        },
        { input: sizes },
      )
    })

    it(`${name}, are named where a mapping is uneven`, async () => {
      await withFake(
        [...answers, { call: 'mapDma', returns: -22 }],
        async ({ openGroup, vfio, failure, input }) => {
          const { container } = openGroup()
          const page = `0x${input.iommu.toString(16)}`
          const buffer = vfio.DmaBuffer.allocate(4 * input.iommu)
          const message = async (options: object) =>
            (await failure(container.dma.map(buffer, options))).message.replace(/^.*EINVAL: /, '')
          const half = input.iommu / 2
          assert.equal(
            await message({ iova: half }),
            `0x${half.toString(16)} and 0x${buffer.size.toString(16)} must be multiples of the page size, ${page}`,
          )
          assert.match(
            await message({ length: half }),
            new RegExp(`must be multiples of the page size, ${page}(: buffers .*)?$`),
          )
          assert.equal(
            await message({ offset: half, length: input.iommu, iova: input.iommu }),
            `the offset in the buffer, 0x${half.toString(16)}, must be a multiple of the page size, ${page}`,
          )
          if (input.iommu > input.system) {
            assert.equal(
              await message({}),
              `the memory itself must begin at a multiple of the page size of the IOMMU, ${page}: allocate it after setIommu()`,
            )
          }
          assert.equal(buffer.mapped, false)
        },
        { input: sizes },
      )
    })

    it(`${name}, are what a bitmap has bits for`, async () => {
      await withFake(
        answers,
        async ({ openGroup, asked, input }) => {
          const { container } = openGroup()
          await container.dma.dirty.bitmap(0, 64 * input.iommu)
          assert.equal(asked().at(-1), `bitmap page 0x${input.iommu.toString(16)} bytes 8`)
        },
        { input: sizes },
      )
    })
  }

  for (const system of [4, 16, 64].map((size) => size * KIB)) {
    /** Of eight pages of 64 KiB; what lies from 0x1000 on may be mapped, to the middle of a page. */
    const SPARSE: FakeAnswer = {
      call: 'regionInfo',
      bytes: region(64, 15, 32, 0x80000n, 0x10000000000n)
        .u16(1, 1)
        .u32(0, 1, 0)
        .u64(0x1000n, 0x6f800n)
        .done(),
    }
    it(`of ${system / KIB} KiB are what a region is mapped by, and the rest goes through the descriptor`, async () => {
      await withFake(
        [OPENS, { call: 'pageSize', returns: system }, SPARSE],
        async ({ openGroup, memoryOf, failure, input }) => {
          const { readFileSync, truncateSync } = await import('node:fs')
          const device = await openGroup().group.openDevice('0000:01:00.0')
          truncateSync(memoryOf('0000:01:00.0'), 2 ** 40 + 0x80000)
          const bar = device.region(1)
          const places = [
            0, 0xffc, 0x1000, 0x3ffc, 0x4000, 0xfffc, 0x10000, 0x20000, 0x707fc, 0x70800, 0x7fffc,
          ]
          for (const at of places) bar.write32(at, at + 1)
          for (const at of places) assert.equal(bar.read32(at), at + 1, `at ${at}`)
          const mapped = readFileSync('/proc/self/maps', 'utf8')
            .split('\n')
            .filter((line) => line.includes('fake-vfio:0000:01:00.0'))
            .map((line) => line.split(' ')[2])
          const first = Math.max(0x1000, input)
          assert.deepEqual(mapped, [(2 ** 40 + first).toString(16)])
          for (const offset of [first + input / 2, 1]) {
            assert.equal(
              (await failure(() => bar.map({ offset, length: 64 }))).message,
              `the offset must be a multiple of ${input}, not ${offset}`,
            )
          }
          const mapping = bar.map({ offset: first, length: 0x10000 })
          assert.equal(new Uint32Array(mapping.buffer)[0], bar.read32(first))
          // A loss takes whole pages, and nothing beside them.
          truncateSync(memoryOf('0000:01:00.0'), 2 ** 40 + 0x20000)
          assert.equal((await failure(() => bar.read32(0x30000))).code, 'ERR_VFIO_MEMORY_DISABLED')
          assert.equal(bar.read32(0x10000), 0x10001)
        },
        { input: system },
      )
    })
  }

  it('of an IOMMU whose kernel does not say are those of the system', async () => {
    await withFake(
      [
        { call: 'pageSize', returns: 64 * KIB },
        { call: 'iommuInfo', bytes: iommu(24, 0, 0n, 0).done() },
      ],
      async ({ openGroup, vfio, asked }) => {
        const { container } = openGroup()
        await container.dma.map(vfio.DmaBuffer.allocate(4096))
        await container.dma.dirty.bitmap(0x10000, 0x10000)
        assert.match(asked()[0] ?? '', /^13 flags 0x3 iova 0x10000 size 0x10000 from 0x[0-9a-f]+0000$/)
        assert.equal(asked().at(-1), 'bitmap page 0x10000 bytes 8')
      },
    )
  })

  it('are known to be larger only when the IOMMU is set, and the error says so before', async () => {
    await withFake(
      [iommuOf(0x7fff0000n), { call: 'mapDma', returns: -22 }, { call: 'mapDma', returns: 0 }],
      async ({ openGroup, vfio, failure }) => {
        const early = vfio.DmaBuffer.allocate(4096)
        const { container } = openGroup()
        const error = await failure(container.dma.map(early))
        assert.match(
          error.message,
          /EINVAL: 0x10000 and 0x1000 must be multiples of the page size, 0x10000: buffers that are allocated after setIommu\(\) have whole pages of the IOMMU$/,
        )
        assert.equal((await container.dma.map(vfio.DmaBuffer.allocate(4096))).size, 0x10000)
      },
    )
  })
})
