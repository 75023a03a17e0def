import assert from 'node:assert/strict'
import { assess, assessUses, planAssignment } from 'vfio'
import { removeDirectories } from '../fixtures/host.js'
import { UsedHost } from '../fixtures/uses.js'

const UPSTREAM = [
  { address: '0000:00:01.3', headerType: 'bridge', secondaryBus: 1, driver: 'pcieport', group: 14 },
  { address: '0000:01:00.1', class: 0x010601, driver: 'ahci', group: 14, multifunction: true },
  { address: '0000:01:00.2', headerType: 'bridge', secondaryBus: 2, driver: 'pcieport', group: 14 },
  { address: '0000:02:01.0', headerType: 'bridge', secondaryBus: 4, driver: 'pcieport', group: 14 },
  { address: '0000:04:00.0', class: 0x030000, driver: 'nouveau', group: 14 },
] as const

/** A chipset whose ports do not isolate: all behind it is one group, with the disk of the host (AMD's 300 to 600 series). */
function chipset(): UsedHost {
  const host = new UsedHost({ devices: UPSTREAM })
  host.disk('sda', '0000:01:00.1', 8, 1)
  host.mounts('22 1 8:1 / / rw - ext4 /dev/sda1 rw')
  return host
}

describe('a card in a slot of the chipset', () => {
  after(removeDirectories)

  it('has no group of its own there, and is told where it may have one', () => {
    const seen = chipset().see()
    assert.match(assess(seen, '0000:04:00.0').reason, /sdap1 is mounted at \/; in another slot, .*\(ACS\)/)
    const { blockers } = planAssignment(seen, ['0000:04:00.0'])
    assert.match(blockers.map(({ reason }) => reason).join(), /it stays too; in another slot/)
  })

  it('is told nothing of slots where the disk itself is asked for', () => {
    assert.doesNotMatch(assess(chipset().see(), '0000:01:00.1').reason, /another slot/)
  })
})

const PCH = [
  { address: '0000:00:1f.0', class: 0x060100 },
  { address: '0000:00:1f.3', class: 0x040300, driver: 'snd_hda_intel' },
  { address: '0000:00:1f.4', class: 0x0c0500, driver: 'i801_smbus' },
  { address: '0000:00:1f.5', class: 0x0c8000, driver: 'intel-spi' },
].map((device) => ({ ...device, group: 17, multifunction: true }))

/** The sound of an Intel chipset is in one group with what the board itself needs. */
describe('a part of the board', () => {
  after(removeDirectories)

  it('is to be unbound, and not to be given to a guest', () => {
    const seen = new UsedHost({ kernel: '6.8.12-4-pve', devices: PCH }).see()
    const { viability, verdict } = assess(seen, '0000:00:1f.3')
    const reason = (address: string) =>
      viability?.members.find((one) => one.address === address)?.reason ?? ''
    assert.equal(verdict, 'bindable')
    assert.match(reason('0000:00:1f.4'), /unbind it from i801_smbus, since it is a part of the board/)
    assert.match(reason('0000:00:1f.5'), /unbind it from intel-spi/)
    assert.match(reason('0000:00:1f.3'), /bind it to vfio-pci, or unbind it/)
  })

  for (const [address, says] of [
    ['0000:00:1f.0', /ISA or LPC bridge.*firmware flash, TPM/],
    ['0000:00:1f.4', /SMBus.*memory modules/],
    ['0000:00:1f.5', /serial bus.*firmware flash/],
  ] as const) {
    it(`says what who drives ${address} reaches, and does not refuse it`, () => {
      const uses = assessUses(new UsedHost({ devices: PCH }).see(), address)
      assert.match(uses.map(({ severity, what }) => `${severity} ${what}`).join(), says)
      assert.equal(
        uses.some(({ severity }) => severity === 'blocks'),
        false,
      )
    })
  }

  it('is no card of such a class', () => {
    const devices = [
      { address: '0000:00:1c.0', headerType: 'bridge', secondaryBus: 3, driver: 'pcieport', group: 1 },
      { address: '0000:03:00.0', class: 0x0c8000, group: 2 },
    ] as const
    assert.deepEqual(new UsedHost({ devices }).uses('0000:03:00.0'), [])
  })
})

/** Memory on CXL: a driver that goes takes it out of no use. */
describe("memory that may be the host's own", () => {
  after(removeDirectories)

  const uses = (driver?: string) =>
    new UsedHost({
      devices: [{ address: '0000:16:00.0', class: 0x050210, group: 9, ...(driver && { driver }) }],
    }).uses('0000:16:00.0')

  it('is not taken unasked from the driver of CXL', () => {
    assert.match(uses('cxl_pci').join(), /blocks other: whether its memory is a part of this host's own/)
  })

  it("is nobody's without that driver", () => {
    assert.deepEqual(uses(), [])
    assert.doesNotMatch(uses('vfio-pci').join(), /memory/)
  })
})
