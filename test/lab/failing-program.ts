// What a driver in user space does when its device is torn out: it works until it is told, closes, and ends by itself.
// Run by failing.test.ts: node failing-program.js ADDRESS BACKEND
import assert from 'node:assert/strict'
import { type Backend, DmaBuffer, openDevice } from 'vfio'
import { refused } from './spare.js'

const [, , address = '', backend = ''] = process.argv
const tell = (line: string) => process.stdout.write(`${line}\n`)

const opened = await openDevice(address, { backend: backend as Backend })
const { dma, device } = opened
device.config.setCommand({ memory: true, busMaster: true })
const bar = device.region('bar0')
const before = bar.read32(0)
const mapped = bar.map()
const buffer = DmaBuffer.allocate(2 ** 21)
const mapping = await dma.map(buffer)
const msix = device.irq('msix')
let interrupts = 0
msix.onEvent(({ count }) => {
  interrupts += count
})
msix.enable({ vectors: [0, 1] })
const events = device.irq('req').events()
device.irq('req').enable()
tell(`working ${before}`)

const { value: asked } = await events.next()
assert(asked && asked.count >= 1)
tell('asked')
// Until it closes, what the kernel itself does still works.
const count = interrupts
const delivered = new Promise((resolve) => msix.onEvent(resolve))
msix.trigger(1)
await delivered
assert.equal(interrupts, count + 1)
tell(`reads ${bar.read32(0)} ${device.config.vendor}`)
await opened.close()

await refused(() => bar.read32(0), 'ERR_VFIO_CLOSED')
await refused(() => device.config.vendor, 'ERR_VFIO_CLOSED')
await refused(() => device.info(), 'ERR_VFIO_CLOSED')
await refused(() => msix.trigger(0), 'ERR_VFIO_CLOSED')
await refused(() => device.reset(), 'ERR_VFIO_CLOSED')
await refused(() => dma.map(buffer), 'ERR_VFIO_CLOSED')
assert.equal(mapped.buffer.byteLength, 0)
assert.equal(mapping.mapped, false)
assert.deepEqual(await events.next(), { done: true, value: undefined })
buffer.close()
tell('closed')
