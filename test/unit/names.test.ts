import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { appendFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { type DeviceIds, PciNames } from '../../lib/sysfs/names.js'
import { SCRATCH } from '../fixtures/host.js'

const hex = (value: number) => value.toString(16).padStart(4, '0')

const DEVICES = 24

/**
 * A file whose blocks end everywhere around the places at which their end is looked for: each vendor has a device with a name
 * that is longer by a character than that of the vendor before. The same devices and subsystems are everywhere.
 */
function fileOf(vendors: number): Buffer {
  const lines = ['# comment', '']
  for (let vendor = 1; vendor <= vendors; vendor++) {
    lines.push(`${hex(vendor)}  Vendor ${vendor}`)
    for (let device = 1; device <= DEVICES; device++) {
      // Each knows one device and one subsystem that the one before does not.
      if (device % 5 === vendor % 5) continue
      lines.push(`\t${hex(device)}  Device ${device} of ${vendor}`)
      if (device % 3 !== vendor % 3) lines.push(`\t\t1028 ${hex(device)}  Board ${device} of ${vendor}`)
      if (device === 7) lines.push('# in between', '')
    }
    lines.push(`\tff00  ${'x'.repeat(vendor)}`)
  }
  lines.push(
    'C 02  Network controller',
    '\t00  Ethernet controller',
    '\t\t01  Some',
    'C 03  Display controller',
  )
  return Buffer.from(`${lines.join('\n')}\n`)
}

describe('names of pci.ids', () => {
  it('are those of the block that a line stands in, wherever that ends', () => {
    const vendors = 40
    const names = new PciNames(fileOf(vendors))
    for (let vendor = 1; vendor <= vendors; vendor++) {
      for (let device = 1; device <= DEVICES; device++) {
        const isKnown = device % 5 !== vendor % 5
        const hasBoard = isKnown && device % 3 !== vendor % 3
        const ids = { vendor, device, subsystemVendor: 0x1028, subsystemDevice: device, class: 0x020000 }
        assert.deepEqual(names.names(ids), {
          vendor: `Vendor ${vendor}`,
          device: isKnown ? `Device ${device} of ${vendor}` : null,
          subsystem: hasBoard ? `Board ${device} of ${vendor}` : null,
          class: 'Ethernet controller',
        })
      }
    }
    const other = { vendor: 0x7000, device: 1, subsystemVendor: 0x1028, subsystemDevice: 1, class: 0x030000 }
    assert.deepEqual(names.names(other), {
      vendor: null,
      device: null,
      subsystem: null,
      class: 'Display controller',
    })
  })

  it('of the next block are none of this one, at each length of it', () => {
    const ask = { subsystemVendor: 0x1028, subsystemDevice: 2, class: 0 }
    for (const length of [...Array.from({ length: 40 }, (_none, at) => 980 + at), 5060, 5070, 5080, 5090]) {
      for (let more = 0; more < 10; more++) {
        const rest = 'x'.repeat(length + more)
        const text = `0001  A ${rest}\n0002  B\n\t0003  C\n\t0004  D ${rest}\n\t0005  E\n\t\t1028 0002  F\n`
        const names = new PciNames(Buffer.from(text))
        assert.equal(names.names({ vendor: 1, device: 3, ...ask }).device, null, `${length + more}`)
        const { device, subsystem } = names.names({ vendor: 2, device: 4, ...ask })
        assert.deepEqual([device, subsystem], [`D ${rest}`, null], `${length + more}`)
      }
    }
  })

  it('are found in a file that begins and ends anyhow', () => {
    const ids = { vendor: 1, device: 2, subsystemVendor: 0, subsystemDevice: 0, class: 0 }
    for (const text of [
      '0001  A\n\t0002  B',
      '0001  A\n\t0002  B\n',
      '# c\n0001  A\n\t0002  B',
      '\n0001  A\n\t0002  B\n\n',
    ])
      assert.deepEqual(new PciNames(Buffer.from(text)).names(ids), {
        vendor: 'A',
        device: 'B',
        subsystem: null,
        class: null,
      })
  })

  describe('in a file that is read in parts', () => {
    let directory = ''
    let path = ''
    beforeEach(() => {
      directory = mkdtempSync(join(SCRATCH, 'vfio-names-'))
      path = join(directory, 'pci.ids')
    })
    afterEach(() => rmSync(directory, { recursive: true, force: true }))

    const text = fileOf(300)
    const idsOf = (vendor: number): DeviceIds => ({
      ...{ vendor, device: (vendor % DEVICES) + 1 },
      ...{ subsystemVendor: 0x1028, subsystemDevice: (vendor % DEVICES) + 1, class: 0x020000 },
    })
    const openFiles = () => readdirSync('/proc/self/fd').length

    it('are those that all of it has, each alone and one after another', () => {
      writeFileSync(path, text)
      const inMemory = new PciNames(text)
      const inParts = PciNames.read(path)
      for (let vendor = 0; vendor <= 301; vendor++) {
        const expected = inMemory.names(idsOf(vendor))
        assert.deepEqual(inParts.names(idsOf(vendor)), expected, `${vendor}`)
        assert.deepEqual(PciNames.read(path).names(idsOf(vendor)), expected, `${vendor} alone`)
      }
    })

    it('are found by whatever a file is opened by in JavaScript', () => {
      const place = join(SCRATCH, `vfio-names-${process.pid}`)
      writeFileSync(place, fileOf(3))
      try {
        const ids = { vendor: 2, device: 4, subsystemVendor: 0, subsystemDevice: 0, class: 0x020000 }
        for (const path of [place, Buffer.from(place), pathToFileURL(place)]) {
          assert.equal(PciNames.read(path as string).names(ids).vendor, 'Vendor 2')
        }
      } finally {
        rmSync(place)
      }
    })

    it('are read with a small part of it, and nothing stays open', () => {
      const large = Buffer.concat([
        fileOf(2000).subarray(0, -100),
        Buffer.from('\nC 02  Network controller\n'),
      ])
      writeFileSync(path, large)
      const before = openFiles()
      const names = PciNames.read(path)
      // Who reads all of it would be told by what the kernel counts.
      const read = () => Number(/^rchar: (\d+)/m.exec(readFileSync('/proc/self/io', 'latin1'))?.[1])
      const first = read()
      assert.equal(names.names(idsOf(1234)).vendor, 'Vendor 1234')
      assert.ok(read() - first < large.length / 4, `${read() - first} of ${large.length} bytes`)
      assert.equal(openFiles(), before)
    })

    it('are found where vendors are in no order', () => {
      const lines = text.toString('latin1').split(/\n(?=[0-9a-fC])/)
      const [comment = '', ...blocks] = lines
      const vendors = blocks.filter((block) => !block.startsWith('C '))
      const classes = blocks.filter((block) => block.startsWith('C '))
      writeFileSync(path, [...[comment], ...classes, ...vendors.reverse()].join('\n').concat('\n'))
      const inMemory = new PciNames(text)
      for (const vendor of [1, 2, 150, 299, 300])
        assert.deepEqual(PciNames.read(path).names(idsOf(vendor)), inMemory.names(idsOf(vendor)))
    })

    it('are those of what it is now, where it was written since', () => {
      writeFileSync(path, text)
      const names = PciNames.read(path)
      assert.equal(names.names(idsOf(7)).vendor, 'Vendor 7')
      writeFileSync(path, text.toString('latin1').replaceAll('Vendor', 'Firm'))
      appendFileSync(path, '# more\n')
      assert.equal(names.names(idsOf(250)).vendor, 'Firm 250')
      assert.equal(names.names(idsOf(251)).class, 'Ethernet controller')
    })

    it('are none, and no error, where it went', () => {
      writeFileSync(path, text)
      const names = PciNames.read(path)
      rmSync(path)
      assert.deepEqual(names.names(idsOf(7)), { vendor: null, device: null, subsystem: null, class: null })
      assert.deepEqual(PciNames.read(path).names(idsOf(7)).vendor, null)
      execFileSync('mkfifo', [path])
      assert.deepEqual(PciNames.read(path).names(idsOf(7)).vendor, null)
    })
  })
})
