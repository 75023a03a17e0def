/** The driver and the override of a device before something was changed. */
export interface FormerState {
  readonly driver: string | null
  readonly override: string | null
}

/** What the kernel takes as a driver's name, and reads as one line: it becomes a part of a path. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is refused
const DRIVER = /^(?!\.\.?$)[^/\u0000-\u001f\u007f]{1,255}$/
/** What may stand in `driver_override`; it never becomes a part of a path. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is refused
const OVERRIDE = /^[^\u0000-\u001f\u007f]{1,4095}$/

const matches = (pattern: RegExp, value: unknown) => typeof value === 'string' && pattern.test(value)

export const isDriverName = (value: unknown) => matches(DRIVER, value)

/** Can it be one? Records decide what is written to sysfs. */
export function isFormerState(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false
  const { driver, override } = value as Partial<Record<keyof FormerState, unknown>>
  return (driver === null || isDriverName(driver)) && (override === null || matches(OVERRIDE, override))
}
