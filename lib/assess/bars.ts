import type { PciDevice } from '../sysfs/devices.js'

const CURE =
  'switch on "Above 4G Decoding" in the firmware setup, take another slot, or boot with pci=realloc'

const named = (numbers: readonly number[]) => `BAR${numbers.length > 1 ? 's' : ''} ${numbers.join(', ')}`

/** Why the kernel would refuse to switch a device on when it is opened (`pci_enable_resources`: EINVAL); `null` for nothing. */
export function obstacleToEnabling({ address, barsWithoutAddress }: PciDevice): string | null {
  const unset = barsWithoutAddress?.unset
  return unset === undefined || unset.length === 0
    ? null
    : `${address} cannot be opened, since there was no room for its ${named(unset)} and the kernel does not switch on what has no address: ${CURE}`
}

/** What whoever opens a device would miss of it, an empty text for nothing. */
export function lackingBars({ barsWithoutAddress }: PciDevice): string {
  const dropped = barsWithoutAddress?.dropped
  return dropped === undefined || dropped.length === 0
    ? ''
    : `there was no room for its ${named(dropped)}, without which a guest's driver seldom works: ${CURE}`
}
