interface Described {
  /** The file written; of a load the program; of a reset the node that is opened. */
  readonly path: string
  readonly why: string
}

/** Starts modprobe for a module, by the name of its driver. */
export interface LoadStep extends Described {
  readonly kind: 'load'
  readonly action: 'load'
  readonly value: string
  readonly address: null
}

/** Lets one driver alone take a device. */
export interface OverrideStep extends Described {
  readonly kind: 'override'
  readonly action: 'write'
  /** The driver. */
  readonly value: string
  readonly address: string
}

/** Takes a device from its driver. */
export interface UnbindStep extends Described {
  readonly kind: 'unbind'
  readonly action: 'write'
  readonly value: string
  readonly address: string
  readonly expectDriver: null
}

/** Lets the kernel look for the driver of a device. */
export interface BindStep extends Described {
  readonly kind: 'bind'
  readonly action: 'write'
  readonly value: string
  readonly address: string
  /** The driver that the device must have afterwards. */
  readonly expectDriver: string
}

/** Lets a driver take every device with these ids. */
export interface AddIdStep extends Described {
  readonly kind: 'add-id'
  readonly action: 'write'
  /** As `vendor device`. */
  readonly value: string
  readonly address: null
}

/** Resets a device through VFIO, which opens it. */
export interface ResetStep extends Described {
  readonly kind: 'reset'
  readonly action: 'reset'
  /** Of this function, or of its whole slot or bus. */
  readonly value: 'function' | 'hot'
  readonly address: string
  /** Only where the device is opened by its own node and `/dev/iommu`, and not by its group. */
  readonly iommufd?: true
}

/**
 * One change of the host, in the order of a plan. `kind` says what it is for, and `action` how it is done: by modprobe, by
 * writing `value` to `path`, or by opening the device.
 */
export type Step = LoadStep | OverrideStep | UnbindStep | BindStep | AddIdStep | ResetStep
