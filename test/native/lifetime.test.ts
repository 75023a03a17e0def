import assert from 'node:assert/strict'
import { skip } from '../fixtures/skip.js'
import { type FakeAnswer, OPENS, withFake } from './fake.js'

describe('an open object', () => {
  it('refuses every call once it is closed, and closes once', async () => {
    await withFake([OPENS], async ({ openGroup, failure, log }) => {
      const { container, group } = openGroup()
      const device = await group.openDevice('0000:01:00.0')
      assert.equal(device.closed, false)
      const closing = device.close()
      assert.equal(device.closed, true)
      assert.equal(device.close(), closing)
      await closing
      await device.close()
      await group.close()
      await container.close()
      const calls = [
        () => device.info(),
        () => device.regionInfo(0),
        () => device.irqInfo(0),
        () => device.hotResetInfo(),
        () => device.reset(),
        () => device.hotReset([]),
        () => device.feature('migration').probe('get'),
        () => device.feature(4711).get(8),
        () => device.feature(4711).set(),
        () => device.setVfToken('00112233-4455-6677-8899-aabbccddeeff'),
        () => device.lowPower.supported,
        () => device.lowPower.enter(),
        () => device.lowPower.enter({ wakeup: 3 }),
        () => device.lowPower.exit(),
        () => device.migration.support(),
        () => device.migration.state(),
        () => device.migration.setState('stop'),
        () => device.migration.dataSize(),
        () => device.dmaLogging.supported,
        () => device.dmaLogging.start({ ranges: [{ iova: 0, length: 4096 }] }),
        () => device.dmaLogging.stop(),
        () => device.dmaLogging.report(0, 4096, 4096),
        () => device.ioeventfd({ region: 0, offset: 0, width: 8, data: 0, eventfd: 3 }),
        () => group.status(),
        () => group.setContainer(container),
        () => group.unsetContainer(),
        () => group.openDevice('0000:01:00.0'),
        () => container.apiVersion(),
        () => container.checkExtension(1),
        () => container.setIommu('type1'),
        () => container.iommuInfo(),
      ]
      for (const call of calls) {
        const error = await failure(call)
        assert.equal(error.code, 'ERR_VFIO_CLOSED', String(call))
        assert.match(error.message, /is closed/)
      }
      assert.equal(log().filter((line) => line.startsWith('close ')).length, 3)
    })
  })

  it('is closed after what was opened from it: device, group leaves container, group', async () => {
    await withFake([OPENS], async ({ openGroup, log }) => {
      const { container, group } = openGroup()
      const devices = [await group.openDevice('0000:01:00.0'), await group.openDevice('0000:01:00.1')]
      await group.close()
      assert(devices.every(({ closed }) => closed))
      assert.equal(container.closed, false)
      const closed = log().filter((line) => /^(close|begin 5)/.test(line))
      // The devices close on threads of their own, in any order.
      assert.deepEqual(closed.splice(0, 2).sort(), ['close 0000:01:00.0', 'close 0000:01:00.1'])
      assert.deepEqual(closed, ['begin 5 /dev/vfio/1', 'close /dev/vfio/1'])
    })
  })

  it('of a container lets its groups go, and they stay open', async () => {
    await withFake([OPENS], async ({ openGroup, log, vfio }) => {
      const { container, group } = openGroup()
      const second = vfio.VfioGroup.open(2)
      second.setContainer(container)
      const device = await group.openDevice('0000:01:00.0')
      await container.close()
      assert.deepEqual([device.closed, group.closed, second.closed], [true, false, false])
      assert.deepEqual(
        log()
          .filter((line) => /^(close|begin 5)/.test(line))
          .sort(),
        ['begin 5 /dev/vfio/1', 'begin 5 /dev/vfio/2', 'close /dev/vfio/vfio', 'close 0000:01:00.0'],
      )
      assert.equal(log().at(-1), 'close /dev/vfio/vfio')
      await group.close()
      assert.equal(log().filter((line) => line === 'begin 5 /dev/vfio/1').length, 1)
    })
  })

  it('closes at the end of a using block, children first', async () => {
    await withFake([OPENS], async ({ openGroup, log }) => {
      const { container, group } = openGroup()
      const device = await group.openDevice('0000:01:00.0')
      container[Symbol.dispose]()
      group[Symbol.dispose]()
      group[Symbol.dispose]()
      await device[Symbol.asyncDispose]()
      assert.deepEqual(
        log().filter((line) => /^(close|begin 5)/.test(line)),
        ['close 0000:01:00.0', 'begin 5 /dev/vfio/1', 'close /dev/vfio/vfio', 'close /dev/vfio/1'],
      )
    })
  })

  it('of a container closes a group too that cannot leave it', async () => {
    await withFake([OPENS, { call: 'unsetContainer', returns: -16 }], async ({ openGroup, log }) => {
      const warnings: string[] = []
      process.on('warning', ({ message }) => warnings.push(message))
      for (const now of [false, true]) {
        const { container, group } = openGroup()
        const device = await group.openDevice('0000:01:00.0')
        if (now) container[Symbol.dispose]()
        else await container.close()
        assert.deepEqual([device.closed, group.closed, group.container], [true, true, null])
      }
      await new Promise(setImmediate)
      assert.equal(warnings.length, 2)
      assert.match(warnings[0] ?? '', /^group \/dev\/vfio\/1 cannot leave its container/)
      assert.equal(log().filter((line) => line.startsWith('close ')).length, 6)
    })
  })

  it('leaves its container once only when told to', async () => {
    await withFake([], async ({ openGroup, log }) => {
      const { container, group } = openGroup()
      group.unsetContainer()
      await Promise.all([group.close(), container.close()])
      assert.equal(log().filter((line) => line.startsWith('begin 5')).length, 1)
    })
  })
})

describe('a long call', () => {
  it('is waited for by close', async () => {
    await withFake([OPENS, { call: 'reset', when: 'gate' }], async ({ openGroup, log, logged, letGo }) => {
      const { group } = openGroup()
      const device = await group.openDevice('0000:01:00.0')
      const reset = device.reset()
      await logged('begin 11 0000:01:00.0')
      const closing = group.close()
      let closed = false
      closing.then(() => {
        closed = true
      })
      await new Promise(setImmediate)
      assert.equal(closed, false)
      letGo()
      await reset
      await closing
      assert.deepEqual(
        log().slice(-4),
        [
          'end 11 0000:01:00.0',
          'close 0000:01:00.0',
          'begin 5 /dev/vfio/1',
          'end 5 /dev/vfio/1',
          'close /dev/vfio/1',
        ].slice(-4),
      )
    })
  })

  it('keeps the descriptor open when the object is disposed of', async () => {
    await withFake([OPENS, { call: 'reset', when: 'gate' }], async ({ openGroup, log, logged, letGo }) => {
      const { group } = openGroup()
      const device = await group.openDevice('0000:01:00.0')
      const reset = device.reset()
      await logged('begin 11 0000:01:00.0')
      device[Symbol.dispose]()
      assert(!log().includes('close 0000:01:00.0'))
      letGo()
      await reset
      await logged('close 0000:01:00.0')
      assert.deepEqual(log().slice(-2), ['end 11 0000:01:00.0', 'close 0000:01:00.0'])
    })
  })

  it('waits for its turn on the same device, and close rejects what waits', async () => {
    await withFake(
      [OPENS, { call: 'reset', when: 'gate' }],
      async ({ openGroup, log, logged, letGo, failure }) => {
        const { group } = openGroup()
        const device = await group.openDevice('0000:01:00.0')
        const first = device.reset()
        const second = device.reset()
        const third = device.reset()
        await logged('begin 11 0000:01:00.0')
        letGo()
        await first
        await logged('begin 11 0000:01:00.0', 2)
        const rejected = failure(third)
        const closing = device.close()
        assert.equal((await rejected).code, 'ERR_VFIO_CLOSED')
        letGo()
        await second
        await closing
        assert.equal(log().filter((line) => line.startsWith('begin 11')).length, 2)
      },
    )
  })

  it('waits for no other object, and leaves the threads for files and names alone', async () => {
    await withFake(
      [OPENS, { call: 'reset', when: 'gate' }, { call: 'close', when: 'gate' }],
      async ({ openGroup, log, logged, letGo, vfio }) => {
        const { readFile } = await import('node:fs/promises')
        const { lookup } = await import('node:dns/promises')
        const { group } = openGroup()
        const names = ['0', '1', '2', '3', '4', '5'].map((fn) => `0000:01:00.${fn}`)
        const devices = await Promise.all(names.map((name) => group.openDevice(name)))
        const closing = devices.splice(4).map((device) => device.close())
        const resets = devices.map((device) => device.reset())
        for (const name of names.slice(0, 4)) await logged(`begin 11 ${name}`)
        for (const name of names.slice(4)) await logged(`closing ${name}`)
        // Of all this nothing ends before the gate opens.
        await readFile('package.json')
        await lookup('localhost')
        await vfio.EventFd.create().close()
        const { group: second } = openGroup(2)
        await second.openDevice('0000:02:00.0')
        second.status()
        await openGroup(3).group.close()
        assert(!log().some((line) => /^(end 11|close 0000)/.test(line)))
        letGo(6)
        await Promise.all([...resets, ...closing])
      },
      { environment: { UV_THREADPOOL_SIZE: '1' } },
    )
  })

  it('that was aborted leaves the next one alone, whatever becomes of what it brought', async () => {
    await withFake(
      [{ call: 'openDevice', returns: 'fd', when: 'gate' }, OPENS, { call: 'close', when: 'gate' }],
      async ({ openGroup, log, logged, letGo, failure }) => {
        const { group } = openGroup()
        const controller = new AbortController()
        const opening = failure(group.openDevice('0000:01:00.0', { signal: controller.signal }))
        await logged('begin 6 0000:01:00.0')
        controller.abort()
        await opening
        letGo()
        await logged('closing 0000:01:00.0')
        const second = await group.openDevice('0000:01:00.1')
        assert.equal(second.closed, false)
        const closing = group.close()
        await logged('closing 0000:01:00.1')
        assert(!log().some((line) => line.startsWith('close ')))
        letGo(2)
        await closing
        assert.equal(log().at(-1), 'close /dev/vfio/1')
      },
    )
  })

  it('does not keep this thread where a group or container is disposed of', async () => {
    await withFake(
      [{ call: 'openDevice', returns: 'fd', when: 'gate' }],
      async ({ openGroup, log, logged, letGo }) => {
        const first = openGroup(1)
        const second = openGroup(2)
        const opening = [first, second].map(({ group }, i) => group.openDevice(`0000:0${i + 1}:00.0`))
        await logged('begin 6 0000:01:00.0')
        await logged('begin 6 0000:02:00.0')
        first.group[Symbol.dispose]()
        second.container[Symbol.dispose]()
        // A kernel makes whoever leaves a container wait for the call that opens a device.
        assert(!log().some((line) => line.startsWith('begin 5')))
        letGo(2)
        const devices = await Promise.all(opening)
        assert.deepEqual(
          devices.map((device) => device.closed),
          [true, true],
        )
        await logged('close /dev/vfio/1')
        await logged('end 5 /dev/vfio/2')
        assert.deepEqual([second.group.closed, second.group.container], [false, null])
        await second.group.close()
        assert.equal(log().filter((line) => line.startsWith('begin 5')).length, 1)
        assert.equal(log().filter((line) => line.startsWith('close ')).length, 5)
      },
    )
  })

  it('keeps the program alive as long as somebody waits for it', async () => {
    await withFake([OPENS, { call: 'reset', when: 'gate' }], async ({ openGroup, letGo }) => {
      const device = await openGroup().group.openDevice('0000:01:00.0')
      // The only other thing that is left to do here, and it keeps nobody.
      setTimeout(letGo, 50).unref()
      await device.reset()
    })
  })

  it('says so where no thread is to be had, and what is closed then closes all the same', async function () {
    if (process.getuid?.() !== 0) skip(this, 'only root may take threads from another user')
    const answers: FakeAnswer[] = [OPENS, { call: 'reset', when: 'gate' }]
    await withFake(answers, async ({ openGroup, vfio }) => {
      const { openSync, readFileSync, writeSync } = await import('node:fs')
      const { execFileSync } = await import('node:child_process')
      const { group } = openGroup()
      // Four threads at most wait for something to do.
      const devices = await Promise.all([0, 1, 2, 3, 4, 5].map((n) => group.openDevice(`0000:01:00.${n}`)))
      const log = openSync(`${process.env.FAKE_VFIO}.log`, 'r')
      const gate = openSync(`${process.env.FAKE_VFIO}.gate`, 'r+')
      execFileSync('prlimit', ['--pid', String(process.pid), '--nproc=1:1'])
      // The limit is not for root; nobody else has this id.
      process.setuid?.(65_533)
      const refused = new Map<(typeof devices)[number], unknown>()
      const resets = devices.map((device) => device.reset().catch((error) => refused.set(device, error)))
      // All of them have a thread by now, or will never have one.
      await new Promise(setImmediate)
      assert(refused.size >= 2, `${refused.size}`)
      for (const [device, error] of refused) {
        assert(error instanceof vfio.VfioSystemError)
        assert.match(
          error.message,
          /^pthread_create on a thread for vfio:reset failed with EAGAIN: .*ulimit -u.*pids\.max/,
        )
        await device.close()
        assert(readFileSync(log, 'utf8').includes(`close ${device.address}\n`))
      }
      writeSync(gate, 'x'.repeat(devices.length))
      await Promise.all(resets)
      await group.close()
    })
  })

  it('takes a thread that waits for something to do, and leaves four at most', async () => {
    await withFake([OPENS, { call: 'reset', when: 'gate' }], async ({ openGroup, logged, letGo }) => {
      const { readdirSync, readFileSync } = await import('node:fs')
      const idle = () =>
        readdirSync('/proc/self/task').filter((id) => {
          try {
            return readFileSync(`/proc/self/task/${id}/comm`, 'utf8') === 'vfio-idle\n'
          } catch {
            return false
          }
        })
      const untilIdle = async (count: number) => {
        while (idle().length !== count) await new Promise(setImmediate)
      }
      const { group } = openGroup()
      const device = await group.openDevice('0000:01:00.0')
      await untilIdle(1)
      const [first] = idle()
      const reset = device.reset()
      await logged('begin 11 0000:01:00.0')
      assert.deepEqual(idle(), [])
      letGo()
      await reset
      await untilIdle(1)
      assert.deepEqual(idle(), [first])
      const more = await Promise.all([1, 2, 3, 4, 5, 6].map((n) => group.openDevice(`0000:01:00.${n}`)))
      const resets = more.map((device) => device.reset())
      for (const { address } of more) await logged(`begin 11 ${address}`)
      letGo(more.length)
      await Promise.all(resets)
      await untilIdle(4)
      await group.close()
    })
  })

  it('goes on in the context of its caller', async () => {
    await withFake([OPENS, { call: 'reset', when: 5 }], async ({ openGroup }) => {
      const { AsyncLocalStorage, createHook } = await import('node:async_hooks')
      const begun: string[] = []
      const ended: number[] = []
      const known = new Set<number>()
      createHook({
        init(id, type) {
          if (!type.startsWith('vfio:')) return
          begun.push(type)
          known.add(id)
        },
        destroy(id) {
          if (known.has(id)) ended.push(id)
        },
      }).enable()
      const storage = new AsyncLocalStorage<string>()
      const { group } = openGroup()
      const names = ['0000:01:00.0', '0000:01:00.1', '0000:01:00.2']
      const inContext = async (name: string) => {
        const device = await group.openDevice(name)
        const seen = [storage.getStore()]
        await device.reset().then(() => seen.push(storage.getStore()))
        await new Promise<void>((resolve) => queueMicrotask(resolve))
        seen.push(storage.getStore())
        await device.close()
        return [...seen, storage.getStore()]
      }
      const all = await Promise.all(names.map((name) => storage.run(name, () => inContext(name))))
      assert.deepEqual(
        all,
        names.map((name) => [name, name, name, name]),
      )
      while (ended.length < begun.length) await new Promise(setImmediate)
      assert.deepEqual(begun.sort(), [
        ...names.map(() => 'vfio:close'),
        ...names.map(() => 'vfio:openDevice'),
        ...names.map(() => 'vfio:reset'),
      ])
    })
  })

  it('is not made when it is aborted before', async () => {
    await withFake([OPENS], async ({ openGroup, log, failure }) => {
      const { group } = openGroup()
      const device = await group.openDevice('0000:01:00.0')
      const aborted = AbortSignal.abort()
      assert.equal((await failure(device.reset({ signal: aborted }))).name, 'AbortError')
      assert.equal(await failure(device.hotReset([group], { signal: aborted })), aborted.reason)
      const reason = new Error('changed my mind')
      assert.equal(
        await failure(group.openDevice('0000:01:00.1', { signal: AbortSignal.abort(reason) })),
        reason,
      )
      assert(!log().some((line) => /^begin (11|13)/.test(line)))
    })
  })

  it('is not made when it is aborted while it waits', async () => {
    await withFake(
      [OPENS, { call: 'reset', when: 'gate' }],
      async ({ openGroup, log, logged, letGo, failure }) => {
        const { group } = openGroup()
        const device = await group.openDevice('0000:01:00.0')
        const first = device.reset()
        await logged('begin 11 0000:01:00.0')
        const controller = new AbortController()
        const second = failure(device.reset({ signal: controller.signal }))
        const third = device.reset()
        controller.abort()
        assert.equal((await second).name, 'AbortError')
        letGo(2)
        await first
        await third
        assert.equal(log().filter((line) => line.startsWith('begin 11')).length, 2)
      },
    )
  })

  it('ends by itself when it is aborted while it runs, and close waits for it', async () => {
    await withFake(
      [OPENS, { call: 'reset', when: 'gate' }],
      async ({ openGroup, log, logged, letGo, failure }) => {
        const { group } = openGroup()
        const device = await group.openDevice('0000:01:00.0')
        const controller = new AbortController()
        const reset = failure(device.reset({ signal: controller.signal }))
        await logged('begin 11 0000:01:00.0')
        controller.abort()
        assert.equal((await reset).name, 'AbortError')
        const closing = device.close()
        assert(!log().includes('end 11 0000:01:00.0'))
        letGo()
        await closing
        assert.deepEqual(log().slice(-2), ['end 11 0000:01:00.0', 'close 0000:01:00.0'])
      },
    )
  })

  it('that was aborted while it opened a device closes it again', async () => {
    await withFake(
      [{ call: 'openDevice', returns: 'fd', when: 'gate' }],
      async ({ openGroup, log, logged, letGo, failure }) => {
        const { group } = openGroup()
        const controller = new AbortController()
        const opening = failure(group.openDevice('0000:01:00.0', { signal: controller.signal }))
        await logged('begin 6 0000:01:00.0')
        controller.abort()
        assert.equal((await opening).name, 'AbortError')
        letGo()
        await logged('close 0000:01:00.0')
        await group.close()
        assert.equal(log().filter((line) => line === 'close 0000:01:00.0').length, 1)
      },
    )
  })

  it('that opens a device while its group closes leaves nothing open', async () => {
    await withFake(
      [{ call: 'openDevice', returns: 'fd', when: 'gate' }],
      async ({ openGroup, log, logged, letGo }) => {
        const { group } = openGroup()
        const opening = group.openDevice('0000:01:00.0')
        await logged('begin 6 0000:01:00.0')
        const closing = group.close()
        letGo()
        const device = await opening
        assert.equal(device.closed, true)
        await closing
        assert.deepEqual(
          log().filter((line) => line.startsWith('close')),
          ['close 0000:01:00.0', 'close /dev/vfio/1'],
        )
      },
    )
  })

  it('on a bus keeps the groups open that it was given', async () => {
    await withFake(
      [OPENS, { call: 'hotReset', when: 'gate' }],
      async ({ openGroup, log, logged, letGo, vfio }) => {
        const { container, group } = openGroup()
        const second = vfio.VfioGroup.open(2)
        second.setContainer(container)
        const device = await group.openDevice('0000:01:00.0')
        const reset = device.hotReset([group, second])
        await logged('begin 13 0000:01:00.0')
        const closing = second.close()
        assert(!log().includes('close /dev/vfio/2'))
        letGo()
        await reset
        await closing
        assert(log().indexOf('end 13 0000:01:00.0') < log().indexOf('close /dev/vfio/2'))
      },
    )
  })

  it('that fails says where it was made', async () => {
    await withFake([OPENS, { call: 'reset', returns: -22 }], async ({ openGroup, failure, vfio }) => {
      const { group } = openGroup()
      const device = await group.openDevice('0000:01:00.0')
      async function theCaller() {
        await device.reset()
      }
      const error = await failure(theCaller)
      assert(error instanceof vfio.VfioSystemError)
      assert.deepEqual(
        [error.code, error.errno, error.syscall, error.request, error.path],
        ['EINVAL', 22, 'ioctl', 'VFIO_DEVICE_RESET', '0000:01:00.0'],
      )
      assert.match(error.hint ?? '', /hotReset/)
      assert.match(error.stack ?? '', /VFIO_DEVICE_RESET.*\n +at theCaller/)
    })
  })
})
