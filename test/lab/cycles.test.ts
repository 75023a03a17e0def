import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { Worker } from 'node:worker_threads'
import { DmaBuffer, type HandedDevice, type OpenedDevice, openDevice, receiveDevice, VfioDevice } from 'vfio'
import { sized } from '../fixtures/size.js'
import { overModes } from './modes.js'
import { choose, freeAll, isAlone, isEdu, refused, returnAll } from './spare.js'

/** More than the mappings that the engine may add meanwhile, so that one a cycle would show. */
const CYCLES = sized(300, 10_000)

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc') as () => void

/** What a leak would show in. */
interface Footprint {
  readonly descriptors: number
  readonly mappings: number
  /** Of devices, and of memory for them. */
  readonly deviceMappings: number
  readonly lockedKib: number
  readonly heap: number
}

async function footprint(): Promise<Footprint> {
  // Twice, with a turn of the loop for the finalizers of the first.
  for (let i = 0; i < 3; i++) {
    collect()
    await new Promise(setImmediate)
  }
  const status = readFileSync('/proc/self/status', 'utf8')
  const mappings = readFileSync('/proc/self/maps', 'utf8').split('\n')
  return {
    descriptors: readdirSync('/proc/self/fd').length,
    mappings: mappings.length,
    deviceMappings: mappings.filter((line) => /vfio/.test(line) && !line.includes('.node')).length,
    lockedKib: Number(/^VmLck:\s+(\d+)/m.exec(status)?.[1]),
    heap: process.memoryUsage().heapUsed,
  }
}

/** Another device of what is open already: only this one closes and opens. */
async function openAgain(opened: OpenedDevice): Promise<VfioDevice> {
  const { address } = opened.device
  if (opened.backend === 'group') return opened.group.openDevice(address)
  const device = await VfioDevice.openCdev(address, { iommufd: opened.iommufd })
  await device.attach(opened.ioas)
  return device
}

overModes('devices again and again', function ({ open, backend }) {
  this.timeout(sized(600_000, 3_600_000))

  const edu = choose('edu device alone in its group', (device) => isEdu(device) && isAlone(device))
  const other = choose('second device alone in its group', (device) => device !== edu && isAlone(device))

  beforeEach(freeAll)
  after(returnAll)

  it(`leave nothing behind after ${CYCLES} cycles`, async () => {
    await using opened = await open(edu.address)
    await opened.device.close()
    const { dma } = opened
    using buffer = DmaBuffer.allocate(8192)
    const cycle = async () => {
      const device = await openAgain(opened)
      assert.equal(device.region('bar0').read32(0), 0x010000ed)
      device.region('bar0').map({ length: 8192 })
      const mapping = await dma.map(buffer)
      const msi = device.irq('msi')
      msi.enable()
      const events = msi.events()
      msi.trigger()
      assert.deepEqual(await events.next(), { done: false, value: { vector: 0, count: 1 } })
      await device.close()
      await mapping.unmap()
    }
    for (let i = 0; i < 100; i++) await cycle()
    const before = await footprint()
    for (let i = 0; i < CYCLES; i++) await cycle()
    const after = await footprint()
    console.log(`${CYCLES} cycles: ${JSON.stringify(before)} before, ${JSON.stringify(after)} after`)
    assert.equal(after.descriptors, before.descriptors)
    assert.equal(after.lockedKib, before.lockedKib)
    assert.equal(after.deviceMappings, before.deviceMappings)
    // The engine's own heap comes and goes; what leaked would be there once a cycle.
    assert(after.mappings <= before.mappings + 100, `${after.mappings} mappings, ${before.mappings} before`)
    assert(after.heap <= before.heap + 2_000_000, `${after.heap} bytes of heap, ${before.heap} before`)
  })

  it('work two at a time in one process', async () => {
    await using first = await open(edu.address)
    await using second = await open(other.address)
    assert.equal(first.device.config.vendor, edu.vendor)
    assert.equal(second.device.config.vendor, other.vendor)
    using buffer = DmaBuffer.allocate(4096)
    const mappings = [await first.dma.map(buffer), await second.dma.map(buffer)]
    await first.close()
    assert.equal(buffer.mapped, true)
    assert.equal(mappings[1]?.mapped, true)
    assert.equal(second.device.config.vendor, other.vendor)
    await second.close()
    assert.equal(buffer.mapped, false)
  })

  it('go from a worker to the main thread', async () => {
    // Bound, and closed again.
    await (await open(edu.address)).close()
    const program = `
      import { workerData, parentPort } from 'node:worker_threads'
      import { openDevice } from ${JSON.stringify(import.meta.resolve('vfio'))}
      const opened = await openDevice(workerData, { backend: '${backend}' })
      const bar = opened.device.region('bar0')
      bar.write32(4, 0x0f0f0f0f)
      const msi = opened.device.irq('msi')
      msi.enable()
      const refused = await opened.handOver().catch((error) => error.code)
      msi.disable()
      const handed = await opened.handOver()
      let after
      try { bar.read32(4) } catch (error) { after = error.code }
      parentPort.postMessage({ handed, refused, after })`
    const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(program)}`), {
      workerData: edu.address,
    })
    const exited = new Promise((resolve) => worker.once('exit', resolve))
    const {
      handed,
      refused: first,
      after,
    } = await new Promise<{
      handed: HandedDevice
      refused: string
      after: string
    }>((resolve, reject) => worker.once('message', resolve).once('error', reject))
    assert.equal(await exited, 0)
    assert.deepEqual([first, after], ['ERR_VFIO_IN_USE', 'ERR_VFIO_CLOSED'])
    await using opened = receiveDevice(handed)
    assert.equal(opened.device.address, edu.address)
    // Not reset on the way: the register still has what the worker wrote.
    assert.equal(opened.device.region('bar0').read32(4), 0xf0f0f0f0)
    const msi = opened.device.irq('msi')
    msi.enable()
    msi.trigger()
    for await (const { count } of msi.events()) {
      assert.equal(count, 1)
      break
    }
    using buffer = DmaBuffer.allocate(4096)
    await (await opened.dma.map(buffer)).unmap()
    await refused(() => receiveDevice(handed), 'ERR_VFIO_BAD_ARGUMENT', /taken already/)
    await refused(openDevice(edu.address, { backend }), backend === 'group' ? 'EBUSY' : 'EINVAL')
    await opened.close()
    await (await openDevice(edu.address, { backend })).close()
  })
})
