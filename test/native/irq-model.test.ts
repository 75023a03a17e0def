import assert from 'node:assert/strict'
import { sized } from '../fixtures/size.js'
import { type Machine, withFake } from './fake.js'

const SEED = 20_261_125
const RUNS = sized(150, 300, 50)
const DEADLINE_MS = sized(200_000, 1_200_000)

const MACHINES: Record<string, Machine> = {
  'Linux 6.12': { linux: '6.12', msix: 12, available: 10 },
  'Linux 5.10': { linux: '5.10', msix: 12, available: 10 },
  'a conventional PCI device': { linux: '6.12', msix: 0, msi: 1, err: 0 },
}

describe('the state of an interrupt', function () {
  this.timeout(DEADLINE_MS + 10_000)

  for (const [name, machine] of Object.entries(MACHINES)) {
    it(`is that of the kernel after every call, whatever fails, on ${name} (seed ${SEED}, ${RUNS} sequences)`, async () => {
      const { stdout } = await withFake(
        [],
        async ({ input, openGroup, state, failNext, failNoMore, vfio }) => {
          const { default: fc } = await import('fast-check')
          const { readdirSync, readlinkSync } = await import('node:fs')
          const KINDS = ['intx', 'msi', 'msix', 'err', 'req'] as const
          const eventfds = () =>
            readdirSync('/proc/self/fd').filter((fd) => {
              try {
                return readlinkSync(`/proc/self/fd/${fd}`) === 'anon_inode:[eventfd]'
              } catch {
                return false
              }
            }).length

          // `bad` is a descriptor, and none of an eventfd; `closed` is none at all.
          const eventfd = fc.constantFrom('first', 'second', 'bad', 'closed')
          const vector = fc.nat(11)
          const vectors = fc.uniqueArray(vector, { minLength: 1, maxLength: 4 })
          const own = fc.dictionary(fc.nat(11).map(String), eventfd, { maxKeys: 2 })
          const call = fc.oneof(
            { weight: 4, arbitrary: fc.record({ do: fc.constant('enable' as const), vectors, own }) },
            { weight: 4, arbitrary: fc.record({ do: fc.constant('add' as const), vectors, own }) },
            { weight: 4, arbitrary: fc.record({ do: fc.constant('remove' as const), vectors }) },
            { weight: 3, arbitrary: fc.record({ do: fc.constant('disable' as const) }) },
            {
              weight: 1,
              arbitrary: fc.record({ do: fc.constantFrom('mask', 'unmask', 'trigger' as const), vector }),
            },
            {
              weight: 2,
              arbitrary: fc.record({ do: fc.constant('resample' as const), to: fc.option(eventfd) }),
            },
            { weight: 2, arbitrary: fc.record({ do: fc.constant('listen' as const) }) },
            { weight: 2, arbitrary: fc.record({ do: fc.constant('leave' as const) }) },
          )
          const failure = fc.record({
            call: fc.constantFrom('*', 'setIrqs', 'eventfd', 'epollCtl', 'epollCreate' as const),
            errno: fc.constantFrom(5, 12, 22),
            skip: fc.nat(4),
          })
          const step = fc.record({
            kind: fc.constantFrom(...KINDS, 'err' as const, 'req' as const),
            call,
            failure: fc.option(failure, { freq: 2 }),
          })

          let calls = 0
          let failed = 0
          const { group } = openGroup()
          const property = fc.asyncProperty(
            fc.array(step, { minLength: 1, maxLength: 25, size: 'max' }),
            async (steps) => {
              const first = vfio.EventFd.create()
              const second = vfio.EventFd.create()
              const device = await group.openDevice('0000:01:00.0')
              const irqs = KINDS.flatMap((kind) => {
                try {
                  return [[kind, device.irq(kind)] as const]
                } catch {
                  // ERR, where it is not PCI Express.
                  return []
                }
              })
              const before = eventfds()
              const numbers = { first: first.fd, second: second.fd, bad: 0, closed: 9999 }
              const fdsOf = (own: Record<string, keyof typeof numbers>, count: number) =>
                new Map(
                  Object.entries(own)
                    .filter(([each]) => Number(each) < count)
                    .map(([each, which]) => [Number(each), numbers[which]]),
                )
              const listeners = new Map<string, Disposable>()
              let mine = new Map<string, Set<number>>()

              const check = (after: string) => {
                const { devices } = state().model
                assert.equal(devices.length, 1)
                const kernel = devices[0] as (typeof devices)[number]
                let ours = 0
                const owned = new Map<string, Set<number>>()
                for (const [kind, irq] of irqs) {
                  const at = KINDS.indexOf(kind)
                  const inKernel: [number, number][] =
                    kind === 'err' || kind === 'req'
                      ? kernel[kind] < 0
                        ? []
                        : [[0, kernel[kind]]]
                      : kernel.type === at
                        ? kernel.vectors
                        : []
                  assert.deepEqual(
                    irq.vectors,
                    inKernel.map(([vector]) => vector),
                    `${kind} after ${after}`,
                  )
                  const ofOurs = inKernel.filter(([, fd]) => fd !== numbers.first && fd !== numbers.second)
                  owned.set(kind, new Set(ofOurs.map(([vector]) => vector)))
                  ours += ofOurs.length
                }
                const isOn = kernel.type !== -1 || kernel.err >= 0 || kernel.req >= 0
                assert.equal(
                  (device as unknown as { handle: { hasEnabledIrqs: boolean } }).handle.hasEnabledIrqs,
                  isOn,
                  `on after ${after}`,
                )
                assert.equal(eventfds() - before, ours, `eventfds of ours after ${after}`)
                mine = owned
                return kernel
              }

              const run = (): void => {
                let kernel = check('nothing')
                for (const { kind, call, failure } of steps) {
                  const irq = irqs.find(([name]) => name === kind)?.[1]
                  if (!irq || irq.info.count === 0) continue
                  const some = (vectors: readonly number[]) => [
                    ...new Set(vectors.map((each) => each % irq.info.count)),
                  ]
                  if (failure) failNext(failure.call, failure.errno, failure.skip)
                  const told = JSON.stringify({ kind, call, failure })
                  let error: unknown
                  calls++
                  try {
                    if (call.do === 'enable')
                      irq.enable({ vectors: some(call.vectors), eventfds: fdsOf(call.own, irq.info.count) })
                    else if (call.do === 'add') {
                      irq.add(some(call.vectors))
                      const own = fdsOf(call.own, irq.info.count)
                      if (own.size > 0) irq.add(own)
                    } else if (call.do === 'remove') irq.remove(some(call.vectors))
                    else if (call.do === 'disable') irq.disable()
                    else if (call.do === 'resample') irq.resample(call.to && numbers[call.to])
                    else if (call.do === 'listen' && !listeners.has(kind))
                      listeners.set(
                        kind,
                        irq.onEvent(() => {}),
                      )
                    else if (call.do === 'leave') {
                      listeners.get(kind)?.[Symbol.dispose]()
                      listeners.delete(kind)
                    } else if (call.do === 'mask' || call.do === 'unmask' || call.do === 'trigger')
                      irq[call.do](call.vector % irq.info.count)
                  } catch (thrown) {
                    error = thrown
                    failed++
                    assert(thrown instanceof vfio.VfioError, `${told}: ${String(thrown)}`)
                  }
                  const hasFailed = failure !== null && state().pending === 0
                  failNoMore()
                  const was = kernel
                  kernel = check(told)
                  if (hasFailed) continue
                  // Nothing was in the way of these.
                  const isFree =
                    was.type === -1 || was.type === KINDS.indexOf(kind) || kind === 'err' || kind === 'req'
                  const isSound =
                    !('own' in call) ||
                    !Object.values(call.own).some((which) => which === 'bad' || which === 'closed')
                  const mayFail =
                    ['mask', 'unmask', 'trigger'].includes(call.do) ||
                    (call.do === 'resample' && call.to !== null) ||
                    (call.do === 'enable' && !(isFree && isSound)) ||
                    (call.do === 'enable' && kind !== 'err' && kind !== 'req' && input.few) ||
                    call.do === 'add'
                  if (!mayFail) assert.equal(error, undefined, told)
                  if (
                    call.do === 'add' &&
                    error !== undefined &&
                    !('own' in call && Object.keys(call.own).length > 0)
                  )
                    assert.deepEqual(kernel, was, told)
                }
                // What is left over can be turned off and on again, kind by kind.
                for (const [, irq] of irqs) irq.disable()
                kernel = check('the end')
                assert.deepEqual([kernel.type, kernel.err, kernel.req, kernel.unmask], [-1, -1, -1, -1])
                for (const [kind, irq] of irqs) {
                  if (irq.info.count === 0) continue
                  irq.enable()
                  assert.deepEqual(irq.vectors, [0], kind)
                  irq.trigger()
                  irq.remove([0])
                  irq.disable()
                  check(`${kind} once more`)
                }
                assert([...mine.values()].every(({ size }) => size === 0))
              }
              // A sequence that fails is shortened, and each of those begins with nothing.
              try {
                run()
              } finally {
                failNoMore()
                for (const listener of listeners.values()) listener[Symbol.dispose]()
                await device.close()
                await first.close()
                await second.close()
              }
            },
          )
          // Where the other eventfd is refused, and so is the old one: it is off, and can be turned on again.
          type Steps = typeof property extends import('fast-check').IAsyncProperty<[infer S]> ? S : never
          const lostOnce = (kind: 'err' | 'req'): Steps => [
            {
              kind,
              call: { do: 'add', vectors: [0], own: { 0: 'bad' } },
              failure: { call: 'setIrqs', errno: 5, skip: 2 },
            },
            { kind, call: { do: 'enable', vectors: [0], own: {} }, failure: null },
          ]
          await fc.assert(property, {
            ...{ seed: input.seed, numRuns: input.runs },
            examples: [[lostOnce('err')], [lostOnce('req')]],
          })
          assert(failed > calls / 20, `only ${failed} of ${calls} failed`)
          console.log(`${calls} calls, of which ${failed} failed`)
        },
        {
          input: { seed: SEED, runs: RUNS, few: (machine.available ?? 64) < (machine.msix ?? 16) },
          machine,
          deadline: DEADLINE_MS,
        },
      )
      assert.match(stdout, /^\d{3,} calls/)
      console.log(stdout.trim())
    })
  }
})
