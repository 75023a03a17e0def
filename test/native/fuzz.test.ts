import assert from 'node:assert/strict'
import { closeSync, openSync } from 'node:fs'
import { bytes } from './bytes.js'
import { OPENS, withFake } from './fake.js'

const SEED = 20_240_611
const RUNS = 400

describe('any arguments to the addon', () => {
  it(`give a value or a typed error, never a crash (seed ${SEED}, ${RUNS} runs for each call)`, async function () {
    this.timeout(120_000)
    const stream = openSync('/dev/zero', 'r+')
    const { stdout } = await withFake(
      [OPENS, { call: 'migrationState', bytes: bytes().u32(16, 0, 4, 3).done() }, { call: 'migrationState' }],
      async ({ input }) => {
        const { default: fc } = await import('fast-check')
        const { createRequire } = await import('node:module')
        type Callable = (...args: unknown[]) => unknown
        type Class = Record<string, Callable> & { prototype: Record<string, Callable> }
        const addon = createRequire(`${process.cwd()}/`)(
          process.env.VFIO_ADDON ?? './build/Release/vfio.node',
        ) as Record<'Container' | 'Group' | 'Device' | 'KvmVfio' | 'MigrationData', Class> &
          Record<'groupStatus' | 'deviceRegionInfo' | 'deviceIrqInfo', Callable>
        const { Container, Group, Device, KvmVfio, MigrationData } = addon
        const open = () => {
          const container = Container.open?.('/dev/vfio/vfio')
          const group = Group.open?.('/dev/vfio/1')
          return { container, group }
        }
        const { container, group } = open()
        const device = await (Group.prototype.openDevice as Callable).call(group, '0000:01:00.0', 'name')
        const { openSync } = await import('node:fs')
        const kvm = KvmVfio.create?.(openSync('/dev/vfio/machine', 'r+'))
        assert(kvm)
        const data = await (Device.prototype.setMigrationState as Callable).call(device, 4)
        assert(data)
        const closed = open()
        Container.prototype.closeNow?.call(closed.container)
        Group.prototype.closeNow?.call(closed.group)
        const detached = new ArrayBuffer(256)
        structuredClone(detached, { transfer: [detached] })

        const strange = fc.oneof(
          fc.anything({
            withBigInt: true,
            withTypedArray: true,
            withNullPrototype: true,
            withSparseArray: true,
            withDate: true,
          }),
          fc.constantFrom<unknown>(
            container,
            group,
            device,
            kvm,
            data,
            closed.container,
            closed.group,
            [group],
            [group, closed.group],
            2n ** 64n - 1n,
            2n ** 64n,
            -1n,
            4096n,
            [container],
            new Proxy(group as object, {}),
            new Proxy([], {}),
            Object.create(group as object),
            new Array(2 ** 32 - 1),
            detached,
            new ArrayBuffer(0),
            new ArrayBuffer(255),
            new ArrayBuffer(256),
            new SharedArrayBuffer(256),
            new Uint8Array(256),
            '/dev/null',
            '/dev/vfio/1',
            'a'.repeat(100_000),
            '\ud800',
            Symbol('s'),
            2 ** 32,
            2 ** 32 - 1,
            -0,
            Number.NaN,
          ),
        )
        const acceptable = (error: unknown) => {
          assert(error instanceof Error, `not an Error: ${String(error)}`)
          const { errno, code } = error as { errno?: unknown; code?: unknown }
          const typed =
            typeof errno === 'number' ||
            ['ERR_VFIO_CLOSED', 'ERR_VFIO_BAD_ARGUMENT', 'ERR_VFIO_BAD_KERNEL_DATA'].includes(String(code)) ||
            // What V8 says where a method is called on another class of object.
            (error instanceof TypeError &&
              /Illegal invocation|Class constructor|cannot be invoked without 'new'/.test(error.message))
          assert(typed, `not typed: ${error.stack}`)
        }
        let calls = 0
        const attempt = async (callable: Callable, self: unknown, args: unknown[]) => {
          calls++
          try {
            const value = await Reflect.apply(callable, self, args)
            // What a fuzzed path opened is not for the next one.
            if ([Container, Group, KvmVfio].some((type) => value instanceof (type as never)))
              (value as { closeNow(): void }).closeNow()
          } catch (error) {
            acceptable(error)
          }
        }
        const settings = { seed: input.seed, numRuns: input.runs }
        // The calls that are made often take the number of an object, of an open one or any other.
        const ids = [container, group, device, closed.container, closed.group].map(
          (object) => (object as { id: number }).id,
        )
        const quick = ['groupStatus', 'deviceRegionInfo', 'deviceIrqInfo'] as const
        for (const name of quick) {
          await fc.assert(
            fc.asyncProperty(
              fc.oneof(fc.constantFrom(...ids), fc.nat(2 ** 31 - 1), strange),
              fc.array(strange, { maxLength: 3 }),
              (id, args) => attempt(addon[name], undefined, [id, ...args]),
            ),
            settings,
          )
        }
        for (const type of [Container, Group, Device, KvmVfio, MigrationData]) {
          await fc.assert(
            fc.asyncProperty(fc.array(strange, { maxLength: 3 }), async (args) => {
              calls++
              try {
                Reflect.construct(type as never, args)
                assert.fail('a constructor made an object out of nothing')
              } catch (error) {
                acceptable(error)
              }
            }),
            settings,
          )
          const owners: [Record<string, Callable>, unknown[]][] = [
            [type, [type, undefined]],
            [type.prototype, [container, group, device, kvm, data, closed.container, closed.group]],
          ]
          for (const [owner, selves] of owners) {
            for (const name of Object.getOwnPropertyNames(owner)) {
              const callable = Object.getOwnPropertyDescriptor(owner, name)?.value
              // Closing is what the objects of this test must survive.
              if (typeof callable !== 'function' || /^(constructor|close)/.test(name)) continue
              await fc.assert(
                fc.asyncProperty(
                  fc.oneof(fc.constantFrom(...selves), strange),
                  fc.array(strange, { maxLength: 4 }),
                  (self, args) => attempt(callable, self, args),
                ),
                settings,
              )
            }
          }
        }
        console.log(`${calls} calls`)
      },
      { input: { seed: SEED, runs: RUNS }, descriptors: [stream] },
    )
    closeSync(stream)
    assert.match(stdout, /^\d{4,} calls\n$/)
  })
})
