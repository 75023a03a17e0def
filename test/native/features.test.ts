import assert from 'node:assert/strict'
import { bytes, feature, region } from './bytes.js'
import { type FakeAnswer, OPENS, withFake } from './fake.js'

const ENOTTY = 25
const EINVAL = 22
const GET = 1 << 16
const SET = 1 << 17

describe('a feature', () => {
  it('is probed without data: not there and not so are both no', async () => {
    const answers: FakeAnswer[] = [
      OPENS,
      { call: 'lowPowerEntry' },
      { call: 'migration', returns: -ENOTTY },
      { call: 'vfToken', returns: -EINVAL },
      { call: 'vfToken' },
      { call: 'dmaLoggingStart', returns: -5 },
    ]
    await withFake(answers, async ({ vfio, openGroup, log, failure }) => {
      const { group } = openGroup()
      const device = await group.openDevice('0000:01:00.0')
      assert.equal(device.feature('low-power-entry').probe('set'), true)
      assert.equal(device.feature('migration').probe('get'), false)
      assert.equal(device.feature(0).probe('get'), false)
      assert.equal(device.feature('vf-token').probe('set'), true)
      assert.equal(device.lowPower.supported, true)
      const error = await failure(() => device.dmaLogging.supported)
      assert(error instanceof vfio.VfioSystemError && error.code === 'EIO', String(error))
      assert.deepEqual(
        log().filter((line) => line.startsWith('sent')),
        [
          'sent 17.3 0800000003000600',
          'sent 17.1 0800000001000500',
          'sent 17.0 0800000000000500',
          'sent 17.0 0800000000000600',
          'sent 17.3 0800000003000600',
          'sent 17.6 0800000006000600',
        ],
      )
    })
  })

  it('is got and set as it is', async () => {
    const got = feature(4, GET | 10)
      .u8(1, 2, 3, 4)
      .done()
    await withFake(
      [OPENS, { call: 'busMaster', bytes: got }, { call: 'busMaster' }],
      async ({ openGroup, log }) => {
        const { group } = openGroup()
        const device = await group.openDevice('0000:01:00.0')
        const feature = device.feature('bus-master')
        assert.deepEqual(
          [feature.index, feature.name, device.feature(4711).name],
          [10, 'bus-master', 'feature 4711'],
        )
        const fromSize = feature.get(4)
        assert.deepEqual(await fromSize, Uint8Array.of(1, 2, 3, 4))
        const data = new Uint8Array([9, 9, 5, 6, 7, 9]).subarray(2, 5)
        const set = feature.set(data)
        data.fill(0)
        assert.deepEqual(await set, Uint8Array.of(5, 6, 7))
        assert.deepEqual(await feature.get(data), Uint8Array.of(0, 0, 0))
        assert.deepEqual(await feature.set(), new Uint8Array())
        assert.deepEqual(
          log().filter((line) => line.startsWith('sent')),
          [
            'sent 17.10 0c0000000a00010000000000',
            'sent 17.10 0b0000000a000200050607',
            'sent 17.10 0b0000000a000100000000',
            'sent 17.10 080000000a000200',
          ],
        )
      },
    )
  })

  it('that the kernel lacks is ENOTTY, with its name and what to do', async () => {
    await withFake([OPENS, { call: 'migration', returns: -ENOTTY }], async ({ vfio, openGroup, failure }) => {
      const { group } = openGroup()
      const device = await group.openDevice('0000:01:00.0')
      async function theCaller() {
        await device.migration.support()
      }
      const error = await failure(theCaller)
      assert(error instanceof vfio.VfioSystemError)
      assert.match(
        error.message,
        /^VFIO_DEVICE_FEATURE of migration on 0000:01:00\.0 failed with ENOTTY: .*probe\(\)/,
      )
      assert.match(error.stack ?? '', /ENOTTY.*\n +at theCaller/)
    })
  })

  it('waits for its turn behind a reset, and is dropped by an abort', async () => {
    await withFake(
      [OPENS, { call: 'reset', when: 'gate' }],
      async ({ openGroup, log, logged, letGo, failure }) => {
        const { group } = openGroup()
        const device = await group.openDevice('0000:01:00.0')
        const reset = device.reset()
        await logged('begin 11 0000:01:00.0')
        const controller = new AbortController()
        const dropped = failure(device.lowPower.enter({ signal: controller.signal }))
        const exit = device.lowPower.exit()
        controller.abort()
        assert.equal((await dropped).name, 'AbortError')
        letGo()
        await Promise.all([reset, exit])
        assert.deepEqual(
          log().filter((line) => /^(sent|end 11)/.test(line)),
          ['end 11 0000:01:00.0', 'sent 17.5 0800000005000200'],
        )
      },
    )
  })
})

describe('the VF token', () => {
  it('is 16 bytes in the order of its text', async () => {
    await withFake([OPENS], async ({ openGroup, log }) => {
      const { group } = openGroup()
      const device = await group.openDevice('0000:01:00.0')
      await device.setVfToken('00112233-4455-6677-8899-aAbBcCdDeEfF')
      assert(log().includes('sent 17.0 180000000000020000112233445566778899aabbccddeeff'), log().join('\n'))
    })
  })
})

describe('low power', () => {
  it('is entered with and without an eventfd, and left', async () => {
    await withFake([OPENS], async ({ openGroup, log }) => {
      const { group } = openGroup()
      const device = await group.openDevice('0000:01:00.0')
      await device.lowPower.enter()
      await device.lowPower.enter({ wakeup: 0x1234 })
      await device.lowPower.enter({ wakeup: 7 })
      await device.lowPower.exit()
      assert.deepEqual(
        log().filter((line) => line.startsWith('sent')),
        [
          'sent 17.3 0800000003000200',
          'sent 17.4 10000000040002003412000000000000',
          'sent 17.4 10000000040002000700000000000000',
          'sent 17.5 0800000005000200',
        ],
      )
    })
  })
})

describe('the log of DMA', () => {
  it('is started with ranges, reported and stopped', async () => {
    const answers: FakeAnswer[] = [
      OPENS,
      {
        call: 'dmaLoggingStart',
        bytes: feature(24, SET | 6)
          .u64(65536n)
          .done(),
      },
      { call: 'dmaLoggingReport', bytes: Uint8Array.of(0b101, 0, 0, 0, 0, 0, 0, 0x80, 1) },
    ]
    await withFake(answers, async ({ openGroup, log }) => {
      const { group } = openGroup()
      const { dmaLogging } = await group.openDevice('0000:01:00.0')
      const ranges = [
        { iova: 0x1000, length: 0x2000 },
        { iova: 2n ** 64n - 4096n, length: 4096n },
      ]
      assert.equal(await dmaLogging.start({ ranges }), 65536n)
      const bitmap = await dmaLogging.report(0x100000, 65n * 4096n, 4096)
      assert.deepEqual([...bitmap], [5, 0, 0, 0, 0, 0, 0, 0x80, 1, 0, 0, 0, 0, 0, 0, 0])
      await dmaLogging.stop()
      const sent = log().filter((line) => line.startsWith('sent'))
      assert.match(
        sent.shift() ?? '',
        /^sent 17\.6 200000000600020000100000000000000200000000000000[0-9a-f]{16}$/,
      )
      assert.equal(
        sent.shift(),
        'sent ranges 0010000000000000002000000000000000f0ffffffffffff0010000000000000',
      )
      assert.match(
        sent.shift() ?? '',
        /^sent 17\.8 280000000800010000001000000000000010040000000000001000000000000[0-9a-f]{17}$/,
      )
      assert.deepEqual(sent, ['sent 17.7 0800000007000200'])
    })
  })
})

describe('an ioeventfd', () => {
  it('is added with its width, place and data, and taken off once', async () => {
    const answers: FakeAnswer[] = [
      OPENS,
      {
        call: 'regionInfo',
        bytes: region(32, 7, 0, 0x4000n, 0x10000000000n).done(),
      },
    ]
    await withFake(answers, async ({ openGroup, log }) => {
      const { group } = openGroup()
      const device = await group.openDevice('0000:01:00.0')
      const write = { region: 'bar1', offset: 0x20, width: 16, data: 0xabcd, eventfd: 9 } as const
      const first = device.ioeventfd(write)
      assert.equal(first.closed, false)
      first.close()
      assert.equal(first.closed, true)
      first[Symbol.dispose]()
      const second = device.ioeventfd({
        ...write,
        width: 64,
        offset: 0x3ff8,
        data: 2n ** 64n - 1n,
        eventfd: 4,
      })
      await device.close()
      assert.equal(second.closed, true)
      second.close()
      assert.deepEqual(
        log().filter((line) => line.startsWith('sent')),
        [
          'sent 16 20000000020000002000000000010000cdab0000000000000900000000000000',
          'sent 16 20000000020000002000000000010000cdab000000000000ffffffff00000000',
          'sent 16 2000000008000000f83f000000010000ffffffffffffffff0400000000000000',
          'sent 16 2000000008000000f83f000000010000ffffffffffffffffffffffff00000000',
        ],
      )
    })
  })

  it('has to be inside its region', async () => {
    const answers: FakeAnswer[] = [OPENS, { call: 'regionInfo', bytes: region(32, 7, 0, 0x100n).done() }]
    await withFake(answers, async ({ openGroup, log, failure }) => {
      const { group } = openGroup()
      const device = await group.openDevice('0000:01:00.0')
      const write = { region: 0, width: 32, data: 0, eventfd: 3 } as const
      const offsets = [-4, 2, 0x100, 0xfe, 1.5, 2 ** 53, Number.NaN, Infinity, '0', 0n, null, undefined]
      for (const offset of offsets) {
        const error = await failure(() => device.ioeventfd({ ...write, offset: offset as number }))
        assert.equal(error.code, 'ERR_VFIO_BAD_ARGUMENT', String(offset))
        assert.match(error.message, /multiple of 4 inside the region, which has 256 bytes/)
      }
      assert(!log().some((line) => line.startsWith('sent')))
      device.ioeventfd({ ...write, offset: 0xfc }).close()
    })
  })

  it('that the kernel refuses is not there', async () => {
    const answers: FakeAnswer[] = [
      OPENS,
      { call: 'regionInfo', bytes: region(32, 7, 0).done() },
      { call: 'ioeventfd', returns: -17 },
    ]
    await withFake(answers, async ({ vfio, openGroup, log, failure }) => {
      const { group } = openGroup()
      const device = await group.openDevice('0000:01:00.0')
      const error = await failure(() =>
        device.ioeventfd({ region: 0, offset: 0, width: 8, data: 1n, eventfd: 5 }),
      )
      assert(error instanceof vfio.VfioSystemError && error.code === 'EEXIST')
      await device.close()
      assert.equal(log().filter((line) => line.startsWith('sent')).length, 1)
    })
  })
})

describe('a dma-buf', () => {
  it('is of a whole BAR or of ranges, and closes with its device', () =>
    withFake(
      [
        OPENS,
        { call: 'regionInfo', bytes: region(32, 3, 0, 0x4000n).done() },
        { call: 'dmaBuf', returns: 'fd' },
        { call: 'dmaBuf', returns: 'fd' },
        { call: 'dmaBuf', returns: -19 },
      ],
      async ({ vfio, openGroup, log, failure }) => {
        const { fstatSync } = await import('node:fs')
        const device = await openGroup().group.openDevice('0000:01:00.0')
        const whole = await device.dmaBuf('bar2')
        const parts = await device.dmaBuf('bar0', {
          ranges: [
            { offset: 0x1000, length: 0x1000 },
            { offset: 0x3000, length: 0x1000 },
          ],
        })
        assert.deepEqual([whole.size, parts.size], [0x4000n, 0x2000n])
        assert(fstatSync(whole.fd).isFile() && fstatSync(parts.fd).isFile())
        assert.notEqual(whole.fd, parts.fd)
        const error = await failure(device.dmaBuf('rom'))
        assert(error instanceof vfio.VfioSystemError && error.code === 'ENODEV', String(error))
        assert.match(
          error.message,
          /^VFIO_DEVICE_FEATURE of dma-buf on 0000:01:00\.0 failed with ENODEV: .*BAR/,
        )
        const untyped = (value: unknown) => value as never
        for (const ranges of [
          [],
          [{}],
          [null],
          'all',
          [{ offset: -1, length: 1 }],
          Array(4097).fill({ offset: 0, length: 1 }),
        ]) {
          const refused = await failure(() => device.dmaBuf('bar0', untyped({ ranges })))
          assert.equal(refused.code, 'ERR_VFIO_BAD_ARGUMENT', JSON.stringify(ranges)?.slice(0, 40))
        }
        await parts.close()
        assert.equal((await failure(() => parts.fd)).code, 'ERR_VFIO_CLOSED')
        assert.equal(log().filter((line) => line === 'close dma-buf').length, 1)
        await device.close()
        assert.equal(whole.closed, true)
        const closes = log().filter((line) => line.startsWith('close '))
        assert.deepEqual(closes.slice(0, 3), ['close dma-buf', 'close dma-buf', 'close 0000:01:00.0'])
      },
    ))

  it('like all that holds an address or a descriptor is not got raw', () =>
    withFake([OPENS], async ({ openGroup, failure, log }) => {
      const device = await openGroup().group.openDevice('0000:01:00.0')
      for (const [feature, instead] of [
        ['dma-buf', 'dmaBuf()'],
        [11, 'dmaBuf()'],
        ['zpci-error', 'zpciError()'],
        [13, 'zpciError()'],
        ['dma-logging-report', 'dmaLogging.report()'],
      ] as const) {
        const error = await failure(device.feature(feature).get(new Uint8Array(32).fill(0x41)))
        assert.equal(error.code, 'ERR_VFIO_BAD_ARGUMENT')
        assert(error.message.endsWith(`use ${instead}`), error.message)
      }
      assert(!log().some((line) => line.startsWith('sent')))
    }))
})

describe('the error of a function of IBM Z', () => {
  it('is as long as the function says, or none', async () => {
    /** With a zpci-base capability of a version, which has the length of an error since the third. */
    const info = (version: number, length: number): FakeAnswer => {
      const answer = bytes().u32(64, 0x83, 9, 5, 24, 0).u16(1, version).u32(0).to(60).u32(length)
      return { call: 'deviceInfo', bytes: answer.done() }
    }
    const told = Array.from({ length: 48 }, (_, at) => at + 1)
    const error = bytes()
      .u32(16, GET | 13)
      .u64(0n)
      .u8(...told)
    await withFake(
      [
        OPENS,
        ...[info(3, 48), info(3, 8), info(3, 48), info(2, 0)],
        { call: 'zpciError', bytes: error.done() },
        // The kernel writes all of it, whatever it said before.
        { call: 'zpciError', bytes: error.done() },
        { call: 'zpciError', returns: -42 },
        { call: 'zpciError', returns: -25 },
      ],
      async ({ vfio, openGroup, failure, log, input }) => {
        const device = await openGroup().group.openDevice('0000:01:00.0')
        assert.deepEqual(await device.zpciError(), Uint8Array.from(input))
        assert.deepEqual(await device.zpciError(), Uint8Array.from(input.slice(0, 8)))
        // ENOMSG: none waits.
        assert.equal(await device.zpciError(), null)
        const refused = await failure(device.zpciError())
        assert(refused instanceof vfio.VfioSystemError && refused.code === 'ENOTTY', String(refused))
        for (const line of log().filter((each) => each.startsWith('sent')))
          assert.match(line, /^sent 17\.13 100000000d000100/)
      },
      { input: told },
    )
  })
})
