import assert from 'node:assert/strict'
import { region } from './bytes.js'
import { type FakeAnswer, OPENS, runSource, withFake } from './fake.js'

/** A region of four pages that may be mapped, at 1 TiB of the device's file. */
const MAPPED: FakeAnswer = { call: 'regionInfo', bytes: region(32, 7, 0, 0x4000n, 0x10000000000n).done() }

describe('memory that is not there', () => {
  it('is a typed error for an access, and nothing afterwards', async () => {
    await withFake([OPENS, MAPPED], async ({ openGroup, memoryOf, failure, vfio }) => {
      const { truncateSync } = await import('node:fs')
      const device = await openGroup().group.openDevice('0000:01:00.0')
      const path = memoryOf('0000:01:00.0')
      const base = 2 ** 40
      truncateSync(path, base + 0x1000)
      const bar = device.region(1)
      bar.write32(0xffc, 7)
      const bytes = new Uint8Array(32)
      const accesses: (() => unknown)[] = [
        () => bar.read8(0x1001),
        () => bar.read16(0x1002),
        () => bar.read32(0x1004),
        () => bar.read64(0x1008, 'single'),
        () => bar.read64(0x1008, 'lo-hi'),
        () => bar.write8(0x2001, 1),
        () => bar.write16(0x2002, 1),
        () => bar.write32(0x2004, 1),
        () => bar.write64(0x2008, 1n, 'single'),
        () => bar.write64(0x2008, 1n, 'hi-lo'),
        () => bar.read(bytes, 0xff0),
        () => bar.write(bytes, 0x1ff1),
      ]
      for (let round = 0; round < 3; round++) {
        for (const access of accesses) {
          const error = await failure(access)
          assert(error instanceof vfio.VfioError)
          assert.equal(error.code, 'ERR_VFIO_MEMORY_DISABLED', String(access))
          assert.match(
            error.message,
            /^nothing answers in bar1 of device 0000:01:00\.0: its memory decode is off \(config\.setCommand\(\{ memory: true \}\)\)/,
          )
          // What is there answers in between.
          assert.equal(bar.read32(0xffc), 7)
        }
      }
      truncateSync(path, base + 0x4000)
      for (const access of accesses) access()
      assert.equal(bar.read32(0x2004), 0)
      bar.write32(0x2004, 0x12345678)
      assert.equal(bar.read32(0x2004), 0x12345678)
    })
  })

  it('reads ones in a typed array, and its mapping says so until it is restored', async () => {
    await withFake([OPENS, MAPPED], async ({ openGroup, memoryOf, failure }) => {
      const { truncateSync } = await import('node:fs')
      const device = await openGroup().group.openDevice('0000:01:00.0')
      const path = memoryOf('0000:01:00.0')
      const base = 2 ** 40
      truncateSync(path, base + 0x1000)
      const bar = device.region(1)
      const first = bar.map()
      const second = bar.map({ offset: 0x1000 })
      const words = new Uint32Array(first.buffer)
      assert.deepEqual([first.lost, second.lost], [false, false])
      assert.equal(words[0x2000 / 4], 0xffffffff)
      assert.deepEqual([first.lost, second.lost], [true, false])
      // An access by method through a window of its own is not blamed for it.
      assert.equal(bar.read32(0), 0)
      assert.equal(words[0], 0)
      // Written where nothing is, and gone with the next restore.
      words[0x2000 / 4] = 5
      assert.equal(words[0x2000 / 4], 5)
      truncateSync(path, base + 0x4000)
      assert.equal(words[0x2004 / 4], 0xffffffff, 'that page stays lost')
      first.restore()
      assert.deepEqual([first.lost, words[0x2000 / 4], words[0x2004 / 4]], [false, 0, 0])
      first.restore()
      bar.write32(0x2000, 9)
      assert.equal(words[0x2000 / 4], 9)
      truncateSync(path, base + 0x1000)
      await failure(() => bar.read32(0x3000))
      assert.equal(first.lost, false)
      assert.equal(words[0x3000 / 4], 0xffffffff)
      assert.equal(first.lost, true)
    })
  })

  it('of other code ends the process as it always did', async () => {
    const addon = `
      const { group } = openGroup()
      const device = await group.openDevice('0000:01:00.0')
      fs.truncateSync(memoryOf('0000:01:00.0'), 2 ** 40 + 0x1000)
      const mapping = device.region(1).map()
      assert.equal(new Uint8Array(mapping.buffer)[0x1000], 0xff)
      console.log('survived ours')
    `
    // What the sanitizer does with the signal is its own.
    const options = { environment: { ASAN_OPTIONS: `${process.env.ASAN_OPTIONS ?? ''}:handle_sigbus=0` } }
    const ends: [FakeAnswer[], string][] = [
      [
        [],
        "process.kill(process.pid, 'SIGBUS'); await new Promise((resolve) => setTimeout(resolve, 20_000))",
      ],
      [[{ call: 'reset', returns: 'bus' }], 'await device.reset()'],
      [[{ call: 'irqInfo', returns: 'bus' }], 'device.irqInfo(0)'],
    ]
    for (const [answers, end] of ends) {
      assert.deepEqual(await runSource(addon + end, [OPENS, MAPPED, ...answers], options), {
        code: null,
        signal: 'SIGBUS',
        stdout: 'survived ours\n',
        stderr: '',
      })
    }
  })
})
