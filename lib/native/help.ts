/** One of the places where the addon was looked for. */
export interface Tried {
  readonly name: string
  readonly absent: boolean
  /** Why it could not be loaded, in the runtime's own words. */
  readonly reason: string
}

/** What is known where the addon could not be loaded from anywhere. */
export interface Failed {
  readonly arch: string
  /** The C library of this process: `glibc 2.36`, `musl`. */
  readonly libc: string
  /** What runs it, with its version. */
  readonly runtime: string
  /** The C libraries that the package brings a binary for, on this processor. */
  readonly shipped: readonly ('glibc' | 'musl')[]
  /** VFIO_ADDON named the only place. */
  readonly overridden: boolean
  /** A bundler put the library's code into another file. */
  readonly bundled: boolean
  readonly tried: readonly Tried[]
}

/** The oldest glibc that the binaries in the package run with; test/package/ holds them to it. */
export const NEEDED_GLIBC = '2.28'

/** A page for a person: what this is and what was looked for, what was tried, and what to do about it here. */
export function helpPage(failed: Failed): string {
  const { arch, libc, runtime, shipped, tried } = failed
  const kinds = shipped.map((kind) => (kind === 'glibc' ? `glibc ${NEEDED_GLIBC} or newer` : kind))
  return [
    'The native addon of the package "vfio" could not be loaded.',
    `  This is:  linux-${arch}, ${libc}, ${runtime}`,
    `  It needs: ${kinds.length === 0 ? `linux on x64, arm64 or s390x, or a binary built on this machine` : kinds.join(', or ')}`,
    '  Tried:',
    ...tried.map(({ name, reason }) => `    ${name}: ${reason}`),
    '  What to do:',
    ...advice(failed).map((line) => `    - ${line}`),
  ].join('\n')
}

/** The same for who goes on without the addon. */
export interface ShortHelp {
  readonly reason: string
  readonly cure: string
}

export function shortHelp(failed: Failed): ShortHelp {
  const refused = failed.tried.filter(({ absent }) => !absent)
  const reasons = refused.map(({ name, reason }) => `${name}: ${reason}`)
  return {
    reason: reasons.length > 0 ? reasons.join('; ') : 'there is none for this machine',
    cure: advice(failed)
      .map((line) => line.trim())
      .join(' '),
  }
}

const BUILD = 'with a C++17 compiler, make and Python 3: npm explore vfio -- npm run build:addon'

function advice(failed: Failed): string[] {
  const { arch, libc, shipped, overridden, bundled, tried } = failed
  if (overridden)
    return [
      'VFIO_ADDON has to be the absolute path of a vfio.node for this machine; without it, the package looks for its own.',
    ]
  if (bundled) {
    return [
      'A bundle cannot carry the addon: mark `vfio` external (esbuild --external:vfio; external: ["vfio"] elsewhere),',
      '  and install the package beside the bundle. Or set VFIO_ADDON to the absolute path of a vfio.node.',
    ]
  }
  const elsewhere = 'A binary that lies somewhere else: set VFIO_ADDON to its absolute path.'
  if (shipped.length === 0)
    return [`The package brings no binary for linux-${arch}. Build it here, ${BUILD}`, elsewhere]
  if (isOlder(libc, NEEDED_GLIBC)) {
    return [
      `${libc} is too old for the binary, which needs ${NEEDED_GLIBC}: use a newer system or container image.`,
      `Or build it here, ${BUILD}`,
      elsewhere,
    ]
  }
  if (libc === 'musl' && !shipped.includes('musl'))
    return [`The package brings no binary for linux-${arch} with musl. Build it here, ${BUILD}`, elsewhere]
  const own = tried.filter(({ name }) => name.startsWith('prebuilds/'))
  return [
    own.every(({ absent }) => absent)
      ? 'The binaries of the package are not there: install it anew (npm install --force vfio), without leaving out *.node files.'
      : 'The binary for this machine is there, and refused for the reason above: mend that, or install the package anew.',
    `Or build it here, ${BUILD}`,
    elsewhere,
  ]
}

/** Whether this is a glibc before that version. */
function isOlder(libc: string, needed: string): boolean {
  const [, major, minor] = /^glibc (\d+)\.(\d+)/.exec(libc) ?? []
  if (major === undefined || minor === undefined) return false
  const [neededMajor = 0, neededMinor = 0] = needed.split('.').map(Number)
  return Number(major) < neededMajor || (Number(major) === neededMajor && Number(minor) < neededMinor)
}
