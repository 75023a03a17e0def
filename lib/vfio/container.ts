import { answerIn, scratch } from '../native/answer.js'
import type { NativeContainer } from '../native/binding.js'
import { binding } from '../native/load.js'
import { call } from '../native/translate.js'
import { checkIndex, checkPath, namesOf } from './arguments.js'
import { type IommuCapability, iommuCapabilities } from './capabilities.js'
import { ContainerHandle } from './container-handle.js'
import { DmaSpace } from './dma.js'
import { VfioObject, watched } from './handle.js'

/** Extensions that `checkExtension()` knows by name (`VFIO_*_IOMMU` and others in `uapi/linux/vfio.h`). */
export const EXTENSIONS = {
  type1: 1,
  'spapr-tce': 2,
  type1v2: 3,
  'dma-cc': 4,
  eeh: 5,
  'type1-nesting': 6,
  'spapr-tce-v2': 7,
  noiommu: 8,
  'unmap-all': 9,
  'update-vaddr': 10,
} as const
export type ExtensionName = keyof typeof EXTENSIONS
const EXTENSION_NAMES = namesOf(EXTENSIONS)

/** IOMMU types that `setIommu()` knows by name. `type1v2` is the one to use; `noiommu` protects nothing. */
export const IOMMU_TYPES = { type1: 1, type1v2: 3, noiommu: 8 } as const
export type IommuTypeName = keyof typeof IOMMU_TYPES
const IOMMU_TYPE_NAMES = namesOf(IOMMU_TYPES)

/** What an IOMMU can map (`struct vfio_iommu_type1_info`). */
export interface IommuInfo {
  /** Page sizes in bytes, each a power of two, smallest first. Empty where the kernel does not say. */
  readonly pageSizes: readonly bigint[]
  /** The I/O virtual addresses that may be mapped; `end` is the last one. `null` where the kernel does not say (before 5.4). */
  readonly iovaRanges: readonly IovaRange[] | null
  /** How many more mappings the container takes. `null` where the kernel does not say (before 5.10). */
  readonly dmaAvailable: number | null
  /** Dirty page logging. `null` where there is none. */
  readonly migration: MigrationInfo | null
  /** The whole chain, as the kernel gave it. */
  readonly capabilities: readonly IommuCapability[]
}

export interface IovaRange {
  readonly start: bigint
  readonly end: bigint
}

export interface MigrationInfo {
  /** Page sizes in bytes that dirty pages can be logged in, smallest first. */
  readonly pageSizes: readonly bigint[]
  /** The largest dirty bitmap that one call takes, in bytes. */
  readonly maxDirtyBitmapSize: bigint
}

const FLAG_PAGE_SIZES = 1 << 0
const FLAG_CAPABILITIES = 1 << 1

/** An open `/dev/vfio/vfio`: an IOMMU context that groups join and that maps memory for their devices. */
export class VfioContainer extends VfioObject {
  /** @internal */
  readonly handle: ContainerHandle

  /** The memory that its devices may use. */
  readonly dma: DmaSpace

  /** @internal */
  constructor(handle: ContainerHandle) {
    super()
    this.handle = watched(this, handle)
    this.dma = new DmaSpace(this)
  }

  /**
   * Opens a container.
   * @throws VfioSystemError `ENOENT` where VFIO is not loaded, `EACCES` without permission.
   */
  static open(path = '/dev/vfio/vfio'): VfioContainer {
    const checked = checkPath(path)
    return opened(
      call(() => binding().Container.open(checked)),
      checked,
    )
  }

  /** The version of the kernel's interface: 0 since there is one (`VFIO_GET_API_VERSION`). */
  apiVersion(): number {
    return this.ask((native) => native.apiVersion())
  }

  /** Whether the kernel has an extension or IOMMU type, by name or number (`VFIO_CHECK_EXTENSION`). */
  checkExtension(extension: ExtensionName | number): boolean {
    const index = checkIndex(extension, EXTENSION_NAMES, 'extension')
    return this.ask((native) => native.checkExtension(index)) > 0
  }

  /**
   * Chooses the IOMMU type; the container must have a group (`VFIO_SET_IOMMU`).
   * @throws VfioSystemError `EINVAL` without a group or the second time, `ENODEV` for an unknown type, `EPERM` where the
   * platform cannot isolate interrupts.
   */
  setIommu(type: IommuTypeName | number): void {
    const index = checkIndex(type, IOMMU_TYPE_NAMES, 'type')
    this.ask((native) => native.setIommu(index))
    try {
      // Known before anything is allocated for it.
      this.handle.limits = null
      void this.dma.limits
    } catch {
      // Asked again by whoever needs it, who gets the error.
    }
  }

  /**
   * What the IOMMU can map (`VFIO_IOMMU_GET_INFO`).
   * @throws VfioSystemError `EINVAL` before `setIommu()`.
   */
  iommuInfo(): IommuInfo {
    const answer = answerIn(this.ask((native) => native.iommuInfo(scratch)))
    const flags = answer.u32(4)
    const capabilities = flags & FLAG_CAPABILITIES ? iommuCapabilities(answer, answer.u32(16)) : []
    const named = <N extends IommuCapability['name']>(name: N) =>
      capabilities.find((entry): entry is Extract<IommuCapability, { name: N }> => entry.name === name)
    const migration = named('migration')
    return {
      pageSizes: flags & FLAG_PAGE_SIZES ? bitsOf(answer.u64(8)) : [],
      iovaRanges: named('iova-ranges')?.ranges ?? null,
      dmaAvailable: named('dma-available')?.available ?? null,
      migration: migration
        ? { pageSizes: bitsOf(migration.pageSizes), maxDirtyBitmapSize: migration.maxDirtyBitmapSize }
        : null,
      capabilities,
    }
  }
}

// Outside of the class, which keeps its name in the bundle only if it does not name itself.
const opened = (native: NativeContainer, path: string) =>
  new VfioContainer(new ContainerHandle(native, `container ${path}`, null))

/** What another thread left to this one. */
export const acceptedContainer = (native: NativeContainer, name: string) =>
  new VfioContainer(new ContainerHandle(native, name, null))

/** The powers of two in a bitmap. */
function bitsOf(bitmap: bigint): bigint[] {
  return Array.from({ length: 64 }, (_, bit) => 1n << BigInt(bit)).filter((size) => bitmap & size)
}
