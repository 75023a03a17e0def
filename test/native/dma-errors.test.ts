import assert from 'node:assert/strict'
import { iommu } from './bytes.js'
import { type FakeAnswer, withFake } from './fake.js'

const IOMMU: FakeAnswer = {
  call: 'iommuInfo',
  bytes: iommu(84, 3, 0x1000n, 24)
    .u16(1, 1)
    .u32(72, 2, 0)
    .u64(0n, 0xfedfffffn, 0xfef00000n, 0xffffffffffn)
    .u16(3, 1)
    .u32(0, 17)
    .done(),
}
const failing = (returns: number): FakeAnswer => ({ call: 'mapDma', returns })

describe('the refusal of a mapping', () => {
  it('names the mapping that is in the way', async () => {
    await withFake([IOMMU, { call: 'mapDma' }, failing(-17)], async ({ openGroup, vfio, failure }) => {
      const { container } = openGroup()
      const buffer = vfio.DmaBuffer.allocate(8192)
      await container.dma.map(buffer, { iova: 0x100000 })
      const error = await failure(container.dma.map(buffer, { iova: 0x101000 }))
      assert(error instanceof vfio.VfioSystemError)
      assert.deepEqual([error.code, error.request], ['EEXIST', 'VFIO_IOMMU_MAP_DMA'])
      assert.equal(
        error.message,
        'VFIO_IOMMU_MAP_DMA on /dev/vfio/vfio failed with EEXIST: 0x101000–0x102fff overlaps the mapping at 0x100000–0x101fff: unmap that first',
      )
      const unknown = await failure(container.dma.map(buffer, { iova: 0x200000 }))
      assert.match(unknown.message, /EEXIST: the range overlaps a mapping: unmap that first$/)
      assert.equal(container.dma.mappings.length, 1)
    })
  })

  it('says what is uneven, or which ranges there are', async () => {
    await withFake([IOMMU, failing(-22)], async ({ openGroup, vfio, failure }) => {
      const { container } = openGroup()
      const buffer = vfio.DmaBuffer.allocate(8192)
      const message = async (options: { iova: number | bigint; offset?: number; length?: number }) =>
        (await failure(container.dma.map(buffer, options))).message.replace(/^.*failed with /, '')
      assert.equal(
        await message({ iova: 0x1001 }),
        'EINVAL: 0x1001 and 0x2000 must be multiples of the page size, 0x1000',
      )
      assert.equal(
        await message({ iova: 0x1000, length: 5000 }),
        'EINVAL: 0x1000 and 0x1388 must be multiples of the page size, 0x1000',
      )
      assert.equal(
        await message({ iova: 0xfedff000n }),
        'EINVAL: 0xfedff000–0xfee00fff is not within what the IOMMU maps: 0x0–0xfedfffff, 0xfef00000–0xffffffffff',
      )
      assert.equal(
        await message({ iova: 2n ** 64n - 4096n }),
        'EINVAL: 0xfffffffffffff000–0x10000000000000fff is not within what the IOMMU maps: 0x0–0xfedfffff, 0xfef00000–0xffffffffff',
      )
      assert.equal(
        await message({ iova: 0x1000 }),
        'EINVAL: address or size is not aligned to the page size, or outside iommuInfo().iovaRanges',
      )
      assert.equal(buffer.mapped, false)
    })
  })

  it('says how many mappings are left', async () => {
    await withFake([IOMMU, failing(-28)], async ({ openGroup, vfio, failure }) => {
      const { container } = openGroup()
      const error = await failure(container.dma.map(vfio.DmaBuffer.allocate(4096)))
      assert.match(
        error.message,
        /ENOSPC: the container takes no more mappings \(17 left\): unmap some, map larger pieces, or raise vfio_iommu_type1\.dma_entry_limit before it is opened$/,
      )
    })
  })

  for (const size of [8192, 4 * 2 ** 20]) {
    it(`of ${size} bytes says how much is locked, what the limit is and what would be needed`, async () => {
      await withFake(
        [IOMMU, failing(-12)],
        async ({ openGroup, vfio, failure, input }) => {
          const { execFileSync } = await import('node:child_process')
          execFileSync('prlimit', ['--pid', String(process.pid), '--memlock=65536:65536'])
          const { container } = openGroup()
          async function theCaller() {
            await container.dma.map(vfio.DmaBuffer.allocate(input))
          }
          const error = await failure(theCaller)
          assert(error instanceof vfio.VfioSystemError)
          assert.equal(
            error.message,
            `VFIO_IOMMU_MAP_DMA on /dev/vfio/vfio failed with ENOMEM: this process has locked 0 KiB of at most 64 KiB (RLIMIT_MEMLOCK), and ${input / 1024} KiB more are asked for: raise the limit to ${input / 1024} KiB or more (\`ulimit -l\`, LimitMEMLOCK= of systemd), or give CAP_IPC_LOCK; each container is charged for itself`,
          )
          assert.match(error.stack ?? '', /\n +at (async )?theCaller/)
        },
        { input: size },
      )
    })
  }

  it('before there is an IOMMU says that there is none', async () => {
    await withFake([{ call: 'iommuInfo', returns: -22 }, failing(-22)], async ({ vfio, failure }) => {
      const container = vfio.VfioContainer.open()
      const buffer = vfio.DmaBuffer.allocate(4096)
      for (const options of [{}, { iova: 0x1000 }]) {
        const error = await failure(container.dma.map(buffer, options))
        assert.match(
          error.message,
          /the container has no IOMMU yet: give it a group, then call setIommu\(\)$/,
        )
      }
    })
  })

  it('is the one of the kernel, where its container closed meanwhile', async () => {
    await withFake(
      [IOMMU, { call: 'mapDma', returns: -22, when: 'gate' }],
      async ({ openGroup, vfio, failure, logged, letGo }) => {
        const { container } = openGroup()
        const mapping = failure(container.dma.map(vfio.DmaBuffer.allocate(4 * 2 ** 20)))
        await logged('begin 13 /dev/vfio/vfio')
        const closing = container.close()
        letGo()
        const error = await mapping
        assert.equal(error.code, 'EINVAL')
        await closing
      },
    )
  })
})

describe('memory that cannot be had', () => {
  it('is refused with what is wrong about the descriptor', async () => {
    await withFake([], async ({ vfio, failure }) => {
      const { closeSync, openSync, mkdtempSync, rmSync, writeFileSync } = await import('node:fs')
      const { DmaBuffer } = vfio
      const directory = mkdtempSync('/tmp/dma-')
      try {
        const path = `${directory}/file`
        writeFileSync(path, new Uint8Array(8192))
        const reading = openSync(path, 'r')
        const denied = await failure(() => DmaBuffer.fromFd(reading, { size: 4096 }))
        assert.match(
          denied.message,
          /^mmap on descriptor \d+ failed with EACCES: the descriptor must be open for reading and writing$/,
        )
        const both = openSync(path, 'r+')
        const short = await failure(() => DmaBuffer.fromFd(both, { offset: 4096, size: 8192 }))
        assert.equal(short.code, 'ERR_VFIO_BAD_ARGUMENT')
        assert.equal(short.message, `descriptor ${both} has 8192 bytes, so 8192 from 4096 on are not in it`)
        for (const options of [{ offset: 1, size: 4096 }, { size: 4097 }, { offset: 2048, size: 2048 }]) {
          const uneven = await failure(() => DmaBuffer.fromFd(both, options))
          assert.match(uneven.message, /^offset and size must be multiples of 4096, not /)
        }
        const buffer = DmaBuffer.fromFd(both, { offset: 4096, size: 4096 })
        assert.deepEqual([buffer.size, buffer.fd === both], [4096, false])
        buffer.close()
        closeSync(both)
        const gone = await failure(() => DmaBuffer.fromFd(both, { size: 4096 }))
        assert.match(
          gone.message,
          /^fcntl on descriptor \d+ failed with EBADF: the descriptor is not open, or opened with O_PATH$/,
        )
        const nothing = openSync('/dev/null', 'r+')
        assert.equal(
          (await failure(() => DmaBuffer.fromFd(nothing, { size: 4096 }))).code,
          'ERR_VFIO_BAD_ARGUMENT',
        )
      } finally {
        rmSync(directory, { recursive: true })
      }
    })
  })

  it('leaves no descriptor open', async () => {
    await withFake([{ call: 'mmap', returns: -12 }], async ({ vfio, failure }) => {
      const { readdirSync } = await import('node:fs')
      const { DmaBuffer, EventFd } = vfio
      const eventfd = EventFd.create()
      const before = readdirSync('/proc/self/fd').length
      for (let i = 0; i < 10; i++) {
        assert.equal((await failure(() => DmaBuffer.allocate(4096))).code, 'ENOMEM')
        assert.equal(
          (await failure(() => DmaBuffer.fromFd(eventfd.fd, { size: 4096 }))).code,
          'ERR_VFIO_BAD_ARGUMENT',
        )
      }
      assert.equal(readdirSync('/proc/self/fd').length, before)
    })
  })

  it('in huge pages says that the host has too few', async () => {
    await withFake([], async ({ vfio, failure }) => {
      const { DmaBuffer } = vfio
      const { readFileSync } = await import('node:fs')
      const free = Number(readFileSync('/proc/meminfo', 'utf8').match(/^HugePages_Free:\s+(\d+)/m)?.[1] ?? 0)
      // More than there are, whatever there is.
      const few = await failure(() => DmaBuffer.allocate((free + 1) * 2 ** 21, { hugepages: true }))
      assert(few instanceof vfio.VfioSystemError)
      assert.deepEqual([few.request, few.code], ['hugepages', 'ENOMEM'])
      assert.match(few.message, /too few free huge pages of this size: raise \/sys\/kernel\/mm\/hugepages/)
    })
  })
})
