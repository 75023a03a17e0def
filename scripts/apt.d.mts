export function osRelease(): Record<string, string>
export function privateApt(
  directory: string,
  suites: readonly string[],
  architecture?: string,
  sources?: boolean,
): Promise<string[]>
export function packageNames(options: readonly string[], pattern: string): Promise<string[]>
export function downloadPackages(
  options: readonly string[],
  names: readonly string[],
  directory: string,
): Promise<void>
export function downloadSource(options: readonly string[], name: string, directory: string): Promise<void>
export function downloadWithDependencies(
  options: readonly string[],
  names: readonly string[],
  directory: string,
): Promise<void>
