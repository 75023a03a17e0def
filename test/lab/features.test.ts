import assert from 'node:assert/strict'
import { closeSync, existsSync, openSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs'
import { release } from 'node:os'
import { basename } from 'node:path'
import { assess, EventFd, Host, type PciDevice, VfioError, VfioSystemError } from 'vfio'
import { skip } from '../fixtures/skip.js'
import { driverOf, inUse, meetIommu, put } from './binding.js'
import { overModes } from './modes.js'

const [major = 0, minor = 0] = release().split('.').map(Number)
const since = (wantedMajor: number, wantedMinor: number) =>
  major > wantedMajor || (major === wantedMajor && minor >= wantedMinor)
const HAS_LOW_POWER = since(6, 1)
const HAS_DMA_BUF = since(6, 19)
const UNKNOWN_FEATURE = 0xfff

const used = inUse()
meetIommu(used)
const seen = new Host().snapshot()
const free = seen.devices.filter(
  ({ address, headerType }) =>
    headerType === 'normal' && !used.has(address) && assess(seen, address).verdict !== 'blocked',
)
const kindOf = ({ vendor, device }: PciDevice) => `${vendor.toString(16)}:${device.toString(16)}`
/** One device of each kind. */
const kinds = [...new Map(free.map((device) => [kindOf(device), device])).values()]

function choose(what: string, fits: (device: PciDevice) => boolean): PciDevice {
  const device = free.find(fits)
  if (!device) throw new Error(`the topology has no ${what}`)
  return device
}

function freeAll(): void {
  for (const { address } of free) put(address, 'none')
}

async function refused(of: () => unknown, code: string, hint?: RegExp) {
  let error: unknown
  try {
    await of()
  } catch (thrown) {
    error = thrown
  }
  assert(error instanceof VfioError, `${of} should have failed with ${code}, not with ${error}`)
  assert.equal(error.code, code, error.message)
  if (error instanceof VfioSystemError) assert(error.hint, `${error.request} ${error.code} has no hint`)
  if (hint) assert.match(error.message, hint)
}

overModes('features', function ({ open }) {
  this.timeout(120_000)

  beforeEach(freeAll)
  after(() => {
    for (const { address } of free) put(address, 'host')
  })

  for (const kind of kinds) {
    it(`of ${kindOf(kind)} are those that vfio-pci of this kernel has`, async () => {
      await using opened = await open(kind.address)
      const { device } = opened
      const isPf = kind.sriov?.role === 'pf'
      const settable: Record<string, boolean> = {
        'vf-token': isPf,
        'low-power-entry': HAS_LOW_POWER,
        'low-power-entry-with-wakeup': HAS_LOW_POWER,
        'low-power-exit': HAS_LOW_POWER,
      }
      const names = [
        'vf-token',
        'migration',
        'migration-state',
        'low-power-entry',
        'low-power-entry-with-wakeup',
        'low-power-exit',
        'dma-logging-start',
        'dma-logging-stop',
        'dma-logging-report',
        'migration-data-size',
        'bus-master',
        'dma-buf',
        'precopy-info-v2',
        'zpci-error',
        UNKNOWN_FEATURE,
      ] as const
      for (const name of names) {
        const feature = device.feature(name)
        assert.equal(feature.probe('set'), settable[name] ?? false, `set ${name}`)
        assert.equal(feature.probe('get'), name === 'dma-buf' && HAS_DMA_BUF, `get ${name}`)
      }
      assert.equal(device.lowPower.supported, HAS_LOW_POWER)
      assert.equal(device.dmaLogging.supported, false)

      const { migration, dmaLogging, lowPower } = device
      const ranges = [{ iova: 0, length: 1 << 20 }]
      const missing = [
        () => device.feature(UNKNOWN_FEATURE).get(8),
        () => device.feature(UNKNOWN_FEATURE).set(new Uint8Array(8)),
        () => migration.support(),
        () => migration.state(),
        () => migration.setState('stop-copy'),
        () => migration.dataSize(),
        () => device.zpciError(),
        ...(HAS_DMA_BUF ? [] : [() => device.dmaBuf('bar0')]),
        () => dmaLogging.start({ ranges }),
        () => dmaLogging.stop(),
        () => dmaLogging.report(0, 1 << 20, 4096),
        ...(isPf ? [] : [() => device.setVfToken('00112233-4455-6677-8899-aabbccddeeff')]),
        ...(HAS_LOW_POWER
          ? []
          : [() => lowPower.enter(), () => lowPower.enter({ wakeup: 1 }), () => lowPower.exit()]),
      ]
      for (const call of missing) await refused(call, 'ENOTTY', /probe\(\)/)
      // A kernel that knows this one asks first whether the device has pre-copy.
      await refused(() => migration.usePrecopyInfoV2(), since(7, 3) ? 'EINVAL' : 'ENOTTY', /probe\(\)/)
      if (isPf) await refused(() => device.feature('vf-token').get(16), 'EINVAL')
    })
  }

  it('share BARs as dma-bufs, whose pages are the BAR’s', async function () {
    if (!HAS_DMA_BUF) skip(this, 'before Linux 6.19 there is none')
    const PAGE = 4096
    const barOf = ({ bars }: PciDevice) =>
      bars.find(({ index, kind, size }) => index !== 'rom' && kind === 'memory' && size >= 2 * PAGE)
    const holder = choose('device with a BAR of two pages', (device) => barOf(device) !== undefined)
    const bar = barOf(holder)
    assert(bar)
    await using opened = await open(holder.address)
    const { device } = opened
    const whole = await device.dmaBuf(bar.index)
    assert.equal(whole.size, BigInt(bar.size))
    assert.match(readlinkSync(`/proc/self/fd/${whole.fd}`), /dmabuf/)
    const part = await device.dmaBuf(bar.index, { ranges: [{ offset: PAGE, length: PAGE }] })
    assert.equal(part.size, BigInt(PAGE))
    await part.close()
    await refused(() => device.dmaBuf('config'), 'ENODEV', /BAR/)
    const odd = [
      [{ offset: 1, length: PAGE }],
      [{ offset: 0, length: 0 }],
      [{ offset: 0, length: bar.size + PAGE }],
    ]
    for (const ranges of odd) await refused(() => device.dmaBuf(bar.index, { ranges }), 'EINVAL')
    // With the device it is gone.
    await opened.close()
    assert.equal(whole.closed, true)
  })

  describe('low power', () => {
    const sleeper = choose('device with power states and a BAR', ({ capabilities, bars }) => {
      const [bar] = bars
      return capabilities.pcie?.flr === true && bar?.index === 0
    })
    const status = () =>
      readFileSync(`/sys/bus/pci/devices/${sleeper.address}/power/runtime_status`, 'utf8').trim()

    before(function () {
      if (!HAS_LOW_POWER) skip(this, 'before Linux 6.1 there is none')
    })

    it('is entered once, and left any number of times', async () => {
      await using opened = await open(sleeper.address)
      const { lowPower, config } = opened.device
      await lowPower.exit()
      await lowPower.enter()
      await refused(() => lowPower.enter(), 'EINVAL', /low power was entered before/)
      await refused(() => lowPower.enter({ wakeup: 1 }), 'EINVAL')
      assert.equal(config.vendor, sleeper.vendor)
      await lowPower.exit()
      await lowPower.exit()
      await lowPower.enter()
    })

    it('takes the mappings away until it is left', async () => {
      await using opened = await open(sleeper.address)
      const { device } = opened
      device.config.setCommand({ memory: true })
      const bar = device.region('bar0')
      const before = bar.read32(0)
      await device.lowPower.enter()
      await refused(() => bar.read32(0), 'ERR_VFIO_MEMORY_DISABLED')
      await device.lowPower.exit()
      assert.equal(bar.read32(0), before)
    })

    it('tells an eventfd that the device woke up', async function () {
      if (!existsSync(`/sys/bus/pci/devices/${sleeper.address}/power/runtime_status`))
        skip(this, 'this kernel was built without power management (CONFIG_PM)')
      await using opened = await open(sleeper.address)
      const { lowPower, config } = opened.device
      using wakeup = EventFd.create()
      await lowPower.enter({ wakeup })
      const deadline = performance.now() + 200_000
      // The kernel tells nobody when it has put a device to sleep.
      while (status() !== 'suspended') {
        assert(performance.now() < deadline, `it is ${status()}`)
        await new Promise(setImmediate)
      }
      assert.equal(wakeup.read(), 0)
      assert.equal(config.vendor, sleeper.vendor)
      assert.equal(status(), 'active')
      assert.equal(wakeup.read(), 1)
      // It stays awake, and may be sent to sleep again.
      await lowPower.enter({ wakeup })
    })

    it('takes an open eventfd and nothing else', async () => {
      await using opened = await open(sleeper.address)
      const { lowPower } = opened.device
      const other = openSync('/dev/null', 'r')
      await refused(() => lowPower.enter({ wakeup: other }), 'EINVAL')
      closeSync(other)
      await refused(() => lowPower.enter({ wakeup: other }), 'EBADF', /closed/)
      await lowPower.enter()
    })
  })

  describe('the VF token', () => {
    const pfs = free.filter(({ sriov }) => sriov?.role === 'pf')
    const TOKEN = '6c1d9a3e-7f20-4b58-9d46-0e8f5a2b7c13'
    const OTHER = '6c1d9a3e-7f20-4b58-9d46-0e8f5a2b7c14'
    const PARAMETER = '/sys/module/vfio_pci/parameters/enable_sriov'

    before(function () {
      if (pfs.length === 0) skip(this, 'the topology has no SR-IOV')
      writeFileSync(PARAMETER, 'Y')
    })
    after(() => writeFileSync(PARAMETER, 'N'))

    for (const pf of pfs) {
      it(`of ${kindOf(pf)} opens its virtual functions, and nothing else does`, async () => {
        const numvfs = `/sys/bus/pci/devices/${pf.address}/sriov_numvfs`
        await using owner = await open(pf.address)
        await owner.device.setVfToken(TOKEN)
        writeFileSync(numvfs, '1')
        try {
          const vf = basename(readlinkSync(`/sys/bus/pci/devices/${pf.address}/virtfn0`))
          // Those of a function that VFIO has are VFIO's from the start.
          assert.equal(driverOf(vf), 'vfio-pci')
          await refused(() => open(vf), 'EACCES', /VF token/)
          await refused(() => open(vf, OTHER), 'EACCES', /VF token/)
          await using opened = await open(vf, TOKEN.toUpperCase())
          assert.equal(opened.device.info().pci, true)
          assert.equal(opened.device.feature('vf-token').probe('set'), false)
          // While one is in use the physical function wants the token too.
          if (owner.backend === 'group') {
            await refused(() => owner.group.openDevice(pf.address), 'EACCES', /VF token/)
            await (await owner.group.openDevice(pf.address, { vfToken: TOKEN })).close()
          }
          await opened.close()
          // It can be changed, and from then on the new one counts.
          await owner.device.setVfToken(OTHER)
          await refused(() => open(vf, TOKEN), 'EACCES')
          await (await open(vf, OTHER)).close()
        } finally {
          writeFileSync(numvfs, '0')
        }
      })
    }
  })

  describe('an ioeventfd', () => {
    const EDU_LIVENESS = 4
    const edu = choose('edu', (device) => kindOf(device) === '1234:11e8')
    const disk = choose('device with MSI-X', ({ capabilities }) => capabilities.msix !== null)

    it('makes the write each time that it is signalled, until it is closed', async () => {
      await using opened = await open(edu.address)
      const { device } = opened
      device.config.setCommand({ memory: true })
      const bar = device.region('bar0')
      using eventfd = EventFd.create()
      const write = { region: 'bar0', offset: EDU_LIVENESS, width: 32, eventfd } as const
      const first = device.ioeventfd({ ...write, data: 0x12345678 })
      eventfd.signal()
      // The register answers with the complement of what was written to it.
      assert.equal(bar.read32(EDU_LIVENESS), ~0x12345678 >>> 0)
      first.close()
      bar.write32(EDU_LIVENESS, 0)
      eventfd.signal()
      assert.equal(bar.read32(EDU_LIVENESS), 0xffffffff)
      using second = device.ioeventfd({ ...write, data: 0xfedcba98n })
      eventfd.signal()
      assert.equal(bar.read32(EDU_LIVENESS), ~0xfedcba98 >>> 0)
      assert.equal(second.closed, false)
    })

    it('is there once for each write, and gone with the device', async () => {
      using eventfd = EventFd.create()
      const write = { region: 'bar0', offset: EDU_LIVENESS, width: 32, data: 1, eventfd } as const
      {
        await using opened = await open(edu.address)
        const { device } = opened
        const first = device.ioeventfd(write)
        await refused(() => device.ioeventfd(write), 'EEXIST', /close that one first/)
        device.ioeventfd({ ...write, data: 2 })
        device.ioeventfd({ ...write, offset: 8 })
        device.ioeventfd({ ...write, width: 16 })
        device.ioeventfd({ ...write, width: 8 })
        try {
          device.ioeventfd({ ...write, offset: 8, width: 64 })
        } catch (error) {
          // Before 6.10 kernels have 64-bit writes of PCI or not, by how they were built (`vfio_pci_ioeventfd`).
          if (since(6, 10)) throw error
          await refused(() => Promise.reject(error), 'EINVAL', /cannot write 64 bits at once/)
        }
        first.close()
        assert.equal(device.ioeventfd(write).closed, false)
      }
      await using opened = await open(edu.address)
      assert.equal(opened.device.ioeventfd(write).closed, false)
    })

    it('is refused where the kernel cannot write so', async () => {
      const { msix } = disk.capabilities
      assert(msix)
      await using opened = await open(disk.address)
      const { device } = opened
      using eventfd = EventFd.create()
      const write = { region: 'bar0', offset: 0, width: 32, data: 0, eventfd } as const
      const table = { ...write, region: msix.tableBar, offset: msix.tableOffset }
      await refused(() => device.ioeventfd(table), 'EINVAL', /MSI-X table/)
      await refused(() => device.ioeventfd({ ...write, region: 'config' }), 'EINVAL', /outside of the BARs/)
      await refused(() => device.ioeventfd({ ...write, region: 'bar5' }), 'ERR_VFIO_BAD_ARGUMENT', /0 bytes/)
      const other = openSync('/dev/null', 'r')
      await refused(() => device.ioeventfd({ ...write, eventfd: other }), 'EINVAL', /no eventfd/)
      closeSync(other)
      await refused(() => device.ioeventfd({ ...write, eventfd: other }), 'EBADF', /closed/)
    })

    it('is there a thousand times at most', async () => {
      await using opened = await open(edu.address)
      const { device } = opened
      using eventfd = EventFd.create()
      const write = { region: 'bar0', offset: EDU_LIVENESS, width: 32, eventfd } as const
      const all = Array.from({ length: 1000 }, (_, data) => device.ioeventfd({ ...write, data }))
      await refused(() => device.ioeventfd({ ...write, data: 1000 }), 'ENOSPC', /1000/)
      all[500]?.close()
      assert.equal(device.ioeventfd({ ...write, data: 1000 }).closed, false)
    })
  })
})
