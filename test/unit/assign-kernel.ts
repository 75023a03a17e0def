import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { constants } from 'node:os'
import { basename, dirname, join, relative } from 'node:path'
import { type VfioError, VfioSystemError } from 'vfio'
import { type HostDescription, type HostTrees, makeHost } from '../fixtures/host.js'

/** What a simulated kernel is asked: a write, a module to load, a device to reset. */
export interface Call {
  readonly kind: 'write' | 'load' | 'reset'
  readonly path: string
  readonly text: string
}

/** How the kernel answers one call: `refuse` fails it, `lie` does it and fails, `hang` never answers. */
export type Fault = 'refuse' | 'lie' | 'hang'

export interface Faults {
  /** Which call fails, counted from 0, and how. */
  readonly at?: (index: number, call: Call) => Fault | null
  /**
   * What a function without a group gets when a VFIO driver binds it: one of the no-IOMMU mode, or one of an IOMMU with
   * whoever else is in it. Without this the driver refuses it, as `vfio_group_find_or_alloc` does.
   */
  readonly newGroup?: {
    readonly number: number
    readonly noIommu: boolean
    readonly others?: readonly string[]
  }
}

interface Memory {
  /** Ids that drivers have built in, as `vendor device`. */
  readonly builtin: Record<string, string[]>
  /** Ids that were added. */
  added: Record<string, string[]>
}

const FILES = ['bind', 'unbind', 'new_id', 'remove_id', 'uevent']
const { EBUSY, EEXIST, EINVAL, EIO, ENODEV, ENOENT } = constants.errno

/**
 * Acts on a fixture tree as the kernel acts on sysfs: moves the links of drivers, keeps overrides and added ids. What it
 * remembers is in a file beside the tree, so that it outlives the process that asked.
 */
export class SimulatedKernel {
  readonly calls: Call[] = []
  readonly answered: Call[] = []
  /** Groups that a program has open. */
  readonly open = new Set<number>()
  readonly #trees: HostTrees
  readonly #faults: Faults
  #release: (() => void)[] = []

  constructor(trees: HostTrees, faults: Faults = {}) {
    this.#trees = trees
    this.#faults = faults
  }

  async write(path: string, text: string): Promise<void> {
    await this.#answer({ kind: 'write', path, text }, () => this.#write(path, text.replace(/\n$/, '')))
  }

  async load(modprobe: string, module: string): Promise<void> {
    await this.#answer({ kind: 'load', path: modprobe, text: module }, () => this.#addDriver(module))
  }

  async reset(address: string, kind: 'function' | 'hot'): Promise<void> {
    await this.#answer({ kind: 'reset', path: address, text: kind }, () => {
      if (!this.#driverOf(address)?.includes('vfio')) throw failed(ENODEV, 'group', address)
    })
  }

  async read(path: string): Promise<string> {
    await new Promise<void>((resolve) => setImmediate(resolve))
    try {
      return readFileSync(path, 'utf8')
    } catch {
      throw failed(ENOENT, basename(path), path)
    }
  }

  isOpen(group: number): boolean {
    return this.open.has(group)
  }

  /** How many calls hang. */
  get hanging(): number {
    return this.#release.length
  }

  /** Lets what hangs take effect after all. */
  answerAll(): void {
    for (const release of this.#release.splice(0)) release()
  }

  async #answer(call: Call, act: () => void): Promise<void> {
    const fault = this.#faults.at?.(this.calls.length, call) ?? null
    this.calls.push(call)
    // As a real one, it never answers in the same turn.
    await new Promise<void>((resolve) => setImmediate(resolve))
    if (fault === 'refuse') throw failed(EIO, basename(call.path), call.path)
    if (fault === 'hang') {
      await new Promise<void>((resolve) => {
        this.#release.push(resolve)
      })
    }
    act()
    this.answered.push(call)
    if (fault === 'lie') throw failed(EIO, basename(call.path), call.path)
  }

  #bus(path: string): string {
    return `${this.#trees.sysfs}/bus/pci/${path}`
  }

  #memory(): Memory {
    return JSON.parse(readFileSync(memoryOf(this.#trees), 'utf8')) as Memory
  }

  #write(path: string, text: string): void {
    // The path as the caller gives it leads through links, as in sysfs.
    let real: string
    try {
      real = realpathSync(path)
    } catch {
      throw failed(ENOENT, basename(path), path)
    }
    const below = relative(realpathSync(this.#bus('.')), real)
    const [, driver, file] = /^drivers\/([^/]+)\/(\w+)$/.exec(below) ?? []
    if (below === 'drivers_probe') this.#probe(text)
    else if (below === 'rescan') this.#rescan()
    else if (basename(real) === 'driver_override') this.#override(real, text)
    else if (basename(real) === 'remove') this.#remove(basename(dirname(real)))
    else if (driver !== undefined && file !== undefined) this.#driverFile(driver, file, text, path)
    else throw new Error(`nothing here writes to ${path}`)
  }

  #driverFile(driver: string, file: string, text: string, path: string): void {
    const memory = this.#memory()
    const ids = memory.added[driver] ?? []
    switch (file) {
      case 'unbind':
        if (this.#driverOf(text) !== driver) throw failed(ENODEV, file, path)
        this.#unbind(text)
        break
      case 'bind':
        if (!existsSync(this.#bus(`devices/${text}`))) throw failed(ENODEV, file, path)
        if (this.#driverOf(text) !== null) throw failed(EBUSY, file, path)
        if (!this.#matches(driver, text)) throw failed(ENODEV, file, path)
        this.#bind(text, driver)
        break
      case 'new_id':
        if (!/^[0-9a-f]{4} [0-9a-f]{4}$/.test(text)) throw failed(EINVAL, file, path)
        if (ids.includes(text)) throw failed(EEXIST, file, path)
        memory.added[driver] = [...ids, text]
        this.#remember(memory)
        // This driver alone is tried, on every device that has none.
        for (const address of readdirSync(this.#bus('devices'))) {
          if (this.#driverOf(address) === null && this.#matches(driver, address)) this.#bind(address, driver)
        }
        break
      case 'remove_id':
        if (!ids.includes(text)) throw failed(ENODEV, file, path)
        memory.added[driver] = ids.filter((id) => id !== text)
        this.#remember(memory)
        break
      default:
        throw new Error(`nothing here writes to ${path}`)
    }
  }

  #remember(memory: Memory): void {
    writeFileSync(memoryOf(this.#trees), JSON.stringify(memory))
  }

  #driverOf(address: string): string | null {
    try {
      return basename(readlinkSync(this.#bus(`devices/${address}/driver`)))
    } catch {
      return null
    }
  }

  #matches(driver: string, address: string): boolean {
    const read = (file: string) => readFileSync(this.#bus(`devices/${address}/${file}`), 'utf8').trim()
    const override = read('driver_override')
    if (override !== '(null)') return override === driver
    const id = `${read('vendor').slice(2)} ${read('device').slice(2)}`
    const { builtin, added } = this.#memory()
    return [...(builtin[driver] ?? []), ...(added[driver] ?? [])].includes(id)
  }

  #probe(address: string): void {
    if (!existsSync(this.#bus(`devices/${address}`))) throw failed(ENODEV, 'drivers_probe', address)
    if (this.#driverOf(address) !== null) return
    const driver = readdirSync(this.#bus('drivers'))
      .sort()
      .find((name) => this.#matches(name, address))
    if (driver !== undefined) this.#bind(address, driver)
  }

  #bind(address: string, driver: string): void {
    const device = realpathSync(this.#bus(`devices/${address}`))
    const directory = realpathSync(this.#bus(`drivers/${driver}`))
    if (driver.includes('vfio') && !existsSync(`${device}/iommu_group`)) this.#group(address, device)
    symlinkSync(relative(device, directory), `${device}/driver`)
    symlinkSync(relative(directory, device), `${directory}/${address}`)
  }

  #group(address: string, device: string): void {
    const made = this.#faults.newGroup
    if (made === undefined) throw failed(EINVAL, 'bind', address)
    const group = `${this.#trees.sysfs}/kernel/iommu_groups/${made.number}`
    mkdirSync(`${group}/devices`, { recursive: true })
    if (made.noIommu) writeFileSync(`${group}/name`, 'vfio-noiommu\n')
    writeFileSync(`${group}/reserved_regions`, '')
    for (const member of [address, ...(made.others ?? [])]) {
      const path = member === address ? device : realpathSync(this.#bus(`devices/${member}`))
      symlinkSync(relative(path, realpathSync(group)), `${path}/iommu_group`)
      symlinkSync(relative(realpathSync(`${group}/devices`), path), `${group}/devices/${member}`)
    }
  }

  #unbind(address: string): void {
    const driver = this.#driverOf(address)
    // The group of the no-IOMMU mode goes with the driver (`vfio_device_remove_group`), that of an IOMMU stays.
    const made = this.#faults.newGroup
    if (made?.noIommu && driver?.includes('vfio')) {
      rmSync(this.#bus(`devices/${address}/iommu_group`), { force: true })
      rmSync(`${this.#trees.sysfs}/kernel/iommu_groups/${made.number}`, { recursive: true, force: true })
    }
    rmSync(this.#bus(`devices/${address}/driver`))
    rmSync(this.#bus(`drivers/${driver}/${address}`))
  }

  #override(file: string, text: string): void {
    writeFileSync(file, `${text === '' ? '(null)' : text}\n`)
  }

  /** A device that is removed leaves the tree; only `rescan` brings it back, with no override. */
  #remove(address: string): void {
    if (this.#driverOf(address) !== null) this.#unbind(address)
    const hidden = `${this.#trees.sysfs}/../removed`
    mkdirSync(hidden, { recursive: true })
    symlinkSync(readlinkSync(this.#bus(`devices/${address}`)), `${hidden}/${address}`)
    rmSync(this.#bus(`devices/${address}`))
  }

  #rescan(): void {
    const hidden = `${this.#trees.sysfs}/../removed`
    for (const address of existsSync(hidden) ? readdirSync(hidden) : []) {
      symlinkSync(readlinkSync(`${hidden}/${address}`), this.#bus(`devices/${address}`))
      this.#override(this.#bus(`devices/${address}/driver_override`), '')
      this.#probe(address)
    }
    rmSync(hidden, { recursive: true, force: true })
  }

  #addDriver(name: string): void {
    const directory = this.#bus(`drivers/${name}`)
    mkdirSync(directory)
    for (const file of FILES) writeFileSync(`${directory}/${file}`, '')
  }
}

const memoryOf = ({ sysfs }: HostTrees) => join(sysfs, '..', 'kernel-memory.json')

function failed(errno: number, request: string, path: string): VfioError {
  return new VfioSystemError({ errno, syscall: 'write', request, path })
}

const hex = (value: number) => value.toString(16).padStart(4, '0')

/** Makes a host whose simulated kernel knows the ids of the drivers that its devices are bound to, and of these. */
export function makeKernelHost(
  host: HostDescription,
  { builtin = {}, drivers = ['vfio-pci'] }: { builtin?: Record<string, string[]>; drivers?: string[] } = {},
): HostTrees {
  const trees = makeHost(host)
  const known: Record<string, string[]> = { ...builtin }
  for (const { driver, driverOverride, vendor = 0x1234, device = 0x11e8 } of host.devices ?? []) {
    if (!driver || driverOverride !== undefined || driver.includes('vfio')) continue
    known[driver] = [...(known[driver] ?? []), `${hex(vendor)} ${hex(device)}`]
  }
  for (const driver of new Set([...drivers, ...Object.keys(builtin)])) {
    const directory = `${trees.sysfs}/bus/pci/drivers/${driver}`
    mkdirSync(directory, { recursive: true })
    for (const file of FILES) writeFileSync(`${directory}/${file}`, '')
  }
  const memory: Memory = { builtin: known, added: Object.fromEntries(drivers.map((name) => [name, []])) }
  writeFileSync(memoryOf(trees), JSON.stringify(memory))
  return trees
}

/** Everything below a directory: path, kind, mode, and what is in it. */
export function photograph(root: string): string[] {
  const lines: string[] = []
  const walk = (path: string) => {
    const facts = lstatSync(path, { throwIfNoEntry: false })
    if (facts === undefined) return
    const mode = (facts.mode & 0o7777).toString(8)
    const name = relative(root, path)
    if (facts.isSymbolicLink()) lines.push(`${name} -> ${readlinkSync(path)}`)
    else if (facts.isDirectory()) {
      lines.push(`${name}/ ${mode}`)
      for (const entry of readdirSync(path).sort()) walk(join(path, entry))
    } else if (facts.isFile()) lines.push(`${name} ${mode} ${readFileSync(path, 'latin1')}`)
    else lines.push(`${name} ${facts.mode}`)
  }
  walk(root)
  return lines
}
