/** `major:minor` of a device number as `stat(2)` gives it (`gnu_dev_major`, `gnu_dev_minor`). */
export function deviceNumber(rdev: number | bigint): string {
  const bits = BigInt(rdev)
  const major = ((bits >> 8n) & 0xfffn) | ((bits >> 32n) & 0xfffff000n)
  const minor = (bits & 0xffn) | ((bits >> 12n) & 0xffffff00n)
  return `${major}:${minor}`
}
