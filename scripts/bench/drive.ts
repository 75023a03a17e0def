// Runs inside the guest: what a driver does with an open device, from JavaScript and from C, in turn. Prints JSON.
import { DmaBuffer, type DmaSpace, openDevice, type VfioDevice, type VfioRegion } from 'vfio'
import { bindFree, build, compare, run, type Times } from './peers.js'

/** How often in a round: about a second each. */
const COUNTS = {
  read32: 4_000_000,
  config: 500_000,
  bulk: 5_000,
  map4k: 30_000,
  map2m: 1_000,
  map256m: 8,
  interrupt: 100_000,
} as const

const BULK = 4096
const IOVA = 0x10000000

const bound = bindFree('edu device', ({ vendor, device }) => vendor === 0x1234 && device === 0x11e8)
const program = build('drive')

// Each loop is a function of its own, as each loop of the peer is: a driver's calls are where they are made.

function read32(bar: VfioRegion, count: number): void {
  for (let i = 0; i < count; i++) bar.read32(0)
}

function configRead(config: VfioRegion, count: number): void {
  for (let i = 0; i < count; i++) config.read32(0)
}

function bulk(bar: VfioRegion, block: Uint8Array, count: number): void {
  for (let i = 0; i < count; i++) bar.read(block, 0)
}

async function mapAndUnmap(dma: DmaSpace, buffer: DmaBuffer, count: number): Promise<void> {
  for (let i = 0; i < count; i++) {
    const mapping = await dma.map(buffer, { iova: IOVA })
    await mapping.unmap()
  }
}

async function interrupt(device: VfioDevice, count: number): Promise<void> {
  const irq = device.irq('msi')
  irq.enable()
  await new Promise<void>((resolve) => {
    let left = count
    const listener = irq.onEvent(() => {
      if (--left > 0) return irq.trigger()
      listener[Symbol.dispose]()
      resolve()
    })
    irq.trigger()
  })
}

/**
 * Nanoseconds of one of `count`. All of them run before once uncounted: closing the device of the round before took
 * compiled code with it, and compiling it takes a second where the processor is emulated.
 */
async function time(count: number, loop: (count: number) => void | Promise<void>): Promise<number> {
  await loop(count)
  const start = performance.now()
  await loop(count)
  return ((performance.now() - start) * 1e6) / count
}

async function timeMapping(dma: DmaSpace, count: number, size: number): Promise<number> {
  using buffer = DmaBuffer.allocate(size)
  // Every page is there before the clock runs, as the peer has it.
  buffer.bytes.fill(1)
  return await time(count, (count) => mapAndUnmap(dma, buffer, count))
}

async function ours(): Promise<Times<keyof typeof COUNTS>> {
  await using opened = await openDevice(bound.address, { backend: 'group' })
  const { dma, device } = opened
  const [bar, config] = [device.region('bar0'), device.region('config')]
  const block = new Uint8Array(BULK)
  return {
    read32: await time(COUNTS.read32, (count) => read32(bar, count)),
    config: await time(COUNTS.config, (count) => configRead(config, count)),
    bulk: await time(COUNTS.bulk, (count) => bulk(bar, block, count)),
    map4k: await timeMapping(dma, COUNTS.map4k, 4 << 10),
    map2m: await timeMapping(dma, COUNTS.map2m, 2 << 20),
    map256m: await timeMapping(dma, COUNTS.map256m, 256 << 20),
    interrupt: await time(COUNTS.interrupt, (count) => interrupt(device, count)),
  }
}

console.log(JSON.stringify(await compare(ours, () => run(program, bound, Object.entries(COUNTS).flat()))))
