import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { release } from 'node:os'
import { DmaBuffer, type OpenedDevice, VfioContainer } from 'vfio'
import { sized } from '../fixtures/size.js'
import { skip } from '../fixtures/skip.js'
import { byContainer, overModes } from './modes.js'
import {
  choose,
  chooseUnlessZpci,
  freeAll,
  isAlone,
  isEdu,
  isZpci,
  itWith,
  PAGE,
  refused,
  returnAll,
  SLOW,
} from './spare.js'

const EDU = { source: 0x80, target: 0x88, count: 0x90, command: 0x98, buffer: 0x40000 }
const [KIB, MIB, GIB] = [2 ** 10, 2 ** 20, 2 ** 30]
/** Where every IOMMU maps: that of Linux on Z nothing below 4 GiB. */
const BASE = isZpci ? 4 * GIB : GIB
/** Of mappings of a page each. */
const SPAN = sized(SLOW ? 12 * MIB : 32 * MIB, GIB)
const HUGE_PAGES = '/sys/kernel/mm/hugepages'
const ENTRY_LIMIT = '/sys/module/vfio_iommu_type1/parameters/dma_entry_limit'

/** Lets an edu device copy: to itself, or from itself. */
async function copy({ device }: OpenedDevice, source: bigint, target: bigint, count: number): Promise<void> {
  const bar = device.region('bar0')
  bar.write64(EDU.source, source, 'single')
  bar.write64(EDU.target, target, 'single')
  bar.write64(EDU.count, BigInt(count), 'single')
  const out = source === BigInt(EDU.buffer) ? 2n : 0n
  bar.write64(EDU.command, 1n | out, 'single')
  while (bar.read64(EDU.command, 'single') & 1n) await new Promise(setImmediate)
}

/** How many more mappings the container takes. */
const availableIn = (opened: OpenedDevice) =>
  opened.backend === 'group' ? opened.container.iommuInfo().dmaAvailable : null

overModes('DMA', function ({ open, backend, isType1 }) {
  this.timeout(200_000)

  const edu = chooseUnlessZpci('edu device alone in its group', (device) => isEdu(device) && isAlone(device))
  const any = edu ?? choose('device alone in its group', isAlone)

  beforeEach(freeAll)
  after(returnAll)

  itWith('edu device', edu, 'moves bytes both ways, and only while they are mapped', async (edu) => {
    await using opened = await open(edu.address)
    const { dma } = opened
    opened.device.config.setCommand({ busMaster: true })
    using buffer = DmaBuffer.allocate(2 * PAGE)
    const text = Buffer.from(`from ${edu.address}`)
    buffer.bytes.set(text)
    const mapping = await dma.map(buffer, { addressBits: 28 })
    assert(mapping.iova > 0n && mapping.iova < 2n ** 28n)
    await copy(opened, mapping.iova, BigInt(EDU.buffer), text.length)
    await copy(opened, BigInt(EDU.buffer), mapping.iova + BigInt(PAGE), text.length)
    assert.deepEqual(Buffer.from(buffer.bytes.subarray(PAGE, PAGE + text.length)), text)
    await mapping.unmap()
    assert.deepEqual([mapping.mapped, buffer.mapped], [false, false])
    // The IOMMU stops it now, so nothing changes.
    buffer.bytes.fill(0)
    await copy(opened, BigInt(EDU.buffer), mapping.iova + BigInt(PAGE), text.length)
    assert(buffer.bytes.every((byte) => byte === 0))
  })

  itWith('edu device', edu, 'obeys read and write', async (edu) => {
    await using opened = await open(edu.address)
    const { dma } = opened
    opened.device.config.setCommand({ busMaster: true })
    using buffer = DmaBuffer.allocate(PAGE)
    buffer.bytes.fill(0x5a)
    await dma.map(buffer, { iova: 0x10000, write: false })
    await copy(opened, 0x10000n, BigInt(EDU.buffer), 16)
    buffer.bytes.fill(0)
    await copy(opened, BigInt(EDU.buffer), 0x10000n, 16)
    assert(buffer.bytes.every((byte) => byte === 0))
    assert.equal(await dma.unmap(0x10000, PAGE), BigInt(PAGE))
    await dma.map(buffer, { iova: 0x10000, read: false })
    await copy(opened, BigInt(EDU.buffer), 0x10000n, 16)
    assert(buffer.bytes.subarray(0, 16).every((byte) => byte === 0x5a))
    await refused(
      dma.map(buffer, { iova: 0x20000, read: false, write: false }),
      'ERR_VFIO_BAD_ARGUMENT',
      /not both be false/,
    )
    await dma.unmapAll()
  })

  itWith('edu device', edu, 'uses the RAM of a guest, given by its descriptor', async (edu) => {
    await using opened = await open(edu.address)
    opened.device.config.setCommand({ busMaster: true })
    using ram = DmaBuffer.allocate(16 * PAGE)
    using part = DmaBuffer.fromFd(ram.fd, { offset: 4 * PAGE, size: 2 * PAGE })
    ram.bytes.set(Buffer.from('guest'), 4 * PAGE)
    assert.equal(Buffer.from(part.bytes.subarray(0, 5)).toString(), 'guest')
    const mapping = await opened.dma.map(part, { addressBits: 28 })
    await copy(opened, mapping.iova, BigInt(EDU.buffer), 5)
    await copy(opened, BigInt(EDU.buffer), mapping.iova + BigInt(PAGE), 5)
    assert.equal(Buffer.from(ram.bytes.subarray(5 * PAGE, 5 * PAGE + 5)).toString(), 'guest')
    await mapping.unmap()
    await refused(
      () => DmaBuffer.fromFd(ram.fd, { offset: 15 * PAGE, size: 2 * PAGE }),
      'ERR_VFIO_BAD_ARGUMENT',
      new RegExp(`${ram.size} bytes`),
    )
    await refused(() => DmaBuffer.fromFd(0x7fffffff, { size: PAGE }), 'EBADF', /not open/)
  })

  it(`maps ${SPAN / MIB} MiB in single pages and unmaps it in other sizes`, async () => {
    const limit = isType1 ? readFileSync(ENTRY_LIMIT, 'utf8') : ''
    if (isType1) writeFileSync(ENTRY_LIMIT, String(2 ** 20))
    try {
      await using opened = await open(any.address)
      const { dma } = opened
      // The pages are all the same ones: the guest has not so much memory.
      using buffer = DmaBuffer.allocate(2 * MIB)
      const pages = SPAN / PAGE
      for (let page = 0; page < pages; page++) {
        await dma.map(buffer, {
          iova: BASE + page * PAGE,
          offset: (page * PAGE) % buffer.size,
          length: PAGE,
        })
      }
      if (isType1) assert.equal(availableIn(opened), 2 ** 20 - pages)
      let at = BASE
      for (const size of [PAGE, 2 * PAGE, 1 * MIB, 2 * MIB, 3 * MIB, SPAN / 16, SPAN / 4]) {
        assert.equal(await dma.unmap(at, size), BigInt(size))
        at += size
      }
      assert.equal(await dma.unmap(at, BASE + SPAN - at), BigInt(BASE + SPAN - at))
      if (isType1) assert.equal(availableIn(opened), 2 ** 20)
      assert.deepEqual(dma.mappings, [])
      assert.equal(buffer.mapped, false)
    } finally {
      if (isType1) writeFileSync(ENTRY_LIMIT, limit)
    }
  })

  it('maps a checkerboard and fills its holes', async () => {
    await using opened = await open(any.address)
    const { dma } = opened
    using buffer = DmaBuffer.allocate(4 * MIB)
    const step = 16 * PAGE
    for (let at = 0; at < buffer.size; at += 2 * step) {
      await dma.map(buffer, { iova: BASE + at, offset: at, length: step })
    }
    for (let at = step; at < buffer.size; at += 2 * step) {
      const { iova } = await dma.map(buffer, { iova: BASE + at, offset: at, length: step })
      assert.equal(iova, BigInt(BASE + at))
      await refused(
        dma.map(buffer, { iova: BASE + at, offset: at, length: step }),
        'EEXIST',
        /overlaps the mapping at 0x[0-9a-f]+–0x[0-9a-f]+: unmap that first/,
      )
    }
    for (let at = 0; at < buffer.size; at += 2 * step) {
      assert.equal(await dma.unmap(BASE + at, step), BigInt(step))
    }
    assert.equal(await dma.unmap(BASE, buffer.size), BigInt(buffer.size / 2))
    assert.equal(await dma.unmap(BASE, buffer.size), 0n)
  })

  it('does not cut a mapping in two', async () => {
    await using opened = await open(any.address)
    const { dma } = opened
    using buffer = DmaBuffer.allocate(16 * PAGE)
    const mapping = await dma.map(buffer, { iova: BASE })
    for (const [iova, size] of [
      [BASE, PAGE],
      [BASE + PAGE, 15 * PAGE],
      [BASE + 2 * PAGE, PAGE],
      [BASE - PAGE, 2 * PAGE],
    ] as const) {
      await refused(dma.unmap(iova, size), isType1 ? 'EINVAL' : 'ENOENT', /cuts a mapping in two/)
    }
    assert.equal(mapping.mapped, true)
    // An iommufd has unmapped those below by then.
    const above = await dma.map(buffer, { iova: BASE + 8 * MIB })
    const place = BASE + 7 * MIB
    const below = await dma.map(buffer, { iova: place })
    await refused(dma.unmap(place, MIB + PAGE), isType1 ? 'EINVAL' : 'ENOENT', /cuts a mapping in two/)
    assert.deepEqual([below.mapped, above.mapped], [isType1, true])
    const again = isType1 ? below : await dma.map(buffer, { iova: place })
    await again.unmap()
    await above.unmap()
    assert.equal(await dma.unmap(BASE - MIB, 4 * MIB), BigInt(buffer.size))
    assert.equal(mapping.mapped, false)
    await mapping.unmap()
  })

  it('unmaps all at once, small and large', async () => {
    await using opened = await open(any.address)
    const { dma } = opened
    const end = dma.ranges.at(-1)?.end
    assert(end)
    using small = DmaBuffer.allocate(PAGE)
    using large = DmaBuffer.allocate(64 * MIB)
    const mappings = [
      await dma.map(small),
      await dma.map(large),
      // The last page that there is.
      await dma.map(small, { iova: end - BigInt(PAGE - 1) }),
    ]
    assert.equal(dma.mappings.length, 3)
    assert.equal(await dma.unmapAll(), BigInt(2 * small.size + large.size))
    assert(mappings.every(({ mapped }) => !mapped))
    assert.equal(await dma.unmapAll(), 0n)
  })

  it('maps the last page of each range, and nothing beyond', async () => {
    await using opened = await open(any.address)
    const { dma } = opened
    using buffer = DmaBuffer.allocate(2 * PAGE)
    const { ranges } = dma
    assert(ranges.length > (isZpci ? 0 : 1))
    for (const { start, end } of ranges) {
      const last = await dma.map(buffer, { iova: end - BigInt(PAGE - 1), length: PAGE })
      const first = await dma.map(buffer, { iova: start, length: PAGE })
      assert.deepEqual([first.iova, last.iova], [start, end - BigInt(PAGE - 1)])
      await last.unmap()
      await refused(
        dma.map(buffer, { iova: end - BigInt(PAGE - 1) }),
        ['EINVAL', 'EOVERFLOW'],
        /not within what the IOMMU maps: 0x/,
      )
      // Behind the last address of all there is none to ask for.
      if (end + 1n < 2n ** 64n) {
        await refused(dma.map(buffer, { iova: end + 1n }), 'EINVAL', /not within/)
      }
    }
    // Over the end of all addresses.
    await refused(dma.map(buffer, { iova: 2n ** 64n - BigInt(PAGE) }), ['EINVAL', 'EOVERFLOW'], /not within/)
    await refused(
      dma.map(buffer, { iova: 0x1001 }),
      'EINVAL',
      new RegExp(`multiples of the page size, 0x${PAGE.toString(16)}`),
    )
    await refused(dma.map(buffer, { length: 100 }), 'EINVAL', /multiples of the page size/)
    await dma.unmapAll()
  })

  it('uses huge pages', async function () {
    if (!existsSync(HUGE_PAGES)) skip(this, 'this processor, as it is emulated, has no huge pages')
    // Of 2 MiB, or where there are none of the smallest that there are.
    const kibibytes = readdirSync(HUGE_PAGES)
      .map((name) => Number(/\d+/.exec(name)))
      .sort((one, other) => one - other)
    const size = kibibytes.includes(2048) ? 2 * MIB : (kibibytes[0] ?? 0) * KIB
    const pool = `${HUGE_PAGES}/hugepages-${size / KIB}kB/nr_hugepages`
    const before = readFileSync(pool, 'utf8')
    writeFileSync(pool, '8')
    const has = Number(readFileSync(pool, 'utf8'))
    assert(has >= 2, `this guest has ${has} huge pages`)
    try {
      await using opened = await open(any.address)
      using buffer = DmaBuffer.allocate(1.5 * size, { hugepages: size === 2 * MIB ? true : size })
      assert.equal(buffer.size, 2 * size)
      const mapping = await opened.dma.map(buffer)
      // What one entry of the table above the last can map at once.
      const block = (PAGE * PAGE) / 8
      assert.equal(mapping.iova % BigInt(size < block ? PAGE : size), 0n)
      await refused(
        () => DmaBuffer.allocate(64 * MIB, { hugepages: size }),
        'ENOMEM',
        /too few free huge pages/,
      )
      await refused(() => DmaBuffer.allocate(MIB, { hugepages: 3 * MIB }), 'ERR_VFIO_BAD_ARGUMENT')
      await mapping.unmap()
    } finally {
      writeFileSync(pool, before)
    }
  })

  it('is refused when the container takes no more', async function () {
    if (!isType1) skip(this, 'an iommufd takes as many as there is memory for')
    const limit = readFileSync(ENTRY_LIMIT, 'utf8')
    writeFileSync(ENTRY_LIMIT, '3')
    try {
      await using opened = await open(any.address)
      const { dma } = opened
      using buffer = DmaBuffer.allocate(PAGE)
      for (let i = 0; i < 3; i++) await dma.map(buffer)
      assert.equal(availableIn(opened), 0)
      await refused(dma.map(buffer), 'ENOSPC', /no more mappings \(0 left\).*dma_entry_limit/)
      await dma.unmapAll()
    } finally {
      writeFileSync(ENTRY_LIMIT, limit)
    }
  })

  it('at the limit on locked memory says how much is locked, allowed and needed', async () => {
    await using opened = await open(any.address)
    await opened.close()
    const program = `
      import { DmaBuffer, openDevice } from ${JSON.stringify(import.meta.resolve('vfio'))}
      const { dma, close } = await openDevice(process.argv[1], { backend: '${backend}' })
      const first = DmaBuffer.allocate(1048576), second = DmaBuffer.allocate(8388608)
      await dma.map(first)
      try {
        await dma.map(second)
      } catch (error) {
        console.log(error.code, error.message)
      }
      await close()`
    const printed = execFileSync(
      'setpriv',
      [
        ...['--bounding-set', '-ipc_lock', '--inh-caps', '-ipc_lock', 'prlimit', '--memlock=4194304:4194304'],
        ...[process.execPath, '--input-type=module', '-e', program, any.address],
      ],
      { encoding: 'utf8' },
    )
    assert.match(
      printed,
      /^ENOMEM .*this process has locked 1024 KiB of at most 4096 KiB \(RLIMIT_MEMLOCK\), and 8192 KiB more are asked for: raise the limit to 9216 KiB/,
    )
  })

  it('tells which pages are dirty', async () => {
    await using opened = await open(any.address)
    const { dma } = opened
    using buffer = DmaBuffer.allocate(1 * MIB)
    const { iova, size } = await dma.map(buffer)
    if (opened.backend === 'group' && !isType1) {
      // It lets nobody ask, and leaves that to devices that are opened by their own nodes.
      await refused(dma.dirty.start(), 'ENOTTY', /iommufd provides the container/)
      await refused(dma.dirty.bitmap(iova, size), 'ENOTTY', /iommufd provides the container/)
      assert.equal(buffer.mapped, true)
      await dma.unmapAll()
      return
    }
    await refused(
      dma.dirty.bitmap(iova, size),
      isType1 ? 'EINVAL' : 'ERR_VFIO_BAD_ARGUMENT',
      /dirty\.start\(\)/,
    )
    if (opened.backend === 'iommufd' && !opened.iommufd.hardwareInfo(opened.device).dirtyTracking) {
      // An iommufd calls no page dirty of which it does not know.
      await refused(dma.dirty.start(), 'ENOTSUP')
      await dma.unmapAll()
      return
    }
    await dma.dirty.start()
    const bitmap = await dma.dirty.bitmap(iova, size)
    // This IOMMU tracks nothing, so all that is mapped counts as written.
    assert.equal(bitmap.length, size / PAGE / 8)
    assert(bitmap.every((byte) => byte === 0xff))
    await refused(dma.dirty.bitmap(iova, 2 * PAGE), 'EINVAL')
    // The first page is the first bit, whatever the byte order of the processor.
    const alone = await dma.map(buffer, { length: PAGE })
    assert.deepEqual([...(await dma.dirty.bitmap(alone.iova, PAGE))], [1, 0, 0, 0, 0, 0, 0, 0])
    await alone.unmap()
    assert.equal(buffer.mapped, true)
    assert((await dma.dirty.unmap(iova, size)).every((byte) => byte === 0xff))
    assert.equal(buffer.mapped, false)
    await dma.dirty.stop()
  })

  it('holds a buffer until it is unmapped or the container is closed', async () => {
    const opened = await open(any.address)
    const buffer = DmaBuffer.allocate(PAGE)
    await opened.dma.map(buffer)
    await refused(() => buffer.close(), 'ERR_VFIO_IN_USE', /unmap it, or close the (container|IOAS)/)
    await opened.close()
    assert.equal(buffer.mapped, false)
    buffer.close()
    buffer.close()
    assert.equal(buffer.bytes.byteLength, 0)
    await refused(() => buffer.fd, 'ERR_VFIO_CLOSED')
    await refused(opened.dma.map(buffer), 'ERR_VFIO_CLOSED')
    await refused(opened.dma.unmapAll(), 'ERR_VFIO_CLOSED')
  })

  it('of a large mapping can be aborted, and leaves nothing behind', async () => {
    await using opened = await open(any.address)
    const { dma } = opened
    using buffer = DmaBuffer.allocate(64 * MIB)
    const controller = new AbortController()
    const mapping = dma.map(buffer, { iova: BASE, signal: controller.signal })
    const waiting = dma.map(buffer, { iova: BASE + 128 * MIB, signal: controller.signal })
    controller.abort()
    await assert.rejects(mapping, { name: 'AbortError' })
    await assert.rejects(waiting, { name: 'AbortError' })
    // Behind it in the queue, so that the kernel is done with it.
    const again = await dma.map(buffer, { iova: BASE + 256 * MIB })
    await again.unmap()
    assert.deepEqual([buffer.mapped, dma.mappings], [false, []])
    if (isType1) assert.equal(availableIn(opened), 65535)
  })
})

describe(`DMA without a group on ${release()}`, () => {
  it('needs an IOMMU of the right type', async () => {
    await using container = VfioContainer.open()
    using buffer = DmaBuffer.allocate(PAGE)
    const [code, cure] = byContainer.isType1
      ? (['EINVAL', /setIommu\(\)/] as const)
      : (['ENODEV', /setContainer\(\)/] as const)
    await refused(container.dma.map(buffer, { iova: BASE }), code)
    await refused(container.dma.map(buffer), code, cure)
    assert.equal(buffer.mapped, false)
  })
})
