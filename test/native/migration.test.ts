import assert from 'node:assert/strict'
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { bytes, feature } from './bytes.js'
import { type FakeAnswer, OPENS, withFake } from './fake.js'

const GET = 1 << 16
const SET = 1 << 17

describe('migration', () => {
  const state = (number: number, fd = 0xffffffff) =>
    feature(8, 2 | SET)
      .u32(number, fd)
      .done()

  it('tells its states, the state and the size of its data', async () => {
    const long = (index: number, value: bigint) =>
      feature(8, GET | index)
        .u64(value)
        .done()
    const answers: FakeAnswer[] = [
      OPENS,
      { call: 'migration', bytes: long(1, 0b101n) },
      { call: 'migration', bytes: long(1, 1n << 63n) },
      { call: 'migrationDataSize', bytes: long(9, 2n ** 40n + 5n) },
      ...Array.from({ length: 9 }, (_, i): FakeAnswer => ({ call: 'migrationState', bytes: state(i) })),
    ]
    await withFake(answers, async ({ openGroup, failure }) => {
      const { group } = openGroup()
      const { migration } = await group.openDevice('0000:01:00.0')
      assert.deepEqual(await migration.support(), { stopCopy: true, p2p: false, preCopy: true, flags: 5n })
      assert.equal((await migration.support()).flags, 1n << 63n)
      assert.equal(await migration.dataSize(), 2n ** 40n + 5n)
      const names = []
      for (let i = 0; i < 8; i++) names.push(await migration.state())
      assert.deepEqual(names, [
        'error',
        'stop',
        'running',
        'stop-copy',
        'resuming',
        'running-p2p',
        'pre-copy',
        'pre-copy-p2p',
      ])
      assert.equal((await failure(migration.state())).code, 'ERR_VFIO_BAD_KERNEL_DATA')
    })
  })

  describe('data', () => {
    let directory: string
    before(() => {
      directory = mkdtempSync(join(tmpdir(), 'vfio-migration-'))
    })
    after(() => rmSync(directory, { recursive: true }))

    it('is read to its end by an object that owns the stream', async () => {
      const path = join(directory, 'saved')
      writeFileSync(path, Buffer.from([1, 2, 3, 4, 5]))
      const file = openSync(path, 'r')
      await withFake(
        [OPENS, { call: 'migrationState' }, { call: 'migrationState', bytes: state(3, 3) }],
        async ({ openGroup, failure, log }) => {
          const { fstatSync } = await import('node:fs')
          const { group } = openGroup()
          const device = await group.openDevice('0000:01:00.0')
          assert.equal(await device.migration.setState('stop'), null)
          const data = await device.migration.setState('stop-copy')
          assert(data)
          assert.deepEqual(
            log().filter((line) => line.startsWith('sent')),
            ['sent 17.2 100000000200020001000000ffffffff', 'sent 17.2 100000000200020003000000ffffffff'],
          )
          assert.deepEqual(await data.read(3), Uint8Array.of(1, 2, 3))
          assert.deepEqual(await data.read(2 ** 26), Uint8Array.of(4, 5))
          assert.deepEqual(await data.read(1), new Uint8Array())
          // The file of the test was opened for reading.
          assert.match(
            (await failure(data.write(Uint8Array.of(1)))).message,
            /^write on the migration data of 0000:01:00\.0 failed with EBADF/,
          )
          for (const size of [0, -1, 1.5, Number.NaN, 2 ** 26 + 1, 2 ** 53, '1', null, 1n]) {
            const error = await failure(data.read(size as number))
            assert.equal(error.code, 'ERR_VFIO_BAD_ARGUMENT', String(size))
          }
          for (const wrong of [undefined, null, 'text', [1], new ArrayBuffer(1), new Uint16Array(1)]) {
            const error = await failure(data.write(wrong as never))
            assert.equal(error.code, 'ERR_VFIO_BAD_ARGUMENT', String(wrong))
          }
          fstatSync(3)
          await device.close()
          assert.equal(data.closed, true)
          assert.throws(() => fstatSync(3), { code: 'EBADF' })
          for (const call of [() => data.read(1), () => data.write(new Uint8Array(1))]) {
            assert.equal((await failure(call)).code, 'ERR_VFIO_CLOSED')
          }
        },
        { descriptors: [file] },
      )
      closeSync(file)
    })

    it('is estimated in pre-copy, with word of new initial data for those who want it', async () => {
      const info = (flags: number) =>
        bytes()
          .u32(24, flags)
          .u64(2n ** 33n, 4096n)
          .done()
      const path = join(directory, 'estimated')
      writeFileSync(path, '')
      const file = openSync(path, 'r')
      await withFake(
        [
          OPENS,
          { call: 'precopyInfoV2' },
          { call: 'migrationState', bytes: state(6, 3) },
          { call: 'precopyInfo', bytes: info(0) },
          { call: 'precopyInfo', bytes: info(1) },
          { call: 'precopyInfo', returns: -22 },
        ],
        async ({ vfio, openGroup, failure, log }) => {
          const device = await openGroup().group.openDevice('0000:01:00.0')
          await device.migration.usePrecopyInfoV2()
          assert.equal(log().filter((line) => line.startsWith('sent'))[0], 'sent 17.12 080000000c000200')
          const data = await device.migration.setState('pre-copy')
          assert(data)
          const estimate = { initialBytes: 2n ** 33n, dirtyBytes: 4096n }
          assert.deepEqual(await data.precopyInfo(), { ...estimate, reinitialized: false })
          assert.deepEqual(await data.precopyInfo(), { ...estimate, reinitialized: true })
          const error = await failure(data.precopyInfo())
          assert(error instanceof vfio.VfioSystemError && error.code === 'EINVAL', String(error))
          assert.match(error.message, /^VFIO_MIG_GET_PRECOPY_INFO on .* failed with EINVAL: .*pre-copy/)
          await data.close()
          assert.equal((await failure(data.precopyInfo())).code, 'ERR_VFIO_CLOSED')
        },
        { descriptors: [file] },
      )
      closeSync(file)
    })

    it('is written whole', async () => {
      const path = join(directory, 'loaded')
      const file = openSync(path, 'w')
      await withFake(
        [OPENS, { call: 'migrationState', bytes: state(4, 3) }],
        async ({ openGroup }) => {
          const { group } = openGroup()
          const device = await group.openDevice('0000:01:00.0')
          const data = await device.migration.setState('resuming')
          await data?.write(new Uint8Array([0, 1, 2, 3]).subarray(1, 3))
          await data?.write(new Uint8Array())
          await data?.write(Uint8Array.of(9))
          await data?.close()
        },
        { descriptors: [file] },
      )
      closeSync(file)
      assert.deepEqual([...readFileSync(path)], [1, 2, 9])
    })

    it('of a change of state that was aborted is let go', async () => {
      const file = openSync(join(directory, 'dropped'), 'w')
      await withFake(
        [OPENS, { call: 'migrationState', when: 'gate', bytes: state(4, 3) }],
        async ({ openGroup, failure, logged, letGo }) => {
          const { fstatSync } = await import('node:fs')
          const { group } = openGroup()
          const device = await group.openDevice('0000:01:00.0')
          const controller = new AbortController()
          const change = failure(device.migration.setState('resuming', { signal: controller.signal }))
          await logged('begin 17 0000:01:00.0')
          controller.abort()
          assert.equal((await change).name, 'AbortError')
          fstatSync(3)
          letGo()
          await device.close()
          assert.throws(() => fstatSync(3), { code: 'EBADF' })
        },
        { descriptors: [file] },
      )
      closeSync(file)
    })
  })
})
