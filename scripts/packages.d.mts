/** A package that this machine lacks. */
export interface Missing {
  readonly debian: string
}
export function missingPackages(lab: boolean, soak?: boolean): Missing[]
export function missingForKernels(): Missing[]
export function howToInstall(missing: readonly Missing[]): string
export function canInstall(): boolean
export function installPackages(
  missing: readonly Missing[],
  cache: string,
  log: number | 'inherit',
): Promise<void>
