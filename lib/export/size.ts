import { VfioError } from '../errors.js'

const UNITS: Readonly<Record<string, number>> = { '': 0, k: 1, m: 2, g: 3, t: 4 }

/**
 * An amount of memory in bytes: `16G`, `512MiB`, `1.5g`; units are powers of 1024, without one it is bytes.
 * @throws VfioError `ERR_VFIO_BAD_ARGUMENT`
 */
export function parseSize(text: string): number {
  const match = /^(\d{1,15}(?:\.\d{1,3})?) ?([kmgt]?)(?:i?b)?$/i.exec(String(text).trim())
  const bytes = Number(match?.[1]) * 1024 ** (UNITS[match?.[2]?.toLowerCase() ?? ''] ?? 0)
  if (Number.isSafeInteger(bytes) && bytes > 0) return bytes
  throw new VfioError(
    'ERR_VFIO_BAD_ARGUMENT',
    `${JSON.stringify(String(text).slice(0, 40))} is no amount of memory: expected a number and a unit, like 16G or 512M`,
  )
}
