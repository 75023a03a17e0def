import { decode } from './bytes.js'
import { readBytes } from './files.js'

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

const hex = (value: number, digits: number) => value.toString(16).padStart(digits, '0')

const NEWLINE = 0x0a
const TAB = 0x09
const HASH = 0x23

/** What classes take at the end of the file is less, in bytes. */
const CLASSES_SIZE = 0x10000

/** A part of the file: a head line and the lines behind it that are indented further. */
interface Block {
  readonly start: number
  readonly end: number
}

/**
 * The names of `pci.ids`. The file has forty thousand lines, of which a host needs a few: they are searched for, not
 * indexed.
 */
export class PciNames {
  readonly #file: Buffer
  readonly #vendors = new Map<number, Block | null>()
  readonly #devices = new Map<number, Block | null>()
  readonly #classes = new Map<number, string | null>()
  readonly #answers = new Map<string, DeviceNames>()
  #classStart: number | undefined

  /** @param path the file; without it the places where distributions put it are tried */
  static read(path?: string): PciNames {
    for (const place of path === undefined ? PLACES : [path]) {
      const file = readBytes(place)
      if (file) return new PciNames(file)
    }
    return new PciNames(Buffer.alloc(0))
  }

  constructor(file: Buffer) {
    // Every line then has a newline before it, which searches rely on.
    this.#file = Buffer.concat([Buffer.from('\n'), file, Buffer.from('\n')])
  }

  /** The block whose head line starts with these characters, within another block or the whole file. */
  #find(head: string, within: Block = { start: 0, end: this.#file.length }): Block | null {
    const at = this.#file.indexOf(`\n${head}`, within.start, 'latin1')
    if (at < 0 || at >= within.end) return null
    const depth = head.lastIndexOf('\t') + 1
    let end = this.#file.indexOf(NEWLINE, at + 1)
    while (end >= 0 && end + 1 < within.end && this.#isInside(end + 1, depth)) {
      end = this.#file.indexOf(NEWLINE, end + 1)
    }
    return { start: at, end: end < 0 ? within.end : end + 1 }
  }

  /** Does a line belong to the block of a head at this depth? Comments and empty lines end no block. */
  #isInside(at: number, depth: number): boolean {
    const first = this.#file[at]
    if (first === HASH || first === NEWLINE) return true
    for (let i = 0; i <= depth; i++) if (this.#file[at + i] !== TAB) return false
    return true
  }

  /** The text of a block's head line behind its first characters. */
  #name(block: Block | null, skip: number): string | null {
    if (!block) return null
    const end = this.#file.indexOf(NEWLINE, block.start + 1)
    return decode(this.#file, block.start + 1 + skip, end).trim()
  }

  #vendor(id: number): Block | null {
    const known = this.#vendors.get(id)
    if (known !== undefined) return known
    const found = this.#find(`${hex(id, 4)}  `)
    this.#vendors.set(id, found)
    return found
  }

  #device(vendor: number, id: number): Block | null {
    const key = vendor * 0x10000 + id
    const known = this.#devices.get(key)
    if (known !== undefined) return known
    const block = this.#vendor(vendor)
    const found = block && this.#find(`\t${hex(id, 4)}  `, block)
    this.#devices.set(key, found)
    return found
  }

  #subsystem(ids: DeviceIds): Block | null {
    const device = this.#device(ids.vendor, ids.device)
    return device && this.#find(`\t\t${hex(ids.subsystemVendor, 4)} ${hex(ids.subsystemDevice, 4)}  `, device)
  }

  /** Classes stand behind all vendors, which it takes long to search. */
  #baseClass(id: number): Block | null {
    const head = `C ${hex(id, 2)}  `
    const { length } = this.#file
    this.#classStart ??= this.#file.indexOf('\nC ', Math.max(0, length - CLASSES_SIZE), 'latin1')
    const found = this.#classStart < 0 ? null : this.#find(head, { start: this.#classStart, end: length })
    // Where somebody's file has them elsewhere they are found all the same.
    return found ?? this.#find(head)
  }

  /** @param code base class, subclass and programming interface, 24 bits: the subclass names it */
  #className(code: number): string | null {
    const key = code >>> 8
    const known = this.#classes.get(key)
    if (known !== undefined) return known
    const base = this.#baseClass(key >>> 8)
    const subclass = base && this.#find(`\t${hex(key & 0xff, 2)}  `, base)
    const name = this.#name(subclass, 5) ?? this.#name(base, 6)
    this.#classes.set(key, name)
    return name
  }

  names(ids: DeviceIds): DeviceNames {
    const key = `${ids.vendor},${ids.device},${ids.subsystemVendor},${ids.subsystemDevice},${ids.class}`
    const known = this.#answers.get(key)
    if (known) return known
    const answer = Object.freeze({
      vendor: this.#name(this.#vendor(ids.vendor), 6),
      device: this.#name(this.#device(ids.vendor, ids.device), 7),
      subsystem: this.#name(this.#subsystem(ids), 13),
      class: this.#className(ids.class),
    })
    this.#answers.set(key, answer)
    return answer
  }
}
