import { createRequire } from 'node:module'
import { dirname } from 'node:path'

/** Of the checkout, wherever this file was compiled to. */
export const ROOT = dirname(createRequire(import.meta.url).resolve('vfio/package.json'))

/** A kind of machine that the package brings a binary for. */
export interface Target {
  /** What `npm run prebuild -- NAME` takes. */
  readonly name: string
  /** As `process.arch` says it. */
  readonly arch: 'x64' | 'arm64' | 's390x'
  readonly libc: 'glibc' | 'musl'
  /** As Zig and GNU call the processor. */
  readonly processor: 'x86_64' | 'aarch64' | 's390x'
  /** The most that its binary may have, with the C++ library in it. */
  readonly bytes: number
}

/** The oldest glibc that the binaries run with. */
export const GLIBC_FLOOR = '2.28'

const PROCESSORS = {
  x64: { processor: 'x86_64', bytes: 450_000 },
  arm64: { processor: 'aarch64', bytes: 600_000 },
  s390x: { processor: 's390x', bytes: 600_000 },
} as const

const target = (arch: Target['arch'], libc: Target['libc']): Target => ({
  name: `linux-${arch}-${libc}`,
  arch,
  libc,
  ...PROCESSORS[arch],
})

export const targets: readonly Target[] = [
  target('x64', 'glibc'),
  target('arm64', 'glibc'),
  target('s390x', 'glibc'),
  target('x64', 'musl'),
  target('arm64', 'musl'),
]

/** Where its binary lies, from the root of the package. */
export const binaryOf = ({ arch, libc }: Target) => `prebuilds/linux-${arch}/vfio.${libc}.node`
