import assert from 'node:assert/strict'
import { exportLibvirt, exportQemu } from 'vfio'
import {
  type BarDescription,
  type DeviceDescription,
  type HostDescription,
  removeDirectories,
} from '../fixtures/host.js'
import { UsedHost } from '../fixtures/uses.js'

const GiB = 2 ** 30
const bar1 = (size: number): BarDescription => ({
  index: 1,
  address: 0x8000000000,
  size,
  is64: true,
  prefetchable: true,
})
const device = (
  bars: readonly BarDescription[],
  more: Partial<DeviceDescription> = {},
): DeviceDescription => ({
  address: '0000:01:00.0',
  driver: 'vfio-pci',
  group: 1,
  bars,
  ...more,
})

/** `AT_PAGESZ`, as the kernel of a host with such pages hands it to a program. */
function auxiliaryVector(page: number): Buffer {
  const words = new BigUint64Array([33n, 0x7ffe000n, 6n, BigInt(page), 0n, 0n])
  return Buffer.from(words.buffer)
}

function notes(
  described: DeviceDescription,
  prepare: (host: UsedHost) => void = () => {},
  host: HostDescription = {},
): string {
  const used = new UsedHost({ ...host, devices: [described] })
  prepare(used)
  const seen = used.see()
  const qemu = exportQemu(seen, [described.address]).notes.join('\n')
  assert.equal(exportLibvirt(seen, [described.address]).notes.join('\n'), qemu)
  return qemu
}

const cpu = (bits: number) => (host: UsedHost) =>
  host.tree.file('proc/cpuinfo', `processor\t: 0\naddress sizes\t: ${bits} bits physical, 48 bits virtual\n`)

describe('what a guest would stumble over', () => {
  after(removeDirectories)

  // drivers/vfio/pci/vfio_pci_core.c, vfio_pci_probe_mmaps().
  it('a BAR smaller than a page that does not begin one', () => {
    const small: BarDescription = { index: 0, address: 0xfe000100, size: 0x100 }
    assert.match(
      notes(device([small])),
      /BAR 0 of 0000:01:00\.0 is smaller than a page.*resource_alignment=12@/,
    )
    assert.equal(notes(device([{ ...small, address: 0xfe001000 }])), '')
    assert.equal(notes(device([{ ...small, io: true }])), '')
  })

  // arm64 and POWER with 64 KiB pages: what 4 KiB let through is too small there.
  it('a BAR smaller than the pages of this host', () => {
    const four: BarDescription = { index: 0, address: 0xfe001000, size: 0x1000 }
    assert.equal(notes(device([four])), '')
    const large = (host: UsedHost) => host.tree.file('proc/self/auxv', auxiliaryVector(0x10000))
    assert.match(notes(device([four]), large), /page \(64 KiB\).*resource_alignment=16@/)
  })

  // PCI Local Bus 3.0, 6.8.2: the table wants pages of 4 KiB for itself.
  it('registers in the pages of the MSI-X table', () => {
    const msix = (tableOffset: number): Partial<DeviceDescription> => ({
      capabilities: [{ kind: 'msix', vectors: 16, tableBar: 0, tableOffset }],
    })
    const bar: BarDescription = { index: 0, address: 0xfe000000, size: 0x4000 }
    assert.match(notes(device([bar], msix(0x800))), /pages 0x0–0xfff of BAR 0.*x-msix-relocation/)
    assert.equal(notes(device([bar], msix(0x2000))), '')
    const large = (host: UsedHost) => host.tree.file('proc/self/auxv', auxiliaryVector(0x10000))
    assert.match(notes(device([bar], msix(0x2000)), large), /pages 0x0–0xffff/)
  })

  // A desktop processor of 39 bits (512 GiB) and an accelerator of 512 GiB.
  it('a BAR beyond what the processor can address', () => {
    assert.match(notes(device([bar1(512 * GiB)]), cpu(39)), /512 GiB large.*40 bits, where the processor.*39/)
    assert.equal(notes(device([bar1(32 * GiB)]), cpu(39)), '')
  })

  // Intel VT-d specification, 11.4.2: MGAW.
  it('a BAR beyond what the IOMMU can address', () => {
    assert.match(notes(device([bar1(512 * GiB)]), cpu(46)), /where the IOMMU of this host has 39/)
  })

  // QEMU, hw/i386/intel_iommu.c: aw-bits.
  it('a BAR beyond what a virtual IOMMU translates unless told', () => {
    assert.match(notes(device([bar1(256 * GiB)]), cpu(52)), /aw-bits=48/)
    assert.match(notes(device([bar1(2 ** 48)]), cpu(52), { iommu: 'amd' }), /aw-bits=57/)
    assert.equal(notes(device([bar1(64 * GiB)]), cpu(52)), '')
  })

  it('a container of fewer mappings than usual', () => {
    const limit = (entries: number) => (host: UsedHost) =>
      host.tree.file('sys/module/vfio_iommu_type1/parameters/dma_entry_limit', `${entries}\n`)
    assert.match(notes(device([]), limit(1000)), /1000 mappings.*dma_entry_limit/)
    assert.equal(notes(device([]), limit(65535)), '')
  })

  describe('a display', () => {
    const ROM: BarDescription = { index: 'rom', address: 0xc0000, size: 0x20000 }
    const vga = (more: Partial<DeviceDescription>, ...bars: readonly BarDescription[]) =>
      notes(device([bar1(GiB / 4), ...bars], { class: 0x030000, below: '0000:00:01.0', ...more }))

    // isc30/ryzen-gpu-passthrough-proxmox: the graphics of an APU have their video BIOS in the board's firmware.
    it('without a ROM shows nothing before its driver is there', () => {
      assert.match(vga({ vendor: 0x1002 }), /no video BIOS of its own.*romfile=/)
      assert.doesNotMatch(vga({ vendor: 0x1002 }, ROM), /romfile/)
    })

    // "Invalid PCI ROM header signature: expecting 0xaa55, got 0xffff" of the card that the host booted with.
    it('that the host booted with may want an unused copy of it', () => {
      assert.match(vga({ vendor: 0x10de, bootVga: true }, ROM), /unused copy \(romfile= of QEMU\)/)
    })

    it('of an Intel processor wants its place (QEMU, docs/igd-assign.txt)', () => {
      const igd = device([bar1(GiB / 4)], { address: '0000:00:02.0', vendor: 0x8086, class: 0x030000 })
      assert.match(notes(igd), /00:02\.0 with x-igd-opregion=on/)
    })

    // gnif/vendor-reset: Polaris, Vega and Navi 1x.
    it('of AMD without a reset of its own may not come back', () => {
      const amd = { vendor: 0x1002 }
      assert.match(vga({ ...amd, resetMethod: 'bus' }, ROM), /many displays of AMD's.*vendor-reset/)
      assert.doesNotMatch(vga({ ...amd, resetMethod: 'flr bus' }, ROM), /vendor-reset/)
      assert.doesNotMatch(vga({ vendor: 0x10de, resetMethod: 'bus' }, ROM), /vendor-reset/)
    })

    it('is nothing of a card that computes', () => {
      assert.doesNotMatch(vga({ vendor: 0x10de, class: 0x030200 }), /romfile/)
    })
  })
})
