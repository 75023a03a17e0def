import assert from 'node:assert/strict'
import { type FakeAnswer, runSource } from './fake.js'

/** In the source of a program: `open(n)` is the device of a group, and `held()` what of the kernel's is open, whoever has it. */
const OPEN = `
const at = (number) => '0000:0' + number + ':00.0'
const seen = {
  device: (address) => ({ address, group: Number(address[6]) }),
  group: () => ({ noIommu: false }),
}
const open = (number = 1, options = {}) => vfio.openDevice(at(number), { seen, ...options })
const held = () => {
  const { containers, groups, devices } = state().model
  return [containers, groups, devices].map((all) => all.filter(({ open }) => open).map(({ name }) => name).sort())
}
const ONE = [['vfio'], ['1'], [at(1)]]
const NOTHING = [[], [], []]
`

const passes = async (source: string, answers: readonly FakeAnswer[] = []) => {
  const outcome = await runSource(OPEN + source, answers, { machine: {} })
  assert.deepEqual(
    { ...outcome, stderr: '' },
    { code: 0, signal: null, stdout: '', stderr: '' },
    outcome.stderr,
  )
}

describe('opening a device', function () {
  this.timeout(30_000)

  it('that fails at any of its calls says what failed first and leaves nothing open', () =>
    passes(`
      const descriptors = () => fs.readdirSync('/proc/self/fd').length
      await (await open()).close()
      const before = descriptors()
      let steps = 0
      for (;; steps++) {
        // And again while it is put back: that is not what the caller has to know.
        failNext('*', 5, steps)
        failNext('unsetContainer', 16)
        const opened = await open().catch((error) => error)
        if (!(opened instanceof Error)) {
          const isOver = state().pending === 2
          failNoMore()
          assert.deepEqual(held(), ONE)
          await opened.close()
          // It may do without what the IOMMU says of itself.
          if (isOver) break
          continue
        }
        assert.equal(opened.code, 'EIO', 'step ' + steps)
        failNoMore()
        assert.deepEqual(held(), NOTHING, 'step ' + steps)
        assert.equal(descriptors(), before, 'step ' + steps)
      }
      assert(steps >= 6, String(steps))
      // What the caller is called back with may throw too.
      const error = new Error('no')
      assert.equal(await failure(open(1, { onGroup: () => { throw error } })), error)
      assert.deepEqual(held(), NOTHING)
    `))

  it('that is aborted leaves nothing open', () =>
    passes(`
      const controller = new AbortController()
      const opening = open(1, { signal: controller.signal })
      controller.abort()
      assert.equal((await failure(opening)).name, 'AbortError')
      // At the latest when the call that ran has ended.
      while (held().flat().length > 0) await new Promise(setImmediate)
      await (await open()).close()
    `))
})

describe('a device that is handed over', function () {
  this.timeout(30_000)

  it('is received whole or not at all', () =>
    passes(`
      const opened = await open()
      const handed = await opened.handOver()
      assert.deepEqual(structuredClone(handed), handed)
      const { container, group, device } = handed
      const wrong = [
        { ...handed, group: { ...group, offer: 12345 } },
        { ...handed, container: { ...container, offer: device.offer + 1 } },
        { ...handed, device: { ...device, offer: 0 } },
        { ...handed, group: { ...group, offer: String(group.offer) } },
        { ...handed, group: { offer: group.offer } },
        { ...handed, device: undefined },
        { ...handed, container: null },
        { ...handed, container: 7 },
        { ...handed, address: 'nonsense' },
        { ...handed, address: undefined },
        ...[0, -1, NaN, 2 ** 60, 0.5].map((offer) => ({
          ...handed,
          container: { ...container, offer }, group: { ...group, offer }, device: { ...device, offer },
        })),
        null, undefined, 'text', {}, [],
      ]
      for (const each of wrong) {
        assert((await failure(() => vfio.receiveDevice(each))) instanceof vfio.VfioError, JSON.stringify(each))
        assert.deepEqual(held(), ONE, JSON.stringify(each))
      }
      const received = vfio.receiveDevice(handed)
      assert.equal(received.group.container, received.container)
      assert.equal(received.dma, received.container.dma)
      assert.equal((await failure(() => vfio.receiveDevice(handed))).code, 'ERR_VFIO_BAD_ARGUMENT')
      received.device.irq('msix').enable({ vectors: [0, 1] })
      await received.container.dma.map(vfio.DmaBuffer.allocate(4096))
      await received.close()
      assert.deepEqual(held(), NOTHING)
    `))

  it('does not mix with another', () =>
    passes(`
      const first = await (await open(1)).handOver()
      const second = await (await open(2)).handOver()
      for (const part of ['container', 'group', 'device'])
        assert.equal((await failure(() => vfio.receiveDevice({ ...first, [part]: second[part] }))).code, 'ERR_VFIO_BAD_ARGUMENT')
      const received = [vfio.receiveDevice(first), vfio.receiveDevice(second)]
      assert.deepEqual(received.map(({ device }) => device.address), [at(1), at(2)])
      for (const each of received) await each.close()
      assert.deepEqual(held(), NOTHING)
    `))

  it('is there again where the addon could not make the objects', () =>
    passes(`
      const { createRequire } = await import('node:module')
      const handed = await (await open()).handOver()
      const addon = createRequire(process.cwd() + '/')(process.env.VFIO_ADDON ?? './build/Release/vfio.node')
      // The addon calls the constructor; that it is new is seen by its number being set.
      for (const nth of [1, 2, 3]) {
        let objects = 0
        Object.defineProperty(Object.prototype, 'id', { configurable: true, get: () => undefined, set(value) {
          if (++objects === nth) throw new Error('no room')
          Object.defineProperty(this, 'id', { value })
        } })
        const error = await failure(() => addon.accept(handed.device.offer))
        delete Object.prototype.id
        assert.equal(error.message, 'no room')
        assert.deepEqual(held(), ONE)
      }
      const received = vfio.receiveDevice(handed)
      await received.close()
      assert.deepEqual(held(), NOTHING)
    `))

  it('goes to one of the threads that want it', () =>
    passes(`
      const { Worker } = await import('node:worker_threads')
      const handed = await (await open()).handOver()
      const program = \`
        import { parentPort, workerData } from 'node:worker_threads'
        import * as vfio from \${JSON.stringify(import.meta.resolve('vfio'))}
        try {
          const opened = vfio.receiveDevice(workerData)
          opened.device.irq('req').enable()
          await opened.close()
          parentPort.postMessage('received')
        } catch (error) { parentPort.postMessage(error.code) }\`
      const answers = await Promise.all(Array.from({ length: 3 }, () => new Promise((resolve, reject) => {
        const worker = new Worker(new URL('data:text/javascript,' + encodeURIComponent(program)), { workerData: handed })
        worker.once('message', resolve).once('error', reject)
      })))
      assert.deepEqual(answers.sort(), ['ERR_VFIO_BAD_ARGUMENT', 'ERR_VFIO_BAD_ARGUMENT', 'received'])
      assert.deepEqual(held(), NOTHING)
    `))

  it('and never received can be taken back by whoever handed it over', () =>
    passes(`
      const opened = await open()
      const handed = await opened.handOver()
      assert.equal(opened.device.closed && opened.group.closed && opened.container.closed, true)
      await opened.close()
      assert.deepEqual(held(), ONE)
      await vfio.receiveDevice(handed).close()
      assert.deepEqual(held(), NOTHING)
    `))

  it('is closed, all of it, where the addon cannot offer it', () =>
    passes(`
      const opened = await open()
      opened.device.handle.raw.closeNow()
      assert.equal((await failure(opened.handOver())).code, 'ERR_VFIO_CLOSED')
      assert.deepEqual(held(), NOTHING)
      await opened.close()
    `))

  it('stays open here, all of it, where that is refused', () =>
    passes(`
      const opened = await open()
      const { container, group, device } = opened
      const refused = async (because, undo) => {
        const error = await failure(opened.handOver())
        assert.equal(error.code, 'ERR_VFIO_IN_USE')
        assert.match(error.message, because)
        assert.deepEqual([container, group, device].map(({ closed }) => closed), [false, false, false])
        device.info()
        group.status()
        container.apiVersion()
        await undo()
      }
      for (const name of ['intx', 'msix', 'err', 'req']) {
        device.irq(name).enable()
        await refused(/an interrupt is enabled/, () => device.irq(name).disable())
      }
      // The kernel has set up vectors for it, used or not; of ERR and REQ it has nothing then.
      device.irq('msi').enable({ vectors: [0, 1] })
      device.irq('msi').remove([0, 1])
      await refused(/an interrupt is enabled/, () => device.irq('msi').disable())
      device.irq('req').enable()
      device.irq('req').remove([0])
      const buffer = vfio.DmaBuffer.allocate(4096)
      const mapping = await container.dma.map(buffer)
      await refused(/memory is mapped/, () => mapping.unmap())
      const sibling = await group.openDevice('0000:01:00.1')
      await refused(/another device of its group/, () => sibling.close())
      const second = vfio.VfioGroup.open(2)
      second.setContainer(container)
      await refused(/another group/, () => second.close())
      const handed = await opened.handOver()
      assert.equal((await failure(opened.handOver())).code, 'ERR_VFIO_CLOSED')
      await vfio.receiveDevice(handed).close()
      assert.deepEqual(held(), NOTHING)
    `))

  it('waits for the calls that run and those that wait', () =>
    passes(
      `
      const opened = await open()
      const ended = []
      for (const name of ['first', 'second']) void opened.device.reset().then(() => ended.push(name))
      const handing = opened.handOver().then((handed) => { ended.push('handed over'); return handed })
      await logged('begin 11 ' + at(1))
      await new Promise(setImmediate)
      assert.deepEqual([ended, opened.device.closed], [[], false])
      letGo(2)
      const handed = await handing
      assert.deepEqual(ended, ['first', 'second', 'handed over'])
      await vfio.receiveDevice(handed).close()
      assert.deepEqual(held(), NOTHING)
    `,
      [{ call: 'reset', when: 'gate', returns: 'model' }],
    ))

  it('is refused where a call that ran has opened something more', () =>
    passes(
      `
      const opened = await open()
      const opening = opened.group.openDevice('0000:01:00.1')
      await logged('begin 6 0000:01:00.1')
      const refused = failure(opened.handOver())
      letGo()
      const error = await refused
      assert.equal(error.code, 'ERR_VFIO_IN_USE')
      assert.match(error.message, /another device of its group/)
      await (await opening).close()
      await vfio.receiveDevice(await opened.handOver()).close()
      assert.deepEqual(held(), NOTHING)
    `,
      [
        { call: 'openDevice', returns: 'model' },
        { call: 'openDevice', when: 'gate', returns: 'model' },
      ],
    ))

  it('or closed, whichever was called first', () =>
    passes(
      `
      // Closed first.
      const first = await open(1)
      const closing = first.close()
      assert.equal((await failure(first.handOver())).code, 'ERR_VFIO_CLOSED')
      await closing
      assert.deepEqual(held(), NOTHING)
      // One part of it closed while it waits for a call.
      for (const close of [
        ({ device }) => device.close(), ({ group }) => group.close(), ({ container }) => container.close(),
        (opened) => opened.close(), ({ device }) => { device[Symbol.dispose]() },
      ]) {
        const opened = await open(1)
        const begun = log().filter((line) => line === 'begin 11 ' + at(1)).length
        const reset = opened.device.reset()
        await logged('begin 11 ' + at(1), begun + 1)
        const handing = failure(opened.handOver())
        const closed = close(opened)
        assert.equal((await handing).code, 'ERR_VFIO_CLOSED')
        letGo()
        await reset
        await closed
        await opened.close()
        assert.deepEqual(held(), NOTHING)
      }
      // Handed over first.
      const last = await open(1)
      const handing = last.handOver()
      await last.close()
      const handed = await handing
      assert.deepEqual(held(), ONE)
      await vfio.receiveDevice(handed).close()
      assert.deepEqual(held(), NOTHING)
    `,
      [{ call: 'reset', when: 'gate', returns: 'model' }],
    ))
})
