/** Does a kernel release (`6.12.0-amd64`) come from this version or a later one? One that is not known counts as new. */
export function isKernelSince(release: string, major: number, minor: number): boolean {
  // Asked again and again of one host.
  if (release !== last.release) last = { release, version: parse(release) }
  const { version } = last
  return version === null || version.major > major || (version.major === major && version.minor >= minor)
}

interface Version {
  readonly major: number
  readonly minor: number
}

function parse(release: string): Version | null {
  const [, major, minor] = /^(\d+)\.(\d+)/.exec(release) ?? []
  return major === undefined ? null : { major: Number(major), minor: Number(minor) }
}

let last = { release: '', version: parse('') }
