import assert from 'node:assert/strict'
import { bytes, region } from './bytes.js'
import { type FakeAnswer, OPENS, withFake } from './fake.js'

const REGIONS: Record<string, FakeAnswer> = {
  'a mapping': { call: 'regionInfo', bytes: region(32, 7, 0, 0x4000n).done() },
  'the descriptor': { call: 'regionInfo', bytes: region(32, 3, 0, 0x4000n).done() },
}
const MSIX: FakeAnswer = { call: 'irqInfo', bytes: bytes().u32(16, 1, 0, 16).done() }

/** In the source of a program: what no call of this package takes for an integer, and how it is checked. */
const strange = () => {
  const circular: unknown[] = []
  circular.push(circular)
  return [
    Number.NaN,
    -1,
    1.5,
    2 ** 53,
    -(2 ** 53),
    Infinity,
    -Infinity,
    1n,
    -1n,
    2n ** 64n,
    '0',
    '1',
    '',
    'bar0',
    null,
    {},
    [],
    [0],
    circular,
    true,
    false,
    Symbol('s'),
    () => 0,
    new Date(0),
    new Uint8Array(1),
    Object.create(null),
    {
      valueOf() {
        throw new Error('it was made a number of')
      },
      toString() {
        throw new Error('it was made text of')
      },
    },
  ]
}

describe('an argument that makes no sense for a region', () => {
  for (const [through, answer] of Object.entries(REGIONS)) {
    it(`accessed through ${through} is a typed error, and touches nothing`, async () => {
      await withFake(
        [OPENS, answer],
        async ({ vfio, openGroup, failure, memoryOf, input }) => {
          const { readFileSync, writeFileSync } = await import('node:fs')
          const values: unknown[] = new Function(`return (${input})()`)()
          const device = await openGroup().group.openDevice('0000:01:00.0')
          const path = memoryOf('0000:01:00.0')
          writeFileSync(path, new Uint8Array(0x4000).fill(0x33))
          const bar = device.region('bar0')
          const untyped = (value: unknown) => value as never
          const refuse = async (what: string, call: () => unknown) => {
            const error = await failure(call).catch(() => assert.fail(`${what} was taken`))
            assert(error instanceof vfio.VfioError, `${what}: ${error.stack}`)
            assert.equal(error.code, 'ERR_VFIO_BAD_ARGUMENT', `${what}: ${error}`)
            assert.doesNotMatch(error.message, /\n/)
          }
          const name = (value: unknown) => {
            try {
              return `${typeof value} ${String(value)}`
            } catch {
              return typeof value
            }
          }
          // Twice, because the first access makes the window that later ones use.
          for (const first of [true, false]) {
            if (!first) assert.equal(bar.read8(0), 0x33)
            for (const value of values) {
              const at = untyped(value)
              const what = `${name(value)}, ${first}`
              await refuse(`read8 at ${what}`, () => bar.read8(at))
              await refuse(`read16 at ${what}`, () => bar.read16(at))
              await refuse(`read32 at ${what}`, () => bar.read32(at))
              await refuse(`read64 at ${what}`, () => bar.read64(at, 'single'))
              await refuse(`read64 lo-hi at ${what}`, () => bar.read64(at, 'lo-hi'))
              await refuse(`write8 at ${what}`, () => bar.write8(at, 0))
              await refuse(`write16 at ${what}`, () => bar.write16(at, 0))
              await refuse(`write32 at ${what}`, () => bar.write32(at, 0))
              await refuse(`write64 at ${what}`, () => bar.write64(at, 0n, 'single'))
              await refuse(`write64 hi-lo at ${what}`, () => bar.write64(at, 0n, 'hi-lo'))
              await refuse(`read to ${what}`, () => bar.read(new Uint8Array(4), at))
              await refuse(`write from ${what}`, () => bar.write(new Uint8Array(4), at))
              await refuse(`map from ${what}`, () => bar.map({ offset: at }))
              await refuse(`map length ${what}`, () => bar.map({ length: at }))
              await refuse(`order ${what}`, () => bar.read64(0, at))
              await refuse(`order of a write ${what}`, () => bar.write64(0, 0n, at))
              if (typeof value !== 'number' || value === 1.5 || !(value >= 0 && value <= 0xff)) {
                await refuse(`write8 of ${what}`, () => bar.write8(0, at))
                await refuse(`write16 of ${what}`, () => bar.write16(0, at))
                await refuse(`write32 of ${what}`, () => bar.write32(0, at))
              }
              if (value !== 1n) await refuse(`write64 of ${what}`, () => bar.write64(0, at, 'single'))
              if (!(value instanceof Uint8Array)) {
                await refuse(`read into ${what}`, () => bar.read(at, 0))
                await refuse(`write from ${what}`, () => bar.write(at, 0))
              }
              if (typeof value !== 'object' || value === null) {
                await refuse(`map(${what})`, () => bar.map(at))
                await refuse(`setCommand(${what})`, () => device.config.setCommand(at))
              }
            }
            for (const [width, at] of [
              [2, 1],
              [2, 0x3fff],
              [4, 2],
              [4, 0x3ffe],
              [4, 0x4000],
              [8, 4],
              [8, 0x3ffc],
              [1, 0x4000],
              [1, 2 ** 40],
            ] as const) {
              const read = {
                1: () => bar.read8(at),
                2: () => bar.read16(at),
                4: () => bar.read32(at),
                8: () => bar.read64(at, 'single'),
              }[width]
              await refuse(`${width} at ${at}`, read)
            }
            for (const [call, largest] of [
              [bar.write8, 0xff],
              [bar.write16, 0xffff],
              [bar.write32, 0xffffffff],
            ] as const)
              await refuse(`${largest + 1}`, () => call.call(bar, 0, largest + 1))
            await refuse('a negative bigint', () => bar.write64(0, -1n, 'single'))
            await refuse('beyond the end', () => bar.read(new Uint8Array(5), 0x3ffc))
            await refuse('nothing', () => bar.read(new Uint8Array(0), 0))
            const gone = new ArrayBuffer(16)
            const views = [new Uint8Array(gone), new DataView(gone), new Uint32Array(gone)]
            structuredClone(gone, { transfer: [gone] })
            for (const view of views) {
              await refuse('a view of a detached buffer', () => bar.read(view, 0))
              await refuse('a view of a detached buffer', () => bar.write(view, 0))
            }
            const Resizable = ArrayBuffer as unknown as new (
              size: number,
              options: { maxByteLength: number },
            ) => ArrayBuffer & { resize(size: number): void }
            const shrunk = new Resizable(16, { maxByteLength: 16 })
            const outside = [new Uint8Array(shrunk, 8, 8), new DataView(shrunk, 8, 8)]
            shrunk.resize(4)
            for (const view of outside) await refuse('a view outside of its buffer', () => bar.read(view, 0))
            await refuse('an uneven place', () => bar.map({ offset: 8 }))
            await refuse('no such bit', () => device.config.setCommand(untyped({ fast: true })))
            await refuse('no flag', () => device.config.setCommand(untyped({ memory: 1 })))
          }
          assert(readFileSync(path).every((byte) => byte === 0x33))
        },
        { input: strange.toString() },
      )
    })
  }
})

describe('an argument that makes no sense for interrupts and memory', () => {
  it('is a typed error before the kernel is asked', async () => {
    await withFake(
      [OPENS, MSIX],
      async ({ vfio, openGroup, failure, asked, input }) => {
        const values: unknown[] = new Function(`return (${input})()`)()
        const { container, group } = openGroup()
        const device = await group.openDevice('0000:01:00.0')
        const irq = device.irq('msix')
        const eventfd = vfio.EventFd.create()
        const buffer = vfio.DmaBuffer.allocate(8192)
        const { dma } = container
        const untyped = (value: unknown) => value as never
        const refuse = async (what: string, call: () => unknown) => {
          const error = await failure(call).catch(() => assert.fail(`${what} was taken`))
          assert(error instanceof vfio.VfioError, `${what}: ${error.stack}`)
          assert.equal(error.code, 'ERR_VFIO_BAD_ARGUMENT', `${what}: ${error}`)
        }
        const isAddress = (value: unknown) => value === 1n
        for (const value of values) {
          const it = untyped(value)
          const what = typeof value
          const isArray = Array.isArray(value) && value.length === 1 && value[0] === 0
          if (!['bar0'].includes(it)) await refuse(`region ${what}`, () => device.region(it))
          await refuse(`irq ${what}`, () => device.irq(it))
          await refuse(`mask ${what}`, () => irq.mask(it))
          await refuse(`unmask ${what}`, () => irq.unmask(it))
          await refuse(`trigger ${what}`, () => irq.trigger(it))
          await refuse(`a vector ${what}`, () => irq.enable({ vectors: [it] }))
          await refuse(`an added vector ${what}`, () => irq.add([it]))
          await refuse(`a removed vector ${what}`, () => irq.remove([it]))
          await refuse(`an eventfd ${what}`, () => irq.enable({ eventfds: new Map([[0, it]]) }))
          await refuse(`a vector of an eventfd ${what}`, () =>
            irq.enable({ eventfds: new Map([[it, eventfd]]) }),
          )
          await refuse(`eventfds ${what}`, () => irq.enable({ eventfds: it }))
          if (!isArray) {
            await refuse(`vectors ${what}`, () => irq.enable({ vectors: it }))
            await refuse(`added vectors ${what}`, () => irq.add(it))
            await refuse(`removed vectors ${what}`, () => irq.remove(it))
          }
          if (value !== null) await refuse(`resample ${what}`, () => irq.resample(it))
          if (typeof value !== 'function') await refuse(`a callback ${what}`, () => irq.onEvent(it))
          await refuse(`a signal ${what}`, () => irq.events({ signal: it }))
          await refuse(`signal() ${what}`, () => eventfd.signal(it))

          if (typeof value !== 'number' || value !== 1.5)
            await refuse(`a size ${what}`, () => vfio.DmaBuffer.allocate(it))
          if (typeof value !== 'boolean' && value !== 2 ** 53)
            await refuse(`huge pages ${what}`, () => vfio.DmaBuffer.allocate(4096, { hugepages: it }))
          await refuse(`a descriptor ${what}`, () => vfio.DmaBuffer.fromFd(it, { size: 4096 }))
          await refuse(`an offset ${what}`, () =>
            vfio.DmaBuffer.fromFd(buffer.fd, { offset: it, size: 4096 }),
          )
          await refuse(`a size ${what}`, () => vfio.DmaBuffer.fromFd(buffer.fd, { size: it }))
          await refuse(`a buffer ${what}`, () => dma.map(it))
          await refuse(`an offset ${what}`, () => dma.map(buffer, { iova: 0, offset: it }))
          await refuse(`a length ${what}`, () => dma.map(buffer, { iova: 0, length: it }))
          await refuse(`bits ${what}`, () => dma.map(buffer, { addressBits: it }))
          await refuse(`a signal ${what}`, () => dma.map(buffer, { iova: 0, signal: it }))
          if (typeof value !== 'boolean') {
            await refuse(`read ${what}`, () => dma.map(buffer, { iova: 0, read: it }))
            await refuse(`write ${what}`, () => dma.map(buffer, { iova: 0, write: it }))
          }
          if (!isAddress(value)) {
            await refuse(`an address ${what}`, () => dma.map(buffer, { iova: it }))
            await refuse(`unmap from ${what}`, () => dma.unmap(it, 4096))
            await refuse(`unmap size ${what}`, () => dma.unmap(0, it))
            await refuse(`dirty from ${what}`, () => dma.dirty.bitmap(it, 4096, 4096))
            await refuse(`dirty size ${what}`, () => dma.dirty.bitmap(0, it, 4096))
            await refuse(`dirty page ${what}`, () => dma.dirty.bitmap(0, 4096, it))
            await refuse(`dirty unmap ${what}`, () => dma.dirty.unmap(0, it, 4096))
          }
          if (typeof value !== 'object' || value === null) {
            await refuse(`enable(${what})`, () => irq.enable(it))
            await refuse(`events(${what})`, () => irq.events(it))
            await refuse(`allocate(4096, ${what})`, () => vfio.DmaBuffer.allocate(4096, it))
            await refuse(`fromFd(fd, ${what})`, () => vfio.DmaBuffer.fromFd(buffer.fd, it))
            await refuse(`map(buffer, ${what})`, () => dma.map(buffer, it))
          }
        }
        for (const [what, call] of [
          ['fromFd without options', () => vfio.DmaBuffer.fromFd(buffer.fd, untyped(undefined))],
          ['no vectors', () => irq.enable({ vectors: [] })],
          ['a vector too many', () => irq.enable({ vectors: [16] })],
          ['add nothing', () => irq.add(untyped(undefined))],
          ['no rights', () => dma.map(buffer, { iova: 0, read: false, write: false })],
          ['beyond the buffer', () => dma.map(buffer, { iova: 0, offset: 8192 })],
          ['longer than the buffer', () => dma.map(buffer, { iova: 0, offset: 4096, length: 4097 })],
          ['no length', () => dma.map(buffer, { iova: 0, length: 0 })],
          ['no size', () => dma.unmap(0, 0)],
          ['few bits', () => dma.map(buffer, { addressBits: 11 })],
          ['many bits', () => dma.map(buffer, { addressBits: 65 })],
          ['an impossible bitmap', () => dma.dirty.bitmap(0, 2n ** 64n - 1n, 1)],
          ['a page larger than the range', () => dma.dirty.bitmap(0, 4096, 8192)],
          ['a small huge page', () => vfio.DmaBuffer.allocate(4096, { hugepages: 4096 })],
          ['no size', () => vfio.DmaBuffer.allocate(0)],
          ['an odd huge page', () => vfio.DmaBuffer.allocate(4096, { hugepages: 2 ** 21 + 1 })],
        ] as const)
          await refuse(what, call)
        assert.deepEqual(asked(), [])
        assert.deepEqual([buffer.mapped, irq.vectors, eventfd.read()], [false, [], 0])
        // What no memory is large enough for is the kernel's to say.
        for (const size of [Number.MAX_SAFE_INTEGER, 2 ** 52, 2 ** 47]) {
          const error = await failure(() => vfio.DmaBuffer.allocate(size))
          assert(error instanceof vfio.VfioSystemError, String(error.stack))
          assert.equal(error.request, 'memory')
        }
        for (const hugepages of [8192, 2 ** 53, 2 ** 62]) {
          const error = await failure(() => vfio.DmaBuffer.allocate(4096, { hugepages }))
          assert(error instanceof vfio.VfioError, String(error.stack))
        }
      },
      { input: strange.toString() },
    )
  })
})

describe('everything about an open device', () => {
  it('answers with ERR_VFIO_CLOSED once that is closed', async () => {
    await withFake(
      [OPENS, REGIONS['a mapping'] as FakeAnswer, MSIX],
      async ({ vfio, openGroup, failure, memoryOf }) => {
        const { truncateSync } = await import('node:fs')
        const { group } = openGroup()
        const device = await group.openDevice('0000:01:00.0')
        truncateSync(memoryOf('0000:01:00.0'), 0x4000)
        const bar = device.region(0)
        const { config } = device
        const irq = device.irq('msix')
        irq.enable()
        bar.read32(0)
        const mapping = bar.map()
        const view = new Uint8Array(8)
        await device.close()
        const calls = [
          () => bar.read8(0),
          () => bar.read16(0),
          () => bar.read32(0),
          () => bar.read64(0, 'single'),
          () => bar.read64(0, 'hi-lo'),
          () => bar.write8(0, 0),
          () => bar.write16(0, 0),
          () => bar.write32(0, 0),
          () => bar.write64(0, 0n, 'single'),
          () => bar.write64(0, 0n, 'lo-hi'),
          () => bar.read(view, 0),
          () => bar.write(view, 0),
          () => bar.map(),
          () => mapping.lost,
          () => mapping.restore(),
          () => device.region(5),
          () => device.irq(3),
          () => config.vendor,
          () => config.device,
          () => config.revision,
          () => config.class,
          () => config.status,
          () => config.command,
          () => config.interruptPin,
          () => config.subsystemVendor,
          () => config.subsystemDevice,
          () => config.setCommand({ memory: true }),
          () => config.header(),
          () => config.capabilities(),
          () => config.capability('MSI-X'),
          () => irq.enable(),
          () => irq.add([1]),
          () => irq.remove([0]),
          () => irq.disable(),
          () => irq.mask(),
          () => irq.unmask(),
          () => irq.trigger(),
          () => irq.resample(null),
          () => irq.onEvent(() => {}),
          () => irq.events(),
        ]
        for (const call of calls) {
          const error = await failure(call)
          assert(error instanceof vfio.VfioError, `${call}: ${error.stack}`)
          assert.equal(error.code, 'ERR_VFIO_CLOSED', String(call))
        }
        // These answer as before.
        irq.ref().unref()
        assert.deepEqual([irq.vectors, mapping.closed, bar.size, config.size], [[], true, 0x4000, 0x4000])
        mapping.close()
      },
    )
  })
})
