import assert from 'node:assert/strict'
import { withFake } from './fake.js'

const SEED = 20_261_125
const ROUNDS = 60

describe('long calls that are begun, aborted and closed at random', function () {
  this.timeout(120_000)

  it(`all settle, in order on each object, and what was opened is closed (seed ${SEED}, ${ROUNDS} rounds)`, async () => {
    await withFake(
      [
        { call: 'openDevice', returns: 'fd', when: 'gate' },
        { call: 'reset', when: 'gate' },
        { call: 'close', when: 'gate' },
      ],
      async ({ input, openGroup, log, letGo }) => {
        // Xorshift.
        let state = input.seed
        const random = (below: number) => {
          state ^= state << 13
          state ^= state >>> 17
          state ^= state << 5
          return (state >>> 0) % below
        }
        const turn = () => new Promise(setImmediate)
        let passed = 0
        /** How many calls are held back. */
        const held = () => log().filter((line) => /^(begin (6|11) |closing )/.test(line)).length - passed
        const letOneGo = () => {
          if (held() === 0) return
          passed++
          letGo()
        }

        interface Pending {
          readonly promise: Promise<unknown>
          readonly controller: AbortController
          settled: boolean
        }
        const pending: Pending[] = []
        const codes = new Set<string>()
        const follow = <T>(start: (signal: AbortSignal) => Promise<T>): Promise<T | undefined> => {
          const controller = new AbortController()
          const promise = start(controller.signal).catch((error) => {
            codes.add(error.code === 20 ? error.name : error.code)
            return undefined
          })
          const entry: Pending = { promise, controller, settled: false }
          promise.then(() => {
            entry.settled = true
          })
          pending.push(entry)
          return promise
        }
        const drop = (from: { closed: boolean }[]) =>
          from.splice(0, from.length, ...from.filter((each) => !each.closed))

        type Opened = ReturnType<typeof openGroup>
        type Device = Awaited<ReturnType<Opened['group']['openDevice']>>
        let devicesMade = 0
        const round = async (number: number) => {
          const opened = [1, 2, 3].map((group) => openGroup(group))
          const groups = opened.map(({ group }) => group)
          const containers = opened.map(({ container }) => container)
          const devices: Device[] = []
          const ways = [
            () => {
              const index = random(groups.length)
              const group = groups[index]
              if (!group) return
              // Each device has a name of its own, so that the log tells one from the other.
              const name = `${(devicesMade++).toString(16).padStart(4, '0')}:0${index + 1}:00.0`
              void follow((signal) => group.openDevice(name, { signal })).then((device) => {
                if (device) devices.push(device)
              })
            },
            () => {
              const device = devices[random(devices.length || 1)]
              if (device) void follow((signal) => device.reset({ signal }))
            },
            async () => {
              const entry = pending[random(pending.length || 1)]
              entry?.controller.abort()
              await turn()
              // At once, though nothing has gone on in the kernel.
              if (entry) assert(entry.settled || closing.has(entry), 'an abort waits for the kernel')
            },
            () => {
              const device = devices[random(devices.length || 1)]
              if (device) close(() => device.close())
            },
            () => {
              const some = [...groups, ...containers]
              // Seldom, because all that was opened from it goes with it.
              const object = some[random(some.length * 8)]
              if (object) close(() => object.close())
            },
            letOneGo,
            letOneGo,
            letOneGo,
            turn,
            turn,
          ]
          const closing = new Set<Pending>()
          const close = (work: () => Promise<void>) => {
            void follow(work)
            closing.add(pending.at(-1) as Pending)
          }
          for (let step = 0; step < 100; step++) {
            await ways[random(ways.length)]?.()
            drop(devices)
          }
          for (const object of [...groups, ...containers]) close(() => object.close())
          // Never more than is held, so that a round leaves nothing at the gate.
          let settled = false
          const all = Promise.all(pending.map(({ promise }) => promise)).then(() => {
            settled = true
          })
          while (!settled) {
            letOneGo()
            await turn()
          }
          await all
          pending.length = 0
          const lines = log()
          const count = (pattern: RegExp) => lines.filter((line) => pattern.test(line)).length
          assert.equal(count(/^close \d/), count(/^end 6 /), `devices of round ${number}`)
          assert.equal(count(/^close \//), count(/^open .* ok$/), `groups and containers of round ${number}`)
          assert.equal(held(), 0)
        }
        for (let number = 0; number < input.rounds; number++) await round(number)

        /** The calls on one object, in the order of the log. */
        const linesOf = (pattern: RegExp) => log().filter((line) => pattern.test(line))
        for (const bus of ['01', '02', '03']) {
          const opens = linesOf(new RegExp(`^(begin|end) 6 \\w{4}:${bus}:`))
          for (let i = 0; i < opens.length; i += 2) {
            const [begin = '', end = ''] = [opens[i], opens[i + 1]]
            assert.equal(begin.replace('begin', 'end'), end, 'one call at a time on a group')
          }
        }
        const resets = new Map<string, string>()
        for (const line of linesOf(/^(begin 11|end 11|closing) /)) {
          const [, what = '', name = ''] = /^(.*) (\S+)$/.exec(line) ?? []
          const before = resets.get(name) ?? 'end 11'
          assert.equal(before, what === 'end 11' ? 'begin 11' : 'end 11', `${line} after ${before}`)
          resets.set(name, what)
        }
        assert.deepEqual([...codes].sort(), ['AbortError', 'ERR_VFIO_CLOSED'])
        console.log(`${devicesMade} opens, ${linesOf(/^begin 11 /).length} resets`)
      },
      { input: { seed: SEED, rounds: ROUNDS }, deadline: 110_000 },
    ).then(({ stdout }) => console.log(stdout.trim()))
  })
})
