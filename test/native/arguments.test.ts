import assert from 'node:assert/strict'
import { OPENS, withFake } from './fake.js'

describe('an argument that makes no sense', () => {
  it('is a typed error before the kernel is asked', async () => {
    await withFake([OPENS], async ({ vfio, openGroup, failure, log }) => {
      const { container, group } = openGroup()
      const device = await group.openDevice('0000:01:00.0')
      const before = log()
      // Types are for programs that are checked; these calls come from those that are not.
      const untyped = (value: unknown) => value as never
      const notIntegers = [
        Number.NaN,
        -1,
        1.5,
        2 ** 32,
        2 ** 53,
        Infinity,
        1n,
        '1',
        '',
        null,
        {},
        [],
        true,
        Symbol('s'),
      ]
      const notOptions = [null, 1, 'text', { signal: null }, { signal: {} }, { signal: 'abort' }]
      const refused: [string, string, () => unknown][] = []
      const refuse = (
        name: string,
        code: string,
        values: readonly unknown[],
        call: (value: never) => unknown,
      ) => {
        for (const value of values) {
          refused.push([
            `${name} with ${typeof value} ${String(JSON.stringify(value, (_, v) => String(v)))}`,
            code,
            () => call(untyped(value)),
          ])
        }
      }
      const bad = 'ERR_VFIO_BAD_ARGUMENT'
      refuse('regionInfo', bad, [...notIntegers, undefined, 'bar6', '__proto__', 'toString'], (v) =>
        device.regionInfo(v),
      )
      refuse('irqInfo', bad, [...notIntegers, undefined, 'INTX'], (v) => device.irqInfo(v))
      refuse('checkExtension', bad, [...notIntegers, undefined, 'type2'], (v) => container.checkExtension(v))
      refuse('setIommu', bad, [...notIntegers, undefined, 'type3'], (v) => container.setIommu(v))
      refuse(
        'VfioGroup.open',
        bad,
        [...notIntegers, undefined, 2 ** 31, { path: '' }, { path: 7 }, { path: 'a\0b' }],
        (v) => vfio.VfioGroup.open(v),
      )
      refuse('VfioContainer.open', bad, ['', 'a\0b', null, 7, {}], (v) => vfio.VfioContainer.open(v))
      refuse('setContainer', bad, [undefined, null, {}, group, device, 3], (v) => group.setContainer(v))
      refuse('hotReset', bad, [null, {}, group, [null], [group, container], [device]], (v) =>
        device.hotReset(v),
      )
      refuse('hotReset options', bad, notOptions, (v) => device.hotReset([group], v))
      refuse('reset', bad, notOptions, (v) => device.reset(v))
      refuse(
        'openDevice options',
        bad,
        [...notOptions, { vfToken: '' }, { vfToken: 7 }, { vfToken: 'x y' }],
        (v) => group.openDevice('0000:01:00.0', v),
      )
      refuse(
        'openDevice',
        'ERR_VFIO_BAD_ADDRESS',
        [undefined, null, '', 'eth0', '0000:01:00.8', '01:00.0\0', '01:00.0 vf_token=x', {}],
        (v) => group.openDevice(v),
      )
      refuse('feature', bad, [...notIntegers, undefined, 0x10000, 'bus', '__proto__'], (v) =>
        device.feature(v),
      )
      refuse('probe', bad, [undefined, null, '', 'put', 1], (v) => device.feature(0).probe(v))
      const notSizes = notIntegers.filter((v) => typeof v !== 'object' || v === null)
      refuse('feature get', bad, [...notSizes, undefined, 0x10001, [], new ArrayBuffer(8)], (v) =>
        device.feature(1).get(v),
      )
      refuse('feature set', bad, [null, 1, 'text', [1], new ArrayBuffer(8), new Uint8Array(0x10001)], (v) =>
        device.feature(5).set(v),
      )
      refuse('feature get options', bad, notOptions, (v) => device.feature(1).get(8, v))
      refuse('feature set options', bad, notOptions, (v) => device.feature(5).set(undefined, v))
      const uuid = '00112233-4455-6677-8899-aabbccddeeff'
      // The kernel would follow an address out of these bytes, or make a descriptor that nobody closes.
      refuse('raw', bad, ['dma-logging-start', 'migration-state'], (v) =>
        device.feature(v).set(new Uint8Array(24)),
      )
      refuse('raw', bad, ['dma-logging-report', 8], (v) => device.feature(v).get(32))
      refuse('setVfToken', bad, [undefined, null, 7, '', `${uuid}0`, `${uuid} `, 'x y'], (v) =>
        device.setVfToken(v),
      )
      refuse('setVfToken options', bad, notOptions, (v) => device.setVfToken(uuid, v))
      refuse('lowPower.enter', bad, notOptions, (v) => device.lowPower.enter(v))
      refuse('wakeup', bad, [...notIntegers, 2 ** 31, { fd: 3 }], (v) => device.lowPower.enter({ wakeup: v }))
      refuse('lowPower.exit', bad, notOptions, (v) => device.lowPower.exit(v))
      refuse('migration.support', bad, notOptions, (v) => device.migration.support(v))
      refuse('migration.state', bad, notOptions, (v) => device.migration.state(v))
      refuse('migration.dataSize', bad, notOptions, (v) => device.migration.dataSize(v))
      refuse('migration.setState', bad, [undefined, null, 1, '', 'error', 'STOP', 'toString'], (v) =>
        device.migration.setState(v),
      )
      refuse('migration.setState options', bad, notOptions, (v) => device.migration.setState('stop', v))
      const notWords = [undefined, null, -1, 1.5, Number.NaN, Infinity, 2 ** 53, -1n, 2n ** 64n, '1', {}]
      const ranges = [{ iova: 0, length: 4096 }]
      refuse('dmaLogging.start', bad, notOptions, (v) => device.dmaLogging.start(v))
      refuse('ranges', bad, [undefined, null, {}, [], [null], [7], new Array(4097).fill(ranges[0])], (v) =>
        device.dmaLogging.start({ ranges: v }),
      )
      refuse('ranges', bad, [{ iova: 2n ** 64n - 1n, length: 2 }, { iova: 0, length: 0 }, {}], (v) =>
        device.dmaLogging.start({ ranges: [v] }),
      )
      refuse('iova', bad, notWords, (v) => device.dmaLogging.start({ ranges: [{ iova: v, length: 4096 }] }))
      refuse('length', bad, notWords, (v) => device.dmaLogging.start({ ranges: [{ iova: 0, length: v }] }))
      const notPages = [...notWords.slice(1), 0, 1, 2048, 4097, 12288, 0n]
      refuse('pageSize', bad, notPages, (v) => device.dmaLogging.start({ ranges, pageSize: v }))
      refuse('dmaLogging.stop', bad, notOptions, (v) => device.dmaLogging.stop(v))
      refuse('report iova', bad, notWords, (v) => device.dmaLogging.report(v, 4096, 4096))
      refuse('report length', bad, [...notWords, 0, 2n ** 60n], (v) => device.dmaLogging.report(0, v, 4096))
      refuse('report pageSize', bad, [undefined, ...notPages], (v) => device.dmaLogging.report(0, 4096, v))
      refuse('report options', bad, notOptions, (v) => device.dmaLogging.report(0, 4096, 4096, v))
      refuse('ioeventfd', bad, [undefined, null, 7, 'text'], (v) => device.ioeventfd(v))
      const write = { region: 0, offset: 0, width: 32, data: 0, eventfd: 3 } as const
      refuse('width', bad, [...notIntegers, undefined, 0, 1, 12, 128], (v) =>
        device.ioeventfd({ ...write, width: v }),
      )
      refuse('eventfd', bad, [...notIntegers, undefined, 2 ** 31], (v) =>
        device.ioeventfd({ ...write, eventfd: v }),
      )
      refuse(
        'data',
        bad,
        [undefined, null, -1, 1.5, Number.NaN, 2 ** 32, 2 ** 53, -1n, 2n ** 32n, '1'],
        (v) => device.ioeventfd({ ...write, data: v }),
      )
      for (const [what, code, call] of refused) {
        const error = await failure(call)
        assert(error instanceof vfio.VfioError, `${what}: ${error}`)
        assert.equal(error.code, code, `${what}: ${error}`)
      }
      assert.deepEqual(log(), before)
    })
  })

  it('is not taken for an object of this package because it looks like one', async () => {
    await withFake([OPENS], async ({ vfio, openGroup, failure }) => {
      const { container, group } = openGroup()
      const device = await group.openDevice('0000:01:00.0')
      const looksLikeGroup: unknown = Object.create(vfio.VfioGroup.prototype)
      const looksLikeContainer: unknown = Object.create(vfio.VfioContainer.prototype)
      await failure(() => device.hotReset([looksLikeGroup as typeof group]))
      await failure(() => group.setContainer(looksLikeContainer as typeof container))
    })
  })
})
