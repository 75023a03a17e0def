/** Codes of every error that is not the answer of a system call. A closed union: programs may switch over it. */
export type VfioErrorCode =
  /** A call on a container, group, device or descriptor that has been closed. */
  | 'ERR_VFIO_CLOSED'
  /** An argument of the wrong type or outside its range. */
  | 'ERR_VFIO_BAD_ARGUMENT'
  /** Text that is not a PCI address. */
  | 'ERR_VFIO_BAD_ADDRESS'
  /** No such PCI device on the host that was looked at. */
  | 'ERR_VFIO_NO_DEVICE'
  /** No such IOMMU group on the host that was looked at. */
  | 'ERR_VFIO_NO_GROUP'
  /** The group cannot be given away as it stands. */
  | 'ERR_VFIO_NOT_VIABLE'
  /** Somebody else holds the object. */
  | 'ERR_VFIO_IN_USE'
  /** The kernel answered with a structure that contradicts itself. */
  | 'ERR_VFIO_BAD_KERNEL_DATA'
  /** The machine code of this package could not be loaded here. */
  | 'ERR_VFIO_ADDON'

/** An error of this package. `message` is one sentence that names what is wrong and what to do. */
export class VfioError extends Error {
  readonly code: string

  constructor(code: VfioErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }

  static {
    VfioError.prototype.name = 'VfioError'
  }
}
