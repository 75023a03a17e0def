/** Does a kernel release (`6.12.0-amd64`) come from this version or a later one? One that is not known counts as new. */
export function isKernelSince(release: string, major: number, minor: number): boolean {
  // Asked again and again of one host.
  if (release !== last.release) last = { release, version: parse(release) }
  const { version } = last
  return version === null || version.major > major || (version.major === major && version.minor >= minor)
}

/**
 * Is this a kernel of an enterprise release that keeps its number for ten years, and takes VFIO and the IOMMU drivers from much
 * newer ones (RHEL 8 and 9, and what is made of them)? Which, its number does not tell.
 */
export const isOfLongRelease = (release: string) =>
  /^(?:4\.18|5\.14)\.0-.*\.el[89](?:_\d+)?(?:\.|$)/.test(release)

interface Version {
  readonly major: number
  readonly minor: number
}

function parse(release: string): Version | null {
  const [, major, minor] = /^(\d+)\.(\d+)/.exec(release) ?? []
  return major === undefined ? null : { major: Number(major), minor: Number(minor) }
}

let last = { release: '', version: parse('') }
