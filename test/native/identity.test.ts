import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { skip } from '../fixtures/skip.js'
import { type FakeAnswer, ROOT, withFake } from './fake.js'

const RUNS = 25
const PAGE = 4096
const SEED = Number(process.env.FUZZ_SEED ?? Date.now() % 2 ** 31)

/** A folder with a tmpfs of its own; `null` where this user may not mount. */
function mountTmpfs(size: number): string | null {
  mkdirSync(join(ROOT, 'build/test'), { recursive: true })
  const folder = mkdtempSync(join(ROOT, 'build/test/tmpfs-'))
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${size}`, 'none', folder], { stdio: 'pipe' })
    return folder
  } catch {
    rmdirSync(folder)
    return null
  }
}

function unmount(folder: string): void {
  execFileSync('umount', ['-l', folder])
  rmdirSync(folder)
}

describe('what a buffer has is what its file has', function () {
  this.timeout(120_000)

  it('whatever is written through which of them, wherever the file lies', async () => {
    mkdirSync(join(ROOT, 'build/test'), { recursive: true })
    const folders = [mkdtempSync(join(ROOT, 'build/test/identity-')), mkdtempSync('/dev/shm/vfio-')]
    try {
      await withFake(
        [],
        async ({ vfio, input }) => {
          const fc = (await import('fast-check')).default
          const { closeSync, ftruncateSync, openSync, readFileSync, readSync, writeSync } = await import(
            'node:fs'
          )
          const { DmaBuffer } = vfio
          const huge = Number(
            /^HugePages_Free:\s+(\d+)/m.exec(readFileSync('/proc/meminfo', 'utf8'))?.[1] ?? 0,
          )
          const kinds = ['own', 'of own', ...input.folders, ...(huge > 0 ? ['huge'] : [])]
          const size = 8 * input.page
          const make = (kind: string) => {
            if (kind === 'own') return [DmaBuffer.allocate(size), 0] as const
            if (kind === 'huge') return [DmaBuffer.allocate(size, { hugepages: true }), 0] as const
            // Sparse, of a place that is not its beginning, and longer than that.
            const from = 3 * input.page
            if (kind === 'of own') {
              const whole = DmaBuffer.allocate(size + 2 * from)
              const part = DmaBuffer.fromFd(whole.fd, { offset: from, size })
              whole.close()
              return [part, from] as const
            }
            const file = openSync(`${kind}/file`, 'w+')
            ftruncateSync(file, size + 2 * from)
            const buffer = DmaBuffer.fromFd(file, { offset: from, size })
            closeSync(file)
            return [buffer, from] as const
          }
          const write = fc.record({
            through: fc.constantFrom('bytes', 'file'),
            at: fc.nat(size - 1),
            data: fc.uint8Array({ minLength: 1, maxLength: 3 * input.page }),
          })
          fc.assert(
            fc.property(fc.constantFrom(...kinds), fc.array(write, { maxLength: 12 }), (kind, writes) => {
              const [buffer, from] = make(kind)
              // Files of huge pages are read, and written by mapping them only.
              const other = kind === 'huge' ? DmaBuffer.fromFd(buffer.fd, { size: buffer.size }) : null
              const model = new Uint8Array(size)
              for (const { through, at, data } of writes) {
                const part = data.subarray(0, size - at)
                model.set(part, at)
                if (through === 'bytes') buffer.bytes.set(part, at)
                else if (other) other.bytes.set(part, at)
                else assert.equal(writeSync(buffer.fd, part, 0, part.length, from + at), part.length)
              }
              const found = new Uint8Array(size)
              assert.equal(readSync(buffer.fd, found, 0, size, from), size)
              assert(Buffer.compare(found, model) === 0, `the file of ${kind}`)
              assert(Buffer.compare(buffer.bytes.subarray(0, size), model) === 0, `the buffer of ${kind}`)
              other?.close()
              buffer.close()
            }),
            { seed: input.seed, numRuns: 8 * input.runs },
          )
        },
        { input: { folders, page: PAGE, runs: RUNS, seed: SEED }, deadline: 110_000 },
      )
    } finally {
      for (const folder of folders) rmSync(folder, { recursive: true })
    }
  })

  it('on a file system that is full, or it is refused and the file is as it was', async function () {
    const space = 64 * PAGE
    const folder = mountTmpfs(space)
    if (folder === null) skip(this, 'only root may mount a tmpfs')
    try {
      const { stdout } = await withFake(
        [],
        async ({ vfio, failure, input }) => {
          const fc = (await import('fast-check')).default
          const {
            closeSync,
            fstatSync,
            ftruncateSync,
            openSync,
            readFileSync,
            readSync,
            unlinkSync,
            writeSync,
          } = await import('node:fs')
          let fitted = 0
          let refused = 0
          const pages = fc.integer({ min: 1, max: 80 })
          await fc.assert(
            fc.asyncProperty(pages, pages, fc.nat(80), fc.nat(70), async (length, count, at, taken) => {
              const other = openSync(`${input.folder}/other`, 'w+')
              const used = Math.min(taken, input.space / input.page)
              if (used > 0) writeSync(other, new Uint8Array(used * input.page))
              const file = openSync(`${input.folder}/file`, 'w+')
              ftruncateSync(file, length * input.page)
              const offset = Math.min(at, length - 1) * input.page
              const size = Math.min(count * input.page, length * input.page - offset)
              const fits = used * input.page + size <= input.space
              if (fits) {
                fitted++
                const buffer = vfio.DmaBuffer.fromFd(file, { offset, size })
                buffer.bytes.fill(7)
                const found = new Uint8Array(size)
                readSync(file, found, 0, size, offset)
                assert(found.every((byte) => byte === 7))
                buffer.close()
              } else {
                refused++
                const error = await failure(() => vfio.DmaBuffer.fromFd(file, { offset, size }))
                assert(error instanceof vfio.VfioSystemError, error.stack)
                assert.deepEqual([error.code, error.request], ['ENOSPC', 'memory'])
                assert.match(error.message, /no space for all of the file.*--shm-size/)
                assert.equal(fstatSync(file).blocks, 0)
              }
              assert.equal(fstatSync(file).size, length * input.page)
              closeSync(file)
              closeSync(other)
              for (const name of ['file', 'other']) unlinkSync(`${input.folder}/${name}`)
            }),
            { seed: input.seed, numRuns: 4 * input.runs },
          )
          console.log(fitted, refused)
          assert.doesNotMatch(readFileSync('/proc/self/maps', 'utf8'), /tmpfs-/)
        },
        { input: { folder, space, page: PAGE, runs: RUNS, seed: SEED }, deadline: 110_000 },
      )
      // Both happened.
      const [fitted = 0, refused = 0] = stdout.split(' ').map(Number)
      assert(fitted > 5 && refused > 5, stdout)
    } finally {
      unmount(folder)
    }
  })

  it('when its own file, or a memfd, would be cut short: nobody can', async () => {
    await withFake([], async ({ vfio, failure }) => {
      const { ftruncateSync, fstatSync, openSync } = await import('node:fs')
      const own = vfio.DmaBuffer.allocate(8192)
      // As another process would get at it.
      const others = openSync(`/proc/self/fd/${own.fd}`, 'r+')
      for (const fd of [own.fd, others]) {
        for (const size of [0, 4096, 12288])
          assert.equal((await failure(() => ftruncateSync(fd, size))).code, 'EPERM')
        assert.equal(fstatSync(fd).size, 8192)
      }
    })
    // A memfd of another program, which allows seals and has none yet: descriptor 3.
    const source = [
      'import os, sys',
      "fd = os.memfd_create('ram', os.MFD_ALLOW_SEALING)",
      'os.ftruncate(fd, 3 * 4096)',
      'os.dup2(fd, 3)',
      'os.execvp(sys.argv[1], sys.argv[1:])',
    ]
    const program = `
      import fs from 'node:fs'
      import assert from 'node:assert/strict'
      import { DmaBuffer } from 'vfio'
      assert.throws(() => DmaBuffer.fromFd(3, { offset: 4096, size: 3 * 4096 }), { code: 'ERR_VFIO_BAD_ARGUMENT' })
      fs.ftruncateSync(3, 2 * 4096)
      const buffer = DmaBuffer.fromFd(3, { offset: 4096, size: 4096 })
      for (const size of [0, 4096, 8191]) assert.throws(() => fs.ftruncateSync(3, size), { code: 'EPERM' })
      fs.ftruncateSync(3, 8 * 4096)
      buffer.bytes.fill(9)
      const found = Buffer.alloc(4096)
      fs.readSync(3, found, 0, 4096, 4096)
      assert(found.equals(buffer.bytes))
      buffer.close()
      console.log('the same')
    `
    const node = [process.execPath, '--input-type=module', '-e', program]
    assert.equal(
      execFileSync('python3', ['-c', source.join('\n'), ...node], { cwd: ROOT, encoding: 'utf8' }),
      'the same\n',
    )
  })

  it('or the space is refused, with what is wrong and nothing left open', async () => {
    const cases: { answers: FakeAnswer[]; code: string; syscall: string; message: RegExp }[] = [
      {
        answers: [{ call: 'fallocate', returns: -28 }],
        code: 'ENOSPC',
        syscall: 'fallocate',
        message: /no space for all of the file/,
      },
      {
        answers: [
          { call: 'fallocate', returns: -95 },
          { call: 'madvise', returns: -22 },
        ],
        code: 'EINVAL',
        syscall: 'madvise',
        message: /cannot take space in advance, nor the kernel without it before 5\.14/,
      },
      {
        answers: [
          { call: 'fallocate', returns: -95 },
          { call: 'madvise', returns: -14 },
        ],
        code: 'EFAULT',
        syscall: 'madvise',
        message: /the file has no space for all of it, or is being cut short/,
      },
      {
        answers: [{ call: 'fallocate', returns: -12 }],
        code: 'ENOMEM',
        syscall: 'fallocate',
        message: /there is no memory left/,
      },
    ]
    for (const { answers, message, ...wanted } of cases) {
      await withFake(
        answers,
        async ({ vfio, failure, input }) => {
          const { closeSync, openSync, readdirSync, readFileSync, unlinkSync, writeFileSync } = await import(
            'node:fs'
          )
          const path = `/dev/shm/vfio-${process.pid}`
          writeFileSync(path, new Uint8Array(8192))
          const fd = openSync(path, 'r+')
          unlinkSync(path)
          const ours = () => [
            readdirSync('/proc/self/fd').length,
            readFileSync('/proc/self/maps', 'utf8').match(/vfio-/g)?.length,
          ]
          // The addon is a file too.
          await failure(() => vfio.DmaBuffer.fromFd(fd, { size: 16384 }))
          const before = ours()
          for (const call of [
            () => vfio.DmaBuffer.allocate(4096),
            () => vfio.DmaBuffer.fromFd(fd, { size: 8192 }),
          ]) {
            const error = await failure(call)
            assert(error instanceof vfio.VfioSystemError, error.stack)
            assert.deepEqual([error.code, error.syscall], [input.code, input.syscall])
            assert.match(error.message, new RegExp(input.message))
          }
          assert.deepEqual(ours(), before)
          closeSync(fd)
        },
        { input: { ...wanted, message: message.source } },
      )
    }
  })

  it('also where each step failed once before', async () => {
    for (const call of ['memfd', 'mmap', 'fallocate', 'madvise'] as const) {
      const answers: FakeAnswer[] = [
        { call, returns: -12 },
        { call, returns: 0 },
      ]
      if (call === 'madvise') answers.unshift({ call: 'fallocate', returns: -95 })
      await withFake(answers, async ({ vfio, failure }) => {
        const { readdirSync, readSync } = await import('node:fs')
        vfio.EventFd.create()
        const before = readdirSync('/proc/self/fd').length
        const error = await failure(() => vfio.DmaBuffer.allocate(8192))
        assert(error instanceof vfio.VfioSystemError, error.stack)
        assert.equal(error.code, 'ENOMEM')
        assert.equal(readdirSync('/proc/self/fd').length, before)
        const buffer = vfio.DmaBuffer.allocate(8192)
        buffer.bytes.fill(5)
        const found = new Uint8Array(8192)
        readSync(buffer.fd, found, 0, 8192, 0)
        assert(found.every((byte) => byte === 5))
      })
    }
  })

  it('also where signals come all the time, or the file system reserves nothing', async () => {
    for (const answers of [
      [...Array(5).fill({ call: 'fallocate', returns: -4 }), { call: 'fallocate' }],
      [
        { call: 'fallocate', returns: -95 },
        ...Array(3).fill({ call: 'madvise', returns: -4 }),
        { call: 'madvise' },
      ],
    ] as FakeAnswer[][]) {
      await withFake(answers, async ({ vfio }) => {
        const { fstatSync } = await import('node:fs')
        const buffer = vfio.DmaBuffer.allocate(2 ** 20)
        // All of it is there before anything was written.
        assert.equal(fstatSync(buffer.fd).blocks * 512, 2 ** 20)
      })
    }
  })

  it('is refused of what is no file with memory', async () => {
    await withFake([], async ({ vfio, failure }) => {
      const { execFileSync } = await import('node:child_process')
      const { openSync } = await import('node:fs')
      execFileSync('mkfifo', [`/dev/shm/vfio-fifo-${process.pid}`])
      const { unlinkSync } = await import('node:fs')
      const fifo = openSync(`/dev/shm/vfio-fifo-${process.pid}`, 'r+')
      unlinkSync(`/dev/shm/vfio-fifo-${process.pid}`)
      for (const [fd, what] of [
        [openSync('/', 'r'), 'a directory'],
        [openSync('/dev/null', 'r+'), 'a character device'],
        [fifo, 'a pipe'],
        [vfio.EventFd.create().fd, 'no file'],
      ] as const) {
        const error = await failure(() => vfio.DmaBuffer.fromFd(fd, { size: 4096 }))
        assert.equal(error.code, 'ERR_VFIO_BAD_ARGUMENT')
        assert.equal(
          error.message,
          `descriptor ${fd} is ${what}, which has no memory: give a memfd, or a file of tmpfs or hugetlbfs`,
        )
      }
    })
  })
})
