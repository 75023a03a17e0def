/** Something on this host that would lose a device. */
export interface HostUse {
  readonly address: string
  readonly kind: 'mount' | 'swap' | 'holder' | 'network' | 'display' | 'vfio' | 'other'
  /** One sentence: the device, the chain from it, and the consequence. */
  readonly what: string
  /** `blocks`: taking the device away does harm. `warns`: to be known. */
  readonly severity: 'blocks' | 'warns'
  /** Such a use could not be seen from here: it may be there. */
  readonly unknown?: true
  /** Nobody was seen who does it: it follows from the state of the device alone, which a former driver may have left so. */
  readonly inferred?: true
  /** The host itself runs on it: no sentence offers to take it. */
  readonly vital?: true
  /** Unbinding waits without end for the last close of the device: this use cannot be forced. */
  readonly hangs?: true
  /** The command that ends those who have it open, where systemd started them: `"systemctl stop gdm.service"`. */
  readonly stop?: string
}

/** A use before it is tied to an address. @internal */
export type Finding = Omit<HostUse, 'address'>
