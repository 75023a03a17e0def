import { readFileSync } from 'node:fs'
import { VfioSystemError } from '../errors.js'
import type { IommuInfo } from './container.js'
import type { IovaSpan } from './iova-map.js'

const hex = (value: bigint) => `0x${value.toString(16)}`
export const showSpan = ({ start, end }: IovaSpan) => `${hex(start)}–${hex(end)}`

/** What the refusal of a mapping means with all that is known: the sentence names the mapping, range or limit. */
export function explainMap(
  error: unknown,
  span: IovaSpan,
  info: () => IommuInfo,
  overlapped: () => IovaSpan | undefined,
): unknown {
  if (!(error instanceof VfioSystemError)) return error
  const hint = hintFor(error.code, span, info, overlapped)
  return hint === null ? error : new VfioSystemError({ ...plain(error), hint })
}

const plain = ({ errno, syscall, request, path }: VfioSystemError) => ({ errno, syscall, request, path })

function hintFor(
  code: string,
  span: IovaSpan,
  info: () => IommuInfo,
  overlapped: () => IovaSpan | undefined,
): string | null {
  if (code === 'EEXIST') {
    const other = overlapped()
    return other ? `${showSpan(span)} overlaps the mapping at ${showSpan(other)}: unmap that first` : null
  }
  if (code === 'EINVAL') return outsideOrUneven(span, info())
  if (code === 'ENOSPC') {
    return `the container takes no more mappings (${info().dmaAvailable ?? 0} left): unmap some, map larger pieces, or raise vfio_iommu_type1.dma_entry_limit before it is opened`
  }
  return code === 'ENOMEM' ? lockedMemoryHint(span.end - span.start + 1n) : null
}

function outsideOrUneven(span: IovaSpan, { iovaRanges, pageSizes }: IommuInfo): string | null {
  const page = pageSizes[0] ?? 4096n
  const size = span.end - span.start + 1n
  if (span.start % page !== 0n || size % page !== 0n) {
    return `${hex(span.start)} and ${hex(size)} must be multiples of the page size, ${hex(page)}`
  }
  if (iovaRanges && !iovaRanges.some(({ start, end }) => span.start >= start && span.end <= end)) {
    return `${showSpan(span)} is not within what the IOMMU maps: ${iovaRanges.map(showSpan).join(', ')}`
  }
  return null
}

/** How much this process has locked, what it may lock, and what would be needed. */
function lockedMemoryHint(wanted: bigint): string | null {
  const locked = numberIn('/proc/self/status', /^VmLck:\s+(\d+) kB/m)
  const limit = numberIn('/proc/self/limits', /^Max locked memory\s+(\d+)/m)
  if (locked === null || limit === null) return null
  const lockedBytes = locked * 1024n
  return `this process has locked ${kib(lockedBytes)} of at most ${kib(limit)} (RLIMIT_MEMLOCK), and ${kib(wanted)} more are asked for: raise the limit to ${kib(lockedBytes + wanted)} or more (\`ulimit -l\`, LimitMEMLOCK= of systemd), or give CAP_IPC_LOCK; each container is charged for itself`
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
