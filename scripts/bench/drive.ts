// Runs inside the guest: what a driver does with an open device, from JavaScript and from C, in turn. Prints JSON.
import { openDevice } from 'vfio'
import { bindFree, build, compare, run, type Times } from './peers.js'

/** How often in a round: about a second each, where compiling JavaScript takes a part of one. */
const COUNTS = {
  read32: 4_000_000,
  config: 500_000,
  bulk: 5_000,
} as const

const BULK = 4096

const bound = bindFree('edu device', ({ vendor, device }) => vendor === 0x1234 && device === 0x11e8)
const program = build('drive')

/** Nanoseconds that one of `count` takes. */
function time(count: number, once: () => unknown): number {
  const start = performance.now()
  for (let i = 0; i < count; i++) once()
  return ((performance.now() - start) * 1e6) / count
}

async function ours(): Promise<Times<keyof typeof COUNTS>> {
  await using opened = await openDevice(bound.address)
  const { device } = opened
  const bar = device.region('bar0')
  const config = device.region('config')
  const block = new Uint8Array(BULK)
  return {
    read32: time(COUNTS.read32, () => bar.read32(0)),
    config: time(COUNTS.config, () => config.read32(0)),
    bulk: time(COUNTS.bulk, () => bar.read(block, 0)),
  }
}

console.log(JSON.stringify(await compare(ours, () => run(program, bound, Object.entries(COUNTS).flat()))))
