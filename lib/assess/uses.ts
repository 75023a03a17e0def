import type { Snapshot } from '../sysfs/snapshot.js'

/** What on this host would lose a device. */
export interface HostUse {
  readonly address: string
  readonly kind: 'mount' | 'swap' | 'holder' | 'network' | 'display' | 'vfio' | 'other'
  /** One sentence: the device, the chain from it, and the consequence. */
  readonly what: string
  readonly severity: 'blocks' | 'warns'
}

/** What would lose the device at an address. */
export function assessUses(_seen: Snapshot, _address: string): HostUse[] {
  return []
}
