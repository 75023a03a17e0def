import assert from 'node:assert/strict'
import { skip } from '../fixtures/skip.js'
import { region } from './bytes.js'
import { type FakeAnswer, OPENS, runSource, withFake } from './fake.js'

/** A region of four pages that may be mapped, at 1 TiB of the device's file. */
const MAPPED: FakeAnswer = { call: 'regionInfo', bytes: region(32, 7, 0, 0x4000n, 0x10000000000n).done() }

describe('memory that is not there', function () {
  this.timeout(60_000)

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

  for (const call of ['mmap', 'mremap'] as const) {
    it(`stays lost while it cannot be mapped anew (${call} fails), and says so each time`, async () => {
      const answers: FakeAnswer[] = [-12, -12, -19, 0].map((returns) => ({ call, returns }))
      // The first mapping is made.
      if (call === 'mmap') answers.unshift({ call }, { call })
      await withFake(
        [OPENS, MAPPED, ...answers],
        async ({ openGroup, memoryOf, failure, vfio, input }) => {
          const { truncateSync } = await import('node:fs')
          const device = await openGroup().group.openDevice('0000:01:00.0')
          const path = memoryOf('0000:01:00.0')
          const base = 2 ** 40
          truncateSync(path, base + 0x1000)
          const bar = device.region(1)
          const mapping = bar.map()
          const words = new Uint32Array(mapping.buffer)
          assert.equal((await failure(() => bar.read32(0x2000))).code, 'ERR_VFIO_MEMORY_DISABLED')
          // Two of the failures for the window, in whatever way it is used.
          for (const access of [() => bar.read32(0), () => bar.write8(4, 1)]) {
            const error = await failure(access)
            assert(error instanceof vfio.VfioSystemError, error.stack)
            assert.deepEqual([error.code, error.syscall, error.request], ['ENOMEM', input, 'region'])
            assert.match(error.message, /each access tries it anew$/)
          }
          truncateSync(path, base + 0x4000)
          const gone = await failure(() => bar.read(new Uint8Array(4), 0x2000))
          assert.equal(gone.code, 'ENODEV')
          // And then it works, and what is written arrives.
          bar.write32(0x2000, 5)
          assert.deepEqual([bar.read32(0x2000), words[0x2000 / 4]], [5, 5])
        },
        { input: call },
      )
    })
  }

  it('is not what a window is whose first mapping fails', async () => {
    await withFake(
      [OPENS, MAPPED, { call: 'mmap', returns: -12 }, { call: 'mmap', returns: -11 }, { call: 'mmap' }],
      async ({ openGroup, memoryOf, failure }) => {
        const { truncateSync } = await import('node:fs')
        const device = await openGroup().group.openDevice('0000:01:00.0')
        truncateSync(memoryOf('0000:01:00.0'), 2 ** 40 + 0x4000)
        const bar = device.region(1)
        assert.equal((await failure(() => bar.read32(0))).code, 'ENOMEM')
        assert.equal((await failure(() => bar.map())).code, 'EAGAIN')
        bar.write32(0, 3)
        assert.equal(new Uint32Array(bar.map().buffer)[0], 3)
      },
    )
  })

  it('stays lost in a mapping whose restore fails, with all that it had', async () => {
    await withFake(
      [OPENS, MAPPED, { call: 'mmap' }, { call: 'mmap', returns: -11 }, { call: 'mmap' }],
      async ({ openGroup, memoryOf, failure }) => {
        const { truncateSync } = await import('node:fs')
        const device = await openGroup().group.openDevice('0000:01:00.0')
        const path = memoryOf('0000:01:00.0')
        truncateSync(path, 2 ** 40 + 0x1000)
        const mapping = device.region(1).map()
        const words = new Uint32Array(mapping.buffer)
        words[1] = 7
        assert.equal(words[0x2000 / 4], 0xffffffff)
        truncateSync(path, 2 ** 40 + 0x4000)
        assert.equal((await failure(() => mapping.restore())).code, 'EAGAIN')
        assert.deepEqual([mapping.lost, words[0x2000 / 4], words[1]], [true, 0xffffffff, 7])
        mapping.restore()
        assert.deepEqual([mapping.lost, words[0x2000 / 4], words[1]], [false, 0, 7])
      },
    )
  })

  it('is found whatever listeners of SIGBUS the program adds and removes', async () => {
    await withFake([OPENS, MAPPED], async ({ openGroup, memoryOf, failure }) => {
      const { truncateSync } = await import('node:fs')
      let heard = 0
      const hear = () => {
        heard++
      }
      const expectHeard = async () => {
        const before = heard
        process.kill(process.pid, 'SIGBUS')
        while (heard === before) await new Promise(setImmediate)
      }
      const once = () => process.once('SIGBUS', hear)
      const on = () => process.on('SIGBUS', hear)
      const off = () => process.off('SIGBUS', hear)
      on()
      const device = await openGroup().group.openDevice('0000:01:00.0')
      truncateSync(memoryOf('0000:01:00.0'), 2 ** 40 + 0x1000)
      const bar = device.region(1)
      const isFound = async () =>
        assert.equal((await failure(() => bar.read32(0x2000))).code, 'ERR_VFIO_MEMORY_DISABLED')
      await isFound()
      await expectHeard()
      const steps = [off, on, on, off, expectHeard, off, once, expectHeard, on, expectHeard]
      for (const step of [...steps, () => process.removeAllListeners('SIGBUS'), on, expectHeard]) {
        await step()
        await isFound()
      }
      assert.equal(heard, 5)
      process.removeAllListeners()
      await isFound()
    })
  })

  it('of memory of files ends the process with a sentence, whoever listens', async () => {
    const options = { environment: { ASAN_OPTIONS: `${process.env.ASAN_OPTIONS ?? ''}:handle_sigbus=0` } }
    const cutShort = `
      const path = fs.mkdtempSync('/dev/shm/vfio-') + '/file'
      fs.writeFileSync(path, Buffer.alloc(8192, 1))
      const buffer = vfio.DmaBuffer.fromFd(fs.openSync(path, 'r+'), { size: 8192 })
      fs.truncateSync(path, 4096)
      fs.rmSync(path.slice(0, -5), { recursive: true })
      console.log(buffer.bytes[0])
    `
    for (const listener of ['', "process.on('SIGBUS', () => console.log('heard'))\n"]) {
      for (const order of [listener + cutShort, cutShort + listener]) {
        for (const access of ['buffer.bytes[4096]', 'buffer.bytes[8191] = 7', 'buffer.bytes.fill(7)']) {
          const outcome = await runSource(order + access, [], options)
          assert.deepEqual([outcome.code, outcome.signal, outcome.stdout], [null, 'SIGBUS', '1\n'])
          assert.match(
            outcome.stderr,
            /^vfio: memory of a DmaBuffer is gone: .*so the process ends \(SIGBUS\)\.\n$/,
          )
        }
      }
    }
  })

  it('and has no page of ones in its place ends the process with a sentence', async function () {
    if (process.env.VFIO_LIBASAN) skip(this, 'without memory a sanitizer ends the process itself')
    const source = `
      import { execFileSync } from 'node:child_process'
      const device = await openGroup().group.openDevice('0000:01:00.0')
      fs.truncateSync(memoryOf('0000:01:00.0'), 2 ** 40 + 0x1000)
      const words = new Uint32Array(device.region(1).map().buffer)
      process.on('SIGBUS', () => console.log('heard'))
      console.log(words[0])
      execFileSync('prlimit', ['--pid', String(process.pid), '--data=4096:4096'])
      words[0x2000 / 4]
    `
    const options = { environment: { ASAN_OPTIONS: `${process.env.ASAN_OPTIONS ?? ''}:handle_sigbus=0` } }
    const outcome = await runSource(source, [OPENS, MAPPED], options)
    assert.deepEqual([outcome.code, outcome.signal, outcome.stdout], [null, 'SIGBUS', '0\n'])
    assert.match(
      outcome.stderr,
      /^vfio: nothing answers where device memory is mapped, .*ends \(SIGBUS\)\.\n$/,
    )
  })

  it('that the kernel finds gone is an error of its call', async () => {
    await withFake([], async ({ vfio, failure }) => {
      const { mkdtempSync, openSync, rmSync, truncateSync, writeFileSync, writeSync } = await import(
        'node:fs'
      )
      const directory = mkdtempSync('/dev/shm/vfio-')
      try {
        writeFileSync(`${directory}/file`, new Uint8Array(8192))
        const { bytes } = vfio.DmaBuffer.fromFd(openSync(`${directory}/file`, 'r+'), { size: 8192 })
        truncateSync(`${directory}/file`, 4096)
        const to = openSync(`${directory}/other`, 'w')
        assert.equal((await failure(() => writeSync(to, bytes, 4096))).code, 'EFAULT')
      } finally {
        rmSync(directory, { recursive: true })
      }
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
