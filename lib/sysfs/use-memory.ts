import { isAddress } from './address.js'
import type { PciDevice } from './devices.js'
import { below, readText } from './files.js'

/** A part of a BAR that something of the host holds (`/proc/iomem`). Addresses are physical; `end` is the last one. */
export interface HeldMemory {
  readonly function: string
  readonly bar: number
  /** As the kernel calls the holder: a driver, a platform device, a frame buffer of the firmware. */
  readonly name: string
  readonly start: number
  readonly end: number
}

/** Who holds the memory of functions, besides the functions themselves. */
export interface MemoryFacts {
  /** `null`: no such table. `false`: it shows no addresses to the caller, who is not root. */
  readonly complete: boolean | null
  readonly held: readonly HeldMemory[]
}

export const NO_MEMORY: MemoryFacts = { complete: null, held: [] }

/** `  7800000000-780086ffff : BOOTFB`: below an entry stands what is inside it, two spaces further in. */
const LINE = /^( *)([0-9a-f]+)-([0-9a-f]+) : (.*)$/

export function readMemory(proc: string | null, devices: readonly PciDevice[]): MemoryFacts {
  const text = readText(below(proc, 'iomem'))
  if (text === null) return NO_MEMORY
  const bars = new Map<string, { function: string; bar: number }[]>()
  for (const { address, bars: all } of devices) {
    for (const { index, kind, address: start, size } of all) {
      // No firmware and no platform device holds what has no address (Linux on Z).
      if (kind !== 'memory' || index === 'rom' || start === null) continue
      const key = `${start}-${start + size - 1}`
      bars.set(key, [...(bars.get(key) ?? []), { function: address, bar: index }])
    }
  }
  const held: HeldMemory[] = []
  const above: { depth: number; owners: readonly { function: string; bar: number }[] }[] = []
  let complete = false
  for (const line of text.split('\n')) {
    const [, indent = '', first = '', last = '', name = ''] = LINE.exec(line) ?? []
    if (first === '') continue
    const [start, end] = [Number.parseInt(first, 16), Number.parseInt(last, 16)]
    complete ||= end > 0
    while ((above.at(-1)?.depth ?? -1) >= indent.length) above.pop()
    const inside = above.at(-1)?.owners ?? []
    const here = bars.get(`${start}-${end}`) ?? []
    // The entry of a BAR has the name of its function; one within, as large as it may be, has another's.
    const isOwn = isAddress(name) && here.some((owner) => owner.function === name)
    if (!isOwn) held.push(...inside.map((owner) => ({ ...owner, name, start, end })))
    above.push({ depth: indent.length, owners: isOwn ? here : inside })
  }
  return { complete, held }
}
