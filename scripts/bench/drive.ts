// Runs inside the guest: what a driver does with an open device, from JavaScript and from C, in turn. Prints JSON.
import { DmaBuffer, type DmaSpace, openDevice, type VfioDevice, type VfioRegion } from 'vfio'
import { bindFree, build, compare, run, type Times } from './peers.js'

/** How often in a round: about a second each, where compiling JavaScript takes a part of one. */
const COUNTS = {
  read32: 4_000_000,
  config: 500_000,
  bulk: 5_000,
  map4k: 20_000,
  map2m: 1_000,
  map256m: 8,
  interrupt: 100_000,
} as const

const BULK = 4096
const IOVA = 0x10000000

const bound = bindFree('edu device', ({ vendor, device }) => vendor === 0x1234 && device === 0x11e8)
const program = build('drive')

const nanoseconds = (start: number, count: number) => ((performance.now() - start) * 1e6) / count

// Each loop is a function of its own, as each loop of the peer is: a driver's calls are where they are made.

function read32(bar: VfioRegion, count: number): number {
  const start = performance.now()
  for (let i = 0; i < count; i++) bar.read32(0)
  return nanoseconds(start, count)
}

function configRead(config: VfioRegion, count: number): number {
  const start = performance.now()
  for (let i = 0; i < count; i++) config.read32(0)
  return nanoseconds(start, count)
}

function bulk(bar: VfioRegion, count: number): number {
  const block = new Uint8Array(BULK)
  const start = performance.now()
  for (let i = 0; i < count; i++) bar.read(block, 0)
  return nanoseconds(start, count)
}

async function mapAndUnmap(dma: DmaSpace, count: number, size: number): Promise<number> {
  using buffer = DmaBuffer.allocate(size)
  // Every page is there before the clock runs, as the peer has it.
  buffer.bytes.fill(1)
  const start = performance.now()
  for (let i = 0; i < count; i++) {
    const mapping = await dma.map(buffer, { iova: IOVA })
    await mapping.unmap()
  }
  return nanoseconds(start, count)
}

async function interrupt(device: VfioDevice, count: number): Promise<number> {
  const irq = device.irq('msi')
  irq.enable()
  const start = performance.now()
  await new Promise<void>((resolve) => {
    let left = count
    irq.onEvent(() => {
      if (--left > 0) irq.trigger()
      else resolve()
    })
    irq.trigger()
  })
  return nanoseconds(start, count)
}

async function ours(): Promise<Times<keyof typeof COUNTS>> {
  await using opened = await openDevice(bound.address)
  const { container, device } = opened
  const bar = device.region('bar0')
  return {
    read32: read32(bar, COUNTS.read32),
    config: configRead(device.region('config'), COUNTS.config),
    bulk: bulk(bar, COUNTS.bulk),
    map4k: await mapAndUnmap(container.dma, COUNTS.map4k, 4 << 10),
    map2m: await mapAndUnmap(container.dma, COUNTS.map2m, 2 << 20),
    map256m: await mapAndUnmap(container.dma, COUNTS.map256m, 256 << 20),
    interrupt: await interrupt(device, COUNTS.interrupt),
  }
}

console.log(JSON.stringify(await compare(ours, () => run(program, bound, Object.entries(COUNTS).flat()))))
