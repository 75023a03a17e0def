import assert from 'node:assert/strict'
import { array, constantFrom, assert as holds, integer, property, uniqueArray } from 'fast-check'
import { type Placed, prefer } from '../../kubernetes/src/prefer.js'
import { SEED } from '../unit/support.js'

const placed = (id: string, numa: number, ...above: string[]): Placed => ({ id, numa: [numa], above })

// Two sockets; on the first two switches, with two and three devices, and one at a port of its own.
const A = ['a1', 'a2'].map((id) => placed(id, 0, 'pci0', 'port0', 'switchA'))
const B = ['b1', 'b2', 'b3'].map((id) => placed(id, 0, 'pci0', 'port1', 'switchB'))
const C = [placed('c1', 0, 'pci0', 'port2')]
const D = ['d1', 'd2', 'd3', 'd4'].map((id) => placed(id, 1, 'pci1', `port-${id}`))
const ALL = [...D, ...C, ...B, ...A]

describe('the allocation that is preferred', () => {
  it('takes two of one switch, of the one that they fill', () => {
    assert.deepEqual(prefer(ALL, [], 2), ['a1', 'a2'])
  })

  it('takes three of one switch, not two and one', () => {
    assert.deepEqual(prefer(ALL, [], 3), ['b1', 'b2', 'b3'])
  })

  it('breaks no switch for one', () => {
    assert.ok(['c1', 'd1'].includes(prefer(ALL, [], 1)[0] ?? ''))
  })

  it('stays on one NUMA node where no switch has enough', () => {
    assert.deepEqual(prefer(ALL, [], 4), ['d1', 'd2', 'd3', 'd4'])
    assert.deepEqual(
      prefer(ALL, [], 5)
        .map((id) => id[0])
        .filter((letter) => letter === 'd'),
      [],
    )
  })

  it('takes those nearest to what has to be among them', () => {
    const must = B.slice(1, 2)
    assert.deepEqual(prefer(ALL, must, 3), ['b2', 'b1', 'b3'])
    assert.deepEqual(prefer(ALL, D.slice(0, 1), 2), ['d1', 'd2'])
  })

  it('begins on the node with most where none has enough', () => {
    const chosen = prefer(ALL, [], 9)
    assert.equal(chosen.filter((id) => !id.startsWith('d')).length, 6)
  })

  it('is as many as asked for, all of them available, none twice, with what has to be among them', () => {
    const anywhere = uniqueArray(
      array(constantFrom('x', 'y'), { minLength: 0, maxLength: 4 }).chain((above) =>
        integer({ min: 0, max: 30 }).map((id) =>
          placed(`0000:${id.toString(16).padStart(2, '0')}:00.0`, id % 3, ...above),
        ),
      ),
      { selector: ({ id }) => id, maxLength: 12 },
    )
    holds(
      property(
        anywhere,
        integer({ min: 0, max: 12 }),
        integer({ min: 0, max: 3 }),
        (available, wanted, musts) => {
          const must = available.slice(0, Math.min(musts, wanted))
          const size = Math.min(wanted, available.length)
          const chosen = prefer(available, must, size)
          assert.equal(chosen.length, size)
          assert.equal(new Set(chosen).size, size)
          for (const id of chosen) assert.ok(available.some((device) => device.id === id))
          for (const { id } of must) assert.ok(chosen.includes(id))
        },
      ),
      { seed: SEED },
    )
  })
})
