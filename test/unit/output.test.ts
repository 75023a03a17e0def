import assert from 'node:assert/strict'
import fc from 'fast-check'
import { jsonParts, partText, toJson } from '../../lib/cli/output.js'
import { runs } from './support.js'

describe('JSON that is printed in parts', () => {
  const text = fc.oneof(
    fc.string(),
    fc.constantFrom('\u007f', '\u001b[31m', '\ud800', '\udc80x', '\u202e', 'Ω', '"\\', ''),
  )
  const leaf = fc.oneof(
    text,
    fc.integer(),
    fc.bigInt(),
    fc.boolean(),
    fc.constant(null),
    fc.constant(undefined),
  )
  const element = fc.oneof(leaf, fc.array(leaf, { maxLength: 3 }), fc.dictionary(text, leaf, { maxKeys: 3 }))
  const list = fc.oneof(
    fc.array(element, { maxLength: 4 }),
    fc.array(element, { minLength: 60, maxLength: 200 }),
  )

  it('is the same text as in one', () => {
    let long = 0
    fc.assert(
      fc.property(fc.dictionary(text, fc.oneof(leaf, list), { maxKeys: 6 }), (value) => {
        const parts = [...jsonParts(value)].map(partText)
        if (parts.length > 1) long++
        assert.equal(parts.join(''), toJson(value))
      }),
      { numRuns: runs(600) },
    )
    assert(long > runs(600) / 10, `${long} of them had long lists`)
  })

  it('has none that is long where a host is large', () => {
    const devices = Array.from({ length: 5000 }, (_, index) => ({
      address: `device ${index}`,
      names: 'x'.repeat(500),
    }))
    const parts = [...jsonParts({ host: {}, groups: [], devices })].map(partText)
    assert.equal(parts.join(''), toJson({ host: {}, groups: [], devices }))
    for (const part of parts) assert(part.length < 64 * 600, `${part.length} characters`)
  })

  it('is that of a list too', () => assert.deepEqual([...jsonParts([1, 'a'])].map(partText), ['[1,"a"]\n']))
})
