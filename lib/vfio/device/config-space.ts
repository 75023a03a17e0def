import {
  type Capabilities,
  type CapabilityEntry,
  type ConfigHeader,
  readCapabilities,
  readHeader,
} from '../../sysfs/config.js'
import { badArgument, checkFlag, show } from '../arguments.js'
import type { VfioRegion } from './region.js'

/** The command register of a function (PCI 3.0, 6.2.2). */
export interface PciCommand {
  /** Answers at its I/O ports. */
  readonly io: boolean
  /** Answers at its memory BARs. */
  readonly memory: boolean
  /** May read and write memory by itself (DMA), and send message-signalled interrupts. */
  readonly busMaster: boolean
  readonly parityErrorResponse: boolean
  readonly serr: boolean
  /** Keeps its INTx pin quiet. */
  readonly intxDisabled: boolean
}

const COMMAND = 0x04
const STATUS = 0x06
const COMMAND_BITS: Readonly<Record<keyof PciCommand, number>> = {
  io: 1 << 0,
  memory: 1 << 1,
  busMaster: 1 << 2,
  parityErrorResponse: 1 << 6,
  serr: 1 << 8,
  intxDisabled: 1 << 10,
}
const COMMAND_NAMES = Object.keys(COMMAND_BITS) as (keyof PciCommand)[]

/**
 * The config space of an open device, as VFIO shows it: some bits are the kernel's own and do not change by writing
 * (`drivers/vfio/pci/vfio_pci_config.c`). Reads and writes of any field go through {@link ConfigSpace.region}.
 */
export class ConfigSpace {
  readonly region: VfioRegion
  readonly #address: string

  /** @internal */
  constructor(region: VfioRegion, address: string) {
    this.region = region
    this.#address = address
  }

  /** 256 bytes, or 4096 with PCI Express. */
  get size(): number {
    return this.region.size
  }

  get vendor(): number {
    return this.region.read16(0x00)
  }

  get device(): number {
    return this.region.read16(0x02)
  }

  get revision(): number {
    return this.region.read8(0x08)
  }

  /** The class code, 24 bits: class, subclass, programming interface. */
  get class(): number {
    return this.region.read32(0x08) >>> 8
  }

  get subsystemVendor(): number {
    return this.region.read16(0x2c)
  }

  get subsystemDevice(): number {
    return this.region.read16(0x2e)
  }

  /** Which pin raises INTx: 1 is A … 4 is D, 0 none. */
  get interruptPin(): number {
    return this.region.read8(0x3d)
  }

  /** The status register; writing ones to it clears errors. */
  get status(): number {
    return this.region.read16(STATUS)
  }

  get command(): PciCommand {
    const bits = this.region.read16(COMMAND)
    const entries = COMMAND_NAMES.map((name) => [name, (bits & COMMAND_BITS[name]) !== 0])
    return Object.fromEntries(entries) as unknown as PciCommand
  }

  /**
   * Changes the named bits of the command register and leaves the others. A device comes with `busMaster` off: without
   * it there is neither DMA nor a message-signalled interrupt.
   */
  setCommand(changes: Partial<PciCommand>): void {
    if (typeof changes !== 'object' || changes === null) {
      throw badArgument(`changes must be an object, not ${show(changes)}`)
    }
    let set = 0
    let clear = 0
    for (const [name, value] of Object.entries(changes)) {
      const bit = COMMAND_BITS[name as keyof PciCommand]
      if (bit === undefined) {
        throw badArgument(`the command register has ${COMMAND_NAMES.join(', ')}, but not ${show(name)}`)
      }
      if (value === undefined) continue
      if (checkFlag(value, false, `changes.${name}`)) set |= bit
      else clear |= bit
    }
    const bits = this.region.read16(COMMAND)
    this.region.write16(COMMAND, (bits & ~clear) | set)
  }

  /** The header's fields. */
  header(): ConfigHeader {
    const header = readHeader(this.#bytes(64))
    if (!header) throw badArgument(`${this.#address} has no config space`)
    return header
  }

  /** Both capability lists, and what the known ones say; as the device shows them to VFIO. */
  capabilities(): Capabilities {
    return readCapabilities(this.#bytes(this.size))
  }

  /** A capability by its short name (`MSI-X`), of the standard list or the extended one; null where there is none. */
  capability(name: string): CapabilityEntry | null {
    const { standard, extended } = this.capabilities()
    return [...standard, ...extended].find((entry) => entry.name === name) ?? null
  }

  #bytes(size: number): Uint8Array {
    const bytes = new Uint8Array(Math.min(size, this.size))
    this.region.read(bytes, 0)
    return bytes
  }
}
