import assert from 'node:assert/strict'
import type { VfioDevice } from 'vfio'
import { OPENS, withFake } from '../native/fake.js'
import { DRIVING_ANSWERS } from './driving.js'

describe('an open object that was dropped', function () {
  this.timeout(30_000)

  it('is closed by the garbage collection, with a warning', async () => {
    await withFake(
      [OPENS],
      async ({ openGroup, log }) => {
        const warnings: Error[] = []
        process.on('warning', (warning) => warnings.push(warning))
        const collect = async (until: () => boolean) => {
          while (!until()) {
            globalThis.gc?.()
            await new Promise(setImmediate)
          }
        }
        const { container, group } = openGroup()
        await (async () => {
          await group.openDevice('0000:01:00.0')
          const closed = await group.openDevice('0000:01:00.1')
          await closed.close()
        })()
        await collect(() => warnings.length > 0 && log().includes('close 0000:01:00.0'))
        assert.equal(warnings[0]?.name, 'VfioWarning')
        assert.equal(
          warnings[0]?.message,
          'device 0000:01:00.0 was dropped without close(), and is closed now',
        )
        assert.deepEqual([container.closed, group.closed], [false, false])
        await container.close()
        await group.close()
        assert.equal(warnings.length, 1)
      },
      { flags: ['--expose-gc'] },
    )
  })

  it('takes what was opened from it along', async () => {
    await withFake(
      [OPENS],
      async ({ openGroup, log }) => {
        const warnings: Error[] = []
        process.on('warning', (warning) => warnings.push(warning))
        await (async () => {
          await openGroup().group.openDevice('0000:01:00.0')
        })()
        const closed = () => log().filter((line) => line.startsWith('close '))
        while (closed().length < 3) {
          globalThis.gc?.()
          await new Promise(setImmediate)
        }
        assert.equal(closed()[0], 'close 0000:01:00.0')
        assert(warnings.length >= 1)
      },
      { flags: ['--expose-gc'] },
    )
  })

  it('is not closed while something that was opened from it, or a part of that, is held', async () => {
    await withFake(
      [OPENS, ...DRIVING_ANSWERS],
      async ({ openGroup, log, vfio }) => {
        const parts: ((device: VfioDevice) => object)[] = [
          (device) => device,
          (device) => device.region(0),
          (device) => device.region(0).map(),
          (device) => device.config,
          (device) => device.irq('msix'),
          (device) => device.feature('migration'),
          (device) => device.lowPower,
          (device) => device.migration,
          (device) => device.dmaLogging,
        ]
        const dropped: string[] = []
        process.on('warning', ({ message }) => dropped.push(message))
        const held: object[] = []
        for (const [i, part] of parts.entries())
          held.push(part(await openGroup(i + 10).group.openDevice(`0000:0${i + 1}:00.0`)))
        const { container } = openGroup(30)
        held.push(container.dma, await container.dma.map(vfio.DmaBuffer.allocate(4096), { iova: 0 }))
        // When this one is found dropped, the others would have been too.
        ;(() => vfio.VfioGroup.open(2))()
        while (!log().includes('close /dev/vfio/2')) {
          globalThis.gc?.()
          await new Promise(setImmediate)
        }
        assert.deepEqual(
          dropped.map((message) => message.split(' was dropped')[0]),
          ['group /dev/vfio/2'],
        )
        assert.equal(held.length, parts.length + 2)
      },
      { flags: ['--expose-gc'] },
    )
  })
})

describe('what drives a device and was dropped', function () {
  this.timeout(60_000)

  it('leaves descriptors and mappings as they were, with its device', async () => {
    await withFake(
      [OPENS, ...DRIVING_ANSWERS],
      async ({ openGroup, vfio }) => {
        const { readdirSync, readFileSync } = await import('node:fs')
        const ours = () => ({
          descriptors: readdirSync('/proc/self/fd').length,
          maps: readFileSync('/proc/self/maps', 'utf8')
            .split('\n')
            .filter((line) => /memfd:(fake-vfio|vfio-dma)/.test(line)),
        })
        const use = async () => {
          const { container, group } = openGroup()
          const device = await group.openDevice('0000:01:00.0')
          const bar = device.region(0)
          assert.equal(new Uint8Array(bar.map().buffer)[0], 0xff)
          const irq = device.irq('msix')
          irq.enable({ vectors: [0, 1, 2] })
          const listener = irq.onEvent(() => {})
          listener[Symbol.dispose]()
          await container.dma.map(vfio.DmaBuffer.allocate(8192), { iova: 0 })
          vfio.DmaBuffer.allocate(4096)
          vfio.EventFd.create()
          assert(ours().maps.length >= 3)
        }
        const collect = async () => {
          for (let i = 0; i < 3; i++) {
            globalThis.gc?.()
            await new Promise(setImmediate)
          }
        }
        const before = ours()
        assert.deepEqual(before.maps, [])
        for (let i = 0; i < 5; i++) await use()
        // Fails by its time where something stays.
        while (ours().descriptors > before.descriptors || ours().maps.length > 0) await collect()
      },
      { flags: ['--expose-gc', '--no-warnings'] },
    )
  })

  it('is kept while somebody listens to its interrupts', async () => {
    await withFake(
      [OPENS, ...DRIVING_ANSWERS],
      async ({ openGroup, log, asked, vfio }) => {
        const { writeSync } = await import('node:fs')
        let heard = 0
        await (async () => {
          const device = await openGroup().group.openDevice('0000:01:00.0')
          const irq = device.irq('msix')
          irq.enable()
          irq.onEvent(({ count }) => {
            heard += count
          })
        })()
        ;(() => vfio.VfioGroup.open(2))()
        while (!log().includes('close /dev/vfio/2')) {
          globalThis.gc?.()
          await new Promise(setImmediate)
        }
        assert(!log().includes('close 0000:01:00.0'))
        writeSync(Number(asked().at(-1)?.split(' ').at(-1)), new BigUint64Array([3n]))
        while (heard < 3) await new Promise(setImmediate)
        process.exit()
      },
      { flags: ['--expose-gc', '--no-warnings'] },
    )
  })

  it('keeps its memory as long as an array of the program is over it', async () => {
    await withFake(
      [],
      async ({ vfio }) => {
        const { readFileSync } = await import('node:fs')
        const maps = () =>
          readFileSync('/proc/self/maps', 'utf8')
            .split('\n')
            .filter((line) => line.includes('memfd:vfio-dma')).length
        const bytes = (() => {
          const buffer = vfio.DmaBuffer.allocate(4096)
          buffer.bytes[7] = 7
          return buffer.bytes.subarray(4)
        })()
        // When this one is found dropped, the other would have been too.
        ;(() => vfio.DmaBuffer.allocate(4096))()
        while (maps() > 1) {
          globalThis.gc?.()
          await new Promise(setImmediate)
        }
        assert.deepEqual([maps(), bytes[3]], [1, 7])
      },
      { flags: ['--expose-gc'] },
    )
  })
})

describe('the number of an object of the addon', function () {
  this.timeout(30_000)

  it('is good as long as the object is there, and for its kind only', async () => {
    await withFake(
      [OPENS],
      async ({ log, failure }) => {
        const { createRequire } = await import('node:module')
        const addon = createRequire(`${process.cwd()}/`)(
          process.env.VFIO_ADDON ?? './build/Release/vfio.node',
        )
        const group = addon.Group.open('/dev/vfio/1')
        assert.equal(addon.groupStatus(group.id), 0)
        assert.equal((await failure(() => addon.deviceIrqInfo(group.id, 0))).code, 'ERR_VFIO_BAD_ARGUMENT')
        group.closeNow()
        assert.equal((await failure(() => addon.groupStatus(group.id))).code, 'ERR_VFIO_CLOSED')

        const dropped = (() => addon.Group.open('/dev/vfio/2').id)()
        while (!log().includes('close /dev/vfio/2')) {
          globalThis.gc?.()
          await new Promise(setImmediate)
        }
        assert.equal((await failure(() => addon.groupStatus(dropped))).code, 'ERR_VFIO_CLOSED')
        const next = addon.Group.open('/dev/vfio/3')
        assert.notEqual(next.id, dropped)
        assert.equal((await failure(() => addon.groupStatus(dropped))).code, 'ERR_VFIO_CLOSED')
        assert.equal(addon.groupStatus(next.id), 0)
      },
      { flags: ['--expose-gc'] },
    )
  })
})

describe('a process that opens and closes', function () {
  this.timeout(30_000)

  it('has as many descriptors afterwards as before', async () => {
    await withFake(
      [
        OPENS,
        { call: 'openDevice', returns: -19 },
        { call: 'openDevice', returns: 'fd', when: 1 },
        { call: 'open:3', returns: -16 },
      ],
      async ({ openGroup, failure, vfio }) => {
        const { readdirSync } = await import('node:fs')
        const count = () => readdirSync('/proc/self/fd').length
        const round = async () => {
          const { container, group } = openGroup()
          await failure(() => vfio.VfioGroup.open(3))
          const opened = await Promise.allSettled([1, 2, 3].map((fn) => group.openDevice(`0000:01:00.${fn}`)))
          const controller = new AbortController()
          const aborted = failure(group.openDevice('0000:01:00.4', { signal: controller.signal }))
          await new Promise(setImmediate)
          controller.abort()
          await aborted
          await Promise.allSettled(
            opened.map((result) => result.status === 'fulfilled' && result.value.reset()),
          )
          await container.close()
          await group.close()
        }
        await round()
        const before = count()
        for (let i = 0; i < 100; i++) await round()
        assert.equal(count(), before)
      },
    )
  })
})
