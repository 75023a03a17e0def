import { VfioError } from '../errors.js'
import { notLinux } from '../native/load.js'
import { expandName, isAddress, isUuid } from './address.js'
import { beginFunctions, type DevicesSeen, readDevices, type SlotRule } from './devices.js'
import { type HostFacts, type HostPaths, readFacts } from './facts.js'
import { below, exists, readText } from './files.js'
import { beginGroups, type GroupsSeen, listGroups, readGroups } from './groups.js'
import { isKernelSince } from './kernel.js'
import { readMediated } from './mediated.js'
import { findModuleDirectory, ModuleAliases } from './modules.js'
import { PciNames } from './names.js'
import { neighbourhoodOf } from './neighbourhood.js'
import { type PlatformFacts, readPlatform } from './platform.js'
import { Snapshot } from './snapshot.js'
import { readBatch } from './tree.js'
import { leavingOut, noteUnseen, noting, type Unseen } from './unseen.js'
import { beginUse, readUse } from './use.js'
import { readPlaces } from './use-paths.js'

/**
 * The trees to read. Without options these are of the running host; with another `sysfs` the trees that are not given are not
 * known, since those of this machine belong to another host.
 */
export interface HostOptions {
  /** In place of `/sys`. */
  readonly sysfs?: string
  /** In place of `/dev`. */
  readonly dev?: string
  /** In place of `/proc`. */
  readonly proc?: string
  /** In place of `/run`, where udev keeps what it found on disks. */
  readonly run?: string
  /** The kernel's module directory, in place of `/lib/modules/<release>`; or the directory of those of all kernels. */
  readonly modules?: string
  /** The file of device names, in place of where the packages pci.ids and hwdata put it. */
  readonly pciIds?: string
}

export interface SnapshotOptions {
  /**
   * Look only at what verdicts need, for a quick overview of a large host: BARs, NUMA nodes, overrides, the
   * capabilities of endpoints and what the host uses devices for are left out as if they could not be read.
   */
  readonly brief?: boolean
  /**
   * Look only at these functions and at those that verdicts and plans about them depend on, for a quick answer about a
   * few devices of a large host: the members of their groups, and what hangs on the same slots of the root buses. A mediated
   * device is named by its UUID, and brings the function that carries it. What goes by ids needs the whole host.
   */
  readonly around?: readonly string[]
}

/** @internal */
export interface LookOptions extends SnapshotOptions {
  /** Overrides by address: of those that are not in it nothing is known. `null`: all are read. */
  readonly overrides: ReadonlyMap<string, string | null> | null
  /** What the host uses devices for is looked at, or left out; left out: as `brief` says. */
  readonly uses?: boolean
  /** Is told how many names of functions there are, before they are read. */
  readonly counted?: (functions: number) => void
  /** Facts that no plan depends on come from the last look at this host, if there was one. */
  readonly again?: boolean
}

/** For looks that do not need overrides: none is read, and none is known. */
export const NONE: ReadonlyMap<string, null> = new Map()

/** Hosts by their `paths`, which snapshots and plans refer to. */
const hosts = new WeakMap<HostPaths, Host>()

/**
 * The host that was looked at, with what it keeps between looks; `undefined` where another program did.
 * @internal
 */
export const hostOf = (paths: HostPaths): Host | undefined => hosts.get(paths)

/** A host, or a tree that looks like one. Looking starts no program, opens no device and changes nothing. */
export class Host {
  readonly paths: HostPaths
  readonly #kernel: string
  readonly #unseen: readonly Unseen[]
  readonly #pciIds: string | undefined
  /** The host that this program runs on, and no other tree. */
  readonly #isOwn: boolean
  #aliases: ModuleAliases | undefined
  #names: PciNames | undefined
  /** A host stays the kind of machine that it is. */
  #platform: PlatformFacts | undefined
  #facts: HostFacts | null = null
  /** The last look at everything. */
  #last: { readonly ofDevices: DevicesSeen; readonly ofGroups: GroupsSeen } | null = null

  /** @throws VfioError `ERR_VFIO_BAD_ARGUMENT` for what is no path */
  constructor(options: HostOptions = {}) {
    checkTrees(options)
    const own = (path: string) => (options.sysfs === undefined ? path : null)
    const proc = options.proc ?? own('/proc')
    const { seen, unseen } = noting(() => {
      const kernel = readRelease(proc)
      return {
        kernel,
        modules: findModuleDirectory(options.modules ?? own(`/lib/modules/${kernel}`), kernel),
      }
    })
    this.#kernel = seen.kernel
    this.#unseen = unseen
    this.#pciIds = options.pciIds
    this.#isOwn = options.sysfs === undefined
    this.paths = Object.freeze({
      sysfs: options.sysfs ?? '/sys',
      dev: options.dev ?? own('/dev'),
      proc,
      run: options.run ?? own('/run'),
      modules: seen.modules,
    })
    hosts.set(this.paths, this)
  }

  /**
   * One look at everything. Missing files leave their facts out; what vanishes meanwhile is left out altogether. What
   * could not be looked at is in `unseen`, and blocks what it concerns.
   * @throws VfioError `ERR_VFIO_BAD_ADDRESS` where `around` has something else; `ERR_VFIO_NO_DEVICE` where that names a
   * device without a function, and there is none of it
   * @throws VfioError `ERR_VFIO_ADDON` where the running system is not Linux, and no other tree is given;
   * `ERR_VFIO_BAD_FILE` where sysfs is not mounted
   * @throws VfioSystemError `EMFILE`, `ENFILE`, `ENOMEM`: nothing can be looked at while this lasts
   */
  snapshot(options: SnapshotOptions = {}): Snapshot {
    return this.look({ ...options, overrides: options.brief ? NONE : null })
  }

  /**
   * The same for callers that need no overrides of drivers, or know them.
   * @internal
   */
  look({ brief = false, around, overrides, uses = !brief, again = false, counted }: LookOptions): Snapshot {
    if (this.#isOwn) expectSysfs()
    const all = () => listFunctions(this.paths.sysfs).filter(isAddress)
    const wanted = around?.flatMap((address) => expandName(address, all))
    const { seen, unseen } = noting(() => {
      const some = wanted ? neighbourhoodOf(this.paths.sysfs, functionsOf(this.paths.sysfs, wanted)) : null
      const last = brief || some ? null : this.#last
      const names = some ?? listFunctions(this.paths.sysfs)
      counted?.(names.length)
      const begunFunctions = beginFunctions(this.paths.sysfs, names, {
        brief,
        isFirst: last === null,
      })
      // What is asked for between here and where they are wanted is read meanwhile.
      const aliases = leavingOut(() => (this.#aliases ??= ModuleAliases.read(this.paths.modules)))
      const deviceNames = leavingOut(() => (this.#names ??= PciNames.read(this.#pciIds)))
      const platform = this.#lookAtPlatform()
      const listed = some ? [] : listGroups(this.paths.sysfs)
      const functions = begunFunctions({ aliases, names: deviceNames })
      const context = {
        aliases,
        names: deviceNames,
        // Older kernels may have it from a newer one: then the tree tells.
        publishesResetMethods: this.#kernel !== '' && isKernelSince(this.#kernel, 5, 15) ? true : null,
        brief,
        overrides,
        slotRule: slotRuleOf(this.#kernel, platform),
      }
      const begunGroups = once(() => beginGroups(this.paths.sysfs, brief, listed))
      const ofDevices = readDevices(
        this.paths.sysfs,
        functions,
        context,
        last?.ofDevices ?? null,
        begunGroups,
      )
      const { devices } = ofDevices
      const begunUse = uses ? beginUse(this.paths.sysfs, devices) : null
      const present = some && new Set(devices.map(({ address }) => address))
      const mediated = readMediated(this.paths.sysfs, {
        brief,
        concerns:
          present && ((uuid, on) => wanted?.includes(uuid) || on.some((address) => present.has(address))),
      })
      const ofGroups = readGroups(
        this.paths.sysfs,
        begunGroups(),
        devices,
        mediated.devices,
        last?.ofGroups ?? null,
      )
      const { groups } = ofGroups
      if (!brief && !some) this.#last = { ofDevices, ofGroups }
      return {
        aliases,
        devices,
        groups,
        mediated,
        begunUse,
        isPartial: some !== null,
        facts: readFacts(this.paths, this.#kernel, platform, groups, again ? this.#facts : null),
      }
    })
    const { aliases, devices, groups, mediated, begunUse, isPartial, facts } = seen
    this.#facts = facts
    const use = begunUse
      ? readUse(this.paths, devices, begunUse, {
          kernel: this.#kernel,
          isPartial,
          mediated: mediated.devices,
        })
      : undefined
    const notSeen = [...this.#unseen, ...unseen]
    const known = aliases.isComplete ? facts : Object.freeze({ ...facts, variantsUnknown: true as const })
    const snapshot = new Snapshot(known, groups, devices, use, isPartial, notSeen, mediated)
    // What was asked for and is not there is near something that is.
    const isMissed = isPartial && wanted?.some((name) => isAddress(name) && !snapshot.has(name))
    return isMissed ? snapshot.knowing(all()) : snapshot
  }

  /** What could not be seen this time may be seen the next time, and is told until then. */
  #lookAtPlatform(): PlatformFacts {
    if (this.#platform) return this.#platform
    const { seen, unseen } = noting(() => readPlatform(this.paths, this.#kernel))
    for (const { path, code } of unseen) noteUnseen(path, code)
    if (unseen.length === 0) this.#platform = seen
    return seen
  }
}

const listFunctions = (sysfs: string) =>
  readBatch(`${sysfs}/bus/pci`, ['.'], { lists: ['devices'] }).names(0, 'devices')

const TREES = ['sysfs', 'dev', 'proc', 'run', 'modules', 'pciIds'] as const

/** What is no path would be found nowhere, and the host look like one without devices. */
function checkTrees(options: unknown): void {
  if (typeof options !== 'object' || options === null)
    throw new VfioError('ERR_VFIO_BAD_ARGUMENT', 'expected an object with the paths of trees')
  for (const name of TREES) {
    const path: unknown = (options as HostOptions)[name]
    // The file of names may be given as what Node takes besides.
    const isPath = typeof path === 'string' ? path !== '' && !path.includes('\0') : name === 'pciIds'
    if (path === undefined || path === null || isPath) continue
    const message = `${name} must be a path: text that is not empty and has no NUL`
    throw new VfioError('ERR_VFIO_BAD_ARGUMENT', message)
  }
}

/** What is made by the first who asks. */
function once<T>(make: () => T): () => T {
  let made: T | undefined
  return () => {
    made ??= make()
    return made
  }
}

/** Without sysfs there is nothing to be seen, which is no host without devices. */
function expectSysfs(): void {
  if (process.platform !== 'linux') throw notLinux()
  if (exists('/sys/bus')) return
  throw new VfioError(
    'ERR_VFIO_BAD_FILE',
    'sysfs is not mounted at /sys, so nothing can be known of this host: mount -t sysfs sysfs /sys (a container gets it from whoever starts it)',
  )
}

/** Those functions, and the ones that carry those mediated devices: the last that their paths lead through. */
function functionsOf(sysfs: string, names: readonly string[]): readonly string[] {
  const uuids = names.filter(isUuid)
  const carriers = readPlaces(sysfs, 'bus/mdev/devices', uuids).flatMap(({ functions }) =>
    functions.slice(-1),
  )
  return [...names.filter((name) => !isUuid(name)), ...carriers]
}

/** By version, because what a slot publishes is the same under every rule. */
function slotRuleOf(kernel: string, { architecture }: PlatformFacts): SlotRule {
  if (!isKernelSince(kernel, 7, 0)) return 'device'
  return architecture === 's390' ? 'function' : 'bus'
}

/** `/proc/sys/kernel/osrelease`, or the third word of `/proc/version` where only that was copied. */
function readRelease(proc: string | null): string {
  const release = readText(below(proc, 'sys/kernel/osrelease'))
  return release ?? /^Linux version (\S+)/.exec(readText(below(proc, 'version')) ?? '')?.[1] ?? ''
}
