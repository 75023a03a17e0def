import assert from 'node:assert/strict'
import { closeSync, openSync } from 'node:fs'
import { sized } from '../fixtures/size.js'
import { bytes } from './bytes.js'
import { OPENS, withFake } from './fake.js'

const SEED = 20_240_611
const CALLS = sized(60_000, 1_000_000, 20_000)
const DEADLINE_MS = sized(280_000, 1_800_000)

describe('any arguments to the addon', () => {
  it(`give a value or a typed error, never a crash (seed ${SEED}, ${CALLS} calls)`, async function () {
    this.timeout(DEADLINE_MS + 10_000)
    const stream = openSync('/dev/zero', 'r+')
    const { stdout } = await withFake(
      [
        OPENS,
        { call: 'migrationState', bytes: bytes().u32(16, 0, 4, 3).done() },
        { call: 'migrationState' },
        { call: 'dmaBuf', returns: 'fd' },
      ],
      async ({ input, memoryOf }) => {
        const { default: fc } = await import('fast-check')
        const { createRequire } = await import('node:module')
        const { openSync, truncateSync } = await import('node:fs')
        type Callable = (...args: unknown[]) => unknown
        type Class = Record<string, Callable> & { prototype: Record<string, Callable> }
        const addon = createRequire(`${process.cwd()}/`)(
          process.env.VFIO_ADDON ?? './build/Release/vfio.node',
        ) as Record<string, unknown>
        const isClass = (name: string) => /^[A-Z]/.test(name)
        const classes = Object.keys(addon).filter(isClass)
        const classOf = (name: string) => addon[name] as Class
        const invoke = (owner: unknown, name: string, ...args: unknown[]) =>
          ((owner as Record<string, Callable>)[name] as Callable)(...args)

        const PAGE = 4096
        let opened = 0
        const openAll = async (): Promise<object[]> => {
          const container = invoke(classOf('Container'), 'open', '/dev/vfio/vfio')
          const group = invoke(classOf('Group'), 'open', '/dev/vfio/1')
          const device = await invoke(group, 'openDevice', '0000:01:00.0', '0000:01:00.0')
          truncateSync(memoryOf('0000:01:00.0'), 16 * PAGE)
          const eventfd = invoke(classOf('EventFd'), 'create')
          const poll = invoke(classOf('Poll'), 'open', () => {})
          const file = invoke(classOf('MemoryFile'), 'create', 16 * PAGE, 0)
          const memory = invoke(file, 'map', 0, 16 * PAGE, 0)
          // Half of it is not there.
          const registers = invoke(device, 'map', 0, 32 * PAGE)
          const kvm = invoke(classOf('KvmVfio'), 'create', openSync('/dev/vfio/machine', 'r+'))
          const data = opened++ === 1 ? await invoke(device, 'setMigrationState', 4) : kvm
          const iommufd = invoke(classOf('Iommufd'), 'open', '/dev/iommu')
          const cdev = await invoke(classOf('Device'), 'openCdev', '/dev/vfio/devices/vfio0')
          const shared = await invoke(device, 'dmaBuf', 0, 0, new BigUint64Array(2))
          const others = [iommufd, cdev, shared]
          return [
            container,
            group,
            device,
            eventfd,
            poll,
            file,
            memory,
            registers,
            kvm,
            data,
            ...others,
          ] as object[]
        }
        const closeAll = (objects: readonly unknown[]) => {
          for (const each of objects.toReversed() as Record<string, Callable>[]) {
            each.end?.()
            if (each.closeNow) each.closeNow()
            else each.close?.()
          }
        }
        const closed = await openAll()
        closeAll(closed)
        const objects = await openAll()
        // For whoever takes them.
        const offers: unknown[] = []
        for (let i = 0; i < 3; i++) {
          const [container, group, device, ...others] = await openAll()
          offers.push(invoke(addon, 'offer', container, group, device))
          const [iommufd, cdev] = others.slice(7)
          offers.push(invoke(addon, 'offer', iommufd, cdev))
        }
        /** The numbers of all objects, those of a kind most often. */
        const idsOf = (kind: string) => {
          const own = objects.filter((each) => each?.constructor.name.toLowerCase() === kind)
          return [...own, ...own, ...own, ...own, ...own, ...own, ...own, ...objects, ...closed].map(
            (object) => (object as { id: number }).id,
          )
        }

        const detached = new ArrayBuffer(256)
        const views = [new Uint8Array(detached), new DataView(detached, 8)]
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
            ...objects,
            ...closed,
            ...views,
            objects.slice(1, 2),
            [objects[1], closed[1]],
            [objects[0]],
            new Proxy(objects[1] as object, {}),
            new Proxy([], {}),
            Object.create(objects[2] as object),
            new Array(2 ** 32 - 1),
            detached,
            () => {},
            '/dev/null',
            '/dev/vfio/1',
            'a'.repeat(100_000),
            '\ud800',
            Symbol('s'),
          ),
        )
        // What a call takes, so that many get as far as the kernel.
        const number = fc.oneof(
          fc.nat(40),
          fc.nat(32 * PAGE),
          fc.integer(),
          fc.constantFrom(PAGE, 16 * PAGE, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 40, 2 ** 52, 2 ** 53, -0, -1),
          fc.double(),
        )
        const bigint = fc.oneof(
          fc.constantFrom(
            0n,
            1n,
            4096n,
            65536n,
            2n ** 63n,
            2n ** 64n - 4096n,
            2n ** 64n - 1n,
            2n ** 64n,
            -1n,
          ),
          fc.bigInt(0n, 2n ** 20n),
        )
        const buffers = fc.constantFrom<unknown>(
          new ArrayBuffer(0),
          new ArrayBuffer(255),
          new ArrayBuffer(256),
          new SharedArrayBuffer(256),
          new Uint8Array(256),
          new Uint8Array(new SharedArrayBuffer(64), 3, 17),
          new Float64Array(9),
          new BigInt64Array(2),
          new Int32Array(3).fill(-1),
          new DataView(new ArrayBuffer(100), 1),
          new Uint8Array(8 * PAGE),
          new Uint8Array(0),
        )
        const arbitrary = fc.oneof(
          { weight: 6, arbitrary: number },
          { weight: 2, arbitrary: bigint },
          { weight: 2, arbitrary: buffers },
          { weight: 3, arbitrary: strange },
        )
        // Values are made once; a run picks from them, so that most of the time goes into the calls.
        const pool = fc.sample(arbitrary, { seed: input.seed, numRuns: 4096 })

        Error.stackTraceLimit = 0
        const CODES = ['CLOSED', 'BAD_ARGUMENT', 'BAD_KERNEL_DATA'].map((code) => `ERR_VFIO_${code}`)
        const check = (error: unknown) => {
          assert(error instanceof Error, `not an Error: ${String(error)}`)
          const { errno, code } = error as { errno?: unknown; code?: unknown }
          const typed =
            typeof errno === 'number' ||
            CODES.includes(String(code)) ||
            // What V8 says where a method is called on another class of object.
            (error instanceof TypeError &&
              /Illegal invocation|Class constructor|cannot be invoked without 'new'/.test(error.message))
          assert(typed, `not typed: ${error.name} ${error.message}`)
        }
        let calls = 0
        let answered = 0
        /** One call; what it opened is not for the next one. */
        const attempt = (call: () => unknown): unknown => {
          calls++
          try {
            const value = call()
            answered++
            if (value instanceof Promise) return value.then(discard, check)
            discard(value)
          } catch (error) {
            check(error)
          }
          return undefined
        }
        const discard = (value: unknown) => {
          const values = Array.isArray(value) ? value : [value]
          closeAll(values.filter((each) => classes.some((name) => each instanceof (classOf(name) as never))))
        }

        interface Target {
          name: string
          selves: readonly unknown[]
          firsts: readonly unknown[]
          callable: Callable
          share: number
        }
        const targets: Target[] = []
        /** Those that run on other threads, or make the kernel map memory, take a hundred times as long. */
        const SLOW =
          /^(open|openDevice|openCdev|bindIommufd|attach|detach|dmaBuf|precopyInfo|accept|feature|setMigrationState|startDmaLogging|dmaLoggingReport|reset|hotReset|mapDma|unmapDma|logDirtyPages|dirtyBitmap|unmapDirty|map|mapFile|copy|unmap|destroy|changeProcess|allocateHwpt|setDirtyTracking|noiommuPa|reserve|create|duplicate|readTree)$/
        const SLOWEST = /^find(User|Group)$/
        const shareOf = (name: string) => (SLOWEST.test(name) ? 0.001 : SLOW.test(name) ? 0.05 : 1)
        const add = (
          name: string,
          callable: unknown,
          selves: readonly unknown[],
          firsts: readonly unknown[],
        ) => {
          // Closing is what the objects of this test must survive, and a process for each call is too much for a machine.
          if (typeof callable !== 'function' || /^(constructor|close|end|offer|startWriter)/.test(name))
            return
          targets.push({ name, callable: callable as Callable, selves, firsts, share: shareOf(name) })
        }
        for (const [name, value] of Object.entries(addon)) {
          if (!isClass(name)) {
            // The calls that are made often take the number of an object.
            const kind = /^(group|device|container|memory|iommufd)/.exec(name)?.[0]
            add(name, value, [undefined], kind ? idsOf(kind) : name === 'accept' ? offers : [])
            continue
          }
          const type = value as Class
          for (const member of Object.getOwnPropertyNames(type))
            add(member, Object.getOwnPropertyDescriptor(type, member)?.value, [type, undefined], [])
          const own = [...objects, ...closed].filter((each) => each instanceof (type as never))
          for (const member of Object.getOwnPropertyNames(type.prototype)) {
            const { value: method } = Object.getOwnPropertyDescriptor(type.prototype, member) ?? {}
            add(member, method, [...own, ...own, ...own, ...objects, null], [])
          }
          targets.push({
            name: `new ${name}`,
            callable: (...args) => {
              Reflect.construct(type as never, args)
              assert.fail('a constructor made an object out of nothing')
            },
            selves: [undefined],
            firsts: [],
            share: 0.05,
          })
        }

        const memories = idsOf('memory')
        const RUNS = 20
        const total = targets.reduce((sum, { share }) => sum + share, 0)
        for (const { name, callable, selves, firsts, share } of targets) {
          const batch = Math.ceil((input.calls * share) / total / RUNS)
          await fc
            .assert(
              fc.asyncProperty(fc.integer({ min: 1 }), async (start) => {
                truncateSync(memoryOf('0000:01:00.0'), 16 * PAGE)
                // Xorshift: as random as this needs, and nothing beside the calls.
                let state = start
                const pick = (from: readonly unknown[]) => {
                  state ^= state << 13
                  state ^= state >>> 17
                  state ^= state << 5
                  return from[(state >>> 0) % from.length]
                }
                const COUNTS = [0, 1, 2, 3, 4, 4, 5, 6, 6, 7]
                const pending: unknown[] = []
                for (let i = 0; i < batch; i++) {
                  const args = Array.from({ length: pick(COUNTS) as number }, () => pick(pool))
                  // Seldom another number, or another object.
                  if (firsts.length > 0) {
                    args[0] = (state & 15) === 0 ? pick(pool) : pick(firsts)
                    if (name === 'iommufdMap') args[2] = pick(memories)
                    if (name === 'containerMapDma') args[1] = pick(memories)
                  }
                  const self = (state & 31) === 0 ? pick(pool) : pick(selves)
                  const outcome = attempt(() => Reflect.apply(callable, self, args))
                  if (outcome === undefined) continue
                  pending.push(outcome)
                  if (pending.length === 16) await Promise.all(pending.splice(0))
                }
                await Promise.all(pending)
                // What was closed is let go of in a turn of the loop.
                await new Promise(setImmediate)
              }),
              { seed: input.seed, numRuns: RUNS, endOnFailure: true },
            )
            .catch((error) => assert.fail(`${name}: ${error} ${error.cause}`))
        }
        closeAll(objects)
        assert(calls >= input.calls)
        assert(answered > calls / 20, `only ${answered} of ${calls} did anything`)
        console.log(
          `${calls} random calls of ${targets.length} functions of the addon, ${answered} answered (seed ${input.seed})`,
        )
      },
      { input: { seed: SEED, calls: CALLS }, deadline: DEADLINE_MS, descriptors: [stream] },
    )
    closeSync(stream)
    assert.match(stdout, /^\d{5,} random calls/)
    console.log(stdout.trim())
  })
})
