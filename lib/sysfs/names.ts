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
const HASH = 0x23

/** What classes take at the end of the file is less, in bytes. */
const CLASSES_SIZE = 0x10000

/**
 * A part of the file: a head line and the lines behind it that are indented further, from the newline before the first to that
 * at the end of the last.
 */
type Block = Buffer

/** Where a block ends, by the indent of its head: before a line that is indented no further. Comments and empty lines end none. */
const ENDS = [/\n[^\t#\n]/g, /\n(?:[^\t#\n]|\t[^\t])/g, /\n(?:[^\t#\n]|\t(?:[^\t]|\t[^\t]))/g] as const

/** As many characters as it takes to see such an end. */
const END_LENGTH = 4

/** The first characters of a block in which its end is looked for, then ever more: most have few, and some a quarter of the file. */
const FIRST_LOOK = 1024

function endOf(within: Buffer, start: number, depth: number): number {
  const end = ENDS[depth] ?? ENDS[0]
  let at = start + 1
  for (let size = FIRST_LOOK; at < within.length; size *= 4) {
    end.lastIndex = 0
    // An expression is run by machine code, and a loop over the bytes is not.
    const found = end.exec(within.toString('latin1', at, at + size))
    if (found) return at + found.index + 1
    at += size - END_LENGTH
  }
  return within.length
}

/** Every line then has a newline before it and one behind it, which searches rely on. */
const inLines = (file: Buffer) =>
  file[0] === HASH && file[file.length - 1] === NEWLINE
    ? file
    : Buffer.concat([Buffer.from('\n'), file, Buffer.from('\n')])

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
  #classLines: Block | null | undefined

  /** @param path the file; without it the places where distributions put it are tried */
  static read(path?: string): PciNames {
    for (const place of path === undefined ? PLACES : [path]) {
      const file = readBytes(place)
      if (file) return new PciNames(file)
    }
    return new PciNames(Buffer.alloc(0))
  }

  constructor(file: Buffer) {
    this.#file = inLines(file)
  }

  /** The block whose head line starts with these characters, within another block or the whole file. */
  #find(head: string, within: Block = this.#file): Block | null {
    const at = within.indexOf(`\n${head}`, 0, 'latin1')
    return at < 0 ? null : within.subarray(at, endOf(within, at, head.lastIndexOf('\t') + 1))
  }

  /** The text of a block's head line behind its first characters. */
  #name(block: Block | null, skip: number): string | null {
    return block && decode(block, 1 + skip, block.indexOf(NEWLINE, 1)).trim()
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
    if (this.#classLines === undefined) {
      const at = this.#file.indexOf('\nC ', Math.max(0, length - CLASSES_SIZE), 'latin1')
      this.#classLines = at < 0 ? null : this.#file.subarray(at)
    }
    const found = this.#classLines && this.#find(head, this.#classLines)
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
