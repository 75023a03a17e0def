import assert from 'node:assert/strict'
import { iommu } from './bytes.js'
import { type FakeAnswer, withFake } from './fake.js'

/** Pages of 4 KiB, these ranges. */
const iommuOf = (...ranges: [bigint, bigint][]): FakeAnswer => ({
  call: 'iommuInfo',
  bytes: iommu(24 + 16 + 16 * ranges.length, 3, 0x1000n, 24)
    .u16(1, 1)
    .u32(0, ranges.length, 0)
    .u64(...ranges.flat())
    .done(),
})
const IOMMU = iommuOf([0n, 0xfedfffffn], [0xfef00000n, 0xffffffffffffn])

describe('memory for devices', () => {
  it('is mapped with exactly the address, size and rights that are wanted', async () => {
    await withFake([IOMMU], async ({ openGroup, asked, vfio }) => {
      const { container } = openGroup()
      const buffer = vfio.DmaBuffer.allocate(10_000)
      assert.deepEqual([buffer.size, buffer.buffer.byteLength, buffer.bytes.length], [12288, 12288, 12288])
      assert(buffer.bytes.every((byte) => byte === 0))
      const mapping = await container.dma.map(buffer)
      assert.deepEqual(
        [mapping.iova, mapping.size, mapping.buffer, mapping.mapped],
        [0x1000n, 12288, buffer, true],
      )
      const parts = [
        await container.dma.map(buffer, { iova: 0x100000, offset: 4096, length: 4096, write: false }),
        await container.dma.map(buffer, { iova: 0x123456789000n, offset: 8192, read: false }),
      ]
      const lines = asked()
      const from = BigInt(/from (\S+)$/.exec(lines[0] ?? '')?.[1] ?? 0)
      const hex = (value: bigint) => `0x${value.toString(16)}`
      assert.deepEqual(lines, [
        `13 flags 0x3 iova 0x1000 size 0x3000 from ${hex(from)}`,
        `13 flags 0x1 iova 0x100000 size 0x1000 from ${hex(from + 4096n)}`,
        `13 flags 0x2 iova 0x123456789000 size 0x1000 from ${hex(from + 8192n)}`,
      ])
      assert.deepEqual(
        container.dma.mappings.map(({ iova, size }) => [iova, size]),
        [
          [0x1000n, 12288],
          [0x100000n, 4096],
          [0x123456789000n, 4096],
        ],
      )
      await mapping.unmap()
      await mapping.unmap()
      await parts[0]?.[Symbol.asyncDispose]()
      assert.equal(await container.dma.unmap(0x123456780000n, 0x10000), 0x10000n)
      assert.deepEqual([mapping.mapped, parts[1]?.mapped, buffer.mapped], [false, false, false])
      assert.deepEqual(asked().slice(3), [
        '14 flags 0 iova 0x1000 size 0x3000',
        '14 flags 0 iova 0x100000 size 0x1000',
        '14 flags 0 iova 0x123456780000 size 0x10000',
      ])
      assert.deepEqual(container.dma.mappings, [])
    })
  })

  it('that is large is mapped and unmapped off the main thread', async () => {
    await withFake(
      [IOMMU, { call: 'mapDma', when: 'gate' }, { call: 'unmapDma', when: 'gate' }],
      async ({ openGroup, asked, logged, letGo, vfio }) => {
        const { container } = openGroup()
        const buffer = vfio.DmaBuffer.allocate(4 * 2 ** 20)
        const pending = container.dma.map(buffer)
        await logged('begin 13 /dev/vfio/vfio')
        assert.equal(buffer.mapped, true)
        letGo()
        const mapping = await pending
        // Where huge pages of an IOMMU fit.
        assert.equal(mapping.iova, 0x200000n)
        const gone = mapping.unmap()
        await logged('begin 14 /dev/vfio/vfio')
        assert.equal(buffer.mapped, true)
        letGo()
        await gone
        assert.equal(buffer.mapped, false)
        assert.match(asked()[0] ?? '', /^13 flags 0x3 iova 0x200000 size 0x400000 /)
        assert.equal(asked()[1], '14 flags 0 iova 0x200000 size 0x400000')
      },
    )
  })

  it('is unmapped all at once, also by kernels that cannot', async () => {
    const can: FakeAnswer = { call: 'checkExtension', returns: 1 }
    await withFake([IOMMU, can], async ({ openGroup, asked, vfio }) => {
      const { container } = openGroup()
      const buffer = vfio.DmaBuffer.allocate(4096)
      for (let i = 0; i < 3; i++) await container.dma.map(buffer)
      await container.dma.unmapAll()
      assert.deepEqual(asked().slice(3), ['14 flags 0x2 iova 0 size 0'])
      assert.deepEqual([container.dma.mappings, buffer.mapped], [[], false])
    })
    await withFake([IOMMU], async ({ openGroup, asked, vfio }) => {
      const { container } = openGroup()
      const buffer = vfio.DmaBuffer.allocate(4096)
      for (let i = 0; i < 3; i++) await container.dma.map(buffer)
      await container.dma.unmapAll()
      assert.deepEqual(asked().slice(3), [
        '14 flags 0 iova 0 size 0xfee00000',
        '14 flags 0 iova 0xfef00000 size 0xffff01100000',
      ])
      assert.deepEqual([container.dma.mappings, buffer.mapped], [[], false])
    })
    await withFake([iommuOf([0n, 0xffffffffffffffffn])], async ({ openGroup, asked, vfio }) => {
      const { container } = openGroup()
      const buffer = vfio.DmaBuffer.allocate(4096)
      await container.dma.map(buffer, { iova: 2n ** 64n - 4096n })
      await container.dma.map(buffer)
      await container.dma.unmapAll()
      // The size of all has no 64 bits.
      assert.deepEqual(asked().slice(2), [
        '14 flags 0 iova 0 size 0x8000000000000000',
        '14 flags 0 iova 0x8000000000000000 size 0x8000000000000000',
      ])
      assert.deepEqual([container.dma.mappings, buffer.mapped], [[], false])
    })
  })

  it('has its dirty pages told', async () => {
    const migration: FakeAnswer = {
      call: 'iommuInfo',
      bytes: iommu(48, 3, 0x1000n, 24).u16(2, 1).u32(0, 0, 0).u64(0x3000n, 0x1000n).done(),
    }
    const bits = Uint8Array.of(0b101, 0, 0, 0, 0, 0, 0, 0, 0b1000_0000, 0, 0, 0, 0, 0, 0, 0)
    await withFake(
      [
        migration,
        { call: 'dirtyPages' },
        { call: 'dirtyPages', bytes: bits },
        { call: 'dirtyPages' },
        { call: 'unmapDma', bytes: bits },
      ],
      async ({ openGroup, asked, vfio }) => {
        const { container } = openGroup()
        const buffer = vfio.DmaBuffer.allocate(80 * 4096)
        await container.dma.map(buffer, { iova: 0x100000 })
        const { dirty } = container.dma
        await dirty.start()
        const found = await dirty.bitmap(0x100000, buffer.size)
        assert.deepEqual([found.length, found[0], found[8]], [16, 0b101, 0b1000_0000])
        await dirty.stop()
        const last = await dirty.unmap(0x100000n, BigInt(buffer.size), 8192)
        assert.deepEqual([last.length, last[0]], [8, 0b101])
        assert.equal(buffer.mapped, false)
        assert.deepEqual(asked().slice(1), [
          '17 flags 0x1',
          '17 flags 0x4 iova 0x100000 size 0x50000',
          'bitmap page 0x1000 bytes 16',
          '17 flags 0x2',
          '14 flags 0x1 iova 0x100000 size 0x50000',
          'bitmap page 0x2000 bytes 8',
        ])
      },
    )
  })
})

describe('an address for devices', () => {
  it('is chosen from the ranges, one behind the other, and never 0', async () => {
    await withFake([iommuOf([0n, 0x4fffn], [0x8000n, 0x9fffn])], async ({ openGroup, vfio, failure }) => {
      const { container } = openGroup()
      const page = vfio.DmaBuffer.allocate(4096)
      const two = vfio.DmaBuffer.allocate(8192)
      const place = async (buffer: typeof page) => (await container.dma.map(buffer)).iova
      assert.deepEqual(
        [await place(page), await place(two), await place(two), await place(page)],
        [0x1000n, 0x2000n, 0x8000n, 0x4000n],
      )
      const full = await failure(container.dma.map(page))
      assert(full instanceof vfio.VfioError)
      assert.equal(full.code, 'ERR_VFIO_NO_IOVA')
      assert.equal(
        full.message,
        'no 4096 bytes are free in 0x0–0x4fff, 0x8000–0x9fff: unmap something, or map less',
      )
      await container.dma.unmap(0x2000, 0x2000)
      assert.equal(await place(page), 0x2000n)
      assert.equal((await failure(container.dma.map(two))).code, 'ERR_VFIO_NO_IOVA')
      assert.equal(await place(page), 0x3000n)
    })
  })

  it('is one that the device can reach', async () => {
    await withFake([IOMMU], async ({ openGroup, vfio, failure }) => {
      const { container } = openGroup()
      const page = vfio.DmaBuffer.allocate(4096)
      for (let i = 1; i < 16; i++) {
        const { iova } = await container.dma.map(page, { addressBits: 16 })
        assert.equal(iova, BigInt(i) * 4096n)
      }
      const error = await failure(container.dma.map(page, { addressBits: 16 }))
      assert.match(error.message, /^no 4096 bytes are free below 2\^16 in 0x0–0xfedfffff, /)
      assert.equal((await container.dma.map(page)).iova, 0x10000n)
      assert.equal((await failure(container.dma.map(page, { addressBits: 12 }))).code, 'ERR_VFIO_NO_IOVA')
      assert.equal((await container.dma.map(page, { addressBits: 64 })).iova, 0x11000n)
    })
  })

  it('is a multiple of what the IOMMU has large pages of, where such a place is free', async () => {
    const small = iommuOf([0x1000n, 0x500fffn])
    await withFake([small], async ({ openGroup, vfio }) => {
      const { container } = openGroup()
      const huge = vfio.DmaBuffer.allocate(2 * 2 ** 20)
      const page = vfio.DmaBuffer.allocate(4096)
      assert.equal((await container.dma.map(page)).iova, 0x1000n)
      assert.equal((await container.dma.map(huge)).iova, 0x200000n)
      assert.equal((await container.dma.map(page)).iova, 0x400000n)
      await container.dma.unmap(0x200000, 0x200000)
      await container.dma.map(page, { iova: 0x300000 })
      // 0x2000 to 0x2fffff is free, and nothing in it is aligned.
      assert.equal((await container.dma.map(huge)).iova, 0x2000n)
    })
  })

  it('may be anywhere where the kernel takes it', async () => {
    await withFake([IOMMU], async ({ openGroup, vfio, asked }) => {
      const { container } = openGroup()
      const page = vfio.DmaBuffer.allocate(4096)
      const places = [0, 2 ** 53 - 4096, 2n ** 64n - 4096n, 1n]
      for (const iova of places) assert.equal((await container.dma.map(page, { iova })).iova, BigInt(iova))
      assert.deepEqual(
        asked().map((line) => BigInt(/iova (\S+)/.exec(line)?.[1] ?? -1)),
        places.map(BigInt),
      )
    })
  })

  it('is asked for anew when a group has joined', async () => {
    await withFake(
      [iommuOf([0x1000n, 0x1fffn]), iommuOf([0x8000n, 0x8fffn])],
      async ({ openGroup, vfio }) => {
        const { container } = openGroup()
        const page = vfio.DmaBuffer.allocate(4096)
        assert.equal((await container.dma.map(page)).iova, 0x1000n)
        vfio.VfioGroup.open(2).setContainer(container)
        assert.equal((await container.dma.map(page)).iova, 0x8000n)
      },
    )
  })
})
