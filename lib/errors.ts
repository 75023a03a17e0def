import { constants } from 'node:os'
import { getSystemErrorName } from 'node:util'
import { hintFor } from './hints.js'

/** Codes of every error that is not the answer of a system call. A closed union: programs may switch over it. */
export type VfioErrorCode =
  /** A call on a container, group, device or descriptor that has been closed. */
  | 'ERR_VFIO_CLOSED'
  /** An argument of the wrong type or outside its range. */
  | 'ERR_VFIO_BAD_ARGUMENT'
  /** Text that is not a PCI address, nor the UUID of a mediated device. */
  | 'ERR_VFIO_BAD_ADDRESS'
  /** No such device on the host that was looked at. */
  | 'ERR_VFIO_NO_DEVICE'
  /** No such IOMMU group on the host that was looked at. */
  | 'ERR_VFIO_NO_GROUP'
  /** The kernel knows no such reset of the device. */
  | 'ERR_VFIO_NO_RESET'
  /** A hot reset would hit functions that VFIO does not own. */
  | 'ERR_VFIO_NOT_OWNED'
  /** The group cannot be given away as it stands. */
  | 'ERR_VFIO_NOT_VIABLE'
  /** Other members of a group have to be assigned along. */
  | 'ERR_VFIO_INCOMPLETE_GROUP'
  /** This kernel has no such VFIO driver. */
  | 'ERR_VFIO_NO_DRIVER'
  /** The host is no longer as it was when the plan was made. */
  | 'ERR_VFIO_HOST_CHANGED'
  /** Another program is changing the same devices right now. */
  | 'ERR_VFIO_LOCKED'
  /** A change did not take hold. */
  | 'ERR_VFIO_NOT_BOUND'
  /** What was done could not be undone. */
  | 'ERR_VFIO_NOT_RESTORED'
  /** The kernel did not answer within the deadline. */
  | 'ERR_VFIO_TIMEOUT'
  /** A journal or record that this package did not write, that is damaged, or a directory that cannot be used for it. */
  | 'ERR_VFIO_BAD_JOURNAL'
  /** Nothing is known of an assignment of this device. */
  | 'ERR_VFIO_NOT_ASSIGNED'
  /** A file that is not ours to write, or not what it should be. */
  | 'ERR_VFIO_BAD_FILE'
  /** A device node that is missing, or no device node. */
  | 'ERR_VFIO_BAD_NODE'
  /** No such user or group on this host. */
  | 'ERR_VFIO_NO_ACCOUNT'
  /** Nothing is known of a grant of this device. */
  | 'ERR_VFIO_NOT_GRANTED'
  /** The device has no virtual functions, or not now, or not so many. */
  | 'ERR_VFIO_NO_VFS'
  /** The device makes no mediated devices, or not now. */
  | 'ERR_VFIO_NO_MDEV'
  /** Somebody else holds the object. */
  | 'ERR_VFIO_IN_USE'
  /** The kernel cannot change the number of vectors of an interrupt while it is enabled, or has not so many. */
  | 'ERR_VFIO_NO_VECTORS'
  /** No I/O virtual address range of this size is free. */
  | 'ERR_VFIO_NO_IOVA'
  /** The host, or the control group of the program, has not so much memory to spare. */
  | 'ERR_VFIO_NO_MEMORY'
  /** As many objects or memory mappings are open as there may be. */
  | 'ERR_VFIO_TOO_MANY'
  /** Nothing answers at the address of mapped device memory. */
  | 'ERR_VFIO_MEMORY_DISABLED'
  /** Array buffers over memory of a device are not possible in this runtime. */
  | 'ERR_VFIO_NO_EXTERNAL_MEMORY'
  /** What happens to devices cannot be heard here. */
  | 'ERR_VFIO_NO_EVENTS'
  /** What runs the program is not Node, and lacks what this takes. */
  | 'ERR_VFIO_RUNTIME'
  /** The kernel answered with a structure that contradicts itself. */
  | 'ERR_VFIO_BAD_KERNEL_DATA'
  /** The machine code of this package could not be loaded here. */
  | 'ERR_VFIO_ADDON'

/** Numbers of `asm-generic/errno.h` and `linux/errno.h` that Node's own table lacks, and that drivers answer with. */
const MORE_ERRNOS = {
  EUNATCH: 49,
  ENONET: 64,
  EBADFD: 77,
  EUSERS: 87,
  ESOCKTNOSUPPORT: 94,
  ESHUTDOWN: 108,
  EHOSTDOWN: 112,
  EREMOTEIO: 121,
  ENOMEDIUM: 123,
  EKEYREJECTED: 129,
  ERFKILL: 132,
  EHWPOISON: 133,
  ENOTSUPP: 524,
} as const

/** What the kernel calls a refusal; a number that no name is known for stands as it is: `errno 999`. */
export type ErrnoName = keyof typeof constants.errno | keyof typeof MORE_ERRNOS | `errno ${number}`

const ERRNO_NAMES = new Map<number, ErrnoName>(
  Object.entries({ ...MORE_ERRNOS, ...constants.errno }).map(([name, errno]) => [errno, name as ErrnoName]),
)

/** @param errno positive, as this platform counts */
export function errnoName(errno: number): ErrnoName {
  // Of two names for one number libuv chooses; it lacks some, and has some of its own.
  const name = getSystemErrorName(-errno) as keyof typeof constants.errno
  return constants.errno[name] === errno ? name : (ERRNO_NAMES.get(errno) ?? `errno ${errno}`)
}

/** Lets `instanceof` hold for the errors of another copy of this package; a program's own subclass is left alone. */
function brand(type: abstract new (...args: never[]) => Error, name: string): void {
  const mark = Symbol.for(`vfio.${name}`)
  Object.defineProperties(type.prototype, { name: { value: name }, [mark]: { value: true } })
  Object.defineProperty(type, Symbol.hasInstance, {
    value(this: unknown, value: unknown): boolean {
      if (this !== type) return Function.prototype[Symbol.hasInstance].call(this, value)
      return typeof value === 'object' && value !== null && mark in value
    },
  })
}

/**
 * An error of this package. `message` is one sentence that names what is wrong and what to do.
 * `instanceof` holds for the errors of another copy of this package too.
 */
export class VfioError extends Error {
  /** A {@link VfioErrorCode}; of a {@link VfioSystemError} the name of the errno. */
  readonly code: VfioErrorCode | ErrnoName

  constructor(code: VfioErrorCode | ErrnoName, message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }
}
brand(VfioError, 'VfioError')

/** Several failures as one error, which says all of them and has the code of the first; a single one stays as it is. */
export function together(errors: readonly unknown[]): unknown {
  const [first] = errors
  if (errors.length === 1 || !(first instanceof VfioError)) return first
  const messages = errors.map((error) => (error instanceof Error ? error.message : String(error)))
  return new VfioError(first.code, messages.join('; '), { cause: first })
}

/** A system call that failed, and on what. */
export interface SystemFailure {
  /** The errno as the kernel counts it: positive, as in `os.constants.errno`. */
  readonly errno: number
  /** `open` or `ioctl`, or another call's name. */
  readonly syscall: string
  /** The ioctl's name (`VFIO_GROUP_SET_CONTAINER`), or what was opened: `container`, `group`. */
  readonly request: string
  /** The file that it was made on; for an open device its address. */
  readonly path: string
  /** What the call asked for, where the file alone does not say it: the address of a device to open. */
  readonly subject?: string
  /** What is known beyond the table of hints. */
  readonly hint?: string | null
}

/**
 * The kernel refused a call. `code` is the errno's name (`EPERM`), `hint` what that errno means for this request and
 * what to do, `null` where nothing more is known. The message has all of it.
 */
export class VfioSystemError extends VfioError implements SystemFailure {
  declare readonly code: ErrnoName
  readonly errno: number
  readonly syscall: string
  readonly request: string
  readonly path: string
  readonly hint: string | null

  constructor(failure: SystemFailure, options?: ErrorOptions) {
    const { errno, syscall, request, path, subject } = failure
    const code = errnoName(errno)
    const hint = failure.hint ?? hintFor(request, code)
    const call = syscall === 'ioctl' ? request : syscall
    const what = `${call}${subject ? ` of ${subject}` : ''} on ${path} failed with ${code}`
    super(code, hint ? `${what}: ${hint}` : what, options)
    this.errno = errno
    this.syscall = syscall
    this.request = request
    this.path = path
    this.hint = hint
  }
}
brand(VfioSystemError, 'VfioSystemError')
