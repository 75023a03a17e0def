import assert from 'node:assert/strict'
import fc from 'fast-check'
import { parseAddress, VfioError } from 'vfio'
import { SEED } from './support.js'

const badAddress = (error: unknown) => error instanceof VfioError && error.code === 'ERR_VFIO_BAD_ADDRESS'

describe('parseAddress', function () {
  this.timeout(20_000)

  const same: readonly [typed: string, canonical: string][] = [
    ['59:00.0', '0000:59:00.0'],
    ['0000:59:00.0', '0000:59:00.0'],
    ['00:1F.7', '0000:00:1f.7'],
    ['FFFF:ff:1f.7', 'ffff:ff:1f.7'],
    ['10000:e1:00.0', '10000:e1:00.0'],
    ['00010000:e1:00.0', '10000:e1:00.0'],
    ['ffffffff:00:00.0', 'ffffffff:00:00.0'],
    ['5:0.0', '0000:05:00.0'],
    ['000:59:00.0', '0000:59:00.0'],
    ['0x59:00.0', '0000:59:00.0'],
  ]
  for (const [typed, canonical] of same) {
    it(`reads ${typed} as ${canonical}`, () => assert.equal(parseAddress(typed), canonical))
  }

  const wrong = [
    '',
    '59:00',
    '59:00.8',
    '59:20.0',
    '559:00.0',
    '100000000:59:00.0',
    '59:00.0 ',
    ' 59:00.0',
    '59:00.0\n',
    '59-00.0',
    '５9:00.0',
    'group:7',
    '__proto__',
  ]
  for (const typed of wrong) {
    it(`refuses ${JSON.stringify(typed)}`, () => assert.throws(() => parseAddress(typed), badAddress))
  }

  it('says what it was given and what it expects, in one line', () => {
    assert.throws(() => parseAddress('slot\n3'), {
      message:
        '"slot\\n3" is not a PCI address: expected [domain:]bus:device.function in hexadecimal, like 59:00.0 or 0000:59:00.0',
    })
  })

  it('refuses what is not text', () => {
    for (const value of [undefined, null, 59, {}, ['59:00.0'], Symbol('59:00.0')]) {
      assert.throws(() => Reflect.apply(parseAddress, null, [value]), badAddress)
    }
  })

  it(`gives a canonical address or a typed error for any text (seed ${SEED})`, () => {
    const near = fc.stringMatching(/^[0-9a-fA-F]{0,9}:?[0-9a-fA-F]{1,3}:[0-9a-fA-F]{1,3}\.[0-9]$/)
    fc.assert(
      fc.property(fc.oneof(fc.string({ unit: 'binary' }), near), (text) => {
        try {
          const address = parseAddress(text)
          assert.match(address, /^([0-9a-f]{4}|[1-9a-f][0-9a-f]{4,7}):[0-9a-f]{2}:[01][0-9a-f]\.[0-7]$/)
          assert.equal(parseAddress(address), address)
        } catch (error) {
          if (!badAddress(error)) throw error
        }
      }),
      { numRuns: 5000 },
    )
  })

  it(`keeps all parts of an address (seed ${SEED})`, () => {
    const parts = fc.tuple(fc.nat(0xffffffff), fc.nat(255), fc.nat(31), fc.nat(7), fc.boolean(), fc.boolean())
    fc.assert(
      fc.property(parts, ([domain, bus, device, fn, shouts, pads]) => {
        const hex = (value: number, digits: number) => value.toString(16).padStart(digits, '0')
        const rest = `${hex(bus, 2)}:${hex(device, 2)}.${fn}`
        const typed = `${hex(domain, pads ? 8 : 4)}:${rest}`
        assert.equal(parseAddress(shouts ? typed.toUpperCase() : typed), `${hex(domain, 4)}:${rest}`)
        if (domain === 0) assert.equal(parseAddress(rest), `0000:${rest}`)
      }),
      { numRuns: 2000 },
    )
  })
})
