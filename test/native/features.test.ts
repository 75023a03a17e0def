import assert from 'node:assert/strict'
import { feature, region } from './bytes.js'
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
