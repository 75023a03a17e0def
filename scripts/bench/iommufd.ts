// Runs inside a guest whose kernel has iommufd: mapping through it, and opening a device over either backend, from JavaScript and
// from C, in turn. Prints JSON.
import { type Backend, DmaBuffer, type DmaSpace, Host, openDevice } from 'vfio'
import { bindFree, build, compare, run, type Times } from './peers.js'

/** How often in a round. */
const COUNTS = {
  ioas4k: 30_000,
  ioas2m: 1_000,
  ioas256m: 8,
  openIommufd: 20,
  openGroup: 20,
} as const

const IOVA = 0x10000000

// Closing one that has a reset takes 100 ms, which is the kernel's alone.
const bound = bindFree('edu device', ({ vendor, device }) => vendor === 0x1234 && device === 0x11e8)
const seen = new Host().snapshot()
const node = `/dev/vfio/devices/${seen.device(bound.address).vfioDevice}`
const program = build('iommufd')

async function mapAndUnmap(dma: DmaSpace, buffer: DmaBuffer, count: number): Promise<void> {
  for (let i = 0; i < count; i++) {
    const mapping = await dma.map(buffer, { iova: IOVA })
    await mapping.unmap()
  }
}

async function timeMapping(count: number, size: number): Promise<number> {
  await using opened = await openDevice(bound.address, { seen, backend: 'iommufd' })
  using buffer = DmaBuffer.allocate(size)
  // Every page is there before the clock runs, as the peer has it.
  buffer.bytes.fill(1)
  await mapAndUnmap(opened.dma, buffer, count)
  const start = performance.now()
  await mapAndUnmap(opened.dma, buffer, count)
  return ((performance.now() - start) * 1e6) / count
}

/** To the first register; closing is not in it. */
async function timeOpening(backend: Backend, count: number): Promise<number> {
  let milliseconds = 0
  for (let i = 0; i < count; i++) {
    const start = performance.now()
    const opened = await openDevice(bound.address, { seen, backend })
    opened.device.region('config').read32(0)
    milliseconds += performance.now() - start
    await opened.close()
  }
  return (milliseconds * 1e6) / count
}

async function ours(): Promise<Times<keyof typeof COUNTS>> {
  return {
    ioas4k: await timeMapping(COUNTS.ioas4k, 4 << 10),
    ioas2m: await timeMapping(COUNTS.ioas2m, 2 << 20),
    ioas256m: await timeMapping(COUNTS.ioas256m, 256 << 20),
    openIommufd: await timeOpening('iommufd', COUNTS.openIommufd),
    openGroup: await timeOpening('group', COUNTS.openGroup),
  }
}

console.log(
  JSON.stringify(await compare(ours, () => run(program, bound, [node, ...Object.entries(COUNTS).flat()]))),
)
