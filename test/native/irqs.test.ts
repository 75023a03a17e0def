import assert from 'node:assert/strict'
import { bytes } from './bytes.js'
import { type FakeAnswer, OPENS, withFake } from './fake.js'

const irq = (flags: number, count: number): FakeAnswer => ({
  call: 'irqInfo',
  bytes: bytes().u32(16, flags, 0, count).done(),
})
const EVENTFD = 1
const NORESIZE = 8
const MSIX = irq(EVENTFD, 16)

describe('an interrupt', () => {
  it('asks the kernel for exactly the vectors that are wanted', async () => {
    await withFake([OPENS, MSIX], async ({ openGroup, asked, vfio }) => {
      const device = await openGroup().group.openDevice('0000:01:00.0')
      const msix = device.irq('msix')
      assert.equal(msix, device.irq(2))
      assert.deepEqual([msix.name, msix.index, msix.info.count, msix.vectors], ['msix', 2, 16, []])
      let seen = 0
      /** What was asked since the last time, with `#` for a descriptor. */
      const news = () => {
        const all = asked()
        const lines = all.slice(seen)
        seen = all.length
        return lines.map((line) => line.replace(/(?<=fds.*) \d+/g, ' #'))
      }
      msix.disable()
      assert.deepEqual(news(), [], 'it was off')
      msix.enable()
      assert.deepEqual(news(), ['10 flags 0x24 index 2 start 0 count 1 fds #'])
      assert.deepEqual(msix.vectors, [0])
      msix.enable({ vectors: [5, 1, 1] })
      assert.deepEqual(news(), [
        '10 flags 0x21 index 2 start 0 count 0',
        '10 flags 0x24 index 2 start 0 count 6 fds -1 # -1 -1 -1 #',
      ])
      assert.deepEqual(msix.vectors, [1, 5])
      msix.add([3, 9])
      assert.deepEqual(news(), [
        '10 flags 0x24 index 2 start 3 count 1 fds #',
        '10 flags 0x24 index 2 start 9 count 1 fds #',
      ])
      msix.remove([5, 2, 9])
      assert.deepEqual(news(), [
        '10 flags 0x24 index 2 start 5 count 1 fds -1',
        '10 flags 0x24 index 2 start 9 count 1 fds -1',
      ])
      assert.deepEqual(msix.vectors, [1, 3])
      msix.mask()
      msix.unmask(3)
      msix.trigger(15)
      assert.deepEqual(news(), [
        '10 flags 0x9 index 2 start 0 count 1',
        '10 flags 0x11 index 2 start 3 count 1',
        '10 flags 0x21 index 2 start 15 count 1',
      ])
      const own = vfio.EventFd.create()
      const other = vfio.EventFd.create()
      msix.resample(own)
      msix.resample(other.fd)
      msix.resample(null)
      assert.deepEqual(asked().slice(seen), [
        `10 flags 0x14 index 2 start 0 count 1 fds ${own.fd}`,
        // The kernel takes one at a time.
        '10 flags 0x14 index 2 start 0 count 1 fds -1',
        `10 flags 0x14 index 2 start 0 count 1 fds ${other.fd}`,
        '10 flags 0x14 index 2 start 0 count 1 fds -1',
      ])
      news()
      msix.enable({
        vectors: [0],
        eventfds: new Map<number, typeof own | number>([
          [3, own],
          [2, other.fd],
        ]),
      })
      const [off, on] = asked().slice(seen)
      assert.equal(off, '10 flags 0x21 index 2 start 0 count 0')
      assert.match(
        on ?? '',
        new RegExp(`^10 flags 0x24 index 2 start 0 count 4 fds \\d+ -1 ${other.fd} ${own.fd}$`),
      )
      assert.deepEqual(msix.vectors, [0, 2, 3])
      news()
      msix.add(new Map([[7, own]]))
      assert.deepEqual(asked().slice(seen), [`10 flags 0x24 index 2 start 7 count 1 fds ${own.fd}`])
      news()
      msix.disable()
      msix.disable()
      assert.deepEqual(news(), ['10 flags 0x21 index 2 start 0 count 0'])
      assert.deepEqual(msix.vectors, [])
      own.signal()
      assert.equal(own.read(), 1, 'what the caller owns stays open')
      await device.close()
    })
  })

  it('leaves as many descriptors open as it found', async () => {
    await withFake(
      [OPENS, MSIX, { call: 'setIrqs' }, { call: 'setIrqs', returns: -28 }, { call: 'setIrqs' }],
      async ({ openGroup, failure }) => {
        const { readdirSync } = await import('node:fs')
        const count = () => readdirSync('/proc/self/fd').length
        const device = await openGroup().group.openDevice('0000:01:00.0')
        const msix = device.irq('msix')
        const before = count()
        msix.enable({ vectors: [0, 1, 2, 3] })
        assert.equal(count(), before + 4)
        assert.equal((await failure(() => msix.add([9]))).code, 'ENOSPC')
        assert.deepEqual([count(), msix.vectors.length], [before + 4, 4])
        msix.add([2, 9])
        msix.remove([0])
        msix.enable({ vectors: [8] })
        assert.equal(count(), before + 1)
        msix.disable()
        assert.equal(count(), before)
        msix.enable({ vectors: [0, 1] })
        const listener = msix.onEvent(() => {})
        listener[Symbol.dispose]()
        await device.close()
        // The device, and the loop's own are the difference.
        assert.equal(count(), before - 1)
      },
    )
  })

  it('that the kernel refuses is off, and can be enabled again', async () => {
    const answers: FakeAnswer[] = [
      OPENS,
      MSIX,
      { call: 'setIrqs', returns: 5 },
      { call: 'setIrqs', returns: -22 },
      { call: 'setIrqs' },
      { call: 'setIrqs', returns: 2 },
      { call: 'setIrqs' },
    ]
    await withFake(answers, async ({ openGroup, failure, asked, vfio }) => {
      const device = await openGroup().group.openDevice('0000:01:00.0')
      const msix = device.irq('msix')
      const few = await failure(() => msix.enable({ vectors: [0, 7] }))
      assert(few instanceof vfio.VfioError)
      assert.equal(few.code, 'ERR_VFIO_NO_VECTORS')
      assert.equal(
        few.message,
        'the kernel has only 5 vectors for msix of device 0000:01:00.0, not 8: enable fewer',
      )
      const refused = await failure(() => msix.enable())
      assert(refused instanceof vfio.VfioSystemError)
      assert.deepEqual([refused.code, refused.request], ['EINVAL', 'VFIO_DEVICE_SET_IRQS'])
      assert.deepEqual(msix.vectors, [])
      msix.enable()
      assert.deepEqual(msix.vectors, [0])
      assert.equal((await failure(() => msix.add([4]))).code, 'ERR_VFIO_NO_VECTORS')
      assert.deepEqual(msix.vectors, [0])
      assert.equal(asked().length, 4, 'nothing was turned off that was not on')
    })
  })

  it('stays as it was where descriptors or memory for its eventfds are missing', async () => {
    await withFake(
      [],
      async ({ openGroup, state, failNext, failure }) => {
        const device = await openGroup().group.openDevice('0000:01:00.0')
        const msix = device.irq('msix')
        msix.enable({ vectors: [0, 3] })
        const heard: number[] = []
        msix.onEvent(({ vector }) => {
          heard.push(vector)
        })
        const before = state().model
        for (const call of ['eventfd', 'epollCtl'] as const) {
          for (const skip of [0, 1, 2]) {
            failNext(call, 24, skip)
            assert.equal((await failure(() => msix.enable({ vectors: [0, 1, 2] }))).code, 'EMFILE')
            failNext(call, 24, skip)
            assert.equal((await failure(() => msix.add([4, 5, 6]))).code, 'EMFILE')
            assert.deepEqual([state().model, msix.vectors], [before, [0, 3]])
          }
        }
        msix.trigger(3)
        await new Promise(setImmediate)
        await new Promise(setImmediate)
        assert.deepEqual(heard, [3])
        await device.close()
      },
      { machine: {} },
    )
  })

  it('has the vectors that it had where one that is added is refused', async () => {
    await withFake(
      [],
      async ({ openGroup, state, failNext, failure, vfio }) => {
        const device = await openGroup().group.openDevice('0000:01:00.0')
        const msix = device.irq('msix')
        const own = vfio.EventFd.create()
        msix.enable({ vectors: [0], eventfds: new Map([[3, own]]) })
        const before = state().model
        const twice = new Map([
          [1, own.fd],
          [3, 0],
        ])
        // Standard input is no eventfd, and the kernel has let the old one go when it sees that.
        assert.equal((await failure(() => msix.add(twice))).code, 'EINVAL')
        assert.deepEqual([state().model, msix.vectors], [before, [0, 3]])
        for (const skip of [0, 1, 2]) {
          failNext('setIrqs', 5, skip)
          assert.equal((await failure(() => msix.add([4, 5, 6]))).code, 'EIO')
          assert.deepEqual([state().model, msix.vectors], [before, [0, 3]])
        }
        await device.close()
        await own.close()
      },
      { machine: {} },
    )
  })

  it('takes one eventfd to unmask it in the place of another, as the kernel does not', async () => {
    await withFake(
      [],
      async ({ openGroup, state, failure, failNext, vfio }) => {
        const device = await openGroup().group.openDevice('0000:01:00.0')
        const intx = device.irq('intx')
        const [first, second] = [vfio.EventFd.create(), vfio.EventFd.create()]
        const unmask = () => state().model.devices[0]?.unmask
        intx.resample(null)
        assert.equal((await failure(() => intx.resample(first))).code, 'EINVAL')
        intx.enable()
        for (const eventfd of [first, second, first]) {
          intx.resample(eventfd)
          assert.equal(unmask(), eventfd.fd)
        }
        assert.equal((await failure(() => intx.resample(9999))).code, 'EBADF')
        assert.equal(unmask(), first.fd)
        failNext('setIrqs', 5, 1)
        assert.equal((await failure(() => intx.resample(second))).code, 'EIO')
        assert.equal(unmask(), first.fd)
        intx.resample(null)
        assert.equal(unmask(), -1)
        intx.resample(first)
        intx.enable()
        assert.equal(unmask(), -1)
        intx.resample(second)
        assert.equal(unmask(), second.fd)
        await device.close()
      },
      { machine: {} },
    )
  })

  it('that cannot grow says so, and takes any vectors up to its highest', async () => {
    await withFake([OPENS, irq(EVENTFD | NORESIZE, 16)], async ({ openGroup, failure, asked, vfio }) => {
      const device = await openGroup().group.openDevice('0000:01:00.0')
      const msi = device.irq('msi')
      msi.enable({ vectors: [3] })
      msi.add([0, 2])
      assert.deepEqual(msi.vectors, [0, 2, 3])
      const before = asked().length
      const error = await failure(() => msi.add([1, 4]))
      assert(error instanceof vfio.VfioError)
      assert.equal(error.code, 'ERR_VFIO_NO_VECTORS')
      assert.equal(
        error.message,
        'msi of 0000:01:00.0 cannot grow to vector 4 while it is enabled: disable() it, and enable() it with all vectors',
      )
      assert.deepEqual([asked().length, msi.vectors], [before, [0, 2, 3]])
    })
  })

  it('that is off is enabled by the first vectors that are added', async () => {
    await withFake([OPENS, irq(EVENTFD | NORESIZE, 16)], async ({ openGroup, asked }) => {
      const device = await openGroup().group.openDevice('0000:01:00.0')
      const msi = device.irq('msi')
      msi.add([2, 1])
      assert.deepEqual(msi.vectors, [1, 2])
      assert.deepEqual(
        asked().map((line) => line.replace(/(?<=fds.*) \d+/g, ' #')),
        ['10 flags 0x24 index 1 start 0 count 3 fds -1 # #'],
      )
    })
  })

  it('that a device does not have is refused by name', async () => {
    await withFake([OPENS, irq(EVENTFD, 0)], async ({ openGroup, failure, asked, vfio }) => {
      const device = await openGroup().group.openDevice('0000:01:00.0')
      const err = device.irq('err')
      for (const call of [() => err.enable(), () => err.mask(), () => err.trigger(), () => err.add([0])]) {
        const error = await failure(call)
        assert(error instanceof vfio.VfioError)
        assert.equal(error.code, 'ERR_VFIO_NO_VECTORS')
        assert.match(error.message, /^0000:01:00\.0 has no err: device\.irqInfo\(\) tells/)
      }
      assert.deepEqual(asked(), [])
    })
  })
})

describe('an eventfd', () => {
  it('counts what is signalled, also to programs that have its number', async () => {
    await withFake([], async ({ vfio, failure }) => {
      const { writeSync } = await import('node:fs')
      const eventfd = vfio.EventFd.create()
      assert.equal(eventfd.read(), 0)
      eventfd.signal()
      eventfd.signal(4)
      writeSync(eventfd.fd, new BigUint64Array([10n]))
      assert.equal(eventfd.read(), 15)
      assert.equal(eventfd.read(), 0)
      eventfd.signal(0xffffffff)
      assert.equal(eventfd.read(), 0xffffffff)
      await eventfd.close()
      for (const call of [() => eventfd.fd, () => eventfd.signal(), () => eventfd.read()])
        assert.equal((await failure(call)).code, 'ERR_VFIO_CLOSED')
      eventfd[Symbol.dispose]()
    })
  })
})
