import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { region } from './bytes.js'
import { type FakeAnswer, OPENS, withFake } from './fake.js'

const MAPPED: FakeAnswer = { call: 'regionInfo', bytes: region(32, 7, 0, 0x4000n, 0x10000000000n).done() }

/** What the process may have open, for a test that would else take as long as the machine is large. */
const DESCRIPTORS = 4000

describe('a limit', function () {
  this.timeout(300_000)

  it('is not met by what is closed already, in one turn of the loop', async () => {
    await withFake(
      [OPENS, MAPPED, { call: 'fallocate', returns: 1 }],
      async ({ openGroup, vfio, memoryOf, input }) => {
        const { execFileSync } = await import('node:child_process')
        const { readdirSync, readFileSync, truncateSync } = await import('node:fs')
        const device = await openGroup().group.openDevice('0000:01:00.0')
        truncateSync(memoryOf('0000:01:00.0'), 2 ** 40 + 0x4000)
        const bar = device.region(1)
        const page = vfio.DmaBuffer.allocate(4096)
        vfio.EventFd.create()[Symbol.dispose]()
        const rounds: [string, number, () => unknown][] = [
          // More than a thread has numbers for, since each is two objects.
          ['buffers', 2 ** 17 + 1, () => vfio.DmaBuffer.allocate(4096).close()],
          ['buffers of a descriptor', 20_000, () => vfio.DmaBuffer.fromFd(page.fd, { size: 4096 }).close()],
          ['mappings of a region', 70_000, () => bar.map().close()],
          ['eventfds', 20_000, () => vfio.EventFd.create()[Symbol.dispose]()],
        ]
        execFileSync('prlimit', ['--pid', String(process.pid), `--nofile=${input}:${input}`])
        const used = () => ({
          descriptors: readdirSync('/proc/self/fd').length,
          ours: readFileSync('/proc/self/maps', 'utf8').match(/memfd:(vfio-dma|fake-vfio)/g)?.length,
        })
        for (const [what, count, round] of rounds) {
          const before = used()
          for (let i = 0; i < count; i++) round()
          assert.deepEqual(used(), before, what)
          const maps = readFileSync('/proc/self/maps', 'utf8').split('\n').length
          assert(maps < 20_000, `${maps} mappings of the process after ${what}`)
          await new Promise(setImmediate)
        }
      },
      { input: DESCRIPTORS, deadline: 280_000 },
    )
  })

  it('on windows is not met by those of devices that are closed', async () => {
    await withFake([OPENS, MAPPED], async ({ openGroup, memoryOf }) => {
      const { readFileSync, truncateSync } = await import('node:fs')
      const { group } = openGroup()
      const lines = () => readFileSync('/proc/self/maps', 'utf8').split('\n')
      const before = lines().length
      for (let i = 0; i < 500; i++) {
        const device = await group.openDevice('0000:01:00.0')
        if (i === 0) truncateSync(memoryOf('0000:01:00.0'), 2 ** 40 + 0x4000)
        device.region(1).map()
        device[Symbol.dispose]()
      }
      assert.equal(lines().filter((line) => line.includes('0000:01:00.0')).length, 0)
      assert(lines().length < before + 100)
    })
  })

  it('on descriptors is named, and closing one buffer makes room for another', async () => {
    await withFake(
      [],
      async ({ vfio, failure, input }) => {
        const { execFileSync } = await import('node:child_process')
        execFileSync('prlimit', ['--pid', String(process.pid), `--nofile=${input}:${input}`])
        const buffers: InstanceType<typeof vfio.DmaBuffer>[] = []
        const error = await failure(() => {
          for (;;) buffers.push(vfio.DmaBuffer.allocate(4096))
        })
        assert(error instanceof vfio.VfioSystemError)
        assert.equal(error.code, 'EMFILE')
        assert.match(error.message, /each DmaBuffer has a descriptor, .*\(RLIMIT_NOFILE\).*`ulimit -n`$/)
        assert(buffers.length > input - 100)
        for (let i = 0; i < 3; i++) {
          buffers.pop()?.close()
          buffers.push(vfio.DmaBuffer.allocate(4096))
        }
      },
      // The sanitizer needs descriptors of its own, to look whether memory is there.
      { input: DESCRIPTORS, environment: { VFIO_ADDON: '' } },
    )
  })

  it('on memory mappings is named, and closing one makes room for another', async () => {
    await withFake([OPENS, MAPPED], async ({ openGroup, vfio, memoryOf, failure }) => {
      const { readFileSync, truncateSync } = await import('node:fs')
      const most = Number(readFileSync('/proc/sys/vm/max_map_count', 'utf8'))
      // Larger ones are somebody's wish, and would take long.
      if (most > 100_000) return
      const device = await openGroup().group.openDevice('0000:01:00.0')
      truncateSync(memoryOf('0000:01:00.0'), 2 ** 40 + 0x4000)
      const bar = device.region(1)
      const mappings: ReturnType<typeof bar.map>[] = []
      const error = await failure(() => {
        for (;;) mappings.push(bar.map())
      })
      assert(error instanceof vfio.VfioError, error.stack)
      assert.equal(error.code, 'ERR_VFIO_TOO_MANY')
      assert.match(
        error.message,
        new RegExp(
          `^\\d+ pieces of memory are mapped, and the rest of the ${most} memory mappings .*vm\\.max_map_count$`,
        ),
      )
      assert.equal(mappings.length, most - Math.floor(most / 16))
      for (const call of [() => bar.read32(0), () => vfio.DmaBuffer.allocate(4096)])
        assert.equal((await failure(call)).code, 'ERR_VFIO_TOO_MANY')
      // The program goes on as before.
      assert.equal(JSON.parse(JSON.stringify(Array.from({ length: 10 ** 6 }, String))).length, 10 ** 6)
      for (const mapping of mappings.splice(0, 100)) mapping.close()
      for (let i = 0; i < 10; i++) vfio.DmaBuffer.allocate(4096)
    })
  })

  it('on address space is named', async () => {
    await withFake([{ call: 'fallocate', returns: 1 }], async ({ vfio, failure }) => {
      const { execFileSync } = await import('node:child_process')
      const { readFileSync } = await import('node:fs')
      const size = Number(/^VmSize:\s+(\d+)/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]) * 1024
      execFileSync('prlimit', ['--pid', String(process.pid), `--as=${size + 2 ** 30}:${size + 2 ** 30}`])
      const error = await failure(() => vfio.DmaBuffer.allocate(2 ** 31))
      assert.match(error.message, /ENOMEM: this process has \d+ KiB of address space of at most .*RLIMIT_AS/)
    })
  })

  const MIB = 2 ** 20
  const HOST = { 'proc/meminfo': 'MemTotal: 1048576 kB\nMemAvailable: 102400 kB\nSwapFree: 4096 kB\n' }
  const GROUPS = {
    'proc/meminfo': 'MemAvailable: 1048576 kB\n',
    'proc/self/cgroup': '1:name=systemd:/other\n0::/outer/inner\n',
    'sys/fs/cgroup/outer/inner/memory.max': 'max\n',
    'sys/fs/cgroup/outer/inner/memory.current': '1\n',
    'sys/fs/cgroup/outer/memory.max': `${200 * MIB}\n`,
    'sys/fs/cgroup/outer/memory.current': `${110 * MIB}\n`,
    'sys/fs/cgroup/outer/memory.stat': `anon 1\ninactive_file ${10 * MIB}\n`,
  }
  const ROOMS: [string, Record<string, string>, number, string][] = [
    ['of the host', HOST, 104, 'this host'],
    ['of a control group', GROUPS, 100, 'the control group of this program (memory.max)'],
  ]
  for (const [what, files, room, whose] of ROOMS) {
    it(`on the memory ${what} is an error, before the kernel ends a program`, async () => {
      const root = mkdtempSync(join(tmpdir(), 'vfio-room-'))
      try {
        for (const [name, text] of Object.entries(files)) {
          mkdirSync(dirname(join(root, name)), { recursive: true })
          writeFileSync(join(root, name), text)
        }
        await withFake(
          [{ call: 'fallocate', returns: 1 }],
          async ({ vfio, failure, input }) => {
            const { ftruncateSync, openSync, unlinkSync } = await import('node:fs')
            const path = `/dev/shm/vfio-${process.pid}`
            const sparse = openSync(path, 'w+')
            unlinkSync(path)
            const size = input.room * 2 ** 20
            ftruncateSync(sparse, 2 * size)
            vfio.DmaBuffer.allocate(size).close()
            vfio.DmaBuffer.fromFd(sparse, { size }).close()
            for (const call of [
              () => vfio.DmaBuffer.allocate(size + 1),
              () => vfio.DmaBuffer.fromFd(sparse, { offset: 4096, size: size + 4096 }),
            ]) {
              const error = await failure(call)
              assert.equal(error.code, 'ERR_VFIO_NO_MEMORY')
              assert.equal(
                error.message,
                `${input.room + 1} MiB are asked for, and ${input.whose} has ${input.room} MiB to spare: memory for devices stays in memory, so ask for less, or give it more`,
              )
            }
          },
          { input: { room, whose }, environment: { FAKE_ROOT: root } },
        )
      } finally {
        rmSync(root, { recursive: true })
      }
    })
  }
})
