import assert from 'node:assert/strict'
import type { VfioRegion } from 'vfio'
import { parseArguments } from '../../examples/nvme/arguments.js'
import * as commands from '../../examples/nvme/commands.js'
import { NvmeError, statusError } from '../../examples/nvme/errors.js'
import { decodeController, decodeNamespace, decodeNamespaceList } from '../../examples/nvme/identify.js'
import type { Piece } from '../../examples/nvme/memory.js'
import { QueuePair } from '../../examples/nvme/queue.js'
import { decodeCapabilities, doorbells } from '../../examples/nvme/registers.js'
import { UsageError } from '../../examples/program.js'
import { patternBytes } from '../../scripts/lab/pattern.js'

/** The other side of a queue pair: takes commands when the doorbell rings, and completes them when told. */
class FakeController {
  readonly submission: Piece
  readonly completion: Piece
  /** Numbers and opcodes of the commands that it took and has not completed. */
  readonly taken: { id: number; opcode: number; lba: number; prp1: bigint }[] = []
  readonly rings: number[] = []
  #head = 0
  #tail = 0
  #phase = 1

  constructor(private readonly entries: number) {
    this.submission = { address: 0x10000, bytes: new Uint8Array(entries * 64) }
    this.completion = { address: 0x20000, bytes: new Uint8Array(entries * 16) }
  }

  queue(): QueuePair {
    const registers = {
      write32: (offset: number, value: number) => this.#ring(offset, value),
    } as unknown as VfioRegion
    return new QueuePair({
      id: 1,
      entries: this.entries,
      submission: this.submission,
      completion: this.completion,
      registers,
      doorbellStride: 4,
      interrupts: true,
      diagnose: () => 'it sleeps',
    })
  }

  #ring(offset: number, value: number): void {
    this.rings.push(offset)
    if (offset !== 0x1008) return
    const view = new DataView(this.submission.bytes.buffer)
    for (; this.#head !== value; this.#head = (this.#head + 1) % this.entries) {
      const at = this.#head * 64
      const word = view.getUint32(at, true)
      const lba = Number(view.getBigUint64(at + 40, true))
      this.taken.push({ id: word >>> 16, opcode: word & 0xff, lba, prp1: view.getBigUint64(at + 24, true) })
    }
  }

  complete(id: number, status = 0, result = 0): void {
    const view = new DataView(this.completion.bytes.buffer)
    view.setUint32(this.#tail * 16, result, true)
    view.setUint32(this.#tail * 16 + 12, ((status << 17) | (this.#phase << 16) | id) >>> 0, true)
    if (++this.#tail < this.entries) return
    this.#tail = 0
    this.#phase ^= 1
  }
}

const read = (lba: number, prp1 = 0x1000) => commands.transfer('read', 1, lba, 1, prp1, 0)

describe('the NVMe example', () => {
  describe('a queue pair', () => {
    it('goes round its memory many times, with completions in another order', async () => {
      const fake = new FakeController(4)
      const queue = fake.queue()
      const answers: Promise<number>[] = []
      let given = 0
      for (let round = 0; round < 20; round++) {
        for (let i = 0; i < queue.depth; i++) answers.push(queue.run(read(given++), 'reading'))
        assert.equal(queue.outstanding, 3)
        assert.throws(() => queue.submit(read(0), () => {}), /is full: 3 commands/)
        assert.deepEqual(
          fake.taken.map(({ lba }) => lba),
          [given - 3, given - 2, given - 1],
        )
        for (const { id, lba } of fake.taken.splice(0).reverse()) fake.complete(id, 0, lba)
        assert.equal(queue.poll(), 3)
      }
      assert.deepEqual(
        await Promise.all(answers),
        Array.from({ length: 60 }, (_none, index) => index),
      )
      assert.equal(queue.poll(), 0)
      queue.stop()
    })

    it('rings once for what is submitted while it is polled', () => {
      const fake = new FakeController(8)
      const queue = fake.queue()
      queue.submit(read(1), () => queue.submit(read(2), () => {}))
      assert.deepEqual(fake.rings, [])
      queue.ring()
      queue.ring()
      fake.complete(fake.taken[0]?.id ?? -1)
      queue.poll()
      assert.deepEqual(fake.rings, [0x1008, 0x100c, 0x1008])
      assert.equal(fake.taken.length, 2)
    })

    it('writes addresses and blocks beyond 4 GiB whole', () => {
      const fake = new FakeController(4)
      const queue = fake.queue()
      queue.submit(read(2 ** 40 + 5, 2 ** 45 + 0x3000), () => {})
      queue.ring()
      const [taken] = fake.taken
      assert.deepEqual(taken, { id: taken?.id, opcode: 2, lba: 2 ** 40 + 5, prp1: 2n ** 45n + 0x3000n })
    })

    it('tells what a status means, and gives up on a controller that makes no sense', async () => {
      const fake = new FakeController(4)
      const queue = fake.queue()
      const refused = queue.run(read(9), 'reading block 9')
      fake.complete(fake.taken[0]?.id ?? -1, 0x080)
      queue.poll()
      await assert.rejects(refused, /^NvmeError: reading block 9 failed: the blocks are beyond the end/)
      const lost = queue.run(read(9), 'reading block 9')
      fake.complete(77)
      queue.poll()
      await assert.rejects(lost, /completed command 77 of queue 1, which it was never given/)
      assert.throws(() => queue.submit(read(9), () => {}), NvmeError)
    })
  })

  it('decodes what the controller says', () => {
    const cap = (2n << 48n) | (1n << 37n) | (1n << 32n) | (20n << 24n) | 1023n
    assert.deepEqual(decodeCapabilities(cap), {
      queueEntries: 1024,
      timeout: 10_000,
      doorbellStride: 8,
      pageSize: 16384,
      blocks: true,
    })
    assert.deepEqual(doorbells(2, 8), { submission: 0x1020, completion: 0x1028 })

    const controller = Buffer.alloc(4096)
    controller.write('SN1'.padEnd(20), 4)
    controller.write('Model 7'.padEnd(40), 24)
    controller.write('1.0'.padEnd(8), 64)
    controller[77] = 5
    controller.writeUInt32LE(9, 516)
    assert.deepEqual(decodeController(controller, 4096), {
      model: 'Model 7',
      serial: 'SN1',
      firmware: '1.0',
      maxTransfer: 131_072,
      namespaces: 9,
    })

    const list = Buffer.alloc(4096)
    list.writeUInt32LE(3, 0)
    list.writeUInt32LE(7, 4)
    assert.deepEqual(decodeNamespaceList(list), [3, 7])
    assert.equal(decodeNamespaceList(Buffer.alloc(4096, 1)).length, 1024)

    const namespace = Buffer.alloc(4096)
    namespace.writeBigUInt64LE(1000n, 0)
    namespace[25] = 3
    namespace[26] = 2
    namespace.writeUInt32LE(12 << 16, 128 + 8)
    assert.deepEqual(decodeNamespace(3, namespace), { id: 3, blocks: 1000, blockSize: 4096, size: 4_096_000 })
    namespace.writeUInt16LE(8, 128 + 8)
    assert.throws(() => decodeNamespace(3, namespace), /8 bytes of metadata/)
  })

  it('knows the words of every status, also of one that it does not know', () => {
    assert.match(
      statusError('writing', 0x4281).message,
      /^writing failed: the medium could not be read \(status 0x281\)$/,
    )
    assert.match(statusError('writing', 0x7ff).message, /no words for \(status 0x7ff\)$/)
  })

  it('takes its arguments in any order, and says in a sentence what is wrong with them', () => {
    const whole = {
      address: 'x',
      group: false,
      backend: 'auto',
      verify: false,
      seconds: 2,
      read: null,
    }
    assert.deepEqual(parseArguments(['x']), whole)
    assert.deepEqual(parseArguments(['--read', '0x10', '5', 'x']), {
      ...whole,
      read: { offset: 16, length: 5 },
    })
    assert.deepEqual(parseArguments(['--verify', 'x', '--seconds', '0.5', '--group']), {
      ...whole,
      group: true,
      verify: true,
      seconds: 0.5,
    })
    for (const backend of ['auto', 'iommufd', 'group'])
      assert.deepEqual(parseArguments(['--backend', backend, 'x']), { ...whole, backend })
    for (const [line, complaint] of [
      ['', /^usage: /],
      ['x y', /^y is one word too many/],
      ['x --wipe', /^there is no option --wipe/],
      ['x --read', /OFFSET is missing$/],
      ['x --read 1', /LENGTH is missing$/],
      ['x --read -1 5', /-1 is no such number$/],
      ['x --read 1 5k', /5k is no such number$/],
      ['x --read 1.5 5', /1\.5 is no such number$/],
      ['x --read 0 9007199254740992', /9007199254740992 is no such number$/],
      ['x --backend', /^--backend takes auto, iommufd, group, not nothing$/],
      ['x --backend vfio', /not vfio$/],
      ['x --seconds', /not nothing$/],
      ['x --seconds 1h', /not 1h$/],
      ['x --read 0 1 --verify', /^--read goes without/],
    ] as const) {
      assert.throws(
        () => parseArguments(line.split(' ').filter((word) => word !== '')),
        (error) => error instanceof UsageError && complaint.test(error.message),
        line,
      )
    }
  })

  it('is tested on disks where no two places look alike, wherever one begins to read', () => {
    const all = patternBytes(0, 4096)
    for (const [offset, length] of [
      [0, 1],
      [1, 7],
      [7, 2],
      [4095, 1],
      [100, 3000],
    ] as const)
      assert.deepEqual(patternBytes(offset, length), all.subarray(offset, offset + length))
    const words = Array.from({ length: 512 }, (_none, index) => all.readBigUInt64LE(index * 8))
    assert.equal(new Set(words).size, words.length)
  })
})
