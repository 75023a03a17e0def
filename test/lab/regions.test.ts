import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { type PciDevice, type VfioRegion, VfioSystemError } from 'vfio'
import { skip } from '../fixtures/skip.js'
import { overModes } from './modes.js'
import {
  choose,
  chooseUnlessZpci,
  freeAll,
  hasMsix,
  isAlone,
  isEdu,
  isZpci,
  itWith,
  PAGE,
  refused,
  returnAll,
  SLOW,
  spare,
} from './spare.js'

/** Registers of QEMU's edu device (docs/specs/edu.rst): 32 bits each below 0x80. */
const EDU = { identification: 0x00, liveness: 0x04 }
/** Registers of an NVMe controller (NVM Express base specification, 3.1.3). */
const NVME = { capabilities: 0x00, version: 0x08, adminSubmissionQueue: 0x28 }

/** Registers of an e1000e (Intel 82574 datasheet, 10.2.4): what was raised by the second is in the first until it is read. */
const E1000E = { cause: 0xc0, raise: 0xc8 }

const isE1000e = ({ vendor, device }: PciDevice) => vendor === 0x8086 && device === 0x10d3
const isNvme = (device: { class: number }) => device.class === 0x010802

overModes('regions', function ({ open }) {
  this.timeout(120_000)

  const edu = chooseUnlessZpci('edu device alone in its group', (device) => isEdu(device) && isAlone(device))
  const nvme = choose('NVMe controller alone in its group', (device) => isNvme(device) && isAlone(device))

  beforeEach(freeAll)
  after(returnAll)

  itWith('edu device', edu, 'are registers with an exact width', async (edu) => {
    await using opened = await open(edu.address)
    const bar = opened.device.region('bar0')
    assert.equal(bar.name, 'bar0')
    assert.equal(bar.info.mmap, true)
    assert.equal(bar.read32(EDU.identification), 0x010000ed)
    bar.write32(EDU.liveness, 0x12345678)
    assert.equal(bar.read32(EDU.liveness), 0xedcba987)
    // The device has its registers in this one width, and answers nothing of them in another.
    assert.notEqual(bar.read64(EDU.identification, 'single'), 0xedcba987010000edn)
    for (const [read, value] of [
      [() => bar.read16(EDU.liveness), 0xa987],
      [() => bar.read8(EDU.liveness), 0x87],
    ] as const) {
      // ARM has an external abort for what the device refuses, where others read whatever.
      if (process.arch === 'arm64') await refused(read, 'ERR_VFIO_MEMORY_DISABLED', /an access of this width/)
      else assert.notEqual(read(), value)
    }
    assert.equal(bar.read64(EDU.identification, 'lo-hi'), 0xedcba987010000edn)
    assert.equal(bar.read64(EDU.identification, 'hi-lo'), 0xedcba987010000edn)
  })

  it('are read each time, also when nobody looks at what was read, however well it is compiled', async () => {
    const { address } = choose('e1000e alone in its group', (device) => isE1000e(device) && isAlone(device))
    await using opened = await open(address)
    opened.device.config.setCommand({ memory: true })
    const bar = opened.device.region('bar0')
    const unseen = (region: VfioRegion) => {
      region.write32(E1000E.raise, 4)
      region.read32(E1000E.cause)
      return region.read32(E1000E.cause)
    }
    const twice = (region: VfioRegion) => {
      region.write32(E1000E.raise, 4)
      return (region.read32(E1000E.cause) & 4) - (region.read32(E1000E.cause) & 4)
    }
    // Through the descriptor there is nothing to compile away; and other processors are slowly emulated.
    const rounds = !bar.info.mmap ? 500 : SLOW ? 20_000 : 100_000
    for (let round = 0; round < rounds; round++) {
      assert.equal(unseen(bar), 0, `round ${round}`)
      assert.equal(twice(bar), 4, `round ${round}`)
    }
  })

  it('are the same through the mapping and through the descriptor', async () => {
    await using opened = await open(nvme.address)
    const bar = opened.device.region('bar0')
    const sysfs = readFileSync(`/sys/bus/pci/devices/${nvme.address}/config`)
    assert.equal(opened.device.config.vendor, sysfs.readUInt16LE(0))
    const capabilities = bar.read64(NVME.capabilities, 'single')
    assert.equal(bar.read64(NVME.capabilities, 'lo-hi'), capabilities)
    assert(bar.read32(NVME.version) >= 0x10000)
    bar.write64(NVME.adminSubmissionQueue, 0x1234_5678_9abc_d000n, 'lo-hi')
    assert.equal(bar.read64(NVME.adminSubmissionQueue, 'single'), 0x1234_5678_9abc_d000n)
    const bulk = new Uint8Array(16)
    bar.read(bulk, NVME.adminSubmissionQueue - 4)
    assert.equal(new DataView(bulk.buffer).getBigUint64(4, true), 0x1234_5678_9abc_d000n)
    // What is mapped is little-endian, as PCI is.
    if (bar.info.mmap) {
      const mapping = bar.map({ length: 4096 })
      assert.equal(new DataView(mapping.buffer).getBigUint64(0, true), capabilities)
      mapping.close()
      assert.equal(mapping.buffer.byteLength, 0)
    } else {
      assert(isZpci, 'elsewhere BARs can be mapped')
    }
  })

  it('that cannot be mapped answer with the error of the kernel while memory decode is off', async function () {
    if (!isZpci) skip(this, 'BARs can be mapped here')
    await using opened = await open(nvme.address)
    const bar = opened.device.region('bar0')
    const version = bar.read32(NVME.version)
    opened.device.config.setCommand({ memory: false })
    for (const call of [
      () => bar.read8(0),
      () => bar.read32(0),
      () => bar.write32(NVME.adminSubmissionQueue, 0),
    ])
      await refused(call, 'EIO')
    await refused(() => bar.map(), 'ERR_VFIO_BAD_ARGUMENT', /may not be mapped: use read\(\)/)
    opened.device.config.setCommand({ memory: true })
    assert.equal(bar.read32(NVME.version), version)
  })

  itWith(
    'BARs that can be mapped',
    edu,
    'answer with a typed error while memory decode is off, and go on after',
    async (edu) => {
      await using opened = await open(edu.address)
      const { config } = opened.device
      const bar = opened.device.region('bar0')
      const mapping = bar.map({ length: 4096 })
      const words = new Uint32Array(mapping.buffer)
      assert.equal(words[0], 0x010000ed)
      config.setCommand({ memory: false })
      assert.equal(config.command.memory, false)
      for (const call of [
        () => bar.read8(0),
        () => bar.read16(0),
        () => bar.read32(0),
        () => bar.read64(0, 'single'),
        () => bar.read64(0, 'hi-lo'),
        () => bar.write32(EDU.liveness, 1),
        () => bar.write64(0x80, 1n, 'single'),
        () => bar.read(new Uint8Array(64), 0),
        () => bar.write(new Uint8Array(4), 4),
      ]) {
        await refused(call, 'ERR_VFIO_MEMORY_DISABLED', /memory decode is off/)
      }
      assert.equal(mapping.lost, false)
      assert.equal(words[0], 0xffffffff)
      assert.equal(mapping.lost, true)
      config.setCommand({ memory: true })
      assert.equal(bar.read32(0), 0x010000ed)
      assert.equal(words[0], 0xffffffff)
      mapping.restore()
      assert.equal(mapping.lost, false)
      assert.equal(words[0], 0x010000ed)
    },
  )

  const ports = chooseUnlessZpci('device with I/O ports', (device) =>
    device.bars.some(({ kind }) => kind === 'io'),
  )
  itWith('I/O ports', ports, 'that may not be mapped go through the descriptor', async (withPorts) => {
    const bar = withPorts.bars.find(({ kind }) => kind === 'io')
    assert(bar)
    await using opened = await open(withPorts.address)
    const region = opened.device.region(bar.index)
    assert.equal(region.info.mmap, false)
    assert.equal(typeof region.read32(0), 'number')
    await refused(() => region.map(), 'ERR_VFIO_BAD_ARGUMENT', /may not be mapped: use read\(\)/)
  })

  it('of config space are what the kernel shows, with the capabilities by name', async () => {
    for (const { address, capabilities } of spare.filter(isAlone)) {
      await using opened = await open(address)
      const { config } = opened.device
      const sysfs = readFileSync(`/sys/bus/pci/devices/${address}/config`)
      const ids = [config.vendor, config.device, config.subsystemVendor, config.subsystemDevice]
      assert.deepEqual(
        ids,
        [0x00, 0x02, 0x2c, 0x2e].map((at) => sysfs.readUInt16LE(at)),
      )
      assert.equal(config.revision, sysfs[8])
      assert.equal(config.class, sysfs.readUInt32LE(8) >>> 8)
      // Linux on Z shows 256 bytes even of PCI Express.
      assert.equal(config.size, sysfs.length)
      assert.equal(sysfs.length, capabilities.pcie && !isZpci ? 4096 : 256)
      const seen = config.capabilities()
      assert.deepEqual(
        seen.standard.map(({ name }) => name),
        capabilities.standard.map(({ name }) => name),
        address,
      )
      assert.deepEqual(seen.msix, capabilities.msix && { ...capabilities.msix, enabled: false })
      for (const { name } of seen.standard) if (name) assert.equal(config.capability(name)?.name, name)
      assert.equal(config.capability('no such'), null)
      config.setCommand({ busMaster: true })
      assert.equal(config.command.busMaster, true)
      // Bus mastering is the device's to keep, the ids are nobody's to change.
      config.region.write16(0x00, 0xdead)
      assert.equal(config.vendor, sysfs.readUInt16LE(0))
    }
  })

  it('with an MSI-X table are mapped where the kernel says so', async () => {
    const device = choose('device with MSI-X', (one) => hasMsix(one) && isAlone(one))
    await using opened = await open(device.address)
    const { msix } = opened.device.config.capabilities()
    assert(msix)
    const region = opened.device.region(msix.tableBar)
    const mappable = region.info.capabilities.some(({ name }) => name === 'msix-mappable')
    assert.equal(mappable, !isZpci)
    const entry = region.read32(msix.tableOffset)
    assert.equal(typeof entry, 'number')
    if (mappable) assert.equal(region.map().length, region.size)
  })

  it('refuse what is outside, uneven, or no number', async () => {
    await using opened = await open(nvme.address)
    const bar = opened.device.region('bar0')
    const wrong: unknown[] = [
      bar.size,
      bar.size - 1,
      -4,
      1,
      2,
      0.5,
      Number.NaN,
      2 ** 53,
      Infinity,
      '0',
      null,
      0n,
    ]
    for (const offset of wrong as number[]) {
      await refused(() => bar.read32(offset), 'ERR_VFIO_BAD_ARGUMENT')
      await refused(() => bar.write32(offset, 0), 'ERR_VFIO_BAD_ARGUMENT')
      await refused(() => bar.read64(offset, 'single'), 'ERR_VFIO_BAD_ARGUMENT')
    }
    for (const value of [-1, 2 ** 32, 0.5, Number.NaN, '1', 1n] as number[]) {
      await refused(() => bar.write32(4, value), 'ERR_VFIO_BAD_ARGUMENT')
    }
    await refused(() => bar.read64(0, 'big' as 'single'), 'ERR_VFIO_BAD_ARGUMENT')
    await refused(() => bar.read(new Uint8Array(8), bar.size - 4), 'ERR_VFIO_BAD_ARGUMENT')
    await refused(
      () => bar.map({ offset: 1 }),
      'ERR_VFIO_BAD_ARGUMENT',
      new RegExp(`multiple of ${PAGE}|may not be mapped`),
    )
    await refused(() => bar.map({ length: bar.size + 1 }), 'ERR_VFIO_BAD_ARGUMENT')
    const detached = new Uint8Array(16)
    structuredClone(detached.buffer, { transfer: [detached.buffer] })
    await refused(() => bar.read(detached, 0), 'ERR_VFIO_BAD_ARGUMENT', /transferred/)
    await refused(() => opened.device.region(4711), 'EINVAL', /no region/)
    assert.equal(opened.device.region('bar0'), bar)
    const absent = [0, 1, 2, 3, 4, 5]
      .map((index) => opened.device.region(index))
      .find(({ size }) => size === 0)
    assert(absent)
    await refused(() => absent.read8(0), 'ERR_VFIO_BAD_ARGUMENT', /has no bar/)
  })

  itWith('BARs that can be mapped', edu, 'are gone with the device', async (edu) => {
    const opened = await open(edu.address)
    const bar = opened.device.region('bar0')
    const mapping = bar.map({ length: 4096 })
    assert.equal(bar.read32(0), 0x010000ed)
    await opened.close()
    for (const call of [
      () => bar.read32(0),
      () => bar.write32(4, 1),
      () => bar.read(new Uint8Array(4), 0),
      () => bar.map(),
      () => mapping.lost,
      () => mapping.restore(),
      () => opened.device.config,
      () => opened.device.region('bar1'),
    ]) {
      await refused(call, 'ERR_VFIO_CLOSED')
    }
    assert.equal(mapping.closed, true)
    assert.equal(mapping.buffer.byteLength, 0)
    mapping.close()
    // Nothing of the mapping holds the device: it opens and closes again at once.
    await (await open(edu.address)).close()
  })

  it('of every device read without harm, each BAR at its start', async () => {
    for (const { address } of spare.filter(isAlone)) {
      await using opened = await open(address)
      for (const name of ['bar0', 'bar1', 'bar2', 'bar3', 'bar4', 'bar5', 'rom'] as const) {
        const region = opened.device.region(name)
        if (region.size === 0) continue
        const bytes = new Uint8Array(Math.min(region.size, 16))
        try {
          region.read(bytes, 0)
        } catch (error) {
          // A ROM whose image the kernel cannot find says EIO.
          assert(
            name === 'rom' && error instanceof VfioSystemError && error.code === 'EIO',
            `${address} ${error}`,
          )
        }
      }
    }
  })
})
