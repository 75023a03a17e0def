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
      refuse('hotReset', bad, [undefined, null, {}, group, [null], [group, container], [device]], (v) =>
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
