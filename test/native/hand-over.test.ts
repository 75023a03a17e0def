import assert from 'node:assert/strict'
import { type FakeAnswer, runSource } from './fake.js'

const BACKENDS = ['group', 'iommufd'] as const
type Backend = (typeof BACKENDS)[number]

/** In the source of a program: `open(n)` is the device of a group, and `held()` what of the kernel's is open, whoever has it. */
const OPEN = `
const at = (number) => '0000:0' + number + ':00.0'
// As the model has them: two for each group.
const node = (number) => 'vfio' + 2 * (number - 1)
const byGroup = BACKEND === 'group'
const seen = {
  device: (address) => ({ address, group: Number(address[6]), vfioDevice: byGroup ? null : node(Number(address[6])) }),
  group: () => ({ noIommu: false }),
}
const open = async (number = 1, options = {}) => {
  const opened = await vfio.openDevice(at(number), { seen, ...options })
  assert.equal(opened.backend, BACKEND)
  return opened
}
const named = (number) => byGroup ? at(number) : '/dev/vfio/devices/' + node(number)
const held = () => {
  const { containers, groups, devices, iommufds } = state().model
  return [containers, groups, devices, iommufds].map((all) => all.filter(({ open }) => open).map(({ name }) => name).sort())
}
const ONE = byGroup ? [['vfio'], ['1'], [at(1)], []] : [[], [], [node(1)], ['iommu']]
const NOTHING = [[], [], [], []]
const FILES = byGroup ? ['container', 'group', 'device'] : ['iommufd', 'device']
const PARTS = byGroup ? FILES : ['iommufd', 'ioas', 'device']
`

const runs = async (backend: Backend, source: string, answers: readonly FakeAnswer[] = []) => {
  const outcome = await runSource(`const BACKEND = '${backend}'\n${OPEN}${source}`, answers, { machine: {} })
  assert.deepEqual(
    { ...outcome, stderr: '' },
    { code: 0, signal: null, stdout: '', stderr: '' },
    outcome.stderr,
  )
}

for (const backend of BACKENDS) {
  const passes = (source: string, answers: readonly FakeAnswer[] = []) => runs(backend, source, answers)

  describe(`opening a device by ${backend}`, function () {
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
        failNext(byGroup ? 'unsetContainer' : 'destroy', 16)
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
      assert(steps >= (byGroup ? 6 : 5), String(steps))
      // What the caller is called back with may throw too.
      const error = new Error('no')
      if (byGroup) assert.equal(await failure(open(1, { onGroup: () => { throw error } })), error)
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

  describe(`a device by ${backend} that is handed over`, function () {
    this.timeout(30_000)

    it('is received whole or not at all', () =>
      passes(`
      const opened = await open()
      const handed = await opened.handOver()
      assert.deepEqual(structuredClone(handed), handed)
      const { device } = handed
      const wrong = [
        ...FILES.flatMap((name) => [
          { ...handed[name], offer: 12345 },
          { ...handed[name], offer: device.offer + 1 },
          { ...handed[name], offer: 0 },
          { ...handed[name], offer: String(device.offer) },
          { offer: device.offer },
          { name: 7, offer: device.offer },
          undefined, null, 7,
        ].map((part) => ({ ...handed, [name]: part }))),
        { ...handed, address: 'nonsense' },
        { ...handed, address: undefined },
        { ...handed, backend: undefined },
        { ...handed, backend: byGroup ? 'iommufd' : 'group' },
        ...(byGroup ? [] : ['ioas', 'devid'].flatMap((name) => [undefined, -1, '1'].map((value) => ({ ...handed, [name]: value })))),
        ...[0, -1, NaN, 2 ** 60, 0.5].map((offer) => ({
          ...handed, ...Object.fromEntries(FILES.map((name) => [name, { ...handed[name], offer }])),
        })),
        null, undefined, 'text', {}, [],
      ]
      for (const each of wrong) {
        assert((await failure(() => vfio.receiveDevice(each))) instanceof vfio.VfioError, JSON.stringify(each))
        assert.deepEqual(held(), ONE, JSON.stringify(each))
      }
      const received = vfio.receiveDevice(handed)
      assert.equal(received.backend, BACKEND)
      if (byGroup) assert.equal(received.group.container, received.container)
      else assert.equal(received.ioas.iommufd, received.iommufd)
      assert.equal(received.dma, (byGroup ? received.container : received.ioas).dma)
      assert.equal((await failure(() => vfio.receiveDevice(handed))).code, 'ERR_VFIO_BAD_ARGUMENT')
      received.device.irq('msix').enable({ vectors: [0, 1] })
      await received.dma.map(vfio.DmaBuffer.allocate(4096))
      await received.close()
      assert.deepEqual(held(), NOTHING)
    `))

    it('does not mix with another', () =>
      passes(`
      const first = await (await open(1)).handOver()
      const second = await (await open(2)).handOver()
      for (const part of FILES)
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
      for (const [i] of FILES.entries()) {
        const nth = i + 1
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
      assert(PARTS.every((name) => opened[name].closed))
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
      passes(
        `
      const opened = await open()
      const { container, group, device, iommufd, ioas } = opened
      const refused = async (because, undo) => {
        const error = await failure(opened.handOver())
        assert.equal(error.code, 'ERR_VFIO_IN_USE')
        assert.match(error.message, because)
        assert(!PARTS.some((name) => opened[name].closed))
        device.info()
        if (byGroup) {
          group.status()
          container.apiVersion()
        } else ioas.ranges()
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
      const shared = await device.dmaBuf('bar2', { ranges: [{ offset: 0, length: 4096 }] })
      await refused(/while a dma-buf of .* is open: close that first/, () => shared.close())
      const buffer = vfio.DmaBuffer.allocate(4096)
      const mapping = await opened.dma.map(buffer)
      await refused(/memory is mapped/, () => mapping.unmap())
      if (byGroup) {
        const sibling = await group.openDevice('0000:01:00.1')
        await refused(/another device of its group/, () => sibling.close())
        const second = vfio.VfioGroup.open(2)
        second.setContainer(container)
        await refused(/another group/, () => second.close())
      } else {
        const sibling = await vfio.VfioDevice.openCdev('0000:01:00.1', { iommufd, path: '/dev/vfio/devices/vfio1' })
        await refused(/another device or IOAS/, () => sibling.close())
        const second = iommufd.allocateIoas()
        await refused(/another device or IOAS/, () => second.close())
        const table = await ioas.allocateHwpt(device)
        await refused(/was allocated from it/, () => table.close())
        await device.detach()
        await refused(/not attached to its IOAS/, () => device.attach(ioas))
      }
      const handed = await opened.handOver()
      assert.equal((await failure(opened.handOver())).code, 'ERR_VFIO_CLOSED')
      await vfio.receiveDevice(handed).close()
      assert.deepEqual(held(), NOTHING)
    `,
        [{ call: 'dmaBuf', returns: 'fd' }],
      ))

    it('is refused while a KVM machine is told of it', () =>
      passes(`
      const opened = await open()
      const kvm = vfio.KvmVfio.create(fs.openSync('/dev/vfio/machine', 'r+'))
      for (const file of byGroup ? [opened.device, opened.group] : [opened.device]) {
        kvm.add(file)
        const error = await failure(opened.handOver())
        assert.equal(error.code, 'ERR_VFIO_IN_USE')
        assert.match(error.message, /while a KVM machine is told of it: remove/)
        kvm.remove(file)
      }
      await vfio.receiveDevice(await opened.handOver()).close()
    `))

    it('waits for the calls that run and those that wait', () =>
      passes(
        `
      const opened = await open()
      const ended = []
      for (const name of ['first', 'second']) void opened.device.reset().then(() => ended.push(name))
      const handing = opened.handOver().then((handed) => { ended.push('handed over'); return handed })
      await logged('begin 11 ' + named(1))
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
      const opening = byGroup ? opened.group.openDevice('0000:01:00.1')
        : vfio.VfioDevice.openCdev('0000:01:00.1', { iommufd: opened.iommufd, path: '/dev/vfio/devices/vfio1' })
      await logged(byGroup ? 'begin 6 0000:01:00.1' : 'begin 18 /dev/vfio/devices/vfio1')
      const refused = failure(opened.handOver())
      letGo()
      const error = await refused
      assert.equal(error.code, 'ERR_VFIO_IN_USE')
      assert.match(error.message, /another device o[fr]/)
      await (await opening).close()
      await vfio.receiveDevice(await opened.handOver()).close()
      assert.deepEqual(held(), NOTHING)
    `,
        [
          { call: 'openDevice', returns: 'model' },
          { call: 'openDevice', when: 'gate', returns: 'model' },
          { call: 'bindIommufd', returns: 'model' },
          { call: 'bindIommufd', when: 'gate', returns: 'model' },
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
        // An IOAS waits for the device, which it does not close.
        ...PARTS.filter((name) => name !== 'ioas').map((name) => (opened) => opened[name].close()),
        (opened) => opened.close(), ({ device }) => { device[Symbol.dispose]() },
      ]) {
        const opened = await open(1)
        const begun = log().filter((line) => line === 'begin 11 ' + named(1)).length
        const reset = opened.device.reset()
        await logged('begin 11 ' + named(1), begun + 1)
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
}
