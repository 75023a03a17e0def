import { readFileSync } from 'node:fs'
import { VfioError, VfioSystemError } from '../errors.js'
import { binding } from '../native/load.js'
import type { IovaSpan } from './iommu/iova-map.js'

/** Below this size, in bytes, reading /proc/meminfo would take longer than the allocation. */
const WORTH_A_LOOK = 64 * 2 ** 20

/** The refusal of a mapping into this process, with the limit that it met, where that can be told. */
export function explainMemory(error: unknown): unknown {
  if (!(error instanceof VfioSystemError) || error.code !== 'ENOMEM' || error.syscall !== 'mmap') return error
  const { errno, syscall, request, path } = error
  const hint = limitMet()
  return hint === null ? error : new VfioSystemError({ errno, syscall, request, path, hint })
}

function limitMet(): string | null {
  const limit = numberIn('/proc/self/limits', /^Max address space\s+(\d+)/m)
  const used = numberIn('/proc/self/status', /^VmSize:\s+(\d+) kB/m)
  if (limit === null || used === null) return null
  return `this process has ${used} KiB of address space of at most ${Math.floor(limit / 1024)} KiB (RLIMIT_AS): close some memory, or raise the limit (\`ulimit -v\`, LimitAS= of systemd)`
}

let counts: Uint32Array | undefined
let mostMappings = 0

/**
 * Refuses one more mapping into this process where hardly one is left: the runtime needs some too, and ends the process
 * when it gets none.
 * @throws VfioError `ERR_VFIO_TOO_MANY`
 */
export function checkMappings(): void {
  counts ??= new Uint32Array(binding().mappingCounts, 4, 1)
  const open = counts[0] ?? 0
  if (open < mostMappings) return
  // For the first time, or perhaps it was raised.
  const limit = numberIn('/proc/sys/vm/max_map_count', /^(\d+)/)
  mostMappings = limit === null ? Number.POSITIVE_INFINITY : limit - Math.floor(limit / 16)
  if (open < mostMappings) return
  throw new VfioError(
    'ERR_VFIO_TOO_MANY',
    `${open} pieces of memory are mapped, and the rest of the ${limit} memory mappings that a process may have is for the runtime: close some, take larger ones, or raise the sysctl vm.max_map_count`,
  )
}

/**
 * Refuses what would fill the memory of the host, or of the control group that this program is in: there the kernel would
 * not answer with an error but end a program, this one or another.
 * @throws VfioError `ERR_VFIO_NO_MEMORY`
 */
export function checkRoom(wanted: number): void {
  if (wanted < WORTH_A_LOOK) return
  const meminfo = read('/proc/meminfo') ?? ''
  const available = kib(meminfo, 'MemAvailable')
  const swap = kib(meminfo, 'SwapFree')
  if (available !== null && wanted > available + (swap ?? 0))
    refuse(wanted, available + (swap ?? 0), 'this host')
  const room = roomOfGroup()
  if (room !== null && wanted > room) refuse(wanted, room, 'the control group of this program (memory.max)')
}

function refuse(wanted: number, room: number, whose: string): never {
  throw new VfioError(
    'ERR_VFIO_NO_MEMORY',
    `${mib(wanted)} MiB are asked for, and ${whose} has ${Math.floor(room / 2 ** 20)} MiB to spare: memory for devices stays in memory, so ask for less, or give it more`,
  )
}

const mib = (bytes: number) => Math.ceil(bytes / 2 ** 20)

/** What the tightest limit above this process leaves (cgroup v2); `null` where none is known. */
function roomOfGroup(): number | null {
  let path = /^0::(\/.*)$/m.exec(read('/proc/self/cgroup') ?? '')?.[1]
  let room: number | null = null
  while (path !== undefined) {
    const folder = `/sys/fs/cgroup${path === '/' ? '' : path}`
    const limit = numberIn(`${folder}/memory.max`, /^(\d+)/)
    const used = numberIn(`${folder}/memory.current`, /^(\d+)/)
    // What files have cached there is given up first.
    const cached = numberIn(`${folder}/memory.stat`, /^inactive_file (\d+)/m)
    if (limit !== null && used !== null) {
      room = Math.min(room ?? Number.POSITIVE_INFINITY, Math.max(0, limit - used + (cached ?? 0)))
    }
    path = path === '/' ? undefined : path.slice(0, path.lastIndexOf('/')) || '/'
  }
  return room
}

const hex = (value: bigint) => `0x${value.toString(16)}`
export const showSpan = ({ start, end }: IovaSpan) => `${hex(start)}–${hex(end)}`

/** What of a buffer was to be mapped. */
interface MappedPart {
  /** In bytes from the start of the buffer. */
  readonly offset: number
  /** Where buffers begin at the least: the system's page, in bytes. */
  readonly systemPage: number
}

/** What is known of the container or iommufd that refused. */
export interface MapLimits {
  /** `null` where the kernel does not say. */
  readonly ranges: readonly IovaSpan[] | null
  /** The smallest page of the IOMMU in bytes; `null` where the kernel does not say. */
  readonly page: bigint | null
  /** The call after which buffers are allocated for such pages. */
  readonly choosing: string
  /** What it means that there is no room for one more mapping; `null` where there always is. */
  readonly full: string | null
  /** The field of /proc/self/status that has the locked memory; and who is charged for what, as a part of a sentence. */
  readonly locked: 'VmLck' | 'VmPin'
  readonly charged: string
}

/** Explains why a mapping was refused: the sentence names the other mapping, the range or the limit. */
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
  const lockedBytes = BigInt(locked) * 1024n
  return `this process has locked ${inKib(lockedBytes)} of at most ${inKib(BigInt(limit))} (RLIMIT_MEMLOCK), and ${inKib(wanted)} more are asked for: raise the limit to ${inKib(lockedBytes + wanted)} or more (\`ulimit -l\`, LimitMEMLOCK= of systemd), or give CAP_IPC_LOCK; ${charged}`
}

const inKib = (bytes: bigint) => `${(bytes + 1023n) / 1024n} KiB`

function kib(text: string, name: string): number | null {
  const found = new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(text)?.[1]
  return found === undefined ? null : Number(found) * 1024
}

function numberIn(file: string, pattern: RegExp): number | null {
  const found = pattern.exec(read(file) ?? '')?.[1]
  return found === undefined ? null : Number(found)
}

function read(file: string): string | null {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    // The kernel's own answer is all there is then.
    return null
  }
}
