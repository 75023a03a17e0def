import assert from 'node:assert/strict'
import { type ModuleDescription, makeHost, READY_MODULES, removeDirectories } from '../fixtures/host.js'
import { type FakeAnswer, type Machine, type Program, withFake } from './fake.js'

/** A program over the model of a kernel that has everything. */
const overModel = (
  program: (given: Program<null>) => unknown,
  answers: readonly FakeAnswer[] = [],
  machine: Machine = {},
  flags: string[] = [],
) => withFake(answers, program, { machine: { linux: '7.3', ...machine }, flags })

/** One interface for memory, whatever provides it: the program gets a device's and the name of the backend. */
const WAYS = [
  { way: 'group', backend: 'group', machine: { linux: '7.3' } },
  { way: 'the container of iommufd', backend: 'group', machine: { linux: '7.3', container: 'iommufd' } },
  // Which calls it an error that nothing is mapped.
  { way: 'that of an older one', backend: 'group', machine: { linux: '6.12', container: 'iommufd' } },
  { way: 'iommufd', backend: 'iommufd', machine: { linux: '7.3' } },
  { way: 'an older iommufd', backend: 'iommufd', machine: { linux: '6.12' } },
] as const

for (const { way, backend, machine } of WAYS) {
  const trees = () =>
    makeHost({
      devices: [
        { address: '0000:01:00.0', driver: 'vfio-pci', group: 1, vfioDevice: 'vfio0' },
        { address: '0000:02:00.0', driver: 'vfio-pci', group: 2, vfioDevice: 'vfio2' },
      ],
    })

  describe(`memory for devices, by ${way}`, function () {
    this.timeout(60_000)
    after(removeDirectories)

    it('is mapped, told of and unmapped by the same calls', () =>
      withFake(
        [],
        async ({ vfio, input, state }) => {
          const seen = new vfio.Host(input.trees).snapshot()
          const opened = await vfio.openDevice('01:00.0', { seen, backend: input.backend })
          const { dma } = opened
          assert.equal(opened.backend, input.backend)
          assert(dma.ranges.length > 0 && dma.ranges.every(({ start, end }) => start < end))
          const buffer = vfio.DmaBuffer.allocate(4 * 4096)
          const large = vfio.DmaBuffer.allocate(4 * 2 ** 20)
          const [small, part, big] = [
            await dma.map(buffer, { iova: 0x10000 }),
            await dma.map(buffer, { offset: 4096, length: 4096, write: false }),
            await dma.map(large, { addressBits: 32 }),
          ]
          assert.deepEqual([small.iova, small.size, small.buffer], [0x10000n, 4 * 4096, buffer])
          assert(big.iova + BigInt(big.size) <= 2n ** 32n)
          const inModel = () => {
            const { containers, iommufds } = state().model
            const all = [...containers, ...iommufds.flatMap(({ objects }) => objects)]
            return all.flatMap(({ mappings = [] }) => mappings).map(([iova, size]) => [BigInt(iova), size])
          }
          const told = () => dma.mappings.map(({ iova, size }) => [iova, size])
          assert.equal(told().length, 3)
          assert.deepEqual(inModel(), told())
          await assert.rejects(async () => buffer.close(), { code: 'ERR_VFIO_IN_USE' })
          assert.equal(await dma.unmap(0x10000, 4 * 4096), BigInt(4 * 4096))
          assert.equal(await dma.unmap(0x10000, 4 * 4096), 0n)
          assert.equal(small.mapped, false)
          await small.unmap()
          await part.unmap()
          assert.deepEqual(inModel(), told())
          // What would be cut is refused; an iommufd has unmapped by then what lies below it.
          await dma.map(buffer, { iova: 0x10000, length: 4096 })
          await dma.map(buffer, { iova: 0x11000, length: 2 * 4096 })
          // At once, and off the main thread.
          for (const size of [2 * 4096, Number(big.iova) + 3 * 2 ** 20 - 0x10000]) {
            await assert.rejects(dma.unmap(0x10000, size), /cuts a mapping in two/)
            assert.deepEqual(inModel(), told())
          }
          await dma.unmap(0x10000, 3 * 4096)
          assert.equal(await dma.unmapAll(), BigInt(4 * 2 ** 20))
          assert.deepEqual([inModel(), told(), big.mapped], [[], [], false])
          buffer.close()
          await dma.map(large)
          await opened.close()
          assert.deepEqual([large.mapped, state().model.devices], [false, []])
        },
        { input: { trees: trees(), backend }, machine },
      ))

    it('is refused in sentences with figures', () =>
      withFake(
        [],
        async ({ vfio, input, failure, failNext }) => {
          const seen = new vfio.Host(input.trees).snapshot()
          const { dma } = await vfio.openDevice('01:00.0', { seen, backend: input.backend })
          const buffer = vfio.DmaBuffer.allocate(2 * 4096)
          await dma.map(buffer, { iova: 0x10000 })
          const refused = async (options: object, code: string, because: RegExp) => {
            const error = await failure(dma.map(buffer, options))
            assert(error instanceof vfio.VfioSystemError, error.stack)
            assert.equal(error.code, code)
            assert.match(error.message, because)
          }
          await refused(
            { iova: 0x11000 },
            'EEXIST',
            /0x11000–0x12fff overlaps the mapping at 0x10000–0x11fff/,
          )
          await refused(
            { iova: 0x20800 },
            'EINVAL',
            /0x20800 and 0x2000 must be multiples of the page size, 0x1000/,
          )
          await refused(
            { iova: 0xfee00000 },
            'EINVAL',
            /0xfee00000–0xfee01fff is not within what the IOMMU maps: 0x0–/,
          )
          failNext(input.backend === 'group' ? 'mapDma' : 'ioasMap', 12)
          await refused(
            { iova: 0x30000 },
            'ENOMEM',
            input.backend === 'group'
              ? /has locked \d+ KiB of at most .* \(RLIMIT_MEMLOCK\), and 8 KiB more.*each container is charged for itself/
              : /has locked \d+ KiB of at most .* \(RLIMIT_MEMLOCK\), and 8 KiB more.*an iommufd charges the user/,
          )
          const cut = await failure(dma.unmap(0x10000, 4096))
          assert.match(cut.message, /cuts a mapping in two/)
          assert.equal(dma.mappings.length, 1)
        },
        { input: { trees: trees(), backend }, machine },
      ))

    it('is the same for several devices, in the order of their addresses', () =>
      withFake(
        [],
        async ({ vfio, input, state, failure, log }) => {
          const seen = new vfio.Host(input.trees).snapshot()
          const { backend } = input
          const pair = await vfio.openDevices(['02:00.0', '01:00.0'], { seen, backend })
          assert.equal(pair.backend, backend)
          assert.deepEqual(
            pair.devices.map(({ address }) => address),
            ['0000:02:00.0', '0000:01:00.0'],
          )
          const buffer = vfio.DmaBuffer.allocate(4096)
          await pair.dma.map(buffer)
          const { containers, groups, iommufds } = state().model
          const spaces = [...containers, ...iommufds.flatMap(({ objects }) => objects)]
          assert.equal(spaces.filter(({ mappings = [] }) => mappings.length > 0).length, 1)
          assert.equal(groups.length, backend === 'group' ? 2 : 0)
          await pair.close()
          assert.deepEqual([buffer.mapped, state().model.devices, state().model.iommufds], [false, [], []])
          assert(log().some((line) => line.startsWith('close ')))
          for (const wrong of [[], '01:00.0', ['01:00.0', '0000:01:00.0']])
            assert.equal(
              (await failure(vfio.openDevices(wrong as string[], { seen, backend }))).code,
              'ERR_VFIO_BAD_ARGUMENT',
            )
        },
        { input: { trees: trees(), backend }, machine },
      ))
  })
}

describe('openDevice()', function () {
  this.timeout(60_000)
  after(removeDirectories)

  const cases: {
    title: string
    backend: string
    vfioDevice?: string
    answers?: FakeAnswer[]
    fails?: string
    linux?: '6.12'
    vfToken?: string
    /** The parameter allow_unsafe_interrupts of type1 and of iommufd. */
    unsafe?: readonly ['N' | 'Y', 'N' | 'Y']
  }[] = [
    {
      title: 'takes iommufd where its file and the node can be opened',
      backend: 'iommufd',
      vfioDevice: 'vfio0',
    },
    { title: 'takes the group where the kernel has made no node', backend: 'group' },
    ...(['ENOENT', 'EACCES', 'EPERM', 'ENODEV'] as const).flatMap((code) =>
      ['open:iommu', 'open:vfio0'].map((call) => ({
        title: `takes the group where ${call} is ${code}`,
        backend: 'group',
        vfioDevice: 'vfio0',
        answers: [
          { call, returns: -({ ENOENT: 2, EACCES: 13, EPERM: 1, ENODEV: 19 } as const)[code] } as FakeAnswer,
        ],
      })),
    ),
    {
      title: 'takes the group where the kernel takes a token by the group alone',
      backend: 'group',
      vfioDevice: 'vfio0',
      linux: '6.12',
      vfToken: '01020304-0506-0708-090a-0b0c0d0e0f10',
    },
    {
      title: 'hides a binding that is refused without a token behind no group',
      backend: 'none',
      vfioDevice: 'vfio0',
      answers: [{ call: 'bindIommufd', returns: -22 }],
      fails: 'EINVAL',
    },
    {
      title: 'takes the group where interrupts that may be forged are accepted for groups alone',
      backend: 'group',
      vfioDevice: 'vfio0',
      answers: [{ call: 'bindIommufd', returns: -1 }],
      unsafe: ['Y', 'N'],
    },
    ...([undefined, ['N', 'N'], ['N', 'Y'], ['Y', 'Y']] as const).map((unsafe) => ({
      title: `hides no other failure behind the group (${unsafe ?? 'without parameters'})`,
      backend: 'none',
      vfioDevice: 'vfio0',
      answers: [{ call: 'bindIommufd', returns: -1 } as FakeAnswer],
      fails: 'EPERM',
      ...(unsafe && { unsafe }),
    })),
    {
      title: 'leaves nothing open where a device that is bound cannot be attached',
      backend: 'none',
      vfioDevice: 'vfio0',
      answers: [{ call: 'attachPt', returns: -98 }],
      fails: 'EADDRINUSE',
    },
    {
      title: 'hides no lack of descriptors behind the group',
      backend: 'none',
      vfioDevice: 'vfio0',
      answers: [{ call: 'open:iommu', returns: -24 }],
      fails: 'EMFILE',
    },
  ]
  for (const { title, backend, vfioDevice, answers = [], fails = null, linux = '7.3', ...more } of cases) {
    it(title, async () => {
      const { vfToken, unsafe } = more
      const accepting = (value: string): ModuleDescription => ({
        state: 'loaded',
        parameters: { allow_unsafe_interrupts: value },
      })
      const trees = makeHost({
        ...(unsafe && {
          modules: {
            ...READY_MODULES,
            vfio_iommu_type1: accepting(unsafe[0]),
            iommufd: accepting(unsafe[1]),
          },
        }),
        devices: [
          { address: '0000:01:00.0', driver: 'vfio-pci', group: 1, ...(vfioDevice && { vfioDevice }) },
        ],
      })
      await withFake(
        answers,
        async ({ vfio, input, state }) => {
          const seen = new vfio.Host(input.trees).snapshot()
          const { vfToken } = input
          const opened = await vfio.openDevice('01:00.0', { seen, vfToken }).catch((error) => error)
          if (opened instanceof Error) assert.equal((opened as { code?: unknown }).code, input.fails)
          else {
            assert.equal(opened.backend, input.backend)
            await opened.close()
          }
          const { containers, groups, devices, iommufds } = state().model
          assert.deepEqual([containers, groups, devices, iommufds].flat(), [])
        },
        { input: { trees, backend, fails, vfToken }, machine: { linux } },
      )
    })
  }
})

describe('openDevice() that is aborted', function () {
  this.timeout(60_000)
  after(removeDirectories)

  for (const call of ['bindIommufd', 'attachPt'] as const) {
    it(`rejects at once, and closes all of it when ${call} has ended`, async () => {
      const trees = makeHost({
        devices: [{ address: '0000:01:00.0', driver: 'vfio-pci', group: 1, vfioDevice: 'vfio0' }],
      })
      await withFake(
        [
          { call, returns: 'model', when: 'gate' },
          { call: 'close', when: 'gate' },
        ],
        async ({ vfio, input, failure, logged, letGo, state, log }) => {
          const warnings: unknown[] = []
          process.on('warning', (warning) => warnings.push(warning))
          const seen = new vfio.Host(input.trees).snapshot()
          const controller = new AbortController()
          const opening = failure(
            vfio.openDevice('01:00.0', { seen, backend: 'iommufd', signal: controller.signal }),
          )
          await logged(`begin ${input.request} /dev/vfio/devices/vfio0`)
          controller.abort()
          assert.equal((await opening).name, 'AbortError')
          assert(!log().includes('close /dev/iommu'))
          letGo()
          // The address space ends before the device does.
          await logged('end 128 /dev/iommu')
          letGo()
          await logged('close /dev/iommu')
          assert.deepEqual([state().model.devices, state().model.iommufds].flat(), [])
          assert.deepEqual(warnings, [])
        },
        { input: { trees, request: call === 'attachPt' ? 19 : 18 }, machine: { linux: '7.3' } },
      )
    })
  }
})

describe('an iommufd', function () {
  this.timeout(60_000)

  it('closes its devices, page tables and address spaces before itself', () =>
    overModel(async ({ vfio, state, log, failure }) => {
      const iommufd = vfio.Iommufd.open()
      const ioas = iommufd.allocateIoas()
      const device = await vfio.VfioDevice.openCdev('0000:01:00.0', {
        iommufd,
        path: '/dev/vfio/devices/vfio0',
      })
      const table = await ioas.allocateHwpt(device, { dirtyTracking: true })
      await device.attach(table)
      const buffer = vfio.DmaBuffer.allocate(4096)
      const mapping = await ioas.map(buffer)
      await iommufd.close()
      assert.deepEqual(
        [device.closed, table.closed, ioas.closed, mapping.mapped, buffer.mapped],
        [true, true, true, false, false],
      )
      assert.deepEqual(state().model.iommufds, [])
      const closes = log().filter((line) => line.startsWith('close '))
      assert.deepEqual(closes, ['close /dev/vfio/devices/vfio0', 'close /dev/iommu'])
      const calls = [
        () => iommufd.allocateIoas(),
        () => iommufd.option('accounting'),
        () => iommufd.changeProcess(),
        () => iommufd.hardwareInfo(device),
        () => iommufd.destroy(1),
        () => ioas.ranges(),
        () => ioas.allow([]),
        () => ioas.map(buffer),
        () => ioas.mapFile(buffer.fd, { length: 4096, iova: 0x1000 }),
        () => ioas.unmap(0x1000, 4096),
        () => ioas.unmapAll(),
        () => ioas.allocateHwpt(device),
        () => ioas.option('huge-pages'),
        () => ioas.physicalAddress(0x1000, 4096),
        () => table.setDirtyTracking(true),
        () => table.dirtyBitmap(0x1000, 4096),
        () => device.attach(ioas),
        () => device.detach(),
        () => vfio.VfioDevice.openCdev('0000:01:00.0', { iommufd, path: '/dev/vfio/devices/vfio0' }),
      ]
      for (const call of calls) assert.equal((await failure(call)).code, 'ERR_VFIO_CLOSED', String(call))
    }))

  it('is disposed of at once, with all that is in it', () =>
    overModel(async ({ vfio, state }) => {
      const iommufd = vfio.Iommufd.open()
      const ioas = iommufd.allocateIoas()
      const device = await vfio.VfioDevice.openCdev('0000:01:00.0', {
        iommufd,
        path: '/dev/vfio/devices/vfio0',
      })
      await device.attach(ioas)
      iommufd[Symbol.dispose]()
      assert.deepEqual([device.closed, ioas.closed], [true, true])
      while (state().model.iommufds.length > 0) await new Promise(setImmediate)
    }))

  it('detaches devices from an address space that closes, and leaves them open', () =>
    overModel(async ({ vfio, state }) => {
      const iommufd = vfio.Iommufd.open()
      const devices = await Promise.all(
        [0, 1].map((n) =>
          vfio.VfioDevice.openCdev(`0000:01:00.${n}`, { iommufd, path: `/dev/vfio/devices/vfio${n}` }),
        ),
      )
      for (const now of [false, true]) {
        const ioas = iommufd.allocateIoas()
        const table = await ioas.allocateHwpt(devices[0] as NonNullable<(typeof devices)[0]>)
        await devices[0]?.attach(table)
        await devices[1]?.attach(ioas)
        await ioas.map(vfio.DmaBuffer.allocate(4096))
        if (now) ioas[Symbol.dispose]()
        await ioas.close()
        assert(table.closed && ioas.closed && devices.every(({ closed }) => !closed))
        const objects = state().model.iommufds[0]?.objects ?? []
        assert.deepEqual(
          objects.map(({ type, attached }) => [type, attached]),
          [
            ['device', undefined],
            ['device', undefined],
          ],
        )
      }
    }))

  it('takes one table of a device for another, and each PASID has its own', () =>
    overModel(async ({ vfio, log, failure }) => {
      const iommufd = vfio.Iommufd.open()
      const [first, second] = [iommufd.allocateIoas(), iommufd.allocateIoas()]
      const device = await vfio.VfioDevice.openCdev('0000:01:00.0', {
        iommufd,
        path: '/dev/vfio/devices/vfio0',
      })
      assert.deepEqual(first.dma.ranges, [{ start: 0n, end: 2n ** 64n - 1n }])
      await device.attach(first)
      // What a device reserves is left out from then on.
      assert(first.dma.ranges.length > 1)
      await device.attach(second)
      assert.deepEqual(first.dma.ranges, [{ start: 0n, end: 2n ** 64n - 1n }])
      assert(!log().some((line) => line.startsWith('begin 20 ')))
      // It is not in the way of the first one any more.
      await first.close()
      assert(!log().some((line) => line.startsWith('begin 20 ')))
      await second.close()
      assert.equal(log().filter((line) => line.startsWith('begin 20 ')).length, 1)
      assert.equal((await failure(device.attach(first))).code, 'ERR_VFIO_CLOSED')
      for (const pasid of [-1, 2 ** 20, 1.5, '1'])
        assert.equal(
          (await failure(device.attach(second, { pasid } as object))).code,
          'ERR_VFIO_BAD_ARGUMENT',
        )
      assert.equal((await failure(device.attach({} as typeof first))).code, 'ERR_VFIO_BAD_ARGUMENT')
    }))

  it('takes no object of another one for its own of the same number', () =>
    overModel(async ({ vfio, failure, state }) => {
      const [here, there] = [vfio.Iommufd.open(), vfio.Iommufd.open()]
      const [device, other] = await Promise.all(
        [here, there].map((iommufd, n) =>
          vfio.VfioDevice.openCdev(`0000:0${n + 1}:00.0`, {
            iommufd,
            path: `/dev/vfio/devices/vfio${2 * n}`,
          }),
        ),
      )
      if (!device || !other) return assert.fail()
      const [ioas, foreign] = [here.allocateIoas(), there.allocateIoas()]
      assert.deepEqual([ioas.id, device.devid], [foreign.id, other.devid])
      const table = await foreign.allocateHwpt(other)
      for (const wrong of [
        () => device.attach(foreign),
        () => device.attach(table),
        () => here.hardwareInfo(other),
        () => ioas.allocateHwpt(other),
      ]) {
        const { code, message } = await failure(wrong)
        assert.equal(code, 'ERR_VFIO_BAD_ARGUMENT', String(wrong))
        assert.match(message, /another iommufd/)
      }
      const attached = state().model.iommufds.flatMap(({ objects }) => objects.map((one) => one.attached))
      assert(attached.every((id) => id === undefined))
      await device.attach(ioas)
    }))

  it('shares what is mapped between address spaces, and maps files', () =>
    overModel(async ({ vfio, failure }) => {
      const iommufd = vfio.Iommufd.open()
      const other = vfio.Iommufd.open()
      const [first, second] = [iommufd.allocateIoas(), iommufd.allocateIoas()]
      const buffer = vfio.DmaBuffer.allocate(4096)
      const mapping = await first.map(buffer, { iova: 0x1000 })
      const copy = await second.copy(mapping, { iova: 0x5000 })
      assert.deepEqual([copy.iova, copy.size, copy.buffer], [0x5000n, 4096, buffer])
      await mapping.unmap()
      assert.throws(() => buffer.close(), { code: 'ERR_VFIO_IN_USE' })
      assert.equal((await failure(() => other.allocateIoas().copy(copy))).code, 'ERR_VFIO_BAD_ARGUMENT')
      const successor = await first.map(vfio.DmaBuffer.allocate(4096), { iova: 0x1000 })
      // There is something else at its place by now.
      assert.equal((await failure(second.copy(mapping))).code, 'ERR_VFIO_BAD_ARGUMENT')
      // The same where it is unmapped while the copy waits for its turn.
      const busy = second.map(vfio.DmaBuffer.allocate(4 * 2 ** 20))
      const waiting = failure(second.copy(successor))
      await successor.unmap()
      assert.equal((await waiting).code, 'ERR_VFIO_BAD_ARGUMENT')
      await (await busy).unmap()
      const file = await first.mapFile(buffer.fd, { length: 4096 })
      assert.equal(file.buffer, null)
      assert.deepEqual(first.dma.mappings, [{ iova: file.iova, size: 4096, buffer: null }])
      await file.unmap()
      await copy.unmap()
      buffer.close()
    }))

  it('keeps what a device is attached to, and closes what is dropped', () =>
    overModel(
      async ({ vfio, log, state }) => {
        const dropped: string[] = []
        process.on('warning', ({ message }) => dropped.push(message.split(' was dropped')[0] ?? ''))
        const iommufd = vfio.Iommufd.open()
        const device = await vfio.VfioDevice.openCdev('0000:01:00.0', {
          iommufd,
          path: '/dev/vfio/devices/vfio0',
        })
        await (async () => {
          await device.attach(iommufd.allocateIoas())
          iommufd.allocateIoas()
        })()
        while (dropped.length === 0) {
          globalThis.gc?.()
          await new Promise(setImmediate)
        }
        while (!log().includes('end 128 /dev/iommu')) await new Promise(setImmediate)
        assert.deepEqual(dropped, ['IOAS 4 of iommufd /dev/iommu'])
        assert.equal(state().model.iommufds[0]?.objects.filter(({ type }) => type === 'ioas').length, 1)
      },
      [],
      {},
      ['--expose-gc'],
    ))

  it('keeps what a call waits for, and a device whose memory is a file', () =>
    overModel(
      async ({ vfio, logged, letGo }) => {
        const dropped: string[] = []
        process.on('warning', ({ message }) => dropped.push(message))
        const iommufd = vfio.Iommufd.open()
        const open = (n: number) =>
          vfio.VfioDevice.openCdev(`0000:0${n + 1}:00.0`, { iommufd, path: `/dev/vfio/devices/vfio${n}` })
        const { shared, calls } = await (async () => {
          const device = await open(0)
          const table = await iommufd.allocateIoas().allocateHwpt(device, { dirtyTracking: true })
          return {
            shared: await device.dmaBuf('bar2', { ranges: [{ offset: 0, length: 4096 }] }),
            calls: [table.setDirtyTracking(true), table.setDirtyTracking(false)],
          }
        })()
        await logged('begin 139 /dev/iommu')
        await (async () => void (await open(2)))()
        while (!dropped.some((message) => message.startsWith('device 0000:03:00.0'))) {
          globalThis.gc?.()
          await new Promise(setImmediate)
        }
        letGo()
        await Promise.all(calls)
        assert.equal(dropped.length, 1, dropped.join())
        assert.equal(shared.closed, false)
      },
      [
        { call: 'dmaBuf', returns: 'fd' },
        { call: 'setDirtyTracking', returns: 'model', when: 'gate' },
        { call: 'setDirtyTracking', returns: 'model' },
      ],
      {},
      ['--expose-gc'],
    ))

  it('is chosen whom to charge for memory, and says of a device what its IOMMU can', () =>
    overModel(async ({ vfio, failure }) => {
      const iommufd = vfio.Iommufd.open()
      assert.equal(iommufd.option('accounting'), 'user')
      iommufd.option('accounting', 'process')
      assert.equal(iommufd.option('accounting'), 'process')
      const ioas = iommufd.allocateIoas()
      assert.equal((await failure(() => iommufd.option('accounting', 'user'))).code, 'EBUSY')
      assert.equal(ioas.option('huge-pages'), true)
      ioas.option('huge-pages', false)
      assert.equal(ioas.option('huge-pages'), false)
      ioas.allow(
        [{ start: 0x100000, end: 0x1fffff }].map(({ start, end }) => ({
          start: BigInt(start),
          end: BigInt(end),
        })),
      )
      const device = await vfio.VfioDevice.openCdev('0000:01:00.0', {
        iommufd,
        path: '/dev/vfio/devices/vfio0',
      })
      const info = iommufd.hardwareInfo(device)
      assert.deepEqual([info.type, info.dirtyTracking, info.data.length > 0], ['intel-vtd', true, true])
      for (const wrong of [
        () => iommufd.option('nonsense' as 'accounting'),
        () => iommufd.option('accounting', 'nobody' as 'user'),
        () => ioas.option('nonsense' as 'huge-pages'),
        () => ioas.allow([{ start: 1n, end: 0n }]),
        () => iommufd.hardwareInfo({ address: '0000:02:00.0', devid: null }),
        () => iommufd.destroy(-1),
        () => ioas.mapFile(-1, { length: 4096 }),
        () => ioas.mapFile(0, { length: 0 }),
      ])
        assert.equal((await failure(wrong)).code, 'ERR_VFIO_BAD_ARGUMENT', String(wrong))
    }))

  it('owns all of a slot that is reset, by a device of each group', async () => {
    const trees = makeHost({
      devices: [0, 2].map((n) => ({
        address: `0000:01:00.${n}`,
        driver: 'vfio-pci',
        group: n / 2 + 1,
        vfioDevice: `vfio${n}`,
      })),
    })
    await withFake(
      [],
      async ({ vfio, input, log, state, failure }) => {
        const seen = new vfio.Host(input.trees).snapshot()
        for (const backend of ['auto', 'iommufd'] as const) {
          const { viable, hotReset } = await vfio.askKernel(seen, '01:00.0', { backend })
          assert.equal(viable, true)
          assert.deepEqual(hotReset, [
            { address: '0000:01:00.0', group: 1 },
            { address: '0000:01:00.2', group: 2 },
          ])
        }
        const report = await vfio.resetDevice(seen, '01:00.0', { hot: true })
        assert.deepEqual(report.affected, ['0000:01:00.0', '0000:01:00.2'])
        assert(log().includes('begin 13 /dev/vfio/devices/vfio0'))
        assert.deepEqual(
          log()
            .filter((line) => line.startsWith('close '))
            .slice(-3),
          ['close /dev/vfio/devices/vfio2', 'close /dev/vfio/devices/vfio0', 'close /dev/iommu'],
        )
        // Without the other one it is not owned.
        const { device, close } = await vfio.openDevice('01:00.0', { seen })
        assert.equal(device.hotResetInfo().owned, false)
        assert.equal((await failure(device.hotReset())).code, 'EINVAL')
        await close()
        assert.deepEqual(state().model.iommufds, [])
      },
      { input: { trees }, machine: { linux: '7.3' } },
    )
  })

  it('takes the token of a virtual function', () =>
    overModel(async ({ vfio, failure }) => {
      const iommufd = vfio.Iommufd.open()
      const path = '/dev/vfio/devices/vfio7'
      const vfToken = '01020304-0506-0708-090a-0b0c0d0e0f10'
      assert.equal(
        (await failure(vfio.VfioDevice.openCdev('0000:04:00.1', { iommufd, path }))).code,
        'EACCES',
      )
      const device = await vfio.VfioDevice.openCdev('0000:04:00.1', { iommufd, path, vfToken })
      assert(typeof device.devid === 'number')
    }))

  it('names what is not there', () =>
    overModel(async ({ vfio, failure }) => {
      const iommufd = vfio.Iommufd.open()
      const error = await failure(vfio.VfioDevice.openCdev('ffff:ff:1f.7', { iommufd }))
      assert.equal(error.code, 'ERR_VFIO_NO_DEVICE')
      assert.match(error.message, /has no node below \/dev\/vfio\/devices: bind it/)
      assert.equal(
        (await failure(vfio.VfioDevice.openCdev('01:00.0', { iommufd: 7 } as never))).code,
        'ERR_VFIO_BAD_ARGUMENT',
      )
    }))

  it('logs what devices write that are attached before and after that was asked for', () =>
    overModel(async ({ vfio, state, failure }) => {
      const iommufd = vfio.Iommufd.open()
      const ioas = iommufd.allocateIoas()
      assert.match((await failure(ioas.dma.dirty.start())).message, /no device is attached/)
      const [first, second] = await Promise.all(
        [0, 2].map((n) =>
          vfio.VfioDevice.openCdev(`0000:0${n + 1}:00.0`, { iommufd, path: `/dev/vfio/devices/vfio${n}` }),
        ),
      )
      await first?.attach(ioas)
      await ioas.map(vfio.DmaBuffer.allocate(4096), { iova: 0x1000 })
      await ioas.dma.dirty.start()
      await second?.attach(ioas)
      const objects = state().model.iommufds[0]?.objects ?? []
      const tables = objects.filter(({ type }) => type === 'hwpt').map(({ id }) => id)
      const attached = objects.filter(({ type }) => type === 'device').map((one) => one.attached)
      assert.equal(attached.length, 2)
      assert(attached.every((id) => id !== undefined && tables.includes(id)))
      // Two page tables: a bit of either tells of the page. Those beyond the range are filled up.
      assert.deepEqual([...(await ioas.dma.dirty.bitmap(0x1000, 4096))], [1, 0, 0, 0, 0, 0, 0, 0])
      assert.deepEqual([...(await ioas.dma.dirty.bitmap(0x1000, 4096))], Array(8).fill(0))
      assert.equal((await ioas.dma.dirty.unmap(0x1000, 4096)).length, 8)
      assert.deepEqual(ioas.dma.mappings, [])
      await ioas.dma.dirty.stop()
      await ioas.close()
      assert.deepEqual(
        state().model.iommufds[0]?.objects.map(({ type }) => type),
        ['device', 'device'],
      )
    }))

  it('puts devices back on the address space when a log ends, and tells all that failed', () =>
    overModel(async ({ vfio, state, failure, failNext }) => {
      const iommufd = vfio.Iommufd.open()
      const [ioas, other] = [iommufd.allocateIoas(), iommufd.allocateIoas()]
      const paths = [0, 2, 4].map((n) => `/dev/vfio/devices/vfio${n}`)
      const devices = await Promise.all(
        paths.map((path, n) => vfio.VfioDevice.openCdev(`0000:0${n + 1}:00.0`, { iommufd, path })),
      )
      const [first, second, third] = devices
      const objects = () => state().model.iommufds[0]?.objects ?? []
      const attached = () => devices.map(({ devid }) => objects().find(({ id }) => id === devid)?.attached)
      const tables = () => objects().flatMap(({ id, parent }) => (parent === ioas.id ? [id] : []))
      await first?.attach(ioas)
      await ioas.map(vfio.DmaBuffer.allocate(4096), { iova: 0x1000 })
      await ioas.dma.dirty.start()
      await second?.attach(ioas)
      // One that somebody put elsewhere is left there.
      await third?.attach(ioas)
      await third?.attach(other)
      const [elsewhere, logging] = [attached()[2], tables()]
      failNext('attachPt', 16)
      failNext('setDirtyTracking', 5)
      const error = await failure(ioas.dma.dirty.stop())
      assert.equal(error.code, 'EIO')
      assert.match(error.message, /SET_DIRTY_TRACKING.*EIO.*; VFIO_DEVICE_ATTACH_IOMMUFD_PT.*EBUSY/)
      assert.equal(attached().filter((table) => logging.includes(table ?? 0)).length, 1)
      await ioas.dma.dirty.stop()
      // Of the kernel's own for this address space there is one again, and those that logged go.
      while (tables().length > 1) await new Promise(setImmediate)
      const [own] = tables()
      assert(own !== undefined && !logging.includes(own))
      assert.deepEqual(attached(), [own, own, elsewhere])
    }))

  it('can hand a device over again when a log has ended', async () => {
    const device = { address: '0000:01:00.0', driver: 'vfio-pci', group: 1, vfioDevice: 'vfio0' }
    await withFake(
      [],
      async ({ vfio, input, failure }) => {
        const seen = new vfio.Host(input.trees).snapshot()
        const opened = await vfio.openDevice('01:00.0', { seen, backend: 'iommufd' })
        await opened.dma.dirty.start()
        assert.match((await failure(opened.handOver())).message, /a log .* is on: dirty\.stop\(\) first/)
        await opened.dma.dirty.stop()
        await vfio.receiveDevice(await opened.handOver()).close()
      },
      { input: { trees: makeHost({ devices: [device] }) }, machine: { linux: '7.3' } },
    )
  })

  const GATED = (call: 'attachPt' | 'hwptAlloc', first: 'now' | 'gate'): FakeAnswer[] => [
    ...(first === 'now' ? [{ call, returns: 'model' } as const] : []),
    { call, returns: 'model', when: 'gate' },
    { call, returns: 'model' },
  ]

  it('leaves a device where it went while the address space before closed', () =>
    overModel(
      async ({ vfio, state, logged, letGo }) => {
        const iommufd = vfio.Iommufd.open()
        const path = '/dev/vfio/devices/vfio0'
        const device = await vfio.VfioDevice.openCdev('0000:01:00.0', { iommufd, path })
        const [before, after] = [iommufd.allocateIoas(), iommufd.allocateIoas()]
        await device.attach(before)
        const attaching = device.attach(after)
        await logged(`begin 19 ${path}`, 2)
        const closing = before.close()
        letGo()
        await Promise.all([attaching, closing])
        const objects = state().model.iommufds[0]?.objects ?? []
        const attached = objects.find(({ type }) => type === 'device')?.attached
        assert.equal(objects.find(({ id }) => id === attached)?.parent, after.id)
      },
      GATED('attachPt', 'now'),
    ))

  it('attaches no device again that was detached while a log began', () =>
    overModel(
      async ({ vfio, state, logged, letGo }) => {
        const iommufd = vfio.Iommufd.open()
        const path = '/dev/vfio/devices/vfio0'
        const device = await vfio.VfioDevice.openCdev('0000:01:00.0', { iommufd, path })
        const ioas = iommufd.allocateIoas()
        await device.attach(ioas)
        const starting = ioas.dma.dirty.start()
        await logged('begin 137 /dev/iommu')
        const detaching = device.detach()
        letGo()
        await Promise.all([starting, detaching])
        const objects = state().model.iommufds[0]?.objects ?? []
        assert.equal(objects.find(({ type }) => type === 'device')?.attached, undefined)
      },
      GATED('hwptAlloc', 'gate'),
    ))

  it('begins the log of the other devices where one closes meanwhile', () =>
    overModel(
      async ({ vfio, state, logged, letGo }) => {
        const iommufd = vfio.Iommufd.open()
        const devices = await Promise.all(
          [0, 2].map((n) =>
            vfio.VfioDevice.openCdev(`0000:0${n + 1}:00.0`, { iommufd, path: `/dev/vfio/devices/vfio${n}` }),
          ),
        )
        const ioas = iommufd.allocateIoas()
        for (const device of devices) await device.attach(ioas)
        const starting = ioas.dma.dirty.start()
        await logged('begin 137 /dev/iommu')
        const closing = devices[0]?.close()
        letGo()
        await Promise.all([starting, closing])
        await ioas.map(vfio.DmaBuffer.allocate(4096), { iova: 0x1000 })
        assert.equal((await ioas.dma.dirty.bitmap(0x1000, 4096)).length, 8)
        const objects = state().model.iommufds[0]?.objects ?? []
        assert.equal(objects.filter(({ type }) => type === 'device').length, 1)
      },
      GATED('hwptAlloc', 'gate'),
    ))

  it('forgets a device that was disposed of while it was attached', () =>
    overModel(
      async ({ vfio, logged, letGo, failure }) => {
        const iommufd = vfio.Iommufd.open()
        const path = '/dev/vfio/devices/vfio0'
        const device = await vfio.VfioDevice.openCdev('0000:01:00.0', { iommufd, path })
        const ioas = iommufd.allocateIoas()
        const attaching = failure(device.attach(ioas))
        await logged(`begin 19 ${path}`)
        device[Symbol.dispose]()
        letGo()
        assert.equal((await attaching).code, 'ERR_VFIO_CLOSED')
        assert.match((await failure(ioas.dma.dirty.start())).message, /no device is attached/)
      },
      GATED('attachPt', 'gate'),
    ))

  it('begins no log while a device is on a page table that has none, and puts none there after that', () =>
    overModel(async ({ vfio, failure }) => {
      const iommufd = vfio.Iommufd.open()
      const path = '/dev/vfio/devices/vfio0'
      const device = await vfio.VfioDevice.openCdev('0000:01:00.0', { iommufd, path })
      const ioas = iommufd.allocateIoas()
      const table = await ioas.allocateHwpt(device)
      await device.attach(table)
      const refused = async (work: Promise<void>) => {
        const { code, message } = await failure(work)
        assert.equal(code, 'ERR_VFIO_BAD_ARGUMENT')
        assert.match(message, /page table \d+ of .* cannot log what its devices write: attach them to IOAS/)
      }
      await refused(ioas.dma.dirty.start())
      await device.attach(ioas)
      await ioas.dma.dirty.start()
      await refused(device.attach(table))
      // One that was allocated after the log began has it from the start.
      const late = await ioas.allocateHwpt(device, { dirtyTracking: true })
      await device.attach(late)
      await ioas.map(vfio.DmaBuffer.allocate(4096), { iova: 0x1000 })
      assert.equal((await ioas.dma.dirty.bitmap(0x1000, 4096)).length, 8)
    }))

  it('gives back the page tables that it made for a log', () =>
    overModel(async ({ vfio, state, failure, failNext }) => {
      const iommufd = vfio.Iommufd.open()
      const path = '/dev/vfio/devices/vfio0'
      const device = await vfio.VfioDevice.openCdev('0000:01:00.0', { iommufd, path })
      const [ioas, other] = [iommufd.allocateIoas(), iommufd.allocateIoas()]
      const tables = () =>
        state().model.iommufds[0]?.objects.filter(({ type, parent }) => type === 'hwpt' && parent === ioas.id)
          .length
      const gone = async () => {
        while (tables() !== 0) await new Promise(setImmediate)
      }
      await device.attach(ioas)
      failNext('attachPt', 16)
      assert.equal((await failure(ioas.dma.dirty.start())).code, 'EBUSY')
      await device.attach(other)
      await gone()
      await device.attach(ioas)
      await ioas.map(vfio.DmaBuffer.allocate(4096), { iova: 0x1000 })
      await ioas.dma.dirty.start()
      for (let times = 0; times < 3; times++) {
        await device.attach(other)
        await device.attach(ioas)
      }
      assert.equal(tables(), 1)
      await device.detach()
      // What it wrote before is still told.
      assert.deepEqual([...(await ioas.dma.dirty.bitmap(0x1000, 4096))], [1, 0, 0, 0, 0, 0, 0, 0])
      failNext('attachPt', 16)
      assert.equal((await failure(device.attach(ioas))).code, 'EBUSY')
      await ioas.dma.dirty.stop()
      await gone()
      await device.attach(ioas)
      await ioas.dma.dirty.start()
      await ioas.dma.dirty.stop()
      await device.detach()
      await gone()
      // The page table of a PASID is asked for as one.
      await device.attach(ioas)
      await ioas.dma.dirty.start()
      const refused = await failure(device.attach(ioas, { pasid: 1 }))
      assert(refused instanceof vfio.VfioSystemError)
      assert.deepEqual([refused.code, refused.request], ['ENOTSUP', 'IOMMU_HWPT_ALLOC'])
    }))
})
