import type { NativeDevice, NativeGroup, NativeKvmVfio } from '../native/binding.js'
import { binding } from '../native/load.js'
import { call } from '../native/translate.js'
import { badArgument, checkInteger, show } from './arguments.js'
import { VfioDevice } from './device/device.js'
import { type Dependent, Handle, VfioObject, watched } from './handle.js'
import { VfioGroup } from './iommu/type1.js'

const LARGEST_DESCRIPTOR = 0x7fffffff

/** The files that KVM is told of. */
type FileHandle = Handle<NativeGroup> | Handle<NativeDevice>

/**
 * The device of a KVM machine that is told which VFIO files the machine uses (`KVM_DEV_TYPE_VFIO`,
 * `Documentation/virt/kvm/devices/vfio.rst`): it makes memory coherent where a device is not, and lets drivers reach
 * the machine.
 */
export class KvmVfio extends VfioObject {
  /** @internal */
  readonly handle: KvmHandle

  /** @internal */
  constructor(handle: KvmHandle) {
    super()
    this.handle = watched(this, handle)
  }

  /**
   * Makes the device on a machine that this process created with `KVM_CREATE_VM`. The caller keeps its descriptor; KVM
   * keeps the machine until this object is closed too. Before Linux 6.2, and its change in stable releases, a machine
   * has one such device for ever.
   * @throws VfioSystemError `ENOTTY` where the descriptor is no machine, `EBUSY` where it has the device already,
   * `ENODEV` where KVM was built without VFIO, `EIO` where another process created the machine.
   */
  static create(vmFd: number): KvmVfio {
    const checked = checkInteger(vmFd, LARGEST_DESCRIPTOR, 'vmFd')
    return created(call(() => binding().KvmVfio.create(checked)))
  }

  /**
   * Tells KVM of a group, or since Linux 6.6 of a device (`KVM_DEV_VFIO_FILE_ADD`). Some drivers look for the machine when a
   * device is opened: add its group before that. By its own node a device is added after {@link VfioDevice.openCdev}, which has
   * opened it already. Before Linux 6.1 the group needs a container with an IOMMU. What is closed, and a
   * group whose container is closed, is removed before.
   * @throws VfioSystemError `EEXIST` where it was added before, `EINVAL` for a device before Linux 6.6.
   */
  add(file: VfioGroup | VfioDevice): void {
    const handle = handleOf(file)
    const native = handle.native
    this.ask((kvm) => kvm.add(native))
    this.handle.files.set(handle, new KvmFile(this.handle, handle))
  }

  /**
   * Tells KVM that the machine no longer uses it (`KVM_DEV_VFIO_FILE_DEL`).
   * @throws VfioSystemError `ENOENT` where it was not added.
   */
  remove(file: VfioGroup | VfioDevice): void {
    const handle = handleOf(file)
    const native = handle.native
    this.ask((kvm) => kvm.remove(native))
    this.handle.files.get(handle)?.forget()
  }
}

// Outside of the class, which keeps its name in the bundle only if it does not name itself.
const created = (native: NativeKvmVfio) => new KvmVfio(new KvmHandle(native, 'the VFIO device of KVM', null))

class KvmHandle extends Handle<NativeKvmVfio> {
  readonly files = new Map<FileHandle, KvmFile>()
}

/** A file that KVM holds: it goes before either of the two. */
class KvmFile implements Dependent {
  readonly #kvm: KvmHandle
  readonly #file: FileHandle

  constructor(kvm: KvmHandle, file: FileHandle) {
    this.#kvm = kvm
    this.#file = file
    kvm.dependents.add(this)
    file.dependents.add(this)
  }

  async release(): Promise<void> {
    this.releaseNow()
  }

  releaseNow(): void {
    if (this.#kvm.files.get(this.#file) !== this) return
    this.forget()
    try {
      this.#kvm.raw.remove(this.#file.raw)
    } catch {
      // The machine is gone, and with it what KVM held.
    }
  }

  forget(): void {
    this.#kvm.files.delete(this.#file)
    this.#kvm.dependents.delete(this)
    this.#file.dependents.delete(this)
  }
}

function handleOf(file: unknown): FileHandle {
  if (file instanceof VfioGroup || file instanceof VfioDevice) return file.handle
  throw badArgument(`the file must be a VfioGroup or a VfioDevice, not ${show(file)}`)
}
