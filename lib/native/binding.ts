/**
 * What the addon exports. Every method is one system call, save those that are of one thread together: it answers, throws an Error with `errno`, `syscall`, `request`
 * and `path`, or one with `code` ERR_VFIO_CLOSED, ERR_VFIO_BAD_ARGUMENT or ERR_VFIO_BAD_KERNEL_DATA.
 */
export interface Binding {
  readonly Container: { open(path: string): NativeContainer } & Given<NativeContainer>
  readonly Group: { open(path: string): NativeGroup } & Given<NativeGroup>
  readonly Device: {
    /** `/dev/vfio/devices/vfioN`, of which nothing is opened before it is bound: the kernel answers nothing else until then. */
    openCdev(path: string): NativeDevice
  } & Given<NativeDevice>
  readonly Iommufd: { open(path: string): NativeIommufd } & Given<NativeIommufd>
  readonly DmaBuf: abstract new () => NativeDmaBuf
  readonly EventFd: { create(): NativeEventFd }
  readonly Poll: { open(callback: (count: number) => void): NativePoll }
  readonly MemoryFile: {
    /** `memfd_create(2)`: `huge` is the binary logarithm of the size of its huge pages, 0 for ordinary ones. */
    create(size: number, huge: number): NativeMemoryFile
    /** A descriptor of the caller's, duplicated. */
    duplicate(descriptor: number): NativeMemoryFile
  }
  readonly Memory: abstract new () => NativeMemory
  /** 32-bit words of this process: how often an access found nothing behind device memory, and how many mappings are open. */
  readonly mappingCounts: ArrayBuffer
  /** That of this system, in bytes (`sysconf(3)`). */
  readonly pageSize: number
  /** Of the glibc that it runs with; null where it was built for another C library. */
  readonly glibcVersion: string | null
  /** Takes SIGBUS back after somebody gave it another handler, who gets what is not ours. Nothing before a first mapping. */
  handleBusErrors(): void
  /**
   * Leaves open objects to whoever accepts this number, in any thread of the process, once: containers, groups, devices and
   * iommufds. They are closed here then; where it fails nothing has changed.
   */
  offer(...parts: readonly NativeHandle[]): number
  /** Takes all of them in the same order, or none: after a failure they can still be accepted. */
  accept(offer: number): NativeHandle[]
  /** What is behind a descriptor of the caller's: the number of a character device (`fstat(2)`), and its name in `/proc/self/fd`. */
  describe(descriptor: number): {
    readonly isCharacter: boolean
    readonly major: number
    readonly minor: number
    readonly name: Uint8Array
  }
  readonly KvmVfio: { create(vmFd: number): NativeKvmVfio }
  readonly MigrationData: abstract new () => NativeMigrationData
  readonly Process: {
    /**
     * `fork(2)`: a process in a group of its own that waits at a gate, with nothing open but what it was given; it ends
     * where this process does. {@link NativeProcess.proceed} lets it execute.
     */
    start(task: NativeTask): NativeProcess
    /** `pidfd_open(2)` of any process. */
    open(pid: number): NativeProcess
  }
  readonly Guard: {
    /**
     * `fork(2)`: a process in a session of its own that holds nothing of this one, and executes `argv` when this process has
     * died without dismissing it.
     */
    start(argv: readonly string[], environment: readonly string[]): NativeGuard
  }
  readonly Messages: {
    /** A socket that hears what the kernel tells of devices (`NETLINK_KOBJECT_UEVENT`); `space`: bytes that may wait in it. */
    openUevents(groups: number, space: number): NativeMessages
    /** The kernel's log, from its end on (`/dev/kmsg`). */
    openLog(path: string): NativeMessages
    /** What happens to files (`inotify(7)`), those of `addPath()`. */
    openInotify(): NativeMessages
  }
  /** The inode of the user namespace that this process's network namespace belongs to (`NS_GET_USERNS`). */
  networkOwner(): number
  // Calls that are made often take the number of their object: that is the quickest way to it.
  /** `flags` of `struct vfio_group_status`. */
  groupStatus(group: number): number
  /** `struct vfio_region_info` with its capabilities, in `into` where it fits. */
  deviceRegionInfo(device: number, index: number, into: ArrayBuffer): ArrayBuffer
  /**
   * `IOMMU_IOAS_MAP` of mapped memory: where it is. `flags` are IOMMU_IOAS_MAP_*; without FIXED_IOVA the kernel chooses, whatever
   * `iova` is.
   */
  iommufdMap(
    iommufd: number,
    ioas: number,
    memory: number,
    offset: number,
    size: number,
    iova: bigint,
    flags: number,
  ): bigint
  /** `IOMMU_IOAS_UNMAP`: how many bytes were unmapped. */
  iommufdUnmap(iommufd: number, ioas: number, iova: bigint, size: number): number
  /** `count` of `struct vfio_irq_info` times 2¹⁶, plus its `flags`. */
  deviceIrqInfo(device: number, index: number): number
  /** `VFIO_DEVICE_SET_IRQS` without data, which triggers, masks or unmasks. */
  deviceSignalIrqs(device: number, flags: number, index: number, start: number, count: number): void
  /** `VFIO_IOMMU_MAP_DMA` of mapped memory. */
  containerMapDma(
    container: number,
    memory: number,
    offset: number,
    size: number,
    iova: bigint,
    flags: number,
  ): void
  /** `VFIO_IOMMU_UNMAP_DMA`: how many bytes were unmapped. */
  containerUnmapDma(container: number, iova: bigint, size: number, flags: number): number
  // One access of a device's region through its descriptor (`pread(2)`, `pwrite(2)`); `position` is that in its file.
  deviceRead8(device: number, position: number): number
  deviceRead16(device: number, position: number): number
  deviceRead32(device: number, position: number): number
  deviceRead64(device: number, position: number): bigint
  deviceWrite8(device: number, position: number, value: number): void
  deviceWrite16(device: number, position: number, value: number): void
  deviceWrite32(device: number, position: number, value: number): void
  deviceWrite64(device: number, position: number, value: bigint): void
  deviceCopyOut(device: number, position: number, into: ArrayBufferView): void
  deviceCopyIn(device: number, position: number, from: ArrayBufferView): void
  // One store of exactly this width to mapped memory, and copies of 32 bits at a time.
  memoryWrite8(memory: number, offset: number, value: number): void
  memoryWrite16(memory: number, offset: number, value: number): void
  memoryWrite32(memory: number, offset: number, value: number): void
  memoryWrite64(memory: number, offset: number, value: bigint): void
  memoryCopyOut(memory: number, offset: number, into: ArrayBufferView): void
  memoryCopyIn(memory: number, offset: number, from: ArrayBufferView): void
  /** Whether the event loop goes on as long as a call runs off the main thread: at first it does. */
  readonly loop: { ref(): void; unref(): void }
  /** `flock(2)` on an open file, exclusive and without waiting: whether the lock was had. Gone when the file is closed. */
  tryLock(descriptor: number): boolean
  /** `F_OFD_SETLK` of `fcntl(2)` for one byte of an open file: as {@link tryLock}, and the file is open for writing. */
  tryLockByte(descriptor: number, offset: number): boolean
  /**
   * A process of its own for calls on files that the kernel may keep waiting for ever (`fork(2)`). On the socket it
   * answers in words of 32 bits, first with 0 when it is ready; it ends when nobody has the socket any more.
   */
  startWriter(): { readonly pid: number; readonly socket: number }
  /**
   * Asks it for one read or write of a file: the answer is a negated errno, or how many bytes follow. It keeps the
   * descriptor `lock` open until then. Ask the next when it has answered.
   */
  askWriter(socket: number, write: boolean, path: string, text: string, lock: number | undefined): void
  /** Takes the end of such a process, once its socket is closed (`waitpid(2)`). */
  reapWriter(pid: number): void
  /**
   * The first 4,096 bytes of files that may keep a reader waiting for ever, read by a process beside this one, as
   * {@link readTree} has them: `ETIMEDOUT` for what the kernel has kept waiting for `patience` milliseconds, and for all behind the
   * third of these.
   */
  readWaiting(paths: readonly string[], patience: number): () => Spans
  /**
   * `getpwnam_r(3)`, of digits `getpwuid_r`, and `getgrouplist(3)`, off the main thread: a name may come from a server. `null`
   * where there is no such user.
   */
  findUser(name: string): Promise<NativeUser | null>
  /** `getgrnam_r(3)`, off the main thread: the gid, `null` where there is no such group. */
  findGroup(name: string): Promise<number | null>
  /** `tcgetpgrp(3)` and `getpgrp(2)`: whose foreground a terminal is, and the group of this process. */
  terminalGroups(descriptor: number): readonly [number, number]
  /** `tcsetpgrp(3)`, also from the background. */
  setTerminalGroup(descriptor: number, group: number): void
  /** `tcgetattr(3)`. */
  terminalModes(descriptor: number): ArrayBuffer
  /** `tcsetattr(3)`, also from the background. */
  setTerminalModes(descriptor: number, modes: ArrayBuffer): void
  /**
   * In bytes of a text from an offset on, the first newline behind which a line begins that is indented by at most `tabs` tabs,
   * two at most, and is neither empty nor a comment (`#`); -1 where none is, or too little of it is there to tell.
   */
  findHead(text: Uint8Array, from: number, tabs: number): number
  /**
   * Begins to read, and answers what waits for the end of it, once: the same files, links, lists of names and device numbers of many directories below `root` (their names, or a text of them with a NUL between each two), of each file at most
   * as many bytes as its entry in `limits`. A link `.` is the directory's own name, as a link. Each name of a list ends with a NUL; a device is `c` or `b` and its number,
   * `c1:3`, and nothing for what is no device. Of files that are named in `spaces` too, config spaces, all of the first 256 bytes is read, the headers of the list of
   * extended capabilities, and of those with an id in `bodies`, which has ids and counts in turn, so many bytes; the rest is zero. In all texts a lone surrogate from U+DC80 on stands for a byte that is no UTF-8.
   * `spans` has two numbers for each entry, row by row: where it starts in `data` and its length in bytes; a negative
   * start is a negated errno.
   */
  readTree(
    root: string,
    directories: readonly string[] | string,
    files: readonly string[],
    limits: readonly number[],
    links: readonly string[],
    lists: readonly string[],
    nodes: readonly string[],
    spaces: readonly string[],
    bodies: readonly number[],
  ): () => Spans
}

/** Many entries: their bytes, and for each of them where it starts and its length. */
interface Spans {
  readonly data: Uint8Array
  readonly spans: Int32Array
}

/** A class of objects that a descriptor of the caller's makes too: it is duplicated. */
interface Given<T> {
  fromDescriptor(descriptor: number): T
}

/** An account of this host. */
export interface NativeUser {
  readonly uid: number
  readonly gid: number
  readonly name: string
  readonly home: string
  /** All that it is in, its own among them. */
  readonly groups: readonly number[]
}

/** What is to be executed. */
export interface NativeTask {
  /** A path. */
  readonly file: string
  readonly arguments: readonly string[]
  /** As `NAME=value`. */
  readonly environment: readonly string[]
  /** `LISTEN_PID` with its own pid is added to the environment. */
  readonly listen: boolean
  /** What become its descriptors 0, 1, 2, … */
  readonly descriptors: readonly number[]
  /** A terminal whose foreground its group becomes. */
  readonly terminal: number | null
  /** RLIMIT_MEMLOCK in bytes, soft and hard. */
  readonly memlock: number | null
  /** It becomes this user, without any capability and without a way to new privileges. */
  readonly user: Pick<NativeUser, 'uid' | 'gid' | 'groups'> | null
}

export interface NativeProcess extends NativeHandle {
  readonly pid: number
  /** Lets it execute: `null` once it does, or has ended before; or the call that failed. Once. */
  proceed(): Promise<{ readonly syscall: string; readonly errno: number } | null>
  /** `waitid(2)` for its next stop or its end, which it does not take: `si_code` and `si_status`. Of a child. */
  wait(): Promise<{ readonly code: number; readonly status: number }>
  /** Takes its end, and with it its pid: whether it has ended. */
  reap(): boolean
  /** When it has ended; of any process. */
  ended(): Promise<void>
  /** `pidfd_send_signal(2)`: whether it was there. */
  signal(number: number): boolean
}

export interface NativeGuard extends NativeHandle {
  readonly pid: number
  /** Ends it: there is nothing left to guard. */
  dismiss(): void
  /** When it has ended: takes its end. */
  ended(): Promise<void>
}

export interface NativeHandle {
  /** What the calls that are made often know it by, in this thread. */
  readonly id: number
  /** Closes off the main thread. Idempotent. */
  close(): Promise<void>
  /** Closes at once, or when the work that runs on it ends. Idempotent. */
  closeNow(): void
}

/** What stands for a descriptor. */
export interface NativeFile extends NativeHandle {
  number(): number
}

/**
 * A call that fills a structure of the kernel. The answer is in `into` where it fits, else in a new buffer, in the
 * kernel's own layout; its chain of capabilities has been checked.
 */
type Fill = (into: ArrayBuffer) => ArrayBuffer

export interface NativeContainer extends NativeFile {
  apiVersion(): number
  checkExtension(extension: number): number
  setIommu(type: number): void
  iommuInfo: Fill
  // The same as the calls above, off the main thread.
  mapDma(memory: number, offset: number, size: number, iova: bigint, flags: number): Promise<void>
  unmapDma(iova: bigint, size: bigint, flags: number): Promise<bigint>
  /** `VFIO_IOMMU_DIRTY_PAGES`: starts or stops. */
  logDirtyPages(flags: number): Promise<void>
  /** A bit for each page, in words of 64 bits. */
  dirtyBitmap(iova: bigint, size: bigint, pageSize: bigint): Promise<ArrayBuffer>
  /** `VFIO_IOMMU_UNMAP_DMA` with the dirty pages of what is unmapped. */
  unmapDirty(iova: bigint, size: bigint, pageSize: bigint): Promise<ArrayBuffer>
}

export interface NativeGroup extends NativeFile {
  setContainer(container: NativeContainer): void
  unsetContainer(): void
  /** `request` is what the kernel gets: the name, and after it what else the driver wants (` vf_token=…`). */
  openDevice(request: string, name: string): Promise<NativeDevice>
}

export interface NativeDevice extends NativeFile {
  info: Fill
  hotResetInfo: Fill
  /** Maps a part of the device's file for reading and writing: `position` a multiple of the page size, `size` in bytes. */
  map(position: number, size: number): NativeMemory
  /** `VFIO_DEVICE_SET_IRQS` with a descriptor for each vector, −1 for none. More than 0: the kernel has only so many vectors. */
  setIrqs(flags: number, index: number, start: number, count: number, eventfds: Int32Array): number
  reset(): Promise<void>
  /** For a device by its own node there are no groups: the kernel knows from its iommufd what is whose. */
  hotReset(groups: readonly NativeGroup[]): Promise<void>
  /** `VFIO_DEVICE_BIND_IOMMUFD`: the number of the device there. A token has 16 bytes. */
  bindIommufd(iommufd: NativeIommufd, token: Uint8Array | null): Promise<number>
  /** Both in one go: what {@link bindIommufd} takes, and behind it what {@link attach} does. */
  bindAndAttach(
    iommufd: NativeIommufd,
    token: Uint8Array | null,
    pt: number,
    pasid: number | null,
  ): Promise<number>
  /** `VFIO_DEVICE_ATTACH_IOMMUFD_PT` to an address space or page table: the page table, which the kernel may have made. */
  attach(pt: number, pasid: number | null): Promise<number>
  /** `VFIO_DEVICE_DETACH_IOMMUFD_PT`. */
  detach(pasid: number | null): Promise<void>
  /** `flags` are those of `struct vfio_device_feature` with the index; PROBE is added. */
  probeFeature(flags: number): void
  /** `payload` is what follows the head of the structure, and what the call leaves there is the answer. */
  feature(flags: number, payload: ArrayBuffer): Promise<ArrayBuffer>
  setMigrationState(state: number): Promise<NativeMigrationData | null>
  /** `ranges` are pairs of an address and a length. Answers the page size that was chosen. */
  startDmaLogging(pageSize: bigint, ranges: ArrayBuffer): Promise<bigint>
  /** A bit for each page, in words of 64. */
  dmaLoggingReport(iova: bigint, length: bigint, pageSize: bigint): Promise<ArrayBuffer>
  /**
   * `VFIO_DEVICE_FEATURE_DMA_BUF`: `ranges` of a region, pairs of offset and length. `flags` are those of `open(2)`; O_CLOEXEC is
   * added.
   */
  dmaBuf(region: number, flags: number, ranges: BigUint64Array): Promise<NativeDmaBuf>
  /** `VFIO_DEVICE_FEATURE_ZPCI_ERROR`: the first `size` bytes of an error that waits, 4096 at most. */
  zpciError(size: number): Promise<ArrayBuffer>
  /** `flags` say the width in bytes, `offset` is one in the device's file; an eventfd of `null` ends it. */
  ioeventfd(flags: number, offset: bigint, data: bigint, eventfd: number | null): void
}

/** Its objects go by the numbers that the kernel gives them. What maps or unmaps may take long, and is a promise. */
export interface NativeIommufd extends NativeFile {
  /** `IOMMU_DESTROY`. */
  destroy(id: number): Promise<void>
  /** `IOMMU_IOAS_ALLOC`. */
  allocateIoas(): number
  /** `IOMMU_IOAS_IOVA_RANGES`: pairs of the first and the last address. */
  iovaRanges(ioas: number): { readonly alignment: bigint; readonly ranges: BigUint64Array }
  /** `IOMMU_IOAS_ALLOW_IOVAS`, the same pairs. */
  allowIovas(ioas: number, ranges: BigUint64Array): void
  /** As `iommufdMap`. */
  map(
    ioas: number,
    memory: number,
    offset: number,
    size: number,
    iova: bigint,
    flags: number,
  ): Promise<bigint>
  /** `IOMMU_IOAS_MAP_FILE` of a descriptor, which may be closed at once. */
  mapFile(ioas: number, fd: number, start: bigint, size: bigint, iova: bigint, flags: number): Promise<bigint>
  /** `IOMMU_IOAS_COPY`. */
  copy(
    to: number,
    from: number,
    size: bigint,
    toIova: bigint,
    fromIova: bigint,
    flags: number,
  ): Promise<bigint>
  /** As `iommufdUnmap`; all of it with 0 and 2⁶⁴ − 1. */
  unmap(ioas: number, iova: bigint, size: bigint): Promise<bigint>
  /** `IOMMU_IOAS_CHANGE_PROCESS`. */
  changeProcess(): Promise<void>
  /** `IOMMU_OPTION`: `operation` 0 sets, 1 gets; the value. */
  option(id: number, operation: number, objectId: number, value: bigint): bigint
  /** `IOMMU_HWPT_ALLOC`. */
  allocateHwpt(
    device: number,
    pt: number,
    flags: number,
    dataType: number,
    data: Uint8Array | null,
    faultId: number,
  ): Promise<number>
  /** `IOMMU_HWPT_SET_DIRTY_TRACKING`: 1 begins, 0 ends. */
  setDirtyTracking(hwpt: number, flags: number): Promise<void>
  /** `IOMMU_HWPT_GET_DIRTY_BITMAP`: a bit for each page, in words of 64. */
  dirtyBitmap(hwpt: number, iova: bigint, size: bigint, pageSize: bigint, flags: number): Promise<ArrayBuffer>
  /** `IOMMU_GET_HW_INFO`: `data` in the layout of its `type`. */
  hwInfo(
    device: number,
    flags: number,
    type: number,
  ): {
    readonly type: number
    readonly capabilities: bigint
    readonly pasidBits: number
    readonly data: ArrayBuffer
  }
  /** `IOMMU_IOAS_NOIOMMU_GET_PA`: how many bytes, `length` at most, follow each other in physical memory from which address on. */
  noiommuPa(
    ioas: number,
    iova: bigint,
    length: bigint,
  ): Promise<{ readonly address: bigint; readonly length: bigint }>
}

export type NativeDmaBuf = NativeFile

export interface NativeMigrationData extends NativeHandle {
  /** `VFIO_MIG_GET_PRECOPY_INFO`: estimates in bytes. */
  precopyInfo(): Promise<{
    readonly initialBytes: bigint
    readonly dirtyBytes: bigint
    readonly flags: number
  }>
  read(size: number): Promise<ArrayBuffer>
  /** How many bytes of `size` from `offset` were written. */
  write(from: ArrayBuffer, offset: number, size: number): Promise<number>
}

export interface NativeKvmVfio extends NativeHandle {
  add(file: NativeGroup | NativeDevice): void
  remove(file: NativeGroup | NativeDevice): void
}

export interface NativeEventFd extends NativeFile {
  /** Adds to the counter: from 0 to 2⁵³ - 1. */
  signal(count: number): void
  /** What was added since it was read last; 0 where nothing was. */
  read(): number
}

/** Messages of the kernel, one for each call (of inotify as many as fit): their length in bytes, 0 where none waits, or a negated errno. */
export interface NativeMessages extends NativeHandle {
  /** From a socket: four words of 32 bits, which are port, groups, pid and uid of the sender, and then the message. */
  receive(into: Uint8Array): number
  /** From a file. */
  read(into: Uint8Array): number
  /** `inotify_add_watch(2)`: `events` are its `IN_…`; the number by which it tells of the path. */
  addPath(path: string, events: number): number
}

/** Tells when one of many eventfds was signalled, or a message waits, until `end()`. */
export interface NativePoll extends NativeHandle {
  /**
   * For each of the eventfds that the callback is told the number of, three words of 32 bits: its key, and what was added to
   * it since it was read last, low half first. At most 64 at once; the next call overwrites them.
   */
  readonly batch: ArrayBuffer
  /** `key`: any 32 bits. */
  add(eventfd: NativeEventFd, key: number): void
  remove(eventfd: NativeEventFd): void
  /** As long as a message waits, its key is told with a count of 0. */
  addMessages(messages: NativeMessages, key: number): void
  removeMessages(messages: NativeMessages): void
  start(): void
  stop(): void
  ref(): void
  unref(): void
  end(): void
}

export interface NativeMemoryFile extends NativeFile {
  /** Lets nobody shrink it from now on: whether its kind of file can be sealed. */
  seal(): boolean
  /** At an address of this alignment, a power of two; 0 for any. */
  map(position: number, size: number, alignment: number): NativeMemory
}

/** Mapped memory. Where nothing answers (`SIGBUS`), that of a device reads ones, and that of a file ends the process. */
export interface NativeMemory {
  /** What the calls that are made often know it by, in this thread. */
  readonly id: number
  readonly buffer: ArrayBuffer
  /** Did an access find nothing there since it was mapped or restored? */
  lost(): boolean
  /** Maps it anew where something was lost; where that fails, it stays lost. */
  restore(): void
  /** Takes what space of its file is not taken yet (`fallocate(2)`, else `madvise(2)`). */
  reserve(): void
  /** Lets the file go and detaches `buffer`. Idempotent. */
  close(): void
}
