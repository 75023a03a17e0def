import { statSync } from 'node:fs'
import { below, exists, readText } from './files.js'
import { noting } from './unseen.js'

/** Which kernel modules say that they drive a device, from `modules.alias` and `modules.builtin.modinfo`. */
export interface ModuleCandidates {
  /** Ordinary drivers, in the order of the file; names as `modprobe` takes them. */
  readonly modules: readonly string[]
  /** VFIO variant drivers (`vfio_pci:` aliases) more specific than vfio-pci itself, the most specific first. */
  readonly variants: readonly string[]
}

const NO_CANDIDATES: ModuleCandidates = Object.freeze({ modules: [], variants: [] })

/** An alias taken apart: -1 stands for `*`. */
interface AliasPattern {
  readonly module: string
  readonly fields: readonly number[]
}

const FIELDS =
  /^v([0-9A-F]+|\*)d([0-9A-F]+|\*)sv([0-9A-F]+|\*)sd([0-9A-F]+|\*)bc([0-9A-F]+|\*)sc([0-9A-F]+|\*)i([0-9A-F]+|\*)\*?$/

function parseFields(text: string): number[] | null {
  const match = FIELDS.exec(text)
  return match ? match.slice(1).map((field) => (field === '*' ? -1 : Number.parseInt(field, 16))) : null
}

/** Lines of one bus by vendor field: most vendors of the file are never asked for, so parsing waits. */
class AliasIndex {
  readonly #lines = new Map<string, string[]>()
  readonly #parsed = new Map<string, AliasPattern[]>()

  /** @param alias the text behind `pci:` or `vfio_pci:` */
  add(alias: string, module: string): void {
    const end = alias.indexOf('d')
    if (alias[0] !== 'v' || end < 0) return
    const vendor = alias.slice(1, end)
    const lines = this.#lines.get(vendor)
    if (lines) lines.push(`${alias} ${module}`)
    else this.#lines.set(vendor, [`${alias} ${module}`])
  }

  #of(vendor: string): readonly AliasPattern[] {
    let patterns = this.#parsed.get(vendor)
    if (!patterns) {
      patterns = []
      for (const line of this.#lines.get(vendor) ?? []) {
        const space = line.indexOf(' ')
        const fields = parseFields(line.slice(0, space))
        if (fields) patterns.push({ module: line.slice(space + 1), fields })
      }
      this.#parsed.set(vendor, patterns)
    }
    return patterns
  }

  match(vendor: string, fields: readonly number[]): string[] {
    return [...this.#best(vendor, fields).keys()]
  }

  /** The same, with the fewest wildcards first, as libvirt takes them (`virPCIDeviceFindBestVFIOVariant`); equals in the order of the file. */
  matchBest(vendor: string, fields: readonly number[]): string[] {
    return [...this.#best(vendor, fields)].sort(([, a], [, b]) => a - b).map(([module]) => module)
  }

  /** Each module that matches, with how many wildcards its best alias has. */
  #best(vendor: string, fields: readonly number[]): Map<string, number> {
    const found = new Map<string, number>()
    for (const key of [vendor, '*']) {
      for (const pattern of this.#of(key)) {
        if (!pattern.fields.every((field, index) => field === -1 || field === fields[index])) continue
        const wildcards = pattern.fields.filter((field) => field === -1).length
        found.set(pattern.module, Math.min(wildcards, found.get(pattern.module) ?? wildcards))
      }
    }
    return found
  }
}

/** A file that is written anew is another one, or has another time. `null`: not to be told. */
function stateOf(path: string | null): string | null {
  if (path === null) return ''
  try {
    const facts = statSync(path, { bigint: true, throwIfNoEntry: false })
    if (!facts) return `${path} is not there`
    return `${path} ${facts.dev}:${facts.ino} ${facts.size} ${facts.mtimeNs} ${facts.ctimeNs}`
  } catch {
    return null
  }
}

function stateOfAll(directory: string | null, names: readonly string[]): string | null {
  const states = names.map((name) => stateOf(below(directory, name)))
  return states.includes(null) ? null : states.join('\n')
}

/** Answers which modules match a modalias. Reads the files once; absent files mean no candidates. */
export class ModuleAliases {
  readonly #pci = new AliasIndex()
  readonly #vfio = new AliasIndex()
  readonly #answers = new Map<string, ModuleCandidates>()
  /** Whether depmod's list was there, and it and what is built in could be read: without them no candidate proves nothing. */
  readonly isComplete: boolean

  /** What was read last, by the files as they were then: they are large, and every look at a host wants them. */
  static #last: { readonly key: string; readonly aliases: ModuleAliases } | undefined

  /** @param directory the kernel's module directory, for instance `/lib/modules/6.12.0-amd64` */
  static read(directory: string | null): ModuleAliases {
    const names = ['modules.alias', 'modules.builtin.modinfo']
    const key = stateOfAll(directory, names)
    if (key !== null && ModuleAliases.#last?.key === key) return ModuleAliases.#last.aliases
    const { seen, unseen } = noting(() => names.map((name) => readText(below(directory, name))))
    const [aliases, builtinInfo] = seen
    const read = new ModuleAliases(aliases ?? null, builtinInfo, unseen.length === 0)
    if (key !== null && unseen.length === 0) ModuleAliases.#last = { key, aliases: read }
    return read
  }

  constructor(aliases: string | null, builtinInfo: string | null = null, isAllRead = true) {
    this.isComplete = aliases !== null && isAllRead
    for (const line of (aliases ?? '').split('\n')) {
      if (line.startsWith('alias pci:') || line.startsWith('alias vfio_pci:')) {
        const [, alias = '', module = ''] = line.split(' ')
        this.#add(alias, module)
      }
    }
    for (const entry of (builtinInfo ?? '').split('\0')) {
      const at = entry.indexOf('.alias=')
      if (at > 0) this.#add(entry.slice(at + 7), entry.slice(0, at))
    }
  }

  #add(alias: string, module: string): void {
    if (!module) return
    if (alias.startsWith('pci:')) this.#pci.add(alias.slice(4), module)
    else if (alias.startsWith('vfio_pci:')) this.#vfio.add(alias.slice(9), module)
  }

  /** @param modalias as sysfs prints it: `pci:v…d…sv…sd…bc…sc…i…` */
  candidates(modalias: string): ModuleCandidates {
    const known = this.#answers.get(modalias)
    if (known) return known
    const text = modalias.startsWith('pci:') ? modalias.slice(4) : ''
    const fields = parseFields(text)
    let answer = NO_CANDIDATES
    if (fields) {
      const vendor = text.slice(1, text.indexOf('d'))
      answer = Object.freeze({
        modules: this.#pci.match(vendor, fields),
        variants: this.#vfio
          .matchBest(vendor, fields)
          .filter((name) => name.replaceAll('-', '_') !== 'vfio_pci'),
      })
    }
    this.#answers.set(modalias, answer)
    return answer
  }
}

/** The modules that a kernel has, with `_` in their names; `null` where there is no list to tell by. */
export interface ModuleLists {
  readonly builtin: ReadonlySet<string> | null
  readonly loadable: ReadonlySet<string> | null
}

/** What depmod and the kernel's build leave in a module directory. */
const INDEXES = [
  'modules.dep',
  'modules.builtin',
  'modules.order',
  'modules.alias',
  'modules.builtin.modinfo',
]

/** Where distributions have a kernel's modules, if not in `/lib/modules`: merged `/usr`, NixOS and Guix. */
const OTHER_PLACES = [
  '/usr/lib/modules/RELEASE',
  '/run/booted-system/kernel-modules/lib/modules/RELEASE',
  '/run/booted-system/kernel/lib/modules/RELEASE',
]

/**
 * The module directory of a kernel: the one that is given, the release below it where it is the directory of all
 * kernels, and on the running host where else distributions have it. The given one where none has any list.
 */
export function findModuleDirectory(given: string | null, kernel: string): string | null {
  if (given === null) return null
  const isHosts = given === `/lib/modules/${kernel}`
  const others = isHosts ? OTHER_PLACES.map((place) => place.replace('RELEASE', kernel)) : []
  const below = kernel === '' ? [] : [`${given}/${kernel}`, `${given}/lib/modules/${kernel}`]
  const hasLists = (directory: string) => INDEXES.some((name) => exists(`${directory}/${name}`))
  return [given, ...below, ...others].find(hasLists) ?? given
}

/** The lists that were read last, by the files as they were then. */
let lastLists: { readonly key: string; readonly lists: ModuleLists } | undefined

/** Which modules there are: what the build says (`modules.order`) where depmod never ran. */
export function readModuleLists(directory: string | null): ModuleLists {
  const key = stateOfAll(directory, [
    'modules.builtin.modinfo',
    'modules.builtin',
    'modules.dep',
    'modules.order',
  ])
  if (key !== null && lastLists?.key === key) return lastLists.lists
  const lists = readLists(directory)
  if (key !== null) lastLists = { key, lists }
  return lists
}

function readLists(directory: string | null): ModuleLists {
  const text = (name: string) => readText(below(directory, name))
  const info = text('modules.builtin.modinfo')
  const builtin = text('modules.builtin')
  const loadable = text('modules.dep') ?? text('modules.order')
  return {
    builtin: builtin !== null ? fileNames(builtin) : info !== null ? infoNames(info) : null,
    loadable: loadable === null ? null : fileNames(loadable),
  }
}

/** Out of lines like `kernel/drivers/vfio/pci/vfio-pci.ko.xz: …`; `modules.order` of old has them without a directory, or as `.o`. */
function fileNames(text: string): Set<string> {
  const names = new Set<string>()
  for (const [, name = ''] of text.matchAll(/^(?:[^:\n]*\/)?([^/\s:]+)\.k?o\b[^\n]*$/gm))
    names.add(name.replaceAll('-', '_'))
  return names
}

/** `vfio.license=GPL` and more for each module, with a zero byte behind. */
const infoNames = (text: string) =>
  new Set(text.split('\0').flatMap((entry) => /^([\w-]+)\./.exec(entry)?.[1]?.replaceAll('-', '_') ?? []))
