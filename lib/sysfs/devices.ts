import { constants } from 'node:os'
import type { Growing } from '../growing.js'
import { busOf, compareAddresses, devfnOf, isAddress, slotOf, splitAddress } from './address.js'
import { type Capabilities, type ConfigHeader, doesAnswer, readCapabilities, readHeader } from './config.js'
import type { ModuleAliases, ModuleCandidates } from './modules.js'
import type { DeviceNames, PciNames } from './names.js'
import { areEqual, type Batch, beginBatch, beginWaiting, readBatch, recording, type Wanted } from './tree.js'

/** One base address register, or the expansion ROM. Addresses are physical, sizes in bytes. */
export interface Bar {
  readonly index: number | 'rom'
  readonly kind: 'memory' | 'io'
  /** On the bus; `null` where it has none, or the kernel has a token of its own in its place (Linux on Z). */
  readonly address: number | null
  /** In bytes. */
  readonly size: number
  readonly prefetchable: boolean
  readonly is64: boolean
}

/** What SR-IOV makes of a function. `totalVfs` and `numVfs` are counts. */
export type Sriov =
  | {
      readonly role: 'pf'
      readonly totalVfs: number
      readonly numVfs: number
      readonly vfs: readonly string[]
    }
  | { readonly role: 'vf'; readonly pf: string }

/** One PCI function as the kernel publishes it. Numbers are as in its config space. */
export interface PciDevice {
  readonly address: string
  /** IOMMU group number, `null` where the function has none. */
  readonly group: number | null
  readonly vendor: number
  readonly device: number
  readonly subsystemVendor: number
  readonly subsystemDevice: number
  /** Vendor and device as `lspci -n` writes them: `8086:10d3`. */
  readonly ids: string
  /** The same of its subsystem; `null` where it names none. */
  readonly subsystemIds: string | null
  /** Base class, subclass and programming interface, 24 bits. */
  readonly class: number
  readonly revision: number
  readonly names: DeviceNames
  /** The bound driver, `null` for none. */
  readonly driver: string | null
  readonly driverOverride: string | null
  /** Kernel modules that say they drive this device. */
  readonly modules: readonly string[]
  /** VFIO variant drivers for this device, more capable than vfio-pci, by the names of their modules. */
  readonly variantDrivers: readonly string[]
  readonly modalias: string | null
  readonly headerType: 'normal' | 'bridge' | 'cardbus' | 'unknown'
  readonly multifunction: boolean
  /** NUMA node, `null` where the platform names none. */
  readonly numaNode: number | null
  /** The bridge that this function sits below, `null` on a root bus. */
  readonly parent: string | null
  /** Number of the bus below this bridge, `null` for a function that is no bridge. */
  readonly secondaryBus: number | null
  /** The hot-plug slot that covers this function and the module that serves it. */
  readonly slot: { readonly name: string; readonly driver: string | null } | null
  readonly sriov: Sriov | null
  /** The firmware's boot display. */
  readonly bootVga: boolean
  /** `reset_method` in the kernel's order; `null` where this kernel does not publish it (before 5.15). */
  readonly resetMethods: readonly string[] | null
  /** The kernel offers `reset`: it found some way to reset this function when the device was added. */
  readonly resettable: boolean
  readonly bars: readonly Bar[]
  /**
   * BARs without an address, by number: there was no room for them. Of `unset` ones the kernel knows, and does not switch the
   * device on (`pci_enable_resources`); those that it `dropped` are in the device alone, and nobody who opens it sees them. Left
   * out where there are none, or nothing tells.
   */
  readonly barsWithoutAddress?: { readonly unset: readonly number[]; readonly dropped: readonly number[] }
  readonly capabilities: Capabilities
  /**
   * A driver has registered it with VFIO: `vfio-dev/` below it (since 6.1), or a vGPU profile of NVIDIA's driver. Proves
   * that it is with VFIO; on kernels before 6.1 the driver's name has to do.
   */
  readonly vfioRegistered: boolean
  /** Name of the VFIO character device below `/dev/vfio/devices`, where the kernel has made one; its node may be absent. */
  readonly vfioDevice: string | null
  /** A virtual function of NVIDIA's vGPU: the id of its profile, 0 for none yet. `null` for anything else. */
  readonly vgpuType: number | null
  /**
   * Whether its config space answers. `false`: all that everybody may read of it is ones, as where there is no device
   * or one that sleeps too deep. `null`: it could not be read.
   */
  readonly answers: boolean | null
  /** `power_state` as the kernel last set it: `D0`, `D3hot`, `D3cold`, …; `null` where it is not published or not looked at. */
  readonly powerState: string | null
  /** The root complex that it hangs on, as sysfs names its bus: `pci0000:00`. `null` where sysfs has no path to tell by, and in brief. */
  readonly rootBus: string | null
  /** The function of another domain whose driver makes the root bus of this one (Intel VMD), `null` for a bus of the platform. */
  readonly madeBy: string | null
}

/** A vendor with one of its devices, as `lspci -n` writes them. */
export const idsOf = (vendor: number, device: number) => `${hex4(vendor)}:${hex4(device)}`
const hex4 = (value: number) => value.toString(16).padStart(4, '0')

/** Is a device with VFIO: by what its driver did, or on kernels that do not tell by the driver's name? */
export const isWithVfio = ({ driver, vfioRegistered }: Pick<PciDevice, 'driver' | 'vfioRegistered'>) =>
  vfioRegistered || isVfioDriver(driver)

/**
 * Has a driver of its own given it to VFIO, like those of virtual GPUs on virtual functions? Any other driver would take
 * from it what makes it a device: it is opened as it is, and never bound, reset or given back.
 */
export const isByOwnDriver = ({ driver, vfioRegistered }: Pick<PciDevice, 'driver' | 'vfioRegistered'>) =>
  vfioRegistered && !isVfioDriver(driver)

/** What looking at devices needs besides their directory. */
export interface DeviceContext {
  readonly aliases: ModuleAliases
  readonly names: PciNames
  /** The kernel publishes `reset_method` (since 5.15); `null` where its release is not known: the tree tells. */
  readonly publishesResetMethods: boolean | null
  /** Only what verdicts need: see `SnapshotOptions`. */
  readonly brief: boolean
  /** Overrides that are known already, so that none is read; `null`: all are. */
  readonly overrides: ReadonlyMap<string, string | null> | null
  readonly slotRule: SlotRule
}

/**
 * What the third number of a slot's `address` stands for (`drivers/pci/slot.c`). `device`: a device number. Since 7.0
 * `bus` and, on Linux on Z, `function`: a slot of pciehp covers its whole bus, though it still says 00, and each function
 * has a slot of its own there, named by device and function in one number (`PCI_DEVFN`).
 */
export type SlotRule = 'device' | 'bus' | 'function'

// Not `uevent`, which says as much as `modalias`: some kernels let its reader wait for as long as a driver is let go.
const BRIEF_FILES = ['modalias', 'config', 'reset_method']
const FILES = [...BRIEF_FILES, 'resource', 'numa_node', 'power_state']
const SPACES = ['config']
/** The header of config space, in bytes: all of it that everybody may read. */
const HEADER = 64
/** Lines of `resource` that are BARs and the ROM: behind them come SR-IOV BARs or bridge windows. */
const BAR_LINES = 7
/** They have 57 bytes each where the kernel wrote them, and may have more in a copy. */
const RESOURCE_LIMIT = { resource: 512 }
const LINKS = ['driver', 'iommu_group', 'physfn']
/** Where the directory of a function is. */
const PATH = '.'
const LISTS = ['vfio-dev']
const ALWAYS = [...BRIEF_FILES, ...LINKS]
const VGPU_TYPE = 'nvidia/current_vgpu_type'
const ID_FILES = ['vendor', 'device', 'subsystem_vendor', 'subsystem_device', 'class', 'revision']
const NO_CONFIG = new Uint8Array(0)
const EMPTY: readonly never[] = Object.freeze([])

/**
 * Is this the name of a driver that hands devices to user space through VFIO? Holds for vfio-pci, its
 * variants (mlx5_vfio_pci, xe-vfio-pci, …) and VFIO drivers of other buses.
 */
export function isVfioDriver(driver: string | null): boolean {
  if (driver === null) return false
  const known = vfioDrivers.get(driver)
  if (known !== undefined) return known
  const words = driver.split(/[-_]/)
  const at = words.lastIndexOf('vfio')
  const is = at >= 0 && VFIO_BUSES.has(words.slice(at + 1).join('-'))
  vfioDrivers.set(driver, is)
  return is
}

/** What stands behind `vfio-`. An expression that lists them takes longer to make than to ask the drivers of a host. */
const VFIO_BUSES = new Set(['pci', 'platform', 'amba', 'cdx', 'fsl-mc', 'ap', 'ccw'])

/** A host has a handful of drivers, and thousands of devices that are asked about. */
const vfioDrivers = new Map<string, boolean>()

/** What every function below `bus/pci` says of itself. */
export interface Functions {
  /** In their order. */
  readonly addresses: readonly string[]
  readonly parts: readonly Part[]
  readonly identityOf: (draft: Draft) => Identity
}

type Naming = Pick<DeviceContext, 'aliases' | 'names'>

/** Some of the functions, as they were read at once. */
interface Part {
  /** One for each row of what was read. */
  readonly addresses: readonly string[]
  readonly main: Batch
  /** What was made of them while the next were read; `null` where an earlier look may have it. */
  readonly drafts: readonly Draft[] | null
}

/** Of a large host so many are taken apart while the next are read. */
const PART = 1024

interface FunctionOptions {
  readonly brief: boolean
  /** No earlier look may have been at the same. */
  readonly isFirst: boolean
  /** So many are read at once. */
  readonly part?: number
}

interface Begun {
  readonly some: readonly string[]
  readonly read: () => Batch
}

/** Begins to read every function below `bus/pci` of a sysfs tree: most of what it takes to tell the devices. */
export function beginFunctions(
  sysfs: string,
  names: readonly string[],
  { brief, isFirst, part: size = PART }: FunctionOptions,
): (naming: Naming) => Functions {
  const addresses = names.filter(isAddress).sort(compareAddresses)
  const root = `${sysfs}/bus/pci/devices`
  // In brief the bridges' bus numbers say as much as the paths.
  const wanted: Wanted = brief
    ? { files: BRIEF_FILES, links: LINKS, lists: LISTS, limits: { config: HEADER } }
    : { files: FILES, links: [...LINKS, PATH], lists: LISTS, limits: RESOURCE_LIMIT, spaces: SPACES }
  const begin = (from: number) => {
    const some = addresses.slice(from, from + size)
    return { some, read: beginBatch(root, some, wanted) }
  }
  // Two at once, so that neither processor waits for the other at the end of a part.
  const begun = [begin(0)]
  if (size < addresses.length) begun.push(begin(size))
  return (naming) => {
    const parts: Part[] = []
    const identityOf = identify(naming)
    for (let from = 0; ; from += size) {
      const { some, read } = begun[from / size] as Begun
      const main = read()
      if (from + 2 * size < addresses.length) begun.push(begin(from + 2 * size))
      const isLast = from + size >= addresses.length
      const drafts = isFirst ? draftsOf(some, main) : null
      if (!isLast) drafts?.forEach(identityOf)
      parts.push({ addresses: some, main, drafts })
      if (isLast) return { addresses, parts, identityOf }
    }
  }
}

/** The devices of a look, with all that they were made of: the next look that reads the same has the same. */
export interface DevicesSeen {
  readonly devices: PciDevice[]
  readonly functions: Functions
  readonly context: DeviceContext
  /** Of which there are as many as functions where none was gone. */
  readonly drafts: readonly Draft[]
  readonly batches: readonly Batch[]
  readonly overrides: ReadonlyMap<string, string | null>
}

/**
 * The devices that these functions are, ordered by address.
 * @param last the look before this at the same tree; `null` for none
 * @param meanwhile begins what is not waited for here, as soon as that holds nothing up
 */
export function readDevices(
  sysfs: string,
  functions: Functions,
  context: DeviceContext,
  last: DevicesSeen | null,
  meanwhile: () => void = () => {},
): DevicesSeen {
  const root = `${sysfs}/bus/pci/devices`
  const { addresses } = functions
  const begun = context.overrides === null ? beginOverrides(root, addresses) : null
  if (!context.brief) meanwhile()
  const known = last !== null && mayBeSame(functions, context, last) ? last : null
  const { seen, batches } = recording(() => {
    const slots = readSlots(sysfs)
    const gone = findGone(root, functions)
    const begunDrafts = known && gone.size === 0 ? known.drafts : beginDrafts(functions, gone)
    const drafts = readWhatIsMissing(root, begunDrafts)
    const publishes = context.publishesResetMethods ?? drafts.some((draft) => draft.resetMethods !== null)
    if (context.brief) readDecisiveConfig(root, drafts, publishes)
    // Taken apart last, and read meanwhile.
    const resources = context.brief ? beginResources(root, drafts) : null
    if (context.brief) meanwhile()
    const details = readDetails(root, drafts, publishes, context.brief)
    const registered = readRegistered(root, drafts)
    resources?.()
    const makers = context.brief ? readMakers(sysfs, drafts) : null
    return { slots, begunDrafts, drafts, publishes, details, registered, makers }
  })
  const overrides = context.overrides ?? begun?.() ?? new Map<string, string | null>()
  if (known && areEqual(batches, known.batches) && areSame(overrides, known.overrides)) return known
  return {
    devices: putTogether({ ...seen, overrides, identityOf: functions.identityOf }, context),
    ...{ functions, context, drafts: seen.begunDrafts, batches, overrides },
  }
}

/** Nothing has changed in what was read of each function at once; what else there is to read is to be compared. */
function mayBeSame({ addresses, parts }: Functions, context: DeviceContext, last: DevicesSeen): boolean {
  const { functions, drafts } = last
  return (
    !context.brief &&
    !last.context.brief &&
    context.aliases === last.context.aliases &&
    context.names === last.context.names &&
    context.publishesResetMethods === last.context.publishesResetMethods &&
    context.slotRule === last.context.slotRule &&
    addresses.length === functions.addresses.length &&
    addresses.every((address, row) => address === functions.addresses[row]) &&
    drafts.length === addresses.length &&
    parts.length === functions.parts.length &&
    parts.every(({ main }, index) => functions.parts[index]?.main.equals(main))
  )
}

const areSame = (some: DevicesSeen['overrides'], others: DevicesSeen['overrides']) => {
  if (some === others) return true
  if (some.size !== others.size) return false
  for (const [address, driver] of some) if (others.get(address) !== driver) return false
  return true
}

function beginDrafts({ parts }: Functions, gone: ReadonlySet<string>): readonly Draft[] {
  const all = parts.flatMap(({ addresses, main, drafts }) => drafts ?? draftsOf(addresses, main))
  return gone.size === 0 ? all : all.filter(({ address }) => !gone.has(address))
}

// Code that is not yet optimized makes objects for each step of an iterator, and this runs once for thousands of functions.
function draftsOf(addresses: readonly string[], main: Batch): Draft[] {
  const start = draftReader(main)
  return addresses.map((address, row) => start(row, address))
}

/** What was read of functions besides the main batch. */
interface Readings {
  readonly slots: Slots
  readonly drafts: readonly Draft[]
  readonly publishes: boolean
  readonly details: ReadonlyMap<Draft, Detail>
  readonly registered: ReadonlyMap<Draft, Registered>
  readonly makers: ReadonlyMap<string, string | null> | null
  readonly overrides: ReadonlyMap<string, string | null>
  readonly identityOf: Functions['identityOf']
}

function putTogether(
  { slots, drafts, publishes, details, registered, makers, overrides, identityOf }: Readings,
  context: DeviceContext,
): PciDevice[] {
  const bridges = new Map<string, string>()
  for (const { address, space } of drafts) {
    const bus = space.header?.secondaryBus
    if (bus) bridges.set(childBus(address, bus), address)
  }
  const present = new Set(drafts.map((draft) => draft.address))
  const vfs = groupVfs(drafts)
  const isSilent = ({ space }: Draft) => space.answers === false
  const numbers = drafts.some(isSilent) ? busesBelow(drafts) : null
  return drafts.map((draft) => {
    const { address, space } = draft
    const { header, capabilities } = space
    const identity = identityOf(draft)
    const parent = draft.place?.parent
    const detail = details.get(draft)
    // A bridge that does not answer has lost its bus number, and what is below it has not.
    const secondaryBus = header?.secondaryBus ?? (isSilent(draft) ? (numbers?.get(address) ?? null) : null)
    const vfio = registered.get(draft)
    const without = draft.pf === null ? barsWithoutAddress(draft.resource, space) : null
    const device: Growing<PciDevice> = {
      address,
      group: draft.group,
      vendor: draft.vendor,
      device: draft.device,
      subsystemVendor: draft.subsystemVendor,
      subsystemDevice: draft.subsystemDevice,
      ids: identity.ids,
      subsystemIds: identity.subsystemIds,
      class: draft.class,
      revision: draft.revision,
      names: identity.names,
      driver: draft.driver,
      driverOverride: overrides.get(address) ?? null,
      modules: identity.modules,
      variantDrivers: identity.variants,
      modalias: draft.modalias,
      headerType: header?.headerType ?? 'unknown',
      multifunction: header?.multifunction ?? false,
      numaNode: draft.numaNode,
      parent: parent !== undefined ? parent : (bridges.get(busOf(address)) ?? null),
      secondaryBus,
      slot: slots.size === 0 ? null : slotCovering(slots, address, context.slotRule),
      sriov: sriovOf(draft, capabilities, detail, present, vfs.get(address)),
      bootVga: detail?.bootVga ?? false,
      resetMethods: draft.resetMethods ?? (publishes ? EMPTY : null),
      resettable: draft.resetMethods !== null || (detail?.resettable ?? false),
      bars: draft.bars,
      capabilities,
      vfioRegistered: vfio !== undefined && (vfio.registered || (vfio.vgpuType ?? 0) > 0),
      vfioDevice: vfio?.device ?? null,
      vgpuType: vfio?.vgpuType ?? null,
      answers: space.answers,
      powerState: draft.powerState,
      rootBus: draft.place?.rootBus ?? null,
      madeBy: makers ? (makers.get(address) ?? null) : (draft.place?.madeBy ?? null),
    }
    if (without) device.barsWithoutAddress = without
    return Object.freeze(device)
  })
}

/** What the bytes of a config space say: worked out once for all functions that have the same. */
class Space {
  readonly bytes: Uint8Array
  readonly answers: boolean | null
  /** Ones are no header: they would make a function of any kind of it. */
  readonly header: ConfigHeader | null
  #capabilities: Capabilities | undefined

  constructor(bytes: Uint8Array | null) {
    this.bytes = bytes ?? NO_CONFIG
    this.answers = doesAnswer(this.bytes)
    this.header = this.answers === false ? null : readHeader(this.bytes)
  }

  get capabilities(): Capabilities {
    this.#capabilities ??= Object.freeze(readCapabilities(this.bytes))
    return this.#capabilities
  }
}

/** Where a function hangs, by the path of its directory. */
interface Place {
  /** `undefined` where the path is none to tell by. */
  readonly parent: string | null | undefined
  readonly rootBus: string | null
  readonly madeBy: string | null
}

/** A function while its facts come together. */
interface Draft {
  readonly address: string
  /** Where it was read. */
  readonly main: Batch
  readonly row: number
  readonly group: number | null
  readonly driver: string | null
  readonly numaNode: number | null
  readonly pf: string | null
  /** `undefined` where sysfs has no path to tell by. */
  readonly place: Place | undefined
  readonly resetMethods: readonly string[] | null
  readonly bars: readonly Bar[]
  /** In brief it is read where it decides. */
  resource: string | null
  readonly powerState: string | null
  /** As it was read, or read again with more of it. */
  space: Space
  /** What `modalias` has, all numbers of it as on a live host; `null` where it has not. */
  readonly alias: AliasIds | null
  readonly vendor: number
  readonly device: number
  readonly subsystemVendor: number
  readonly subsystemDevice: number
  readonly class: number
  readonly revision: number
  readonly modalias: string | null
}

/** `pci:v<vendor>d<device>sv<subsystem vendor>sd<subsystem device>bc<class>sc<subclass>i<interface>`, hexadecimal. */
const MODALIAS =
  /^pci:v([0-9A-F]{8})d([0-9A-F]{8})sv([0-9A-F]{8})sd([0-9A-F]{8})bc([0-9A-F]{2})sc([0-9A-F]{2})i([0-9A-F]{2})$/

type AliasIds = Pick<Draft, 'vendor' | 'device' | 'subsystemVendor' | 'subsystemDevice' | 'class'>

function parseModalias(text: string | null): AliasIds | null {
  const ids = MODALIAS.exec(text ?? '')
  if (ids === null) return null
  const number = (digits = '') => Number.parseInt(digits, 16)
  return {
    vendor: number(ids[1]),
    device: number(ids[2]),
    subsystemVendor: number(ids[3]),
    subsystemDevice: number(ids[4]),
    class: number(ids.slice(5).join('')),
  }
}

/** How the rows of the main batch become drafts: what many rows have alike is taken apart once. */
function draftReader(main: Batch): (row: number, address: string) => Draft {
  const aliasIn = main.ofText('modalias', parseModalias)
  const spaceIn = main.ofBytes('config', (bytes) => new Space(bytes))
  const methodsIn = main.ofText('reset_method', (text) =>
    text === null ? null : Object.freeze(text.split(' ').filter((method) => method !== '')),
  )
  const numaNodeIn = main.ofText('numa_node', (text) => {
    const node = integer(text)
    return node === null || node < 0 ? null : node
  })
  const barsIn = main.ofText('resource', (text) => (text === null ? EMPTY : parseBars(text)))
  const driverIn = main.ofText('driver', lastOf)
  const placeOf = placeReader()
  return (row, address) => {
    const alias = aliasIn(row)
    const space = spaceIn(row)
    const { header } = space
    const numbers = alias ?? header
    return {
      address,
      main,
      row,
      group: main.linkNumber(row, 'iommu_group'),
      driver: driverIn(row),
      numaNode: numaNodeIn(row),
      pf: main.linkName(row, 'physfn'),
      place: placeOf(main.text(row, PATH)),
      resetMethods: methodsIn(row),
      bars: barsIn(row),
      resource: main.text(row, 'resource'),
      powerState: main.text(row, 'power_state'),
      space,
      alias,
      vendor: numbers?.vendor ?? 0,
      device: numbers?.device ?? 0,
      subsystemVendor: numbers?.subsystemVendor ?? 0,
      subsystemDevice: numbers?.subsystemDevice ?? 0,
      class: numbers?.class ?? 0,
      revision: header?.revision ?? 0,
      modalias: main.text(row, 'modalias'),
    }
  }
}

const lastOf = (target: string | null) => (target === null ? null : target.slice(target.lastIndexOf('/') + 1))

/** Where functions hang, worked out once for all of one directory. */
function placeReader(): (path: string | null) => Place | undefined {
  const known = new Map<string, Place>()
  return (path) => {
    if (path === null) return undefined
    const directory = path.slice(0, Math.max(0, path.lastIndexOf('/')))
    const made = known.get(directory)
    if (made !== undefined) return made
    const place = {
      parent: parentFromPath(directory),
      rootBus: directory.split('/').find((part) => ROOT_BUS.test(part)) ?? null,
      madeBy: makerOn(directory),
    }
    known.set(directory, place)
    return place
  }
}

type Identity = Pick<PciDevice, 'ids' | 'subsystemIds' | 'names'> & ModuleCandidates

/** What ids are called and who drives them: looked up once for all functions of one `modalias`. */
function identify({ names, aliases }: Naming): (draft: Draft) => Identity {
  const known = new Map<string, Identity>()
  const lookUp = (draft: Draft): Identity => ({
    ids: idsOf(draft.vendor, draft.device),
    subsystemIds:
      (draft.subsystemVendor | draft.subsystemDevice) === 0
        ? null
        : idsOf(draft.subsystemVendor, draft.subsystemDevice),
    names: names.names(draft),
    ...aliases.candidates(draft.modalias ?? ''),
  })
  return (draft) => {
    const { alias, modalias } = draft
    // What lacks a header takes its numbers from files of its own.
    if (alias === null || modalias === null || draft.space.header === null) return lookUp(draft)
    let made = known.get(modalias)
    if (made === undefined) {
      made = lookUp(draft)
      known.set(modalias, made)
    }
    return made
  }
}

/** The overrides of devices: the kernel tells none while a driver lets the device go, which may take for ever. */
function beginOverrides(root: string, addresses: readonly string[]): () => Map<string, string | null> {
  const read = beginWaiting(addresses.map((address) => `${root}/${address}/driver_override`))
  return () => {
    const texts = read()
    return new Map(addresses.map((address, index) => [address, overrideOf(texts[index] ?? '')]))
  }
}

/** What `driver_override` says: some kernels write `(null)` for none. */
export const overrideOf = (text: string) => (text === '' || text === '(null)' ? null : text)

/** The last function before the last root bus of a path. */
function makerOn(path: string): string | null {
  const parts = path.split('/')
  const root = parts.findLastIndex((part) => ROOT_BUS.test(part))
  return parts.slice(0, Math.max(root, 0)).findLast(isAddress) ?? null
}

const ROOT_BUS = /^pci[0-9a-f]{4,8}:[0-9a-f]{2}$/

/** The kernel numbers the domains that drivers make beyond those of the platform (`vmd_find_free_domain`). */
const SHORT = 'dddd:bb:dd.f'

/** In brief, where the paths were not read: of those alone that can be behind one. */
function readMakers(sysfs: string, drafts: readonly Draft[]): ReadonlyMap<string, string | null> {
  const wide = drafts.map(({ address }) => address).filter((address) => address.length > SHORT.length)
  if (wide.length === 0) return new Map()
  const batch = readBatch(`${sysfs}/bus/pci`, ['devices'], { links: wide })
  return new Map(wide.map((address) => [address, makerOn(batch.text(0, address) ?? '')]))
}

/** The bus that the functions below a bridge are on, by the paths of these. */
function busesBelow(drafts: readonly Draft[]): ReadonlyMap<string, number> {
  const buses = new Map<string, number>()
  for (const { address, place } of drafts) {
    const bus = splitAddress(address)?.bus
    if (typeof place?.parent === 'string' && bus !== undefined) buses.set(place.parent, bus)
  }
  return buses
}

const GONE = new Set([
  constants.errno.ENOENT,
  constants.errno.ENODEV,
  constants.errno.ENOTDIR,
  constants.errno.ELOOP,
])

/** Every file gone at once: the device vanished after its name was listed, or there never was one. */
function findGone(root: string, { parts }: Functions): Set<string> {
  const isGone = (batch: Batch, row: number, files: readonly string[]) =>
    files.every((name) => GONE.has(batch.errno(row, name)))
  const bare = parts.flatMap(({ addresses, main }) =>
    addresses.filter((_address, row) => main.errno(row, 'modalias') !== 0 && isGone(main, row, ALWAYS)),
  )
  if (bare.length === 0) return new Set()
  const ids = readBatch(root, bare, { files: ID_FILES })
  return new Set(bare.filter((_address, row) => isGone(ids, row, ID_FILES)))
}

function hexNumber(text: string | null): number | null {
  if (text === null || !/^(0x)?[0-9a-f]{1,8}$/i.test(text)) return null
  return Number.parseInt(text, 16)
}

function integer(text: string | null): number | null {
  return text !== null && /^-?\d{1,10}$/.test(text) ? Number(text) : null
}

function count(text: string | null): number | null {
  return text !== null && /^\d{1,9}$/.test(text) ? Number(text) : null
}

/** The directory above a function's own is its bridge, or the root bus (`pci0000:00`). */
function parentFromPath(directory: string): string | null | undefined {
  const above = directory.slice(directory.lastIndexOf('/') + 1)
  if (isAddress(above)) return above
  return above.startsWith('pci') ? null : undefined
}

/** `domain:bus` of the bus with this number in the domain of an address. */
export function childBus(address: string, bus: number): string {
  return `${address.slice(0, address.indexOf(':'))}:${bus.toString(16).padStart(2, '0')}`
}

/** `include/linux/ioport.h`: the flags of a line of `resource`. */
const RESOURCE = { IO: 0x100, MEMORY: 0x200, PREFETCH: 0x2000, MEMORY_64: 0x100000, UNSET: 0x20000000 }
const UNUSED_BAR = '0x0000000000000000 0x0000000000000000 0x0000000000000000'

/** Lines 0–5 are BARs and 6 is the ROM. */
function parseBars(text: string): readonly Bar[] {
  const bars: Bar[] = []
  let at = 0
  for (let index = 0; index < BAR_LINES && at < text.length; index++) {
    const end = text.indexOf('\n', at)
    if (!text.startsWith(UNUSED_BAR, at)) {
      const [first = '', last = '', flags = ''] = text.slice(at, end < 0 ? undefined : end).split(' ')
      const bar = parseBar(index, spanOf(first, last), Number(flags))
      if (bar) bars.push(bar)
    }
    if (end < 0) break
    at = end + 1
  }
  return Object.freeze(bars)
}

type Span = Pick<Bar, 'address' | 'size'>

/** Physical addresses have at most 52 bits: what a number cannot hold exactly is a token, or rubbish. */
function spanOf(first: string, last: string): Span | null {
  const [from, to] = [Number(first), Number(last)]
  if (!Number.isSafeInteger(from) || !Number.isSafeInteger(to)) return spanOfToken(first, last)
  return to < from ? null : { address: from, size: to - from + 1 }
}

/** Where Linux on Z does not map BARs: bit 62 or 63, the number of a mapping, and 48 bits within it (`ZPCI_ADDR`). */
function spanOfToken(first: string, last: string): Span | null {
  if (!/^0x[4-9a-f][0-9a-f]{15}$/.test(first) || first.slice(0, 6) !== last.slice(0, 6)) return null
  const [from, to] = [Number(`0x${first.slice(6)}`), Number(`0x${last.slice(6)}`)]
  return Number.isSafeInteger(to) && to >= from ? { address: null, size: to - from + 1 } : null
}

/** JavaScript's bit operators take 32 bits, the flags have more. */
const isUnset = (flags: number) => ((flags % 2 ** 32) & RESOURCE.UNSET) !== 0

const FIRST_BAR = 0x10
const BARS = 6

/**
 * What a line of `resource` says of each BAR beside its register, which has its type even where it has no address: a memory BAR
 * that the kernel found no room for has a line of zeros (`reset_resource`), or one that is not set.
 */
function barsWithoutAddress(
  text: string | null,
  { header, bytes }: Space,
): PciDevice['barsWithoutAddress'] | null {
  if (text === null || header?.headerType !== 'normal' || bytes.length < FIRST_BAR + 4 * BARS) return null
  const unset: number[] = []
  const dropped: number[] = []
  let at = 0
  let isUpperHalf = false
  for (let index = 0; index < BARS; index++) {
    const newline = text.indexOf('\n', at)
    const end = newline < 0 ? text.length : newline
    // The register behind one of 64 bits has the upper half of its address.
    if (isUpperHalf) isUpperHalf = false
    else {
      const register = registerAt(bytes, FIRST_BAR + 4 * index)
      const isMemory = (register & 1) === 0 && register !== 0
      const isUnused = end - at === UNUSED_BAR.length && text.startsWith(UNUSED_BAR, at)
      const flags = isUnused ? 0 : flagsOf(text, at, end)
      if (isUnset(flags)) unset.push(index)
      else if (isMemory && flags === 0 && hasNoAddress(text.slice(at, end))) dropped.push(index)
      isUpperHalf = isMemory && (register & 6) === 4
    }
    at = end + 1
  }
  return unset.length + dropped.length === 0 ? null : Object.freeze({ unset, dropped })
}

const registerAt = (bytes: Uint8Array, at: number): number =>
  (bytes[at] ?? 0) | ((bytes[at + 1] ?? 0) << 8) | ((bytes[at + 2] ?? 0) << 16) | ((bytes[at + 3] ?? 0) << 24)

/** The third number of a line, 0 where there is none. */
function flagsOf(text: string, start: number, end: number): number {
  const first = text.indexOf(' ', start)
  const second = first < 0 ? -1 : text.indexOf(' ', first + 1)
  if (second < 0 || second >= end) return 0
  const third = text.indexOf(' ', second + 1)
  return Number(text.slice(second + 1, third < 0 || third > end ? end : third))
}

const hasNoAddress = (line: string) => Number(line.split(' ')[1] ?? 0) === 0

function parseBar(index: number, span: Span | null, flags: number): Bar | null {
  if (span === null) return null
  // JavaScript's bit operators take 32 bits, the flags have more.
  const low = flags % 2 ** 32
  if ((low & (RESOURCE.IO | RESOURCE.MEMORY)) === 0) return null
  return {
    index: index === 6 ? 'rom' : index,
    kind: low & RESOURCE.IO ? 'io' : 'memory',
    address: isUnset(flags) ? null : span.address,
    size: span.size,
    prefetchable: (low & RESOURCE.PREFETCH) !== 0,
    is64: (low & RESOURCE.MEMORY_64) !== 0,
  }
}

/** Trees without `modalias` still have the files of their own for each number. */
function readWhatIsMissing(root: string, drafts: readonly Draft[]): readonly Draft[] {
  const rest = drafts.filter((draft) => draft.alias === null || draft.space.header === null)
  if (rest.length === 0) return drafts
  const batch = readBatch(
    root,
    rest.map((draft) => draft.address),
    { files: ID_FILES },
  )
  const whole = new Map(
    rest.map((draft, row) => {
      const number = (name: string) => hexNumber(batch.text(row, name))
      const ids = {
        vendor: number('vendor') ?? draft.vendor,
        device: number('device') ?? draft.device,
        subsystemVendor: number('subsystem_vendor') ?? draft.subsystemVendor,
        subsystemDevice: number('subsystem_device') ?? draft.subsystemDevice,
        class: number('class') ?? draft.class,
        revision: number('revision') ?? draft.revision,
      }
      return [draft, { ...draft, ...ids }]
    }),
  )
  return drafts.map((draft) => whole.get(draft) ?? draft)
}

/** In brief: how a bridge does its resets, and without published methods how a device does, is behind the header. */
function readDecisiveConfig(root: string, drafts: readonly Draft[], publishesResetMethods: boolean): void {
  const some = drafts.filter(
    ({ space }) =>
      space.answers !== false && (!publishesResetMethods || space.header?.headerType !== 'normal'),
  )
  const batch = readBatch(
    root,
    some.map((draft) => draft.address),
    { files: SPACES, spaces: SPACES },
  )
  const spaceIn = batch.ofBytes('config', (bytes) => (bytes === null ? null : new Space(bytes)))
  for (const [row, draft] of some.entries()) draft.space = spaceIn(row) ?? draft.space
}

interface Detail {
  readonly totalVfs: number | null
  readonly bootVga: boolean
  readonly resettable: boolean
}

const SRIOV_ID = 0x10

/** What only some functions have, asked of those alone. */
function readDetails(
  root: string,
  drafts: readonly Draft[],
  publishesResetMethods: boolean,
  brief: boolean,
): Map<Draft, Detail> {
  const some = drafts.filter(
    (draft) =>
      draft.class >>> 16 === 0x03 ||
      (draft.resetMethods === null && !publishesResetMethods) ||
      // In brief the links of the VFs themselves are enough.
      (!brief && mayHaveVfs(draft)),
  )
  const details = new Map<Draft, Detail>()
  if (some.length === 0) return details
  const batch = readBatch(
    root,
    some.map((draft) => draft.address),
    {
      // Not `sriov_numvfs`, which says as much as the links: some kernels let its reader wait for as long as a driver is let go.
      files: brief ? ['boot_vga'] : ['sriov_totalvfs', 'boot_vga'],
      // It is there only to be written.
      nodes: ['reset'],
    },
  )
  for (const [row, draft] of some.entries()) {
    details.set(draft, {
      totalVfs: count(batch.text(row, 'sriov_totalvfs')),
      bootVga: batch.text(row, 'boot_vga') === '1',
      resettable: batch.errno(row, 'reset') === 0,
    })
  }
  return details
}

/** In brief: whether a device can be switched on is part of its verdict. Those of virtual functions are with their physical one. */
function beginResources(root: string, drafts: readonly Draft[]): () => void {
  const some = drafts.filter(({ pf, space }) => pf === null && space.header?.headerType === 'normal')
  const read = beginBatch(
    root,
    some.map(({ address }) => address),
    { files: ['resource'], limits: RESOURCE_LIMIT },
  )
  return () => {
    const batch = read()
    some.forEach((draft, row) => {
      draft.resource = batch.textOnce(row, 'resource')
    })
  }
}

interface Registered {
  readonly registered: boolean
  readonly device: string | null
  readonly vgpuType: number | null
}

/** What drivers have made known of the functions that they gave to VFIO; a function without a driver is given to nobody. */
function readRegistered(root: string, drafts: readonly Draft[]): Map<Draft, Registered> {
  const some = drafts.filter(({ driver }) => driver !== null && driver !== 'pcieport')
  const names = new Map<Draft, string>()
  for (const draft of some) {
    const name = draft.main.names(draft.row, 'vfio-dev')[0]
    if (name !== undefined) names.set(draft, name)
  }
  const made = [...names].map(([{ address }, name]) => `${address}/vfio-dev/${name}`)
  const numbers = readBatch(root, made, { files: ['dev'] })
  const cdevs = new Set(made.filter((_path, row) => numbers.text(row, 'dev') !== null))
  const vgpuTypes = readVgpuTypes(root, some)
  const registered = new Map<Draft, Registered>()
  for (const draft of [...names.keys(), ...vgpuTypes.keys()]) {
    const name = names.get(draft) ?? null
    const vgpuType = vgpuTypes.get(draft) ?? null
    if (name === null && vgpuType === null) continue
    const isCdev = cdevs.has(`${draft.address}/vfio-dev/${name}`)
    registered.set(draft, { registered: name !== null, device: isCdev ? name : null, vgpuType })
  }
  return registered
}

const NVIDIA = 0x10de

/** What NVIDIA's driver has made of its virtual functions. */
function readVgpuTypes(root: string, drafts: readonly Draft[]): Map<Draft, number | null> {
  const some = drafts.filter(({ vendor, driver }) => vendor === NVIDIA || driver?.startsWith('nvidia'))
  const batch = readBatch(
    root,
    some.map(({ address }) => address),
    { files: [VGPU_TYPE] },
  )
  return new Map(some.map((draft, row) => [draft, count(batch.text(row, VGPU_TYPE))]))
}

/** Without the privilege to read the extended list, the files have to tell. */
function mayHaveVfs(draft: Draft): boolean {
  const { bytes, header, capabilities } = draft.space
  if (draft.pf !== null || (header && header.headerType !== 'normal')) return false
  if (bytes.length <= 256) return bytes.length < 256
  return capabilities.extended.some((entry) => entry.id === SRIOV_ID)
}

function groupVfs(drafts: readonly Draft[]): Map<string, string[]> {
  const vfs = new Map<string, string[]>()
  for (const draft of drafts) {
    if (draft.pf === null) continue
    const known = vfs.get(draft.pf)
    if (known) known.push(draft.address)
    else vfs.set(draft.pf, [draft.address])
  }
  return vfs
}

function sriovOf(
  draft: Draft,
  capabilities: Capabilities,
  detail: Detail | undefined,
  present: ReadonlySet<string>,
  vfs: readonly string[] | undefined,
): Sriov | null {
  if (draft.pf !== null && present.has(draft.pf)) return { role: 'vf', pf: draft.pf }
  const totalVfs = detail?.totalVfs ?? capabilities.sriov?.totalVfs ?? null
  if (totalVfs === null && !vfs) return null
  return {
    role: 'pf',
    totalVfs: totalVfs ?? vfs?.length ?? 0,
    numVfs: vfs?.length ?? 0,
    vfs: vfs ?? EMPTY,
  }
}

type Slots = ReadonlyMap<string, NonNullable<PciDevice['slot']>>

function slotCovering(slots: Slots, address: string, rule: SlotRule): PciDevice['slot'] {
  if (rule === 'function') return slots.get(`${busOf(address)}:${devfnOf(address)}`) ?? null
  const ofBus = rule === 'bus' ? slots.get(`${busOf(address)}:00`) : undefined
  return ofBus?.driver === 'pciehp' ? ofBus : (slots.get(slotOf(address)) ?? null)
}

/** Slots by their `address`. The `module` link says which hot-plug driver serves a slot. */
function readSlots(sysfs: string): Slots {
  const root = `${sysfs}/bus/pci`
  const names = readBatch(root, ['.'], { lists: ['slots'] }).names(0, 'slots')
  const batch = readBatch(`${root}/slots`, names, { files: ['address'], links: ['module'] })
  const slots = new Map<string, { name: string; driver: string | null }>()
  for (const [row, name] of names.entries()) {
    const address = batch.text(row, 'address')
    if (address) slots.set(address, Object.freeze({ name, driver: batch.linkName(row, 'module') }))
  }
  return slots
}
