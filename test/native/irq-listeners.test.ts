import assert from 'node:assert/strict'
import { type FakeOptions, runSource } from './fake.js'

/**
 * In the source of a program: `enabled(n)` is a device with so many vectors of MSI-X. `signal(vector, count)` does what the
 * device would, and what is signalled in one go arrives as one batch. `turns(n)` lets the event loop go round.
 */
const ENABLED = `
const enabled = async (count = 4, address = '0000:01:00.0', number = 1) => {
  const { container, group } = openGroup(number)
  const device = await group.openDevice(address)
  const irq = device.irq('msix')
  irq.enable({ vectors: Array.from({ length: count }, (_, vector) => vector) })
  const signal = (vector, times = 1) => {
    const { vectors } = state().model.devices.find(({ name }) => name === address)
    fs.writeSync(new Map(vectors).get(vector), new BigUint64Array([BigInt(times)]))
  }
  return { container, group, device, irq, signal }
}
const turns = async (count = 3) => { for (let i = 0; i < count; i++) await new Promise(setImmediate) }
`

const passes = async (source: string, options: FakeOptions<unknown> = {}) => {
  const outcome = await runSource(ENABLED + source, [], { machine: {}, ...options })
  assert.deepEqual(
    { ...outcome, stderr: '' },
    { code: 0, signal: null, stdout: '', stderr: '' },
    outcome.stderr,
  )
}

describe('a listener', () => {
  it('that leaves in the middle of a batch leaves the rest to the next', () =>
    passes(`
      const { irq, signal } = await enabled()
      const heard = []
      const first = irq.onEvent((event) => { heard.push(event); first[Symbol.dispose]() })
      for (const vector of [0, 1, 2]) signal(vector, vector + 1)
      await turns()
      assert.deepEqual(heard, [{ vector: 0, count: 1 }])
      const second = irq.onEvent((event) => { heard.push(event) })
      await turns()
      assert.deepEqual(heard.slice(1).sort((a, b) => a.vector - b.vector), [{ vector: 1, count: 2 }, { vector: 2, count: 3 }])
      second[Symbol.dispose]()
    `))

  it('that another has put off hears nothing more, also of the same event', () =>
    passes(`
      const { irq, signal, device } = await enabled()
      const heard = []
      irq.onEvent(({ vector }) => { heard.push('first ' + vector); second[Symbol.dispose]() })
      const second = irq.onEvent(({ vector }) => { heard.push('second ' + vector) })
      const third = irq.onEvent(({ vector }) => { heard.push('third ' + vector) })
      signal(0)
      signal(1)
      await turns()
      assert.deepEqual(heard, ['first 0', 'third 0', 'first 1', 'third 1'])
      await device.close()
    `))

  it('that comes in a callback hears from the next event on', () =>
    passes(`
      const { irq, signal, device } = await enabled()
      const heard = []
      let added
      irq.onEvent(({ vector }) => {
        heard.push('first ' + vector)
        added ??= irq.onEvent(({ vector }) => { heard.push('second ' + vector) })
      })
      signal(0)
      signal(1)
      await turns()
      assert.deepEqual(heard, ['first 0', 'first 1', 'second 1'])
      await device.close()
    `))

  it('hears nothing of a vector from before it was turned off and on again', () =>
    passes(`
      for (const again of [(irq) => { irq.remove([1]); irq.add([1]) }, (irq) => irq.enable({ vectors: [0, 1] })]) {
        const { irq, signal, device, group } = await enabled(2)
        const heard = []
        irq.onEvent(({ vector, count }) => {
          heard.push([vector, count])
          if (heard.length === 1) again(irq)
        })
        signal(0)
        signal(1, 7)
        await turns()
        assert.deepEqual(heard, [[0, 1]])
        signal(1, 2)
        await turns()
        assert.deepEqual(heard, [[0, 1], [1, 2]])
        await group.close()
      }
    `))

  it('that throws does so as an uncaught exception, in its turn, and the others hear everything', () =>
    passes(`
      const { irq, signal, device } = await enabled()
      const caught = []
      process.on('uncaughtException', ({ message }) => caught.push(message))
      const heard = []
      irq.onEvent(({ vector }) => { throw new Error('thrown at ' + vector) })
      irq.onEvent(({ vector }) => { heard.push(vector) })
      for (let vector = 0; vector < 4; vector++) signal(vector)
      await turns()
      assert.deepEqual(heard, [0, 1, 2, 3])
      assert.deepEqual(caught, [0, 1, 2, 3].map((vector) => 'thrown at ' + vector))
      await device.close()
    `))

  it('that closes its device ends that one for all, and no other', () =>
    passes(`
      const first = await enabled(3)
      const second = await enabled(3, '0000:02:00.0', 2)
      const heard = []
      let closing
      first.irq.onEvent(({ vector }) => { heard.push('a' + vector); closing ??= first.device.close() })
      first.irq.onEvent(({ vector }) => { heard.push('b' + vector) })
      second.irq.onEvent(({ vector }) => { heard.push('c' + vector) })
      for (const vector of [0, 1, 2]) { first.signal(vector); second.signal(vector) }
      await turns()
      await closing
      assert.deepEqual(heard.sort(), ['a0', 'c0', 'c1', 'c2'])
      await second.device.close()
    `))

  it('that is the last and cannot take its eventfds out of the poll handle loses nothing', () =>
    passes(`
      const { irq, signal, device } = await enabled(2)
      const other = device.irq('req')
      other.enable()
      const requests = []
      other.onEvent(({ count }) => requests.push(count))
      const first = irq.onEvent(() => assert.fail('it has left'))
      failNext('epollCtl', 12)
      failNext('epollCtl', 12)
      first[Symbol.dispose]()
      assert.equal(state().pending, 0)
      signal(0, 3)
      signal(1, 4)
      other.trigger()
      await turns(5)
      assert.deepEqual(requests, [1])
      const heard = []
      irq.onEvent(({ vector, count }) => { heard[vector] = (heard[vector] ?? 0) + count })
      await turns()
      assert.deepEqual(heard, [3, 4])
      await device.close()
    `))

  it('comes after one whose eventfds could not all be watched', () =>
    passes(`
      const { irq, signal, device } = await enabled(4)
      for (let skip = 0; skip < 4; skip++) {
        failNext('epollCtl', 28, skip)
        assert.equal((await failure(() => irq.onEvent(() => assert.fail('it does not listen')))).code, 'ENOSPC')
        assert.equal((await failure(() => { failNext('epollCtl', 28, skip); irq.events() })).code, 'ENOSPC')
      }
      for (let vector = 0; vector < 4; vector++) signal(vector, vector + 1)
      await turns()
      const heard = []
      const listener = irq.onEvent(({ vector, count }) => { heard[vector] = count })
      await turns()
      assert.deepEqual(heard, [1, 2, 3, 4])
      listener[Symbol.dispose]()
      await device.close()
    `))
})

describe('an iteration over interrupts', function () {
  this.timeout(110_000)

  it('that is left gives back what it has not read', () =>
    passes(`
      const { irq, signal } = await enabled()
      for (let vector = 0; vector < 4; vector++) signal(vector, vector + 1)
      const read = []
      for await (const event of irq.events()) { read.push(event); await turns(); break }
      for await (const event of irq.events()) { read.push(event); if (read.length === 4) break }
      assert.deepEqual(
        read.sort((a, b) => a.vector - b.vector),
        [0, 1, 2, 3].map((vector) => ({ vector, count: vector + 1 })),
      )
    `))

  it('that is aborted gives back what it has not read', () =>
    passes(`
      const { irq, signal, device } = await enabled()
      const controller = new AbortController()
      const events = irq.events({ signal: controller.signal })
      signal(1, 5)
      await turns()
      controller.abort()
      assert.equal((await failure(events.next())).name, 'AbortError')
      assert.deepEqual((await irq.events().next()).value, { vector: 1, count: 5 })
      await device.close()
    `))

  it('gives back nothing that others have heard, and nothing of a vector that is off', () =>
    passes(`
      const { irq, signal, device } = await enabled()
      const events = irq.events()
      signal(0, 2)
      signal(1, 3)
      await turns()
      const heard = []
      irq.onEvent(({ vector, count }) => { heard.push([vector, count]) })
      signal(0, 4)
      await turns()
      assert.deepEqual(heard, [[0, 4]])
      irq.remove([1])
      await events.return()
      await turns()
      assert.deepEqual(heard, [[0, 4], [0, 2]], 'what came before the callback did, once')
      await device.close()
    `))

  it('and callbacks one after the other hear everything once, however they take turns', async () => {
    const seed = 20_261_125
    await passes(
      `
      let random = input
      const below = (limit) => {
        random = (Math.imul(random, 1664525) + 1013904223) >>> 0
        return Math.floor((random / 2 ** 32) * limit)
      }
      const VECTORS = 12
      const { irq, signal, device } = await enabled(VECTORS)
      const fds = new Map(state().model.devices[0].vectors)
      const sent = new Array(VECTORS).fill(0)
      const heard = new Array(VECTORS).fill(0)
      let listening = 0
      let handOvers = 0
      const note = ({ vector, count }) => { heard[vector] += count }
      const send = () => {
        for (let i = below(VECTORS); i >= 0; i--) {
          const vector = below(VECTORS)
          const count = 1 + below(5)
          sent[vector] += count
          // As signal() does, without asking each time.
          fs.writeSync(fds.get(vector), new BigUint64Array([BigInt(count)]))
        }
      }
      let going = true
      /** Listens for a few events, and then another does. */
      const next = () => {
        if (!going) return
        assert.equal(listening++, 0)
        handOvers++
        let left = 1 + below(4)
        if (below(2) === 0) {
          const listener = irq.onEvent((event) => {
            note(event)
            if (--left > 0 && going) return
            listener[Symbol.dispose]()
            listening--
            if (below(3) === 0) setImmediate(next)
            else next()
          })
        } else {
          void (async () => {
            for await (const event of irq.events()) {
              note(event)
              if (below(3) === 0) await turns(1)
              if (--left <= 0 || !going) break
            }
            listening--
            next()
          })()
        }
      }
      next()
      for (let round = 0; round < 400; round++) { send(); await turns(1 + below(2)) }
      going = false
      // Whoever listens now leaves at the next event.
      while (listening > 0) { sent[0]++; signal(0); await turns() }
      const last = irq.onEvent(note)
      await turns(5)
      assert.deepEqual(heard, sent)
      assert(handOvers > 500, String(handOvers))
      last[Symbol.dispose]()
      await device.close()
    `,
      { input: seed, deadline: 100_000 },
    )
  })
})

describe('the async context of a listener', () => {
  it('is that in which it began to listen, for every kind of interrupt and device', () =>
    passes(`
      const { AsyncLocalStorage } = await import('node:async_hooks')
      const storage = new AsyncLocalStorage()
      const { device, irq, signal } = await enabled(2)
      const heard = []
      const note = (name) => () => { heard.push(name + ' in ' + storage.getStore()) }
      storage.run('A', () => irq.onEvent(note('msix A')))
      storage.run('B', () => irq.onEvent(note('msix B')))
      irq.onEvent(note('msix'))
      for (const name of ['err', 'req']) {
        storage.run('C', () => device.irq(name).enable())
        storage.run(name, () => device.irq(name).onEvent(note(name)))
        storage.run('D', () => device.irq(name).trigger())
      }
      storage.run('E', () => signal(0))
      await turns()
      assert.deepEqual(heard.sort(), ['err in err', 'msix A in A', 'msix B in B', 'msix in undefined', 'req in req'])
      await device.close()
    `))

  it('goes on in a loop over the events, also when somebody else aborts it', () =>
    passes(`
      const { AsyncLocalStorage } = await import('node:async_hooks')
      const storage = new AsyncLocalStorage()
      const { device, irq, signal } = await enabled(2)
      storage.run('first', () => irq.onEvent(() => {}))
      const controller = new AbortController()
      const heard = []
      const loop = storage.run('loop', async () => {
        try {
          for await (const { vector } of irq.events({ signal: controller.signal })) heard.push(vector + storage.getStore())
        } catch (error) { heard.push(error.name + ' ' + storage.getStore()) }
        finally { heard.push('finally ' + storage.getStore()) }
      })
      storage.run('device', () => { signal(0); signal(1) })
      await turns()
      storage.run('aborter', () => controller.abort())
      await loop
      assert.deepEqual(heard, ['0loop', '1loop', 'AbortError loop', 'finally loop'])
      await device.close()
    `))
})

describe('a batch of the poll handle', () => {
  it('has three words for each eventfd: key, count low, count high', () =>
    passes(`
      const { createRequire } = await import('node:module')
      const addon = createRequire(process.cwd() + '/')(process.env.VFIO_ADDON ?? './build/Release/vfio.node')
      const eventfds = [5, 0xffffffff, 0x80000000].map((key) => [key, addon.EventFd.create()])
      const got = []
      const poll = addon.Poll.open((count) => {
        const words = new Uint32Array(poll.batch)
        for (let i = 0; i < count; i++) got.push([...words.subarray(3 * i, 3 * i + 3)])
      })
      assert.equal(poll.batch.byteLength, 64 * 3 * 4)
      for (const [key, eventfd] of eventfds) poll.add(eventfd, key)
      poll.start()
      eventfds[0][1].signal(7)
      eventfds[1][1].signal(2 ** 52 + 3)
      eventfds[2][1].signal(2 ** 32)
      await turns()
      assert.deepEqual(got, [[5, 7, 0], [0xffffffff, 3, 2 ** 20], [0x80000000, 0, 1]])
      // No more than it has room for, and the rest right after.
      const more = Array.from({ length: 70 }, (_, key) => [key, addon.EventFd.create()])
      got.length = 0
      for (const [key, eventfd] of more) { poll.add(eventfd, key); eventfd.signal(1) }
      await turns()
      assert.deepEqual(got.map(([key]) => key), more.map(([key]) => key))
      poll.end()
      poll.closeNow()
    `))
})
