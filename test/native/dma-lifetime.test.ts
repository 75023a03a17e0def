import assert from 'node:assert/strict'
import { iommu } from './bytes.js'
import { type FakeAnswer, withFake } from './fake.js'

const IOMMU: FakeAnswer = {
  call: 'iommuInfo',
  bytes: iommu(56, 3, 0x1000n, 24).u16(1, 1).u32(0, 1, 0).u64(0n, 0xffffffffffn).done(),
}

describe('a buffer', () => {
  it('is not closed while a device may use it', async () => {
    await withFake([IOMMU], async ({ openGroup, vfio, failure }) => {
      const first = openGroup(1).container
      const second = openGroup(2).container
      const buffer = vfio.DmaBuffer.allocate(4096)
      const mapping = await first.dma.map(buffer)
      await second.dma.map(buffer)
      const error = await failure(() => buffer.close())
      assert(error instanceof vfio.VfioError)
      assert.equal(error.code, 'ERR_VFIO_IN_USE')
      assert.equal(
        error.message,
        'the buffer of 4096 bytes is mapped for devices (2×): unmap it, or close the container, before closing it',
      )
      await mapping.unmap()
      assert.match((await failure(() => buffer[Symbol.dispose]())).message, /\(1×\)/)
      await second.close()
      assert.deepEqual([buffer.mapped, buffer.closed], [false, false])
      buffer.close()
      buffer.close()
      assert.deepEqual([buffer.closed, buffer.buffer.byteLength, buffer.bytes.length], [true, 0, 0])
      for (const call of [() => buffer.fd, () => first.dma.map(buffer)])
        assert.equal((await failure(call)).code, 'ERR_VFIO_CLOSED')
    })
  })

  it('is free when its container was closed, in whatever way', async () => {
    await withFake([IOMMU], async ({ openGroup, vfio, failure }) => {
      for (const now of [true, false]) {
        const { container } = openGroup()
        const buffer = vfio.DmaBuffer.allocate(4096)
        const mappings = [await container.dma.map(buffer), await container.dma.map(buffer)]
        if (now) container[Symbol.dispose]()
        else await container.close()
        assert.deepEqual([buffer.mapped, ...mappings.map(({ mapped }) => mapped)], [false, false, false])
        await mappings[0]?.unmap()
        for (const call of [
          () => container.dma.map(buffer),
          () => container.dma.map(buffer, { iova: 0 }),
          () => container.dma.unmap(0, 4096),
          () => container.dma.unmap(0, 2 ** 40),
          () => container.dma.unmapAll(),
          () => container.dma.dirty.start(),
          () => container.dma.dirty.bitmap(0, 4096, 4096),
          () => container.dma.dirty.unmap(0, 4096, 4096),
        ])
          assert.equal((await failure(call)).code, 'ERR_VFIO_CLOSED', String(call))
        buffer.close()
      }
    })
  })

  it('is counted once for each mapping, also where a container closes over calls that wait', async () => {
    await withFake(
      [IOMMU, { call: 'mapDma', returns: -12, when: 'gate' }],
      async ({ openGroup, vfio, failure, logged, letGo }) => {
        const other = openGroup(2).container
        const { container } = openGroup(1)
        const buffer = vfio.DmaBuffer.allocate(4 * 2 ** 20)
        const running = failure(container.dma.map(buffer))
        const waiting = failure(container.dma.map(buffer))
        await logged('begin 13 /dev/vfio/vfio')
        container[Symbol.dispose]()
        assert.equal((await waiting).code, 'ERR_VFIO_CLOSED')
        letGo()
        assert.equal((await running).code, 'ENOMEM')
        assert.equal(buffer.mapped, false)
        // Else this one would be taken for one of those.
        letGo(1)
        assert.equal((await failure(other.dma.map(buffer))).code, 'ENOMEM')
        assert.equal(buffer.mapped, false)
        const { close } = vfio.DmaBuffer.prototype
        const small = vfio.DmaBuffer.allocate(4096)
        assert.equal(close, small.close)
        buffer.close()
      },
    )
  })

  it('stays in use where another container maps it after such a close', async () => {
    await withFake(
      [IOMMU, { call: 'mapDma', when: 'gate' }, { call: 'mapDma', returns: -22 }, { call: 'mapDma' }],
      async ({ openGroup, vfio, failure, logged, letGo }) => {
        const other = openGroup(2).container
        const { container } = openGroup(1)
        const buffer = vfio.DmaBuffer.allocate(4 * 2 ** 20)
        const large = vfio.DmaBuffer.allocate(4 * 2 ** 20)
        void container.dma.map(large).catch(() => {})
        const waiting = failure(container.dma.map(buffer))
        await logged('begin 13 /dev/vfio/vfio')
        container[Symbol.dispose]()
        await waiting
        letGo()
        await failure(other.dma.map(large, { iova: 0 }))
        await other.dma.map(buffer)
        assert.equal(buffer.mapped, true)
        assert.equal((await failure(() => buffer.close())).code, 'ERR_VFIO_IN_USE')
      },
    )
  })

  it('has a descriptor for others, and is what they write', async () => {
    await withFake([], async ({ vfio, failure }) => {
      const { ftruncateSync, readSync, writeSync } = await import('node:fs')
      const buffer = vfio.DmaBuffer.allocate(8192)
      writeSync(buffer.fd, Uint8Array.of(1, 2, 3), 0, 3, 4096)
      assert.deepEqual([...buffer.bytes.subarray(4096, 4099)], [1, 2, 3])
      // Nobody takes pages away from under a device.
      assert.equal((await failure(() => ftruncateSync(buffer.fd, 4096))).code, 'EPERM')
      const part = vfio.DmaBuffer.fromFd(buffer.fd, { offset: 4096, size: 4096 })
      assert.equal(part.bytes[2], 3)
      assert.notEqual(part.fd, buffer.fd)
      buffer.close()
      part.bytes[0] = 9
      const found = new Uint8Array(1)
      readSync(part.fd, found, 0, 1, 4096)
      assert.equal(found[0], 9)
      part.close()
    })
  })

  it('is as large as the runtime has array buffers, and larger ones are refused', async () => {
    // All of it would have to be there.
    await withFake(
      [IOMMU, { call: 'fallocate', returns: 1 }],
      async ({ openGroup, vfio, failure, asked }) => {
        const { constants } = await import('node:buffer')
        const { container } = openGroup()
        const { readFileSync } = await import('node:fs')
        const available = Number(
          /^MemAvailable:\s+(\d+)/m.exec(readFileSync('/proc/meminfo', 'utf8'))?.[1] ?? 0,
        )
        const most = Math.floor(available / 8) * 4096
        const size = Math.min(64 * 2 ** 30, constants.MAX_LENGTH, most)
        const buffer = vfio.DmaBuffer.allocate(size)
        assert.deepEqual([buffer.size, buffer.buffer.byteLength, buffer.bytes.length], [size, size, size])
        buffer.bytes[size - 1] = 1
        await container.dma.map(buffer)
        assert.match(asked()[0] ?? '', new RegExp(`size 0x${size.toString(16)} from`))
        await container.close()
        buffer.close()
        if (constants.MAX_LENGTH > 2 ** 40) return
        for (let i = 0; i < 3; i++) {
          const error = await failure(() => vfio.DmaBuffer.allocate(2 * constants.MAX_LENGTH))
          assert(error instanceof vfio.VfioError)
          assert.equal(error.code, 'ERR_VFIO_BAD_ARGUMENT')
          assert.match(
            error.message,
            /^this runtime has no array buffer of \d+ bytes .*: take several smaller ones$/,
          )
          await new Promise(setImmediate)
        }
      },
    )
  })
})

describe('a mapping that is aborted', () => {
  it('is not made when it is aborted before or while it waits', async () => {
    await withFake(
      [IOMMU, { call: 'mapDma', when: 'gate' }],
      async ({ openGroup, vfio, failure, logged, letGo, asked }) => {
        const { container } = openGroup()
        const buffer = vfio.DmaBuffer.allocate(4 * 2 ** 20)
        const aborted = AbortSignal.abort()
        assert.equal(await failure(container.dma.map(buffer, { signal: aborted })), aborted.reason)
        const running = container.dma.map(buffer)
        await logged('begin 13 /dev/vfio/vfio')
        const controller = new AbortController()
        const waiting = failure(container.dma.map(buffer, { iova: 0x800000, signal: controller.signal }))
        controller.abort()
        assert.equal((await waiting).name, 'AbortError')
        letGo()
        await running
        assert.deepEqual([asked().length, container.dma.mappings.length], [1, 1])
        letGo()
        await container.dma.map(buffer, { iova: 0x800000 })
      },
    )
  })

  it('is unmapped again when it is aborted while it runs', async () => {
    await withFake(
      [IOMMU, { call: 'mapDma', when: 'gate' }],
      async ({ openGroup, vfio, failure, logged, letGo, asked }) => {
        const { container } = openGroup()
        const buffer = vfio.DmaBuffer.allocate(4 * 2 ** 20)
        const controller = new AbortController()
        const running = failure(container.dma.map(buffer, { signal: controller.signal }))
        await logged('begin 13 /dev/vfio/vfio')
        controller.abort()
        assert.equal((await running).name, 'AbortError')
        assert.equal(buffer.mapped, true, 'the kernel works on it')
        letGo()
        await logged('end 14 /dev/vfio/vfio')
        await container.dma.unmap(0x10000000, 4 * 2 ** 20)
        assert.equal(asked()[1], '14 flags 0 iova 0x200000 size 0x400000')
        assert.equal(buffer.mapped, false)
        buffer.close()
      },
    )
  })
})

describe('calls on the memory of a container', () => {
  it('take effect in their order, whether they are quick or not', async () => {
    await withFake(
      [
        IOMMU,
        { call: 'mapDma', when: 'gate', returns: -12 },
        { call: 'mapDma' },
        { call: 'unmapDma', when: 'gate' },
        { call: 'unmapDma' },
      ],
      async ({ openGroup, vfio, failure, logged, letGo, log }) => {
        const { container } = openGroup()
        const large = vfio.DmaBuffer.allocate(4 * 2 ** 20)
        const small = vfio.DmaBuffer.allocate(4096)
        const first = failure(container.dma.map(large, { iova: 0x1000000 }))
        await logged('begin 13 /dev/vfio/vfio')
        // In the same place: whether it is free is known only when the first has ended.
        const second = container.dma.map(small, { iova: 0x1000000 })
        letGo()
        assert.equal((await first).code, 'ENOMEM')
        const mapping = await second
        assert.deepEqual(
          log().filter((line) => / 13 /.test(line) && !/asked/.test(line)),
          ['begin', 'end', 'begin', 'end'].map((word) => `${word} 13 /dev/vfio/vfio`),
        )
        assert.deepEqual([large.mapped, small.mapped, mapping.mapped], [false, true, true])
        assert.deepEqual(
          container.dma.mappings.map(({ buffer }) => buffer),
          [small],
        )

        const unmapping = container.dma.unmap(0x1000000, 4 * 2 ** 20)
        await logged('begin 14 /dev/vfio/vfio')
        const again = container.dma.map(small, { iova: 0x1000000 })
        letGo()
        await unmapping
        const renewed = await again
        assert.deepEqual([mapping.mapped, renewed.mapped, small.mapped], [false, true, true])
        assert.equal((await failure(() => small.close())).code, 'ERR_VFIO_IN_USE')
        await renewed.unmap()
        small.close()
        large.close()
      },
    )
  })

  it('of which one unmaps a range leave what was mapped there after it', async () => {
    await withFake(
      [IOMMU, { call: 'unmapDma', when: 'gate' }],
      async ({ openGroup, vfio, logged, letGo }) => {
        const { container } = openGroup()
        const large = vfio.DmaBuffer.allocate(4 * 2 ** 20)
        const gone = container.dma.unmap(0, 2 ** 30)
        await logged('begin 14 /dev/vfio/vfio')
        const mapping = container.dma.map(large, { iova: 0x2000000 })
        letGo()
        await gone
        assert.equal((await mapping).mapped, true)
        assert.equal(large.mapped, true)
      },
    )
  })
})
