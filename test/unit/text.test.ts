import assert from 'node:assert/strict'
import fc from 'fast-check'
import { decode } from '../../lib/sysfs/bytes.js'
import { printable } from '../../lib/text.js'
import { SEED } from './support.js'

const STEERS = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/u

describe('text made safe for a terminal', () => {
  it('writes what steers as JSON writes it, and leaves the rest', () => {
    for (const [text, expected] of [
      ['plain, größer, 東京, \u{1f525}', 'plain, größer, 東京, \u{1f525}'],
      ['\u001b[31m', '\\u001b[31m'],
      ['a\r\n\tb\u007f', 'a\\u000d\\u000a\\u0009b\\u007f'],
      ['\u009b2J', '\\u009b2J'],
      ['\u202egnp.exe', '\\u202egnp.exe'],
      ['a\u2028b\u2029', 'a\\u2028b\\u2029'],
      ['\u{e0041}', '\\udb40\\udc41'],
      [decode(Uint8Array.of(0x61, 0xff)), 'a\\udcff'],
      ['', ''],
    ] as const)
      assert.equal(printable(text), expected)
  })

  it('holds for any text, and keeps JSON what it says (property)', () => {
    // Each unit by itself: lone surrogates too.
    const text = fc
      .array(fc.oneof(fc.integer({ min: 0, max: 0xffff }), fc.integer({ min: 0, max: 0x9f })))
      .map((units) => String.fromCharCode(...units))
    fc.assert(
      fc.property(text, (any) => {
        const safe = printable(any)
        assert.doesNotMatch(safe, STEERS)
        assert.equal(printable(safe), safe)
        const json = printable(JSON.stringify({ [any]: any }))
        assert.doesNotMatch(json, STEERS)
        assert.deepEqual(JSON.parse(json), { [any]: any })
      }),
      { seed: SEED },
    )
  })
})
