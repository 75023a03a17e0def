import { VfioError } from '../errors.js'

/** How a machine type wants its devices: below PCI Express ports, on one conventional bus, or as zPCI functions. */
export type MachineKind = 'express' | 'conventional' | 'zpci'

export interface Machine {
  /** As QEMU and libvirt call it, with its version where one was given. */
  readonly name: string
  readonly kind: MachineKind
  /** What QEMU calls the bus that devices and ports go to. */
  readonly rootBus: string
}

const KINDS: readonly [RegExp, MachineKind, string][] = [
  [/^(pc-)?q35(-[\w.]+)?$/, 'express', 'pcie.0'],
  [/^virt(-[\w.]+)?$/, 'express', 'pcie.0'],
  [/^pc(-i440fx)?(-[\w.]+)?$/, 'conventional', 'pci.0'],
  [/^s390-ccw-virtio(-[\w.]+)?$/, 'zpci', 'pci.0'],
]

/**
 * A machine type by its name, with or without a version (`q35`, `pc-q35-9.2`, `pc`, `virt`, `s390-ccw-virtio`).
 * @throws VfioError `ERR_VFIO_BAD_ARGUMENT`
 */
export function parseMachine(name: unknown): Machine {
  for (const [pattern, kind, rootBus] of KINDS) {
    if (typeof name === 'string' && pattern.test(name)) return { name, kind, rootBus }
  }
  throw new VfioError(
    'ERR_VFIO_BAD_ARGUMENT',
    `${JSON.stringify(String(name).slice(0, 40))} is no machine type known here: expected q35, pc, virt or s390-ccw-virtio, with or without a version`,
  )
}
