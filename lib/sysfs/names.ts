import { readText } from './files.js'

/** What `pci.ids` calls a device; `null` for what it does not know, and for all where it is not installed. */
export interface DeviceNames {
  readonly vendor: string | null
  readonly device: string | null
  readonly subsystem: string | null
  readonly class: string | null
}

/** Where the packages pci.ids and hwdata put the file. */
const PLACES = ['/usr/share/misc/pci.ids', '/usr/share/hwdata/pci.ids', '/usr/share/pci.ids']

export interface DeviceIds {
  readonly vendor: number
  readonly device: number
  readonly subsystemVendor: number
  readonly subsystemDevice: number
  readonly class: number
}

interface VendorNames {
  readonly name: string
  readonly devices: ReadonlyMap<number, string>
  /** Key: device, subsystem vendor and subsystem device as `ddddssssssss`. */
  readonly subsystems: ReadonlyMap<string, string>
}

const hex = (value: number, digits: number) => value.toString(16).padStart(digits, '0')

/** The names of `pci.ids`: an index of vendors, each vendor read when it is first asked for. */
export class PciNames {
  readonly #text: string
  readonly #vendorAt = new Map<string, number>()
  readonly #classAt = new Map<string, number>()
  readonly #vendors = new Map<number, VendorNames | null>()
  readonly #classes = new Map<number, string | null>()
  readonly #answers = new Map<string, DeviceNames>()

  /** @param path the file; without it the places where distributions put it are tried */
  static read(path?: string): PciNames {
    for (const place of path === undefined ? PLACES : [path]) {
      const text = readText(place)
      if (text !== null) return new PciNames(text)
    }
    return new PciNames('')
  }

  constructor(text: string) {
    this.#text = text
    for (let at = 0; at < text.length; ) {
      const first = text.charCodeAt(at)
      if (first === 0x43 && text.charCodeAt(at + 1) === 0x20)
        this.#classAt.set(text.slice(at + 2, at + 4), at)
      else if (first !== 0x09 && first !== 0x23 && first !== 0x0a) {
        const key = text.slice(at, at + 4)
        if (!this.#vendorAt.has(key)) this.#vendorAt.set(key, at)
      }
      const end = text.indexOf('\n', at)
      if (end < 0) break
      at = end + 1
    }
  }

  /** The lines of one block: its head, then those that start with a tab. */
  *#block(start: number): Generator<string> {
    let at = start
    do {
      const end = this.#text.indexOf('\n', at)
      const line = this.#text.slice(at, end < 0 ? undefined : end)
      if (line !== '' && !line.startsWith('#')) yield line
      if (end < 0) return
      at = end + 1
    } while (this.#text[at] === '\t' || this.#text[at] === '#' || this.#text[at] === '\n')
  }

  #vendor(id: number): VendorNames | null {
    const known = this.#vendors.get(id)
    if (known !== undefined) return known
    const at = this.#vendorAt.get(hex(id, 4))
    let found: VendorNames | null = null
    if (at !== undefined) {
      const devices = new Map<number, string>()
      const subsystems = new Map<string, string>()
      let name = ''
      let device = ''
      for (const line of this.#block(at)) {
        if (line.startsWith('\t\t')) {
          subsystems.set(`${device}${line.slice(2, 6)}${line.slice(7, 11)}`, line.slice(13))
        } else if (line.startsWith('\t')) {
          device = line.slice(1, 5)
          devices.set(Number.parseInt(device, 16), line.slice(7))
        } else {
          name = line.slice(6)
        }
      }
      found = { name, devices, subsystems }
    }
    this.#vendors.set(id, found)
    return found
  }

  /** @param code base class, subclass and programming interface, 24 bits: the subclass names it */
  className(code: number): string | null {
    const key = code >>> 8
    const known = this.#classes.get(key)
    if (known !== undefined) return known
    const at = this.#classAt.get(hex(key >>> 8, 2))
    let name: string | null = null
    if (at !== undefined) {
      const wanted = `\t${hex(key & 0xff, 2)}  `
      for (const line of this.#block(at)) {
        if (line.startsWith('C ')) name = line.slice(6)
        else if (line.startsWith(wanted)) name = line.slice(5)
      }
    }
    this.#classes.set(key, name)
    return name
  }

  names(ids: DeviceIds): DeviceNames {
    const key = `${ids.vendor},${ids.device},${ids.subsystemVendor},${ids.subsystemDevice},${ids.class}`
    let answer = this.#answers.get(key)
    if (!answer) {
      const vendor = this.#vendor(ids.vendor)
      const subsystem = hex(ids.device, 4) + hex(ids.subsystemVendor, 4) + hex(ids.subsystemDevice, 4)
      answer = Object.freeze({
        vendor: vendor?.name ?? null,
        device: vendor?.devices.get(ids.device) ?? null,
        subsystem: vendor?.subsystems.get(subsystem) ?? null,
        class: this.className(ids.class),
      })
      this.#answers.set(key, answer)
    }
    return answer
  }
}
