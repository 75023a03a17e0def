/** Does a kernel release (`6.12.0-amd64`) come from this version or a later one? One that is not known counts as new. */
export function isKernelSince(release: string, major: number, minor: number): boolean {
  const match = /^(\d+)\.(\d+)/.exec(release)
  if (!match) return true
  const [, first, second] = match
  return Number(first) > major || (Number(first) === major && Number(second) >= minor)
}
