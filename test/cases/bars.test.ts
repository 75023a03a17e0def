import assert from 'node:assert/strict'
import fc from 'fast-check'
import {
  assess,
  exportQemu,
  Host,
  type PciDevice,
  planAssignment,
  type Snapshot,
  type SnapshotOptions,
  survey,
} from 'vfio'
import { buildConfig } from '../fixtures/config-space.js'
import { makeHost, READY_MODULES, removeDirectories } from '../fixtures/host.js'
import { runs } from '../unit/support.js'

const GPU = '0000:03:00.0'
const ZERO = '0x0000000000000000'

/** Lines of `resource`: first and last address, flags. */
type Lines = Readonly<Record<number, readonly [first: number, last: number, flags: number]>>

const MEMORY_64 = 0x14220c
const UNSET = 0x20000000

interface Seeing {
  readonly options?: SnapshotOptions
  readonly driver?: string
}

const REGISTERS = [0xf6000000, 0x0000000c, 0, 0x0000000c, 0, 0x0000e001]

const hex = (value: number) => `0x${value.toString(16).padStart(16, '0')}`

function see(lines: Lines, seeing: Seeing = {}): Snapshot {
  const resource = Array.from({ length: 13 }, (_none, index) =>
    (lines[index] ?? []).length === 0 ? `${ZERO} ${ZERO} ${ZERO}` : (lines[index] ?? []).map(hex).join(' '),
  )
  return seeText(`${resource.join('\n')}\n`, seeing)
}

/** A GPU whose registers say that BAR 0 is memory, 1 and 3 are memory of 64 bits, and 5 is I/O. */
function seeText(resource: string, { options = {}, driver = 'vfio-pci' }: Seeing): Snapshot {
  const config = buildConfig(
    {
      vendor: 0x10de,
      device: 0x1b38,
      subsystemVendor: 0,
      subsystemDevice: 0,
      class: 0x030200,
      revision: 0xa1,
      headerType: 'normal',
      multifunction: false,
      bus: 0,
      secondaryBus: 0,
      subordinateBus: 0,
    },
    [{ kind: 'pcie', flr: true }],
  )
  for (const [index, register] of REGISTERS.entries()) config.writeUInt32LE(register, 0x10 + 4 * index)
  const device = {
    address: GPU,
    group: 8,
    driver,
    resetMethod: 'flr',
    config,
    files: { resource },
  }
  return new Host(makeHost({ kernel: '6.8.12-4-pve', modules: READY_MODULES, devices: [device] })).snapshot(
    options,
  )
}

const BAR_0 = [0xf6000000, 0xf6ffffff, 0x40200] as const
const IO = [0xe000, 0xe07f, 0x40101] as const
const placed = (at: number) => [at, at + 0xfffffff, MEMORY_64] as const
const WHOLE: Lines = { 0: BAR_0, 1: placed(0x6000000000), 3: placed(0x6010000000), 5: IO }

/** The rule in its plainest words. */
function without(text: string): PciDevice['barsWithoutAddress'] {
  const unset: number[] = []
  const dropped: number[] = []
  const lines = text.trimEnd().split('\n')
  for (const index of [0, 1, 3, 5]) {
    const [, last = 0, flags = 0] = (lines[index] ?? '').split(' ').map(Number)
    if (((flags % 2 ** 32) & UNSET) !== 0) unset.push(index)
    else if (index !== 5 && last === 0 && flags === 0) dropped.push(index)
  }
  return unset.length + dropped.length === 0 ? undefined : { unset, dropped }
}

/** Boards without room for large BARs: "can't enable device: BAR 1 [mem …] not assigned", "BAR1 is 0M @ 0x0". */
describe('a device whose BARs found no room', () => {
  after(removeDirectories)

  it('is as any other where all have an address', () => {
    const seen = see(WHOLE)
    assert.equal(assess(seen, GPU).verdict, 'ready')
    assert.equal('barsWithoutAddress' in seen.device(GPU), false)
  })

  // drivers/pci/setup-res.c, pci_enable_resources: EINVAL for IORESOURCE_UNSET, when VFIO opens it.
  it('cannot be opened where the kernel knows that one is not set', () => {
    const lines: Lines = { ...WHOLE, 1: [0, 0x7ffffffff, MEMORY_64 + UNSET] }
    for (const driver of ['vfio-pci', 'nouveau']) {
      const { verdict, reason } = assess(see(lines, { driver }), GPU)
      assert.equal(verdict, 'blocked')
      assert.match(reason, /BAR 1 .*Above 4G Decoding/)
    }
    const { address, size } =
      see(lines)
        .device(GPU)
        .bars.find(({ index }) => index === 1) ?? {}
    assert.deepEqual({ address, size }, { address: null, size: 0x800000000 })
    assert.match(
      planAssignment(see(lines), [GPU])
        .blockers.map(({ reason }) => reason)
        .join(),
      /BAR 1/,
    )
  })

  it('is judged alike by a quick look', () => {
    const lines: Lines = { ...WHOLE, 3: [0, 0xfffffff, MEMORY_64 + UNSET] }
    for (const brief of [false, true]) {
      assert.deepEqual(
        survey(see(lines, { options: { brief } })).devices.map(({ verdict }) => verdict),
        ['blocked'],
      )
    }
  })

  // drivers/pci/setup-bus.c, reset_resource: all zeros, so it opens, and a guest sees no such BAR.
  it('lacks what the kernel dropped, which is said before a guest fails', () => {
    const { 1: _one, ...lines } = WHOLE
    const seen = see(lines)
    const { verdict, reason } = assess(seen, GPU)
    assert.equal(verdict, 'ready')
    assert.match(reason, /no room for its BAR 1, .*Above 4G Decoding.*pci=realloc/)
    assert.match(planAssignment(seen, [GPU]).warnings.join(), /no room for its BAR 1/)
    assert.match(exportQemu(seen, [GPU]).notes.join(), /no room for its BAR 1/)
  })

  it('is told by the third number of each line, whatever else a copy has', () => {
    const unset = hex(MEMORY_64 + UNSET)
    const lines = [
      ...[`${ZERO} ${ZERO} ${ZERO}`, `${ZERO} ${ZERO} ${unset}`, `${hex(1)} ${hex(2)} ${hex(MEMORY_64)}`],
      ...[
        `${ZERO} ${unset}`,
        unset,
        '',
        ' ',
        'rubbish',
        `${ZERO} ${ZERO} ${unset} `,
        `${ZERO} ${ZERO} ${unset} 0`,
      ],
      ...[`${ZERO} ${ZERO} ${ZERO} ${unset}`, `${ZERO}  ${unset}`, `${ZERO} ${ZERO} ${unset}\r`],
    ]
    const texts = fc.array(fc.constantFrom(...lines), { maxLength: 8 }).map((some) => some.join('\n'))
    let told = 0
    fc.assert(
      fc.property(texts, fc.boolean(), (text, brief) => {
        const expected = without(text)
        if (expected) told++
        assert.deepEqual(seeText(text, { options: { brief } }).device(GPU).barsWithoutAddress, expected)
      }),
      { numRuns: runs(300) },
    )
    assert(told > runs(300) / 4, `${told}`)
  })

  it('has a ROM in a copy with other line ends too', () => {
    const zeros = `${ZERO} ${ZERO} ${ZERO}\r\n`
    const text = `${zeros.repeat(6)}${hex(0xdf080000)} ${hex(0xdf0fffff)} ${hex(0x46200)}\r\n${zeros.repeat(6)}`
    const [rom] = seeText(text, {}).device(GPU).bars
    assert.deepEqual([rom?.index, rom?.size], ['rom', 0x80000])
  })

  // Drivers do without I/O ports, and large machines run out of them.
  it('misses no I/O ports', () => {
    const { 5: _five, ...lines } = WHOLE
    assert.equal('barsWithoutAddress' in see(lines).device(GPU), false)
  })
})
