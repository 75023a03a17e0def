import { expandAddress, isAddress } from './address.js'
import { readDevices } from './devices.js'
import { type HostPaths, readFacts } from './facts.js'
import { below, listNames, readText } from './files.js'
import { readGroups } from './groups.js'
import { isKernelSince } from './kernel.js'
import { findModuleDirectory, ModuleAliases } from './modules.js'
import { PciNames } from './names.js'
import { neighbourhoodOf } from './neighbourhood.js'
import { Snapshot } from './snapshot.js'
import { readUse } from './use.js'

/**
 * Where to look. Nothing given is the running host; beside another `sysfs` the trees that are not given count as not
 * known, since those of this machine would tell of another host.
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
   * few devices of a large host: the members of their groups, and what hangs on the same slots of the root buses. What goes
   * by ids needs the whole host.
   */
  readonly around?: readonly string[]
}

/** A host, or a tree that looks like one. Looking starts no program, opens no device and changes nothing. */
export class Host {
  readonly paths: HostPaths
  readonly #kernel: string
  readonly #pciIds: string | undefined
  #aliases: ModuleAliases | undefined
  #names: PciNames | undefined

  constructor(options: HostOptions = {}) {
    const own = (path: string) => (options.sysfs === undefined ? path : null)
    const proc = options.proc ?? own('/proc')
    this.#kernel = readRelease(proc)
    this.#pciIds = options.pciIds
    this.paths = Object.freeze({
      sysfs: options.sysfs ?? '/sys',
      dev: options.dev ?? own('/dev'),
      proc,
      run: options.run ?? own('/run'),
      modules: findModuleDirectory(options.modules ?? own(`/lib/modules/${this.#kernel}`), this.#kernel),
    })
  }

  /**
   * One look at everything. Unreadable and missing files leave their facts out; what vanishes meanwhile is left out
   * altogether.
   * @throws VfioError `ERR_VFIO_BAD_ADDRESS` where `around` has something else; `ERR_VFIO_NO_DEVICE` where that names a
   * device without a function, and there is none of it
   */
  snapshot({ brief = false, around }: SnapshotOptions = {}): Snapshot {
    const all = () => listNames(`${this.paths.sysfs}/bus/pci/devices`).filter(isAddress)
    const wanted = around?.flatMap((address) => expandAddress(address, all))
    this.#aliases ??= ModuleAliases.read(this.paths.modules)
    this.#names ??= PciNames.read(this.#pciIds)
    const some = wanted ? neighbourhoodOf(this.paths.sysfs, wanted) : null
    const names = some ?? listNames(`${this.paths.sysfs}/bus/pci/devices`)
    const devices = readDevices(this.paths.sysfs, names, {
      aliases: this.#aliases,
      names: this.#names,
      publishesResetMethods: this.#kernel === '' ? null : isKernelSince(this.#kernel, 5, 15),
      brief,
    })
    const groups = readGroups(this.paths.sysfs, devices, { brief, empty: some === null })
    const use = brief ? undefined : readUse(this.paths, devices)
    return new Snapshot(readFacts(this.paths, this.#kernel), groups, devices, use, some !== null)
  }
}

/** `/proc/sys/kernel/osrelease`, or the third word of `/proc/version` where only that was copied. */
function readRelease(proc: string | null): string {
  const release = readText(below(proc, 'sys/kernel/osrelease'))
  return release ?? /^Linux version (\S+)/.exec(readText(below(proc, 'version')) ?? '')?.[1] ?? ''
}
