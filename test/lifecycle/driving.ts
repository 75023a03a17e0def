// The kinds of work that drive a device, for a worker or the main thread to end in the middle of.
import { readFileSync, writeSync } from 'node:fs'
import { DmaBuffer, type VfioContainer, type VfioDevice } from 'vfio'
import { bytes, region } from '../native/bytes.js'
import type { FakeAnswer } from '../native/fake.js'
import type { Cell } from './cells.js'

export const DRIVING_ANSWERS: FakeAnswer[] = [
  { call: 'regionInfo', bytes: region(32, 7, 0, 0x10000n).done() },
  { call: 'irqInfo', bytes: bytes().u32(16, 1, 0, 16).done() },
  // So that the end comes while memory is mapped.
  { call: 'mapDma', when: 60 },
]

/** Begins it, and returns what must be held. Promises are nobody's business once their environment goes away. */
export function drive(
  work: Cell['work'],
  end: string,
  container: VfioContainer,
  device: VfioDevice,
): unknown {
  const ignored = () => {}
  if (work === 'listening' || work === 'storm') {
    const irq = device.irq('msix')
    irq.enable({ vectors: [0, 3] })
    // Else it would not end by itself.
    if (end === 'natural') irq.unref()
    const asked = readFileSync(`${process.env.FAKE_VFIO}.log`, 'utf8').match(/(?<=^asked 10 .* fds )\d+/gm)
    const signal = () => writeSync(Number(asked?.at(-1)), new BigUint64Array([1n]))
    const events = irq.events()
    events.next().catch(ignored)
    const listener = irq.onEvent(() => {
      if (work === 'storm') signal()
    })
    if (work === 'storm') signal()
    return [events, listener]
  }
  if (work === 'mapping') {
    const mapping = device.region(0).map()
    // The file has no bytes, so that this is lost.
    new Uint8Array(mapping.buffer)[1] = 1
    return mapping
  }
  if (work === 'memory' || work === 'pinning') {
    const buffer = DmaBuffer.allocate(work === 'memory' ? 65536 : 4 * 2 ** 20)
    container.dma.map(buffer, { iova: 0x100000 }).catch(ignored)
    return buffer
  }
  return null
}
