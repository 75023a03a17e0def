import assert from 'node:assert/strict'
import fc from 'fast-check'
import { IovaMap, type IovaSpan } from '../../lib/vfio/iommu/iova-map.js'

const SEED = 20_261_121

/** The same by looking at everything. */
class Naive {
  readonly spans = new Set<IovaSpan>()

  inOrder(): IovaSpan[] {
    return [...this.spans].sort((a, b) => (a.start < b.start ? -1 : 1))
  }

  overlapping(start: bigint, end: bigint): IovaSpan[] {
    return this.inOrder().filter((span) => span.start <= end && span.end >= start)
  }

  gap(from: bigint, to: bigint, size: bigint, alignment: bigint): bigint | null {
    const first = ((from + alignment - 1n) / alignment) * alignment
    for (let place = first; place + size - 1n <= to; place += alignment) {
      if (this.overlapping(place, place + size - 1n).length === 0) return place
    }
    return null
  }
}

const address = fc.bigInt(0n, 400n)
const length = fc.bigInt(1n, 24n)
const command = fc.oneof(
  { weight: 4, arbitrary: fc.record({ kind: fc.constant('add' as const), at: address, length }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('delete' as const), at: address, length }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('look' as const), at: address, length }) },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant('gap' as const),
      at: address,
      length,
      room: fc.bigInt(0n, 300n),
      alignment: fc.constantFrom(1n, 2n, 8n, 16n),
    }),
  },
)

describe('the map of I/O virtual addresses', () => {
  it(`answers as a naive one does, whatever happens to it (seed ${SEED})`, () => {
    fc.assert(
      fc.property(fc.array(command, { maxLength: 120 }), (commands) => {
        const map = new IovaMap<IovaSpan>()
        const naive = new Naive()
        for (const each of commands) {
          const end = each.at + each.length - 1n
          if (each.kind === 'add') {
            const span = { start: each.at, end }
            const isFree = naive.overlapping(each.at, end).length === 0
            assert.deepEqual([map.overlaps(each.at, end), map.add(span)], [!isFree, isFree])
            if (isFree) naive.spans.add(span)
            assert.equal(map.has(span), isFree)
          } else if (each.kind === 'delete') {
            const [span] = naive.overlapping(each.at, end)
            // One that looks like it is another one.
            map.delete({ start: each.at, end })
            if (!span) continue
            map.delete(span)
            naive.spans.delete(span)
            assert(!map.has(span))
          } else if (each.kind === 'look') {
            assert.deepEqual([...map.overlapping(each.at, end)], naive.overlapping(each.at, end))
          } else {
            const to = each.at + each.room
            assert.equal(
              map.gap(each.at, to, each.length, each.alignment),
              naive.gap(each.at, to, each.length, each.alignment),
            )
          }
          assert.equal(map.size, naive.spans.size)
        }
        assert.deepEqual([...map], naive.inOrder())
        map.clear()
        assert.deepEqual([[...map], map.size], [[], 0])
      }),
      { seed: SEED, numRuns: 1000 },
    )
  })

  it('stays right and quick with tens of thousands of them', () => {
    const map = new IovaMap<IovaSpan>()
    const COUNT = 20_000
    // In an order that is neither up nor down.
    const spans = Array.from({ length: COUNT }, (_, i) => {
      const start = BigInt((i * 7919) % COUNT) * 4n
      return { start, end: start + 1n }
    })
    const began = process.cpuUsage()
    for (const span of spans) map.add(span)
    const inOrder = [...map]
    assert.equal(inOrder.length, COUNT)
    inOrder.forEach((span, i) => {
      assert.equal(span.start, BigInt(i) * 4n)
    })
    assert.deepEqual(
      [...map.overlapping(40_001n, 40_008n)].map(({ start }) => start),
      [40_000n, 40_004n, 40_008n],
    )
    assert.equal(map.gap(0n, 100n, 2n, 1n), 2n)
    assert.equal(map.gap(0n, 2n ** 64n - 1n, 3n, 1n), BigInt(COUNT) * 4n - 2n)
    for (const span of spans) {
      assert(map.has(span))
      map.delete(span)
    }
    assert.deepEqual([map.size, [...map]], [0, []])
    // A list that is searched from its beginning takes minutes.
    const { user, system } = process.cpuUsage(began)
    assert(user + system < 5_000_000, `${user + system} µs of processor`)
  })

  it('has room at the very end of all addresses', () => {
    const map = new IovaMap<IovaSpan>()
    const last = 2n ** 64n - 1n
    assert.equal(map.gap(last - 0xfffn, last, 0x1000n, 0x1000n), last - 0xfffn)
    map.add({ start: last - 0xfffn, end: last })
    assert.equal(map.gap(last - 0xfffn, last, 0x1000n, 0x1000n), null)
    assert.equal(map.gap(0n, last, 0x1000n, 0x1000n), 0n)
  })
})
