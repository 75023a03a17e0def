/** A kind of machine that the package brings a binary for. */
export interface Target {
  /** What `npm run prebuild -- NAME` takes. */
  readonly name: string
  /** As `process.arch` says it. */
  readonly arch: 'x64' | 'arm64' | 's390x'
  readonly libc: 'glibc' | 'musl'
  /** As Zig and GNU call the processor. */
  readonly processor: 'x86_64' | 'aarch64' | 's390x'
}

/** The oldest glibc that the binaries run with. */
export const GLIBC_FLOOR = '2.28'

const target = (arch: Target['arch'], processor: Target['processor'], libc: Target['libc']): Target => ({
  name: `linux-${arch}-${libc}`,
  arch,
  libc,
  processor,
})

export const targets: readonly Target[] = [
  target('x64', 'x86_64', 'glibc'),
  target('arm64', 'aarch64', 'glibc'),
  target('s390x', 's390x', 'glibc'),
  target('x64', 'x86_64', 'musl'),
  target('arm64', 'aarch64', 'musl'),
]

/** Where its binary lies, from the root of the package. */
export const binaryOf = ({ arch, libc }: Target) => `prebuilds/linux-${arch}/vfio.${libc}.node`
