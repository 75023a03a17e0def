import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { isAbsolute } from 'node:path'
import { VfioError } from '../errors.js'
import type { Binding } from './binding.js'
import { guardBusErrors } from './bus-errors.js'
import { type Failed, helpPage, type ShortHelp, shortHelp, type Tried } from './help.js'

/** Bundlers that write CommonJS leave no name of this file: then there is nothing beside it either. */
const require = import.meta.url ? createRequire(import.meta.url) : noRequire

interface Candidate {
  readonly name: string
  load(): unknown
}

// Literal paths, so that bundlers see them; from dist/index.js, the one file that the library is built into.
const DEVELOPMENT: Candidate = {
  name: 'build/Release/vfio.node',
  load: () => require('../build/Release/vfio.node'),
}
/** By processor; of the two C libraries each refuses what was built for the other. */
const PREBUILT: Readonly<Record<string, Readonly<Partial<Record<'glibc' | 'musl', Candidate>>>>> = {
  x64: {
    glibc: {
      name: 'prebuilds/linux-x64/vfio.glibc.node',
      load: () => require('../prebuilds/linux-x64/vfio.glibc.node'),
    },
    musl: {
      name: 'prebuilds/linux-x64/vfio.musl.node',
      load: () => require('../prebuilds/linux-x64/vfio.musl.node'),
    },
  },
  arm64: {
    glibc: {
      name: 'prebuilds/linux-arm64/vfio.glibc.node',
      load: () => require('../prebuilds/linux-arm64/vfio.glibc.node'),
    },
    musl: {
      name: 'prebuilds/linux-arm64/vfio.musl.node',
      load: () => require('../prebuilds/linux-arm64/vfio.musl.node'),
    },
  },
  s390x: {
    glibc: {
      name: 'prebuilds/linux-s390x/vfio.glibc.node',
      load: () => require('../prebuilds/linux-s390x/vfio.glibc.node'),
    },
  },
}

let loaded: Binding | undefined

/**
 * The addon, loaded on first use.
 * @throws VfioError `ERR_VFIO_ADDON`, with all that was tried and what to do.
 */
export function binding(): Binding {
  return loaded ?? loadNow()
}

// Apart, as what is said of wrong arguments: the compiler puts in line what is short.
function loadNow(): Binding {
  if (process.platform !== 'linux') throw notLinux()
  const found = load()
  if (Array.isArray(found)) throw new VfioError('ERR_VFIO_ADDON', helpPage(failureOf(found)))
  return found
}

/** What was tried before; while it is set, no look tries it again. */
let missing: readonly Tried[] | undefined

/**
 * The addon for what can do without it: `null` where there is none for this machine.
 * @throws VfioError `ERR_VFIO_ADDON` where VFIO_ADDON names one that cannot be loaded
 */
export function bindingIfThere(): Binding | null {
  if (loaded) return loaded
  if (process.platform !== 'linux' || missing) return null
  if (process.env.VFIO_ADDON) return binding()
  const found = load()
  if (!Array.isArray(found)) return found
  missing = found
  return null
}

/** Why {@link bindingIfThere} found none, and what to do about it; `null` where it did not look in vain. */
export function whyMissing(): ShortHelp | null {
  if (!missing || loaded) return null
  why ??= shortHelp(failureOf(missing))
  return why
}
let why: ShortHelp | undefined

/** For what takes the kernel that this program runs on. */
export const notLinux = () =>
  new VfioError(
    'ERR_VFIO_ADDON',
    `VFIO is a part of Linux, and this is ${process.platform}: the package can be imported here, its pure functions work and it looks at copied trees (--sysfs), but there is no device to look at or to open`,
  )

/** The places that {@link binding} looks at, in order; VFIO_ADDON is the only one where it is set. */
function candidatesHere(): readonly Candidate[] {
  const override = process.env.VFIO_ADDON
  if (override) return [{ name: `VFIO_ADDON=${override}`, load: () => openAddon(override) }]
  return [DEVELOPMENT, ...Object.values(PREBUILT[process.arch] ?? {})]
}

/** The addon, or why it could not be loaded from each place. */
function load(): Binding | Tried[] {
  const tried: Tried[] = []
  for (const { name, load } of candidatesHere()) {
    try {
      // A copy, because what the addon filled one by one is a hash table to the compiler, and this is not.
      loaded = { ...(load() as Binding) }
      guardBusErrors(loaded)
      return loaded
    } catch (error) {
      const { code, message } = error as { code?: unknown; message?: unknown }
      const absent = code === 'MODULE_NOT_FOUND' || code === 'ENOENT'
      tried.push({ name, absent, reason: absent ? 'not there' : (String(message).split('\n')[0] ?? '') })
    }
  }
  return tried
}

const failureOf = (tried: readonly Tried[]): Failed => ({
  arch: process.arch,
  libc: libcOfProcess(),
  runtime: `Node ${process.version}`,
  shipped: Object.keys(PREBUILT[process.arch] ?? {}) as ('glibc' | 'musl')[],
  overridden: Boolean(process.env.VFIO_ADDON),
  bundled: !isPackage(),
  tried,
})

/** Machine code alone: `require()` would run whatever JavaScript stands at that path. */
function openAddon(path: string): unknown {
  if (!isAbsolute(path)) throw new Error('not an absolute path')
  if (!existsSync(path)) throw new Error('not there')
  const loaded: { exports: Partial<Binding> } = { exports: {} }
  process.dlopen(loaded, path)
  if (loaded.exports.Container === undefined) throw new Error('an addon, and not that of vfio')
  return loaded.exports
}

function noRequire(path: string): never {
  throw new Error(`nothing can be found from a bundle: ${path}`)
}

/** Whether this is code of the package where the package has it, and not copied into a bundle. */
function isPackage(): boolean {
  try {
    return (require('../package.json') as { name?: unknown }).name === 'vfio'
  } catch {
    return false
  }
}

function libcOfProcess(): string {
  const report = process.report as (NodeJS.ProcessReport & { excludeNetwork?: boolean }) | undefined
  if (report === undefined) return 'a C library that is not known'
  const { excludeNetwork } = report
  // Else it asks for the names of all that this process talks to.
  report.excludeNetwork = true
  const { header, sharedObjects } = report.getReport() as {
    header?: { glibcVersionRuntime?: string }
    sharedObjects?: string[]
  }
  if (excludeNetwork !== undefined) report.excludeNetwork = excludeNetwork
  if (header?.glibcVersionRuntime !== undefined) return `glibc ${header.glibcVersionRuntime}`
  return sharedObjects?.some((file) => /\/(ld-musl-|libc\.musl-)/.test(file))
    ? 'musl'
    : 'a C library that is not known'
}
