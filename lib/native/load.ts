import { existsSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { isAbsolute } from 'node:path'
import { VfioError } from '../errors.js'
import type { Binding } from './binding.js'
import { guardBusErrors } from './bus-errors.js'

const require = createRequire(import.meta.url)

interface Candidate {
  readonly name: string
  load(): unknown
}

// Literal paths, so that bundlers see them; from dist/index.js, the one file that the library is built into.
const DEVELOPMENT: Candidate = {
  name: 'build/Release/vfio.node',
  load: () => require('../build/Release/vfio.node'),
}
const PREBUILT: Record<string, Candidate> = {
  'x64 glibc': {
    name: 'prebuilds/linux-x64/vfio.glibc.node',
    load: () => require('../prebuilds/linux-x64/vfio.glibc.node'),
  },
  'x64 musl': {
    name: 'prebuilds/linux-x64/vfio.musl.node',
    load: () => require('../prebuilds/linux-x64/vfio.musl.node'),
  },
  'arm64 glibc': {
    name: 'prebuilds/linux-arm64/vfio.glibc.node',
    load: () => require('../prebuilds/linux-arm64/vfio.glibc.node'),
  },
  'arm64 musl': {
    name: 'prebuilds/linux-arm64/vfio.musl.node',
    load: () => require('../prebuilds/linux-arm64/vfio.musl.node'),
  },
  's390x glibc': {
    name: 'prebuilds/linux-s390x/vfio.glibc.node',
    load: () => require('../prebuilds/linux-s390x/vfio.glibc.node'),
  },
}

let loaded: Binding | undefined

/**
 * The addon, loaded on first use.
 * @throws VfioError `ERR_VFIO_ADDON`, with all that was tried and what to do.
 */
export function binding(): Binding {
  if (!loaded) {
    // A copy, because what the addon filled one by one is a hash table to the compiler, and this is not.
    loaded = { ...load() }
    guardBusErrors(loaded)
  }
  return loaded
}

function load(): Binding {
  if (process.platform !== 'linux') {
    throw new VfioError(
      'ERR_VFIO_ADDON',
      `VFIO is a part of Linux, and this is ${process.platform}: the package can be imported here and its pure functions work, but no device can be opened`,
    )
  }
  const libc = libcName()
  const failures: string[] = []
  for (const candidate of candidates(libc)) {
    try {
      return candidate.load() as Binding
    } catch (error) {
      failures.push(`    ${candidate.name}: ${reason(error)}`)
    }
  }
  throw new VfioError('ERR_VFIO_ADDON', helpPage(libc, failures))
}

function candidates(libc: string): Candidate[] {
  const override = process.env.VFIO_ADDON
  if (override) return [{ name: `VFIO_ADDON=${override}`, load: () => openAddon(override) }]
  const prebuilt = PREBUILT[`${process.arch} ${libc}`]
  return prebuilt ? [DEVELOPMENT, prebuilt] : [DEVELOPMENT]
}

/** Machine code alone: `require()` would run whatever JavaScript stands at that path. */
function openAddon(path: string): unknown {
  if (!isAbsolute(path)) throw new Error('not an absolute path')
  if (!existsSync(path)) throw new Error('not there')
  const loaded: { exports: Partial<Binding> } = { exports: {} }
  process.dlopen(loaded, path)
  if (loaded.exports.Container === undefined) throw new Error('an addon, and not that of vfio')
  return loaded.exports
}

function libcName(): 'glibc' | 'musl' {
  try {
    return readFileSync('/proc/self/maps', 'utf8').includes('/ld-musl-') ? 'musl' : 'glibc'
  } catch {
    // Where there is no /proc: what does not fit cannot be loaded, and says so.
    return 'glibc'
  }
}

function reason(error: unknown): string {
  const { code, message } = error as { code?: unknown; message?: unknown }
  return code === 'MODULE_NOT_FOUND' ? 'not there' : (String(message).split('\n')[0] ?? '')
}

function helpPage(libc: string, failures: readonly string[]): string {
  const target = `linux-${process.arch}`
  const shipped = `${process.arch} ${libc}` in PREBUILT
  return [
    'The native addon of the package "vfio" could not be loaded.',
    `  This is:  ${target}, ${libc}, Node ${process.version}`,
    '  Tried:',
    ...failures,
    '  What to do:',
    ...(shipped
      ? [
          '    - Installed from npm: reinstall the package (npm install --force vfio); its prebuilt binaries are in prebuilds/.',
          '    - node_modules copied from another machine, or a bundle: install on this platform, and keep *.node files outside the bundle.',
        ]
      : [`    - There is no prebuilt binary for ${target} with ${libc}: build it from the repository.`]),
    '    - In a checkout of the repository: npm run build:addon (needs a C++17 compiler, make and Python 3).',
    '    - Somewhere else: set the environment variable VFIO_ADDON to the absolute path of a vfio.node.',
  ].join('\n')
}
