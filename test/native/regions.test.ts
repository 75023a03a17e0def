import assert from 'node:assert/strict'
import { region } from './bytes.js'
import { type FakeAnswer, OPENS, withFake } from './fake.js'

const READ = 1
const WRITE = 2
const MMAP = 4
const CAPS = 8

/** A region at 1 TiB of the device's file, as vfio-pci places the second one. */
const OFFSET = 0x10000000000n

const plainRegion = (flags: number, size: bigint): FakeAnswer => ({
  call: 'regionInfo',
  bytes: region(32, flags, 0, size, OFFSET).done(),
})
const MAPPED = plainRegion(READ | WRITE | MMAP, 0x4000n)
const BY_FILE = plainRegion(READ | WRITE, 0x4000n)
/** Pages 1 and 3 of four may be mapped. */
const SPARSE: FakeAnswer = {
  call: 'regionInfo',
  bytes: region(80, READ | WRITE | MMAP | CAPS, 32, 0x4000n, OFFSET)
    .u16(1, 1)
    .u32(0, 2, 0)
    .u64(0x1000n, 0x1000n, 0x3000n, 0x1000n)
    .done(),
}

const PATHS: [string, FakeAnswer][] = [
  ['a mapping', MAPPED],
  ['the descriptor', BY_FILE],
]

describe('an access of a region', () => {
  for (const [through, answer] of PATHS) {
    it(`through ${through} has its width, its place and the byte order of PCI`, async () => {
      await withFake(
        [OPENS, answer],
        async ({ openGroup, memoryOf, input }) => {
          const { closeSync, ftruncateSync, openSync, readSync, readFileSync, writeSync } = await import(
            'node:fs'
          )
          const device = await openGroup().group.openDevice('0000:01:00.0')
          const file = openSync(memoryOf('0000:01:00.0'), 'r+')
          const base = 2 ** 40
          ftruncateSync(file, base + 0x4000)
          const pattern = Uint8Array.from({ length: 64 }, (_, i) => 0x80 + i)
          const fill = (byte: number) => writeSync(file, new Uint8Array(64).fill(byte), 0, 64, base + 0x1000)
          const found = () => {
            const bytes = new Uint8Array(64)
            readSync(file, bytes, 0, 64, base + 0x1000)
            return bytes
          }
          writeSync(file, pattern, 0, 64, base + 0x1000)
          const bar = device.region('bar1')
          assert.equal(bar, device.region(1))
          assert.deepEqual([bar.index, bar.name, bar.size], [1, 'bar1', 0x4000])
          const expected = new DataView(pattern.buffer)
          for (let at = 0; at < 64; at++) {
            assert.equal(bar.read8(0x1000 + at), expected.getUint8(at))
            if (at % 2 === 0) assert.equal(bar.read16(0x1000 + at), expected.getUint16(at, true))
            if (at % 4 === 0) assert.equal(bar.read32(0x1000 + at), expected.getUint32(at, true))
            if (at % 8 !== 0) continue
            for (const order of ['single', 'lo-hi', 'hi-lo'] as const)
              assert.equal(bar.read64(0x1000 + at, order), expected.getBigUint64(at, true))
          }
          const value = 0xfedcba9876543210n
          const writes: [number, (at: number) => void][] = [
            [1, (at) => bar.write8(at, Number(value & 0xffn))],
            [2, (at) => bar.write16(at, Number(value & 0xffffn))],
            [4, (at) => bar.write32(at, Number(value & 0xffffffffn))],
            [8, (at) => bar.write64(at, value, 'single')],
            [8, (at) => bar.write64(at, value, 'lo-hi')],
            [8, (at) => bar.write64(at, value, 'hi-lo')],
          ]
          const little = new Uint8Array(BigUint64Array.of(value).buffer)
          for (const [width, write] of writes) {
            for (let at = 0; at + width <= 64; at += width) {
              fill(0x55)
              write(0x1000 + at)
              const wanted = new Uint8Array(64).fill(0x55)
              wanted.set(little.subarray(0, width), at)
              assert.deepEqual(found(), wanted, `${width} bytes at ${at}`)
            }
          }
          const maps = readFileSync('/proc/self/maps', 'utf8')
          assert.equal(maps.includes('memfd:fake-vfio:0000:01:00.0'), input)
          closeSync(file)
        },
        { input: through === 'a mapping' },
      )
    })

    it(`through ${through} copies any number of bytes from and to any place`, async () => {
      await withFake([OPENS, answer], async ({ openGroup, memoryOf }) => {
        const { ftruncateSync, openSync, readSync, writeSync } = await import('node:fs')
        const device = await openGroup().group.openDevice('0000:01:00.0')
        const file = openSync(memoryOf('0000:01:00.0'), 'r+')
        const base = 2 ** 40
        ftruncateSync(file, base + 0x4000)
        const content = Uint8Array.from({ length: 0x4000 }, (_, i) => (i * 7 + (i >> 8)) & 0xff)
        const bar = device.region(1)
        for (const offset of [0, 1, 2, 3, 4, 5, 7, 8, 0xfff, 0x1001, 0x3ff0]) {
          for (const length of [1, 2, 3, 4, 5, 7, 8, 9, 15, 16]) {
            writeSync(file, content, 0, content.length, base)
            // Behind an odd number of bytes, so that source and target are not aligned alike.
            for (const skew of [0, 1, 2, 3]) {
              const whole = new Uint8Array(length + 8).fill(0xee)
              const into = whole.subarray(skew, skew + length)
              bar.read(into, offset)
              assert.deepEqual(into, content.subarray(offset, offset + length), `${length} at ${offset}`)
              assert(
                whole.every((byte, i) => (i >= skew && i < skew + length) || byte === 0xee),
                'bytes around it were written',
              )
            }
            const from = new DataView(Uint8Array.from({ length: length + 1 }, (_, i) => 0xa0 + i).buffer, 1)
            bar.write(from, offset)
            const after = new Uint8Array(0x4000)
            readSync(file, after, 0, after.length, base)
            const wanted = content.slice()
            for (let i = 0; i < length; i++) wanted[offset + i] = from.getUint8(i)
            assert.deepEqual(after, wanted)
          }
        }
        const words = new Uint16Array(5)
        bar.read(words, 0x100)
        assert.equal(words[4], (content[0x108] ?? 0) | ((content[0x109] ?? 0) << 8))
        const all = new Uint8Array(new SharedArrayBuffer(0x4000))
        bar.write(content, 0)
        bar.read(all, 0)
        assert.deepEqual(Buffer.from(all), Buffer.from(content))
      })
    })
  }

  it('goes through a mapping only where the kernel lets that place be mapped', async () => {
    await withFake([OPENS, SPARSE], async ({ openGroup, memoryOf, failure }) => {
      const { ftruncateSync, openSync, readFileSync, writeSync } = await import('node:fs')
      const device = await openGroup().group.openDevice('0000:01:00.0')
      const file = openSync(memoryOf('0000:01:00.0'), 'r+')
      const base = 2 ** 40
      ftruncateSync(file, base + 0x4000)
      const content = Uint8Array.from({ length: 0x4000 }, (_, i) => (i * 3 + (i >> 8)) & 0xff)
      writeSync(file, content, 0, content.length, base)
      const mapped = () =>
        readFileSync('/proc/self/maps', 'utf8')
          .split('\n')
          .filter((line) => line.includes('memfd:fake-vfio:0000:01:00.0'))
          .map((line) => Number.parseInt(line.split(/ +/)[2] ?? '', 16) - base)
      const bar = device.region(1)
      const word = (at: number) => new DataView(content.buffer).getUint32(at, true)
      for (const at of [0, 0xffc, 0x2000, 0x2ffc]) assert.equal(bar.read32(at), word(at))
      assert.deepEqual(mapped(), [])
      for (const at of [0x1000, 0x1ffc, 0x0, 0x2000]) assert.equal(bar.read32(at), word(at))
      assert.deepEqual(mapped(), [0x1000])
      for (const at of [0x3ffc, 0x1004, 0x3000, 0x2ffc]) assert.equal(bar.read32(at), word(at))
      assert.deepEqual(
        mapped().sort((a, b) => a - b),
        [0x1000, 0x3000],
      )
      for (const [offset, length] of [
        [0xff0, 0x20],
        [0x1ff1, 0x1ff],
        [0, 0x4000],
        [0x1000, 0x1000],
      ] as const) {
        const into = new Uint8Array(length)
        bar.read(into, offset)
        assert.deepEqual(into, content.subarray(offset, offset + length))
      }
      bar.map({ offset: 0x1000, length: 0x1000 }).close()
      for (const options of [{}, { offset: 0x1000 }, { offset: 0x2000, length: 0x1000 }]) {
        const error = await failure(() => bar.map(options))
        assert.equal(error.code, 'ERR_VFIO_BAD_ARGUMENT')
        assert.match(
          error.message,
          /bar1 of 0000:01:00\.0 may not be mapped, only 0x1000 \+ 0x1000, 0x3000 \+ 0x1000: use read\(\)/,
        )
      }
    })
  })

  it('of a region that cannot be written goes through the descriptor', async () => {
    await withFake(
      [
        OPENS,
        {
          call: 'regionInfo',
          bytes: new Uint8Array([
            32,
            0,
            0,
            0,
            5,
            ...new Array(11).fill(0),
            0,
            0x10,
            ...new Array(14).fill(0),
          ]),
        },
      ],
      async ({ openGroup, memoryOf, failure }) => {
        const { readFileSync, writeFileSync } = await import('node:fs')
        const device = await openGroup().group.openDevice('0000:01:00.0')
        writeFileSync(memoryOf('0000:01:00.0'), new Uint8Array(0x1000).fill(0x42))
        const rom = device.region('rom')
        assert.deepEqual([rom.size, rom.info.mmap, rom.info.write], [0x1000, true, false])
        assert.equal(rom.read32(0), 0x42424242)
        assert(!readFileSync('/proc/self/maps', 'utf8').includes('memfd:fake-vfio'))
        const error = await failure(() => rom.map())
        assert.match(error.message, /^rom of 0000:01:00\.0 may not be mapped: use read\(\) and write\(\)$/)
      },
    )
  })

  it('reaches all of a region of several GiB', async () => {
    await withFake(
      [
        OPENS,
        {
          call: 'regionInfo',
          // 3 GiB and 64 KiB, all of which may be mapped.
          bytes: new Uint8Array([
            32,
            0,
            0,
            0,
            7,
            ...new Array(11).fill(0),
            0,
            0,
            1,
            0xc0,
            ...new Array(12).fill(0),
          ]),
        },
      ],
      async ({ openGroup, memoryOf, failure }) => {
        const { ftruncateSync, openSync, readFileSync, readSync, writeSync } = await import('node:fs')
        const GIB = 2 ** 30
        const device = await openGroup().group.openDevice('0000:01:00.0')
        const file = openSync(memoryOf('0000:01:00.0'), 'r+')
        const size = 3 * GIB + 0x10000
        ftruncateSync(file, size)
        const bar = device.region(0)
        assert.equal(bar.size, size)
        const places = [0, GIB - 8, GIB, 2 * GIB - 8, 2 * GIB, 3 * GIB - 8, 3 * GIB, size - 8]
        // Back and forth, so that the window changes at each.
        for (const at of [...places, ...places.toReversed()]) {
          const value = (BigInt(at) * 0x9e3779b97f4a7c15n) & 0xffffffffffffffffn
          bar.write64(at, value, 'single')
          const bytes = new BigUint64Array(1)
          readSync(file, bytes, 0, 8, at)
          assert.equal(bytes[0], value)
          assert.equal(bar.read64(at, 'lo-hi'), value)
          assert.equal(bar.read8(at + 7), Number(value >> 56n))
        }
        const windows = readFileSync('/proc/self/maps', 'utf8')
          .split('\n')
          .filter((line) => line.includes('memfd:fake-vfio:0000'))
        assert.equal(windows.length, 4)
        // Over the edge of two windows.
        const across = Uint8Array.from({ length: 33 }, (_, i) => i + 1)
        writeSync(file, across, 0, 33, 2 * GIB - 16)
        const into = new Uint8Array(33)
        bar.read(into, 2 * GIB - 16)
        assert.deepEqual(into, across)
        assert.equal((await failure(() => bar.read32(size))).code, 'ERR_VFIO_BAD_ARGUMENT')
      },
    )
  })
})

describe('a region of a device that closes', () => {
  for (const [through, answer] of PATHS) {
    it(`is not accessed through ${through} any more, while a call still runs`, async () => {
      await withFake(
        [OPENS, answer, { call: 'reset', when: 'gate' }],
        async ({ openGroup, memoryOf, failure, letGo, logged }) => {
          const { truncateSync } = await import('node:fs')
          const device = await openGroup().group.openDevice('0000:01:00.0')
          truncateSync(memoryOf('0000:01:00.0'), 2 ** 40 + 0x4000)
          const bar = device.region(1)
          assert.deepEqual([bar.read8(0), bar.read16(0), bar.read32(0)], [0, 0, 0])
          const resetting = device.reset()
          await logged('begin 11 0000:01:00.0')
          const closing = device.close()
          for (const call of [
            () => bar.read8(0),
            () => bar.read16(0),
            () => bar.read32(0),
            () => bar.read64(0, 'single'),
            () => bar.write32(0, 0),
          ])
            assert.equal((await failure(call)).code, 'ERR_VFIO_CLOSED')
          letGo()
          await Promise.all([resetting, closing])
        },
      )
    })
  }
})

describe('a mapping of a region', () => {
  it('is the device memory, until it or its device is closed', async () => {
    await withFake([OPENS, MAPPED], async ({ openGroup, memoryOf, failure }) => {
      const { ftruncateSync, openSync, readSync } = await import('node:fs')
      const device = await openGroup().group.openDevice('0000:01:00.0')
      const file = openSync(memoryOf('0000:01:00.0'), 'r+')
      const base = 2 ** 40
      ftruncateSync(file, base + 0x4000)
      const bar = device.region(1)
      const whole = bar.map()
      const part = bar.map({ offset: 0x2000, length: 6 })
      assert.deepEqual([whole.offset, whole.length, whole.buffer.byteLength], [0, 0x4000, 0x4000])
      assert.deepEqual([part.offset, part.length, part.buffer.byteLength], [0x2000, 6, 6])
      new Uint8Array(part.buffer).set([1, 2, 3, 4, 5, 6])
      assert.equal(new Uint8Array(whole.buffer)[0x2005], 6)
      assert.equal(bar.read16(0x2004), 0x605)
      const found = new Uint8Array(6)
      readSync(file, found, 0, 6, base + 0x2000)
      assert.deepEqual([...found], [1, 2, 3, 4, 5, 6])
      assert.deepEqual([part.closed, part.lost], [false, false])
      part.close()
      part.close()
      assert.deepEqual([part.closed, part.buffer.byteLength], [true, 0])
      assert.equal((await failure(() => part.lost)).code, 'ERR_VFIO_CLOSED')
      assert.equal((await failure(() => part.restore())).code, 'ERR_VFIO_CLOSED')
      assert.equal(bar.read16(0x2004), 0x605)
      await device.close()
      assert.deepEqual([whole.closed, whole.buffer.byteLength], [true, 0])
      whole[Symbol.dispose]()
      for (const call of [() => bar.map(), () => bar.read8(0), () => bar.write8(0, 0)])
        assert.equal((await failure(call)).code, 'ERR_VFIO_CLOSED')
    })
  })

  it('whose buffer went elsewhere closes all the same, and that reads zeros', async () => {
    await withFake([OPENS, MAPPED], async ({ openGroup, memoryOf, vfio }) => {
      const { truncateSync } = await import('node:fs')
      const device = await openGroup().group.openDevice('0000:01:00.0')
      truncateSync(memoryOf('0000:01:00.0'), 2 ** 40 + 0x4000)
      const move = (buffer: ArrayBuffer): ArrayBuffer => {
        const { transfer } = buffer as ArrayBuffer & { transfer?: () => ArrayBuffer }
        if (transfer) return transfer.call(buffer)
        const clone = structuredClone(buffer, { transfer: [buffer] })
        // Node 20 copies what an addon allocated.
        return buffer.byteLength === 0 ? clone : buffer
      }
      const mapping = device.region(1).map()
      const memory = vfio.DmaBuffer.allocate(8192)
      new Uint8Array(mapping.buffer).fill(0x11)
      memory.bytes.fill(0x22)
      const moved = [move(mapping.buffer), move(memory.buffer)] as const
      const transferred = moved[0] !== mapping.buffer
      assert.equal(new Uint8Array(moved[0])[5], 0x11)
      assert.equal(new Uint8Array(moved[1])[5], 0x22)
      mapping.close()
      memory.close()
      await device.close()
      for (const buffer of moved) {
        assert.equal(buffer.byteLength > 0, transferred)
        if (!transferred) continue
        const bytes = new Uint8Array(buffer)
        assert(bytes.every((byte) => byte === 0))
        bytes.fill(1)
      }
    })
  })
})
