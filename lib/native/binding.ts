/**
 * What the addon exports. Every method is one system call: it answers, throws an Error with `errno`, `syscall`, `request`
 * and `path`, or one with `code` ERR_VFIO_CLOSED, ERR_VFIO_BAD_ARGUMENT or ERR_VFIO_BAD_KERNEL_DATA.
 */
export interface Binding {
  readonly Container: { open(path: string): NativeContainer }
  readonly Group: { open(path: string): NativeGroup }
  readonly Device: abstract new () => NativeDevice
  /** `flock(2)` on an open file, exclusive and without waiting: whether the lock was had. Gone when the file is closed. */
  tryLock(descriptor: number): boolean
  /**
   * Reads the same files, links and lists of names of many directories below `root`, at most `limit` bytes of each.
   * `spans` has two numbers for each entry, row by row: where it starts in `data` and its length in bytes; a negative
   * start is a negated errno.
   */
  readTree(
    root: string,
    directories: readonly string[],
    files: readonly string[],
    links: readonly string[],
    lists: readonly string[],
    limit: number,
  ): { readonly data: Uint8Array; readonly spans: Int32Array }
}

export interface NativeHandle {
  /** Closes off the main thread. Idempotent. */
  close(): Promise<void>
  /** Closes at once, or when the work that runs on it ends. Idempotent. */
  closeNow(): void
}

/**
 * A call that fills a structure of the kernel. The answer is in `into` where it fits, else in a new buffer, in the
 * kernel's own layout; its chain of capabilities has been checked.
 */
type Fill = (into: ArrayBuffer) => ArrayBuffer
type FillIndexed = (index: number, into: ArrayBuffer) => ArrayBuffer

export interface NativeContainer extends NativeHandle {
  apiVersion(): number
  checkExtension(extension: number): number
  setIommu(type: number): void
  iommuInfo: Fill
}

export interface NativeGroup extends NativeHandle {
  /** `flags` of `struct vfio_group_status`. */
  status(): number
  setContainer(container: NativeContainer): void
  unsetContainer(): void
  /** `request` is what the kernel gets: the name, and after it what else the driver wants (` vf_token=…`). */
  openDevice(request: string, name: string): Promise<NativeDevice>
}

export interface NativeDevice extends NativeHandle {
  info: Fill
  regionInfo: FillIndexed
  irqInfo: FillIndexed
  hotResetInfo: Fill
  reset(): Promise<void>
  hotReset(groups: readonly NativeGroup[]): Promise<void>
}
