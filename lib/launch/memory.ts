import { lockedMemory, memoryBars } from '../assess/memlock.js'
import { VfioError } from '../errors.js'
import { readText } from '../sysfs/files.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import type { Launched } from './nodes.js'

/** Raises hard limits (capabilities(7)). */
const CAP_SYS_RESOURCE = 24n

/**
 * The limit on locked memory for a command that maps so much memory for devices, in bytes; never less than it would have.
 * `null`: it has no limit.
 * @throws VfioError `ERR_VFIO_BAD_ARGUMENT` where this program may not give it so much
 */
export function memlockFor(
  seen: Snapshot,
  devices: readonly Launched[],
  memory: number,
  iommufd: boolean,
): number | null {
  // What a mediated device shows of its own memory is in no BAR of the host.
  const functions = devices.flatMap((device) => ('uuid' in device ? [] : device))
  const { bytes } = lockedMemory({ memory, iommufd, bars: memoryBars(functions), user: 'its user' })
  const { soft, hard } = seen.host.memlock ?? { soft: 0, hard: 0 }
  if (soft === null) return null
  const wanted = Math.max(bytes, soft)
  if (hard === null || wanted <= hard || maySetLimits()) return wanted
  throw new VfioError(
    'ERR_VFIO_BAD_ARGUMENT',
    `a limit on locked memory of ${wanted} bytes is needed, and this program may give ${hard} at most: run it as root with CAP_SYS_RESOURCE, or raise its own (LimitMEMLOCK= of its service, ulimit -Hl)`,
  )
}

function maySetLimits(): boolean {
  const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(readText('/proc/self/status') ?? '')?.[1]
  return effective !== undefined && ((BigInt(`0x${effective}`) >> CAP_SYS_RESOURCE) & 1n) === 1n
}
