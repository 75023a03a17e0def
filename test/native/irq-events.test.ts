import assert from 'node:assert/strict'
import { bytes } from './bytes.js'
import { type FakeAnswer, OPENS, runSource, withFake } from './fake.js'

const MSIX: FakeAnswer = { call: 'irqInfo', bytes: bytes().u32(16, 1, 0, 100).done() }

/**
 * In the source of a program: `enabled(n)` is a device with so many vectors of MSI-X, and `signal(vector, count)` does what
 * the kernel would, by the descriptors that it was given.
 */
const ENABLED = `
const enabled = async (count = 4, address = '0000:01:00.0', number = 1) => {
  const { container, group } = openGroup(number)
  const device = await group.openDevice(address)
  const irq = device.irq('msix')
  irq.enable({ vectors: Array.from({ length: count }, (_, vector) => vector) })
  const fds = asked().at(-1).split(' fds ')[1].split(' ').map(Number)
  const signal = (vector, times = 1) => fs.writeSync(fds[vector], new BigUint64Array([BigInt(times)]))
  return { container, group, device, irq, signal }
}
`

const passes = async (source: string, environment: Record<string, string> = {}) => {
  const outcome = await runSource(ENABLED + source, [OPENS, MSIX], { environment })
  assert.deepEqual(
    { ...outcome, stderr: '' },
    { code: 0, signal: null, stdout: '', stderr: '' },
    outcome.stderr,
  )
}

describe('events of an interrupt', () => {
  it('arrive at callbacks with vector and count', () =>
    passes(`
      const { irq, signal } = await enabled()
      const events = []
      await new Promise((resolve) => {
        const listener = irq.onEvent((event) => {
          events.push(event)
          if (events.length < 3) return
          listener[Symbol.dispose]()
          listener[Symbol.dispose]()
          resolve()
        })
        signal(2, 5)
        signal(0)
        signal(3, 0xfffffff)
      })
      events.sort((a, b) => a.vector - b.vector)
      assert.deepEqual(events, [{ vector: 0, count: 1 }, { vector: 2, count: 5 }, { vector: 3, count: 0xfffffff }])
    `))

  it('arrive at iterations, one after the other, and add up while nobody asks', () =>
    passes(`
      const { irq, signal } = await enabled()
      const events = irq.events()
      const first = events.next()
      signal(1)
      assert.deepEqual(await first, { done: false, value: { vector: 1, count: 1 } })
      // Each in a turn of its own.
      for (let i = 0; i < 5; i++) {
        signal(2)
        await new Promise((resolve) => { const once = irq.onEvent(() => { once[Symbol.dispose](); resolve() }) })
      }
      assert.deepEqual(await events.next(), { done: false, value: { vector: 2, count: 5 } })
      const waiting = [events.next(), events.next()]
      signal(3)
      assert.deepEqual((await waiting[0]).value, { vector: 3, count: 1 })
      assert.deepEqual(await events.return(), { done: true, value: undefined })
      assert.deepEqual(await waiting[1], { done: true, value: undefined })
      assert.deepEqual(await events.next(), { done: true, value: undefined })
      await events[Symbol.asyncDispose]()
    `))

  it('that come while nobody listens are delivered to the first who does', () =>
    passes(`
      const { irq, signal } = await enabled()
      signal(1, 2)
      signal(1, 3)
      for await (const event of irq.events()) {
        assert.deepEqual(event, { vector: 1, count: 5 })
        break
      }
      signal(0)
      await new Promise((resolve) => setTimeout(resolve, 20))
      for await (const event of irq.events()) {
        assert.deepEqual(event, { vector: 0, count: 1 })
        break
      }
    `))

  it('of a vector that is added again are not lost', () =>
    passes(`
      const { irq, signal } = await enabled()
      signal(1, 3)
      const asks = asked().length
      irq.add([1])
      assert.equal(asked().length, asks)
      const events = irq.events()
      assert.deepEqual((await events.next()).value, { vector: 1, count: 3 })
      await events.return()
    `))

  it('of a hundred vectors at once arrive, all of them once', () =>
    passes(`
      const { irq, signal } = await enabled(100)
      const counts = new Map()
      let calls = 0
      await new Promise((resolve) => {
        const listener = irq.onEvent(({ vector, count }) => {
          counts.set(vector, (counts.get(vector) ?? 0) + count)
          if (++calls === 100) { listener[Symbol.dispose](); resolve() }
        })
        for (let vector = 0; vector < 100; vector++) signal(vector, vector + 1)
      })
      for (let vector = 0; vector < 100; vector++) assert.equal(counts.get(vector), vector + 1)
    `))

  it('go to all who listen, whatever one of them throws', () =>
    passes(`
      const { irq, signal } = await enabled()
      const caught = []
      process.on('uncaughtException', (error) => caught.push(error.message))
      const heard = []
      irq.onEvent(({ vector }) => { throw new Error('first ' + vector) })
      irq.onEvent(({ vector }) => { heard.push(vector) })
      irq.onEvent(({ vector }) => { throw new Error('third ' + vector) })
      const events = irq.events()
      signal(0)
      signal(1)
      assert.deepEqual([(await events.next()).value.vector, (await events.next()).value.vector].sort(), [0, 1])
      await new Promise(setImmediate)
      assert.deepEqual(heard.sort(), [0, 1])
      assert.deepEqual(caught.sort(), ['first 0', 'first 1', 'third 0', 'third 1'])
      signal(2)
      assert.deepEqual((await events.next()).value, { vector: 2, count: 1 })
      process.exit()
    `))

  it('end with an abort, with its reason, and not for others', () =>
    passes(`
      const { irq, signal } = await enabled()
      const others = irq.events()
      const controller = new AbortController()
      const reason = new Error('enough')
      const loop = (async () => {
        for await (const event of irq.events({ signal: controller.signal })) assert.fail(String(event))
      })()
      setImmediate(() => controller.abort(reason))
      assert.equal(await failure(loop), reason)
      assert.equal(await failure(() => irq.events({ signal: controller.signal })), reason)
      const late = new AbortController()
      const events = irq.events({ signal: late.signal })
      late.abort(reason)
      assert.equal(await failure(events.next()), reason)
      assert.deepEqual(await events.next(), { done: true, value: undefined })
      signal(3)
      assert.equal((await others.next()).value.vector, 3)
      await others.return()
    `))

  it('end when the device is closed, and what has come is still there', () =>
    passes(`
      for (const close of [(it) => it.device.close(), (it) => it.group.close(), (it) => it.device[Symbol.dispose]()]) {
        const it = await enabled()
        const { irq, signal } = it
        let called = 0
        const listener = irq.onEvent(() => called++)
        const waiting = irq.events()
        const next = waiting.next()
        const full = irq.events()
        signal(1)
        assert.equal((await next).value.vector, 1)
        const last = waiting.next()
        await close(it)
        assert.deepEqual(await last, { done: true, value: undefined })
        assert.deepEqual(await full.next(), { done: false, value: { vector: 1, count: 1 } })
        assert.deepEqual(await full.next(), { done: true, value: undefined })
        listener[Symbol.dispose]()
        assert.equal(called, 1)
        for (const call of [() => irq.events(), () => irq.onEvent(() => {}), () => irq.enable(), () => irq.disable()])
          assert.equal((await failure(call)).code, 'ERR_VFIO_CLOSED')
      }
    `))

  it('of a vector that a callback turns off come no more', () =>
    passes(`
      const { irq, signal } = await enabled()
      const heard = []
      await new Promise((resolve) => {
        irq.onEvent(({ vector }) => {
          heard.push(vector)
          irq.disable()
          setImmediate(resolve)
        })
        signal(0)
        signal(1)
      })
      assert.equal(heard.length, 1)
      irq.enable()
      process.exit()
    `))

  it('come after callbacks that close the device, or listen anew', () =>
    passes(`
      const { device, irq, signal } = await enabled()
      await new Promise((resolve) => {
        const first = irq.onEvent(() => {
          first[Symbol.dispose]()
          irq.onEvent(() => device.close().then(resolve))
          signal(1)
        })
        signal(0)
      })
    `))

  it('of two devices go each to its own', () =>
    passes(`
      const first = await enabled(2, '0000:01:00.0')
      const second = await enabled(2, '0000:02:00.0', 2)
      const heard = []
      await new Promise((resolve) => {
        const done = () => { if (heard.length === 3) resolve() }
        first.irq.onEvent(({ vector, count }) => { heard.push(['first', vector, count]); done() })
        second.irq.onEvent(({ vector, count }) => { heard.push(['second', vector, count]); done() })
        first.signal(0, 2)
        first.signal(1)
        second.signal(1, 3)
      })
      assert.deepEqual(heard.sort(), [['first', 0, 2], ['first', 1, 1], ['second', 1, 3]])
      await first.group.close()
      second.signal(0)
      for await (const { vector } of second.irq.events()) {
        assert.equal(vector, 0)
        break
      }
      await second.group.close()
    `))

  it('of the eventfds of a caller are not read here', () =>
    passes(`
      const { irq } = await enabled()
      const own = vfio.EventFd.create()
      irq.enable({ vectors: [0], eventfds: new Map([[1, own]]) })
      const fds = asked().at(-1).split(' fds ')[1].split(' ').map(Number)
      const events = irq.events()
      own.signal(7)
      fs.writeSync(fds[0], new BigUint64Array([1n]))
      assert.deepEqual((await events.next()).value, { vector: 0, count: 1 })
      assert.equal(own.read(), 7)
      await events.return()
    `))

  it('come again after there was no descriptor left to listen with', () =>
    passes(
      `
      const { execFileSync } = await import('node:child_process')
      const { irq, signal } = await enabled(1)
      execFileSync('prlimit', ['--pid', String(process.pid), '--nofile=256'])
      const all = []
      const exhausted = await failure(() => { for (;;) all.push(vfio.EventFd.create()) })
      assert.equal(exhausted.code, 'EMFILE')
      assert.equal((await failure(() => irq.onEvent(() => {}))).code, 'EMFILE')
      assert.equal((await failure(() => irq.events())).code, 'EMFILE')
      for (const eventfd of all) eventfd[Symbol.dispose]()
      signal(0)
      for await (const { vector } of irq.events()) {
        assert.equal(vector, 0)
        break
      }
    `,
      // The sanitizer needs descriptors of its own, to look whether memory is there.
      { VFIO_ADDON: '' },
    ))
})

describe('who listens to an interrupt', () => {
  const LISTEN = `
    const { irq, signal, device } = await enabled()
    // So that no garbage collection closes it first, and says so.
    globalThis.held = device
    process.on('exit', () => console.log('ended'))
  `
  it('keeps the process alive', async () => {
    const source = `${LISTEN}
      const timer = setTimeout(() => { signal(0) }, 50).unref()
      void timer
      irq.onEvent(() => { console.log('heard'); process.exit() })
      setInterval(() => signal(0), 10).unref()`
    const outcome = await runSource(ENABLED + source, [OPENS, MSIX])
    assert.deepEqual(outcome, { code: 0, signal: null, stdout: 'heard\nended\n', stderr: '' })
  })

  const ENDS: Record<string, string> = {
    'after unref()': 'irq.onEvent(() => {}); irq.unref()',
    'after unref() before': 'irq.unref(); irq.onEvent(() => {})',
    'when it listens no more': 'irq.onEvent(() => {})[Symbol.dispose]()',
    'when its iteration was left': 'const events = irq.events(); await events.return()',
    'when the device is closed': 'irq.onEvent(() => {}); await device.close()',
    'when nobody listened': '',
    'after ref() and unref()': 'irq.onEvent(() => {}); irq.unref().ref().unref()',
  }
  for (const [when, listen] of Object.entries(ENDS)) {
    it(`lets it end ${when}`, async () => {
      const outcome = await runSource(`${ENABLED}${LISTEN}${listen}`, [OPENS, MSIX])
      assert.deepEqual(outcome, { code: 0, signal: null, stdout: 'ended\n', stderr: '' })
    })
  }

  it('keeps it alive for one kind of interrupt when another lets go', async () => {
    const source = `${LISTEN}
      const other = device.irq('req')
      other.enable()
      other.unref().onEvent(() => {})
      irq.onEvent(() => { console.log('heard'); process.exit() })
      setInterval(() => signal(0), 10).unref()`
    const outcome = await runSource(ENABLED + source, [OPENS, MSIX])
    assert.equal(outcome.stdout, 'heard\nended\n')
  })
})

describe('an event of an interrupt', () => {
  it('reaches the async context of its own, and microtasks run after each batch', async () => {
    await withFake([OPENS, MSIX], async ({ openGroup, asked }) => {
      const { writeSync } = await import('node:fs')
      const { AsyncLocalStorage } = await import('node:async_hooks')
      const device = await openGroup().group.openDevice('0000:01:00.0')
      const irq = device.irq('msix')
      irq.enable()
      const fd = Number(asked().at(-1)?.split(' ').at(-1))
      const storage = new AsyncLocalStorage<string>()
      await storage.run('mine', async () => {
        const events = irq.events()
        writeSync(fd, new BigUint64Array([1n]))
        await events.next()
        assert.equal(storage.getStore(), 'mine')
        await events.return?.()
      })
    })
  })
})
