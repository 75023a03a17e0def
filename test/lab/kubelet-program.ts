// What runs in a pod: opens the devices that it was given, says what it found, and holds them until it is asked for one.
//   kubelet-program.js VARIABLE [MAJOR:MINOR]
// VARIABLE: of the environment, with the addresses; MAJOR:MINOR: of a device that it was not given.
import { execFileSync } from 'node:child_process'
import { appendFileSync, closeSync, openSync, readdirSync } from 'node:fs'
import { DmaBuffer, openDevice } from 'vfio'

const [variable = '', foreign] = process.argv.slice(2)
const { LAB_CHANNEL: channel = '', [variable]: addresses = '' } = process.env
const say = (what: object) => appendFileSync(channel, `${JSON.stringify(what)}\n`)

/** What the kernel answers to opening a node of that number, which a container may make. */
function tryForeign(number: string): string {
  try {
    execFileSync('/bin/busybox', ['mknod', '/tmp/foreign', 'c', ...number.split(':')])
    closeSync(openSync('/tmp/foreign', 'r+'))
    return 'opened'
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? String(error)
  }
}

try {
  const found = []
  for (const address of addresses.split(',').filter((word) => word !== '')) {
    const opened = await openDevice(address)
    const { device, dma } = opened
    using buffer = DmaBuffer.allocate(1 << 16)
    const mapped = await dma.map(buffer)
    await mapped.unmap()
    const asked = device.irq('req')
    asked.enable()
    void (async () => {
      for await (const _event of asked.events()) break
      await opened.close()
      say({ released: address })
    })()
    found.push({ address, vendor: device.config.vendor })
  }
  say({
    opened: found,
    nodes: readdirSync('/dev/vfio').sort(),
    foreign: foreign === undefined ? null : tryForeign(foreign),
  })
} catch (error) {
  say({ failed: String(error) })
}
// A pod ends when somebody ends it.
setInterval(() => {}, 1 << 30)
process.once('SIGTERM', () => process.exit(0))
