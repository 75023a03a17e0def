import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { release } from 'node:os'
import { DmaBuffer, Host, type OpenedDevice, openDevice, planAssignment, type VfioIrq } from 'vfio'
import { isPresent } from './binding.js'
import { Heard } from './heard.js'
import { Monitor } from './monitor.js'
import { choose, freeAll, hasMsix, isAlone, open, refused } from './spare.js'

/** What QEMU calls the device at an address. */
async function idOf(monitor: Monitor, wanted: string): Promise<string> {
  for (const [id, address] of await monitor.addresses()) if (address === wanted) return id
  throw new Error(`QEMU knows no device at ${wanted}`)
}

async function next(irq: VfioIrq): Promise<number> {
  for await (const { count } of irq.events()) return count
  throw new Error('the device closed before')
}

describe(`a device that goes away on ${release()}`, function () {
  this.timeout(120_000)

  const seen = new Host().snapshot()
  const isPlugged = (parent: string | null) =>
    parent !== null && seen.device(parent).capabilities.pcie?.hotplug === true
  const plugged = choose(
    'device with MSI-X in a hot-plug slot of its own',
    (device) => isAlone(device) && hasMsix(device) && isPlugged(device.parent),
  )
  before(freeAll)

  it('because it is unplugged asks by `req`, and is gone when it is closed', async () => {
    await using monitor = await Monitor.open()
    const id = await idOf(monitor, plugged.address)
    const opened = await open(plugged.address)
    const { device, container } = opened
    device.config.setCommand({ busMaster: true })
    const msix = device.irq('msix')
    msix.enable({ vectors: [0, 1] })
    const over = drain(msix)
    using buffer = DmaBuffer.allocate(1 << 20)
    await container.dma.map(buffer)
    const bar = device.region(msixBar(opened))
    const before = bar.read32(0)
    const mapping = bar.map({ length: 4096 })
    const req = device.irq('req')
    req.enable()
    const asked = next(req)
    using heard = new Heard([plugged.address])
    const removed = monitor.remove(id)
    assert(Number(await asked) >= 1)
    assert.match((await heard.next('release-requested')).what, /is asked to release it/)
    // Until it is closed all of it works.
    assert.equal(bar.read32(0), before)
    msix.trigger(1)
    await opened.close()
    await removed
    await heard.next('removed')
    assert.equal(await over, 'over')
    assert.equal(buffer.mapped, false)
    assert.equal(mapping.buffer.byteLength, 0)
    for (const call of [
      () => bar.read32(0),
      () => msix.trigger(),
      () => device.info(),
      () => device.reset(),
    ]) {
      await refused(call, 'ERR_VFIO_CLOSED')
    }
    assert.equal(isPresent(plugged.address), false)
    await refused(openDevice(plugged.address), 'ERR_VFIO_NO_DEVICE')
    await refused(() => planAssignment(new Host().snapshot(), [plugged.address]), 'ERR_VFIO_NO_DEVICE')
  })

  it('leaves a program that ignores it able to end', async () => {
    const second = choose(
      'second device in a hot-plug slot',
      (device) =>
        device.address !== plugged.address &&
        isAlone(device) &&
        isPlugged(device.parent) &&
        isPresent(device.address),
    )
    await (await open(second.address)).close()
    await using monitor = await Monitor.open()
    const id = await idOf(monitor, second.address)
    const program = `
      import { DmaBuffer, openDevice } from ${JSON.stringify(import.meta.resolve('vfio'))}
      const { device, dma } = await openDevice(process.argv[1])
      await dma.map(DmaBuffer.allocate(65536))
      const req = device.irq('req')
      req.enable()
      req.onEvent(() => {
        console.log('asked')
        process.exit(0)
      })
      console.log('ready')`
    const child = spawn(process.execPath, ['--input-type=module', '-e', program, second.address], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    const exited = new Promise((resolve) => child.once('exit', (code, signal) => resolve({ code, signal })))
    let printed = ''
    let removed: Promise<void> | undefined
    for await (const text of child.stdout.setEncoding('utf8')) {
      printed += text
      if (printed === 'ready\n') removed = monitor.remove(id)
    }
    assert.equal(printed, 'ready\nasked\n')
    assert.deepEqual(await exited, { code: 0, signal: null })
    await removed
    assert.equal(isPresent(second.address), false)
  })
})

async function drain(irq: VfioIrq): Promise<string> {
  for await (const { vector } of irq.events()) assert.equal(vector, 1)
  return 'over'
}

const msixBar = ({ device }: OpenedDevice) => device.config.capabilities().msix?.tableBar ?? 0
