import { readFileSync } from 'node:fs'
import { VfioSystemError } from '../../errors.js'
import type { IovaSpan } from './iova-map.js'

const hex = (value: bigint) => `0x${value.toString(16)}`
export const showSpan = ({ start, end }: IovaSpan) => `${hex(start)}–${hex(end)}`

/** What of a buffer was to be mapped. */
export interface MappedPart {
  /** In bytes from the start of the buffer. */
  readonly offset: number
  /** Where buffers begin at the least: the system's page, in bytes. */
  readonly systemPage: number
}

/** What is known of who refuses. */
export interface MapLimits {
  /** `null` where the kernel does not say. */
  readonly ranges: readonly IovaSpan[] | null
  /** The smallest page of the IOMMU in bytes; `null` where the kernel does not say. */
  readonly page: bigint | null
  /** The call after which buffers are allocated for such pages. */
  readonly choosing: string
  /** What it means that there is no room for one more mapping; `null` where there always is. */
  readonly full: string | null
  /** Where the kernel tells of /proc/self/status how much is locked, and who is charged for what. */
  readonly locked: 'VmLck' | 'VmPin'
  readonly charged: string
}

/** What the refusal of a mapping means with all that is known: the sentence names the mapping, range or limit. */
export function explainMap(
  error: unknown,
  span: IovaSpan,
  part: MappedPart,
  limits: () => MapLimits,
  overlapped: () => IovaSpan | undefined,
): unknown {
  if (!(error instanceof VfioSystemError)) return error
  const hint = hintFor(error.code, span, part, limits, overlapped)
  return hint === null ? error : new VfioSystemError({ ...plain(error), hint })
}

const plain = ({ errno, syscall, request, path }: VfioSystemError) => ({ errno, syscall, request, path })

function hintFor(
  code: string,
  span: IovaSpan,
  part: MappedPart,
  limits: () => MapLimits,
  overlapped: () => IovaSpan | undefined,
): string | null {
  if (code === 'EEXIST') {
    const other = overlapped()
    return other ? `${showSpan(span)} overlaps the mapping at ${showSpan(other)}: unmap that first` : null
  }
  // Newer kernels (7.3) call a range that runs over the last of all addresses EOVERFLOW.
  if (code === 'EINVAL' || code === 'EOVERFLOW') return outsideOrUneven(span, part, limits())
  if (code === 'ENOSPC') return limits().full
  return code === 'ENOMEM' ? lockedMemoryHint(span.end - span.start + 1n, limits()) : null
}

function outsideOrUneven(
  span: IovaSpan,
  { offset, systemPage }: MappedPart,
  { ranges, page: known, choosing }: MapLimits,
): string | null {
  const page = known ?? BigInt(systemPage)
  const size = span.end - span.start + 1n
  if (span.start % page !== 0n || size % page !== 0n) {
    const cure =
      size % page !== 0n && page > BigInt(systemPage)
        ? `: buffers that are allocated after ${choosing} have whole pages of the IOMMU`
        : ''
    return `${hex(span.start)} and ${hex(size)} must be multiples of the page size, ${hex(page)}${cure}`
  }
  if (BigInt(offset) % page !== 0n) {
    return `the offset in the buffer, ${hex(BigInt(offset))}, must be a multiple of the page size, ${hex(page)}`
  }
  if (ranges && !ranges.some(({ start, end }) => span.start >= start && span.end <= end)) {
    return `${showSpan(span)} is not within what the IOMMU maps: ${ranges.map(showSpan).join(', ')}`
  }
  if (page > BigInt(systemPage)) {
    return `the memory itself must begin at a multiple of the page size of the IOMMU, ${hex(page)}: allocate it after ${choosing}`
  }
  return null
}

/** How much this process has locked, what it may lock, and what would be needed. */
function lockedMemoryHint(wanted: bigint, { locked: field, charged }: MapLimits): string | null {
  const locked = numberIn('/proc/self/status', new RegExp(`^${field}:\\s+(\\d+) kB`, 'm'))
  const limit = numberIn('/proc/self/limits', /^Max locked memory\s+(\d+)/m)
  if (locked === null || limit === null) return null
  const lockedBytes = locked * 1024n
  return `this process has locked ${kib(lockedBytes)} of at most ${kib(limit)} (RLIMIT_MEMLOCK), and ${kib(wanted)} more are asked for: raise the limit to ${kib(lockedBytes + wanted)} or more (\`ulimit -l\`, LimitMEMLOCK= of systemd), or give CAP_IPC_LOCK; ${charged}`
}

const kib = (bytes: bigint) => `${(bytes + 1023n) / 1024n} KiB`

function numberIn(file: string, pattern: RegExp): bigint | null {
  try {
    const found = pattern.exec(readFileSync(file, 'utf8'))?.[1]
    return found === undefined ? null : BigInt(found)
  } catch {
    // Without /proc the general hint is all there is.
    return null
  }
}
