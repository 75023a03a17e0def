import { decode } from './bytes.js'
import { Changed, inFile, inMemory, type Parts } from './file-parts.js'
import { readBytes } from './files.js'
import { reader } from './tree.js'
import { leavingOut } from './unseen.js'

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

const [NEWLINE, HASH] = [0x0a, 0x23]

/** As many characters as it takes to see one. */
const HEAD_LENGTH = 4

/** What classes take at the end of the file is less, in bytes. */
const CLASSES_SIZE = 0x8000

/** So much is searched at once, in bytes. */
const STRETCH = 0x4000

/** Most blocks are shorter. */
const FIRST_STRETCH = 0x400

/** A vendor is looked for at the beginnings of such pieces, in bytes: most have the line of one. */
const PIECE = 0x1000

/** What stands before a vendor's name, in characters. */
const VENDOR_LENGTH = 6

/** So many pieces are read at once at most. */
const MOST_AHEAD = 8

/** Behind all vendors. */
const NO_VENDOR = 0x10000

/** Of a line so much is read at first, in bytes. */
const LINE = 0x100

/**
 * A part of the file: a head line and the lines behind it that are indented further, from the newline before the first to that
 * at the end of the last.
 */
interface Block {
  readonly at: number
  readonly end: number
}

/** A vendor's number, and where the newline before its line is. */
interface Head {
  readonly vendor: number
  readonly at: number
}

/** Every line then has a newline before it and one behind it, which searches rely on. */
const inLines = (file: Buffer) =>
  inMemory(
    file[0] === HASH && file[file.length - 1] === NEWLINE
      ? file
      : Buffer.concat([Buffer.from('\n'), file, Buffer.from('\n')]),
  )

/** A file of names, read where it is asked for; all of it where it does not begin with a comment, as the real one does. */
function openNames(path: string): Parts | null {
  const file = inFile(path)
  if (file === null) return null
  try {
    const isInLines = file.part(0, 1)[0] === HASH && file.part(file.size - 1, file.size)[0] === NEWLINE
    return isInLines ? file : inLines(readBytes(path) ?? NOTHING)
  } catch (error) {
    if (error instanceof Changed) return inLines(NOTHING)
    throw error
  } finally {
    file.close()
  }
}

const NOTHING = Buffer.alloc(0)

/**
 * The names of `pci.ids`. The file has forty thousand lines, of which a host needs a few: they are searched for, not
 * indexed. Its vendors are in order, so that few parts of it are read; one that is not where it would be is looked for
 * everywhere.
 */
export class PciNames {
  #file: Parts
  readonly #reader = reader()
  readonly #path: string | undefined
  /** By piece. */
  readonly #heads = new Map<number, readonly Head[]>()
  readonly #vendors = new Map<number, Block | null>()
  readonly #devices = new Map<number, Block | null>()
  readonly #classes = new Map<number, string | null>()
  readonly #answers = new Map<string, DeviceNames>()

  /** @param path the file; without it the places where distributions put it are tried */
  static read(path?: string): PciNames {
    for (const place of path === undefined ? PLACES : [path]) {
      const file = openNames(place)
      if (file) return new PciNames(file, place)
    }
    return new PciNames(NOTHING)
  }

  /**
   * @param file the text, or where it is read
   * @param path of the file
   */
  constructor(file: Buffer | Parts, path?: string) {
    this.#file = Buffer.isBuffer(file) ? inLines(file) : file
    this.#path = path
  }

  /** Where a line begins that has these first characters, by the newline before it; `null` where none is in the block. */
  #find(head: string, { at, end }: Block = { at: 0, end: this.#file.size }): number | null {
    const wanted = `\n${head}`
    for (let from = at; from < end; from += STRETCH - wanted.length + 1) {
      const found = this.#file.part(from, Math.min(from + STRETCH, end)).indexOf(wanted, 0, 'latin1')
      if (found >= 0) return from + found
    }
    return null
  }

  /** The newline before the next line that is indented no further than so many tabs; comments and empty lines are none. */
  #next(from: number, depth: number, end = this.#file.size): number {
    for (let [base, size] = [from, FIRST_STRETCH]; base < end; size = Math.min(4 * size, STRETCH)) {
      const part = this.#file.part(base, Math.min(base + size, end))
      const found = this.#reader.findHead(part, 0, depth)
      if (found >= 0) return base + found
      if (base + part.length >= end) return end
      base += part.length - HEAD_LENGTH + 1
    }
    return end
  }

  #blockAt(at: number | null, depth: number, end?: number): Block | null {
    if (at === null) return null
    const next = this.#next(at + 1, depth, end)
    return { at, end: Math.min(next + 1, this.#file.size) }
  }

  /** The text of a block's head line behind its first characters. */
  #name(block: Block | null, skip: number): string | null {
    if (block === null) return null
    const from = block.at + 1 + skip
    for (let size = LINE; ; size *= 4) {
      const line = this.#file.part(from, Math.min(from + size, block.end))
      const end = line.indexOf(NEWLINE)
      if (end >= 0 || from + size >= block.end) return decode(line, 0, end < 0 ? line.length : end).trim()
    }
  }

  #vendor(id: number): Block | null {
    const known = this.#vendors.get(id)
    if (known !== undefined) return known
    const at = this.#search(id) ?? this.#find(`${hex(id, 4)}  `)
    const found = at === null ? null : { at, end: this.#endOfVendor(at) }
    this.#vendors.set(id, found)
    return found
  }

  #endOfVendor(at: number): number {
    const piece = Math.floor(at / PIECE)
    const next = this.#headsIn(piece).find((head) => head.at > at) ?? this.#headFrom(piece + 1)
    return Math.min(next.at + 1, this.#file.size)
  }

  /** Where a vendor begins, by halves of what is left; `null` where it is not where it would be. */
  #search(id: number): number | null {
    let [low, high] = [0, Math.ceil(this.#file.size / PIECE)]
    while (high - low > 1) {
      const middle = (low + high) >>> 1
      if (this.#headFrom(middle).vendor > id) high = middle
      else low = middle
    }
    return this.#headsIn(low).find(({ vendor }) => vendor === id)?.at ?? null
  }

  /** The first vendor that begins in a piece or behind it. Large vendors take many pieces. */
  #headFrom(piece: number): Head {
    const { size } = this.#file
    let ahead = 1
    for (let one = piece; one * PIECE < size; one++) {
      const [head] = this.#headsIn(one, ahead)
      if (head) return head
      ahead = Math.min(2 * ahead, MOST_AHEAD)
    }
    return { vendor: NO_VENDOR, at: size }
  }

  /**
   * The vendors whose lines begin in a piece.
   * @param ahead so many pieces are read, if it has to be: each read takes as long as some thousand bytes
   */
  #headsIn(piece: number, ahead = 1): readonly Head[] {
    const known = this.#heads.get(piece)
    if (known) return known
    const start = piece * PIECE
    const found = Array.from({ length: ahead }, (): Head[] => [])
    // The rest of a line that begins at the end comes along.
    const text = this.#file.part(start, start + ahead * PIECE + VENDOR_LENGTH)
    const next = (from: number) => this.#reader.findHead(text, from, 0)
    for (let at = next(0); at >= 0; at = next(at + 1)) {
      const line = text.toString('latin1', at + 1, at + 1 + VENDOR_LENGTH)
      if (line.length < VENDOR_LENGTH || line.includes('\n')) continue
      const vendor = /^[0-9a-f]{4} {2}/.test(line) ? Number.parseInt(line, 16) : NO_VENDOR
      found[Math.floor(at / PIECE)]?.push({ vendor, at: start + at })
    }
    for (const [index, heads] of found.entries()) this.#heads.set(piece + index, heads)
    return found[0] ?? []
  }

  #device(vendor: number, id: number): Block | null {
    const key = vendor * 0x10000 + id
    const known = this.#devices.get(key)
    if (known !== undefined) return known
    const block = this.#vendor(vendor)
    const found = block && this.#blockAt(this.#find(`\t${hex(id, 4)}  `, block), 1, block.end)
    this.#devices.set(key, found)
    return found
  }

  #subsystem(ids: DeviceIds): Block | null {
    const device = this.#device(ids.vendor, ids.device)
    if (device === null) return null
    const head = `\t\t${hex(ids.subsystemVendor, 4)} ${hex(ids.subsystemDevice, 4)}  `
    return this.#blockAt(this.#find(head, device), 2, device.end)
  }

  /** Classes stand behind all vendors; where somebody's file has them elsewhere they are found all the same. */
  #baseClass(id: number): Block | null {
    const head = `C ${hex(id, 2)}  `
    const { size } = this.#file
    const at = this.#find(head, { at: Math.max(0, size - CLASSES_SIZE), end: size }) ?? this.#find(head)
    return this.#blockAt(at, 0)
  }

  /** @param code base class, subclass and programming interface, 24 bits: the subclass names it */
  #className(code: number): string | null {
    const key = code >>> 8
    const known = this.#classes.get(key)
    if (known !== undefined) return known
    const base = this.#baseClass(key >>> 8)
    const subclass = base && this.#blockAt(this.#find(`\t${hex(key & 0xff, 2)}  `, base), 1, base.end)
    const name = this.#name(subclass, 5) ?? this.#name(base, 6)
    this.#classes.set(key, name)
    return name
  }

  names(ids: DeviceIds): DeviceNames {
    const key = `${ids.vendor},${ids.device},${ids.subsystemVendor},${ids.subsystemDevice},${ids.class}`
    const known = this.#answers.get(key)
    if (known) return known
    try {
      return this.#keep(key, this.#lookUp(ids))
    } catch (error) {
      if (!(error instanceof Changed)) throw error
      this.#readAgain()
    }
    try {
      return this.#keep(key, this.#lookUp(ids))
    } catch (error) {
      // Whoever is writing it may be done by the next time.
      if (error instanceof Changed) return NO_NAMES
      throw error
    }
  }

  #keep(key: string, names: DeviceNames): DeviceNames {
    this.#answers.set(key, Object.freeze(names))
    return names
  }

  /** Another file is in its place, or it was written: what was found in it may be elsewhere. */
  #readAgain(): void {
    for (const known of [this.#heads, this.#vendors, this.#devices, this.#classes]) known.clear()
    const path = this.#path
    // No verdict rests on names, in the middle of a look either.
    this.#file = (path === undefined ? null : leavingOut(() => openNames(path))) ?? inLines(NOTHING)
  }

  /** The file is open for one search: names are for as long as a program runs. */
  #lookUp(ids: DeviceIds): DeviceNames {
    try {
      return {
        vendor: this.#name(this.#vendor(ids.vendor), 6),
        device: this.#name(this.#device(ids.vendor, ids.device), 7),
        subsystem: this.#name(this.#subsystem(ids), 13),
        class: this.#className(ids.class),
      }
    } finally {
      this.#file.close()
    }
  }
}

const NO_NAMES: DeviceNames = { vendor: null, device: null, subsystem: null, class: null }
