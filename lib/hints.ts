/** What one errno means for one request, and what to do. */
export interface Hint {
  /** The ioctl's name, or what was opened or written: `container`, `group`, `cdev`, `bind`, `new_id`. `*`: any. */
  readonly request: string
  readonly code: string
  readonly hint: string
}

const row = (request: string, code: string, hint: string): Hint => ({ request, code, hint })

const NO_ISOLATED_MSI =
  'the platform has no interrupt remapping, so a device could forge interrupts: enable it in the firmware, or accept the risk with vfio_iommu_type1.allow_unsafe_interrupts=1'
const NO_GROUP_YET =
  'the container has no group yet (setContainer()): where iommufd provides it, that is all it has to have'
const NO_SUCH_OBJECT = 'the iommufd has no object of this number: it was closed'
const IS_USED =
  'something still uses it: a device that is attached, a page table over it, or another program that has the same iommufd'
const DIRECT_REGION =
  'or the firmware demands a 1:1 mapping for one of its devices (a line "direct" in /sys/kernel/iommu_groups/N/reserved_regions)'

/**
 * Every hint of the package, from the kernel's source (drivers/vfio, drivers/iommu/iommufd, virt/kvm/vfio.c; Linux 5.10 to 7.3).
 * One row, one test. Made when the first is asked for: most programs meet no error.
 */
export const allHints = (): readonly Hint[] => [
  row('lock', 'EACCES', 'changing devices takes root, or CAP_DAC_OVERRIDE and CAP_SYS_ADMIN'),
  row('lock', 'EROFS', 'sysfs is mounted read-only here: run this where it can be written'),
  row('lock', 'ENOENT', 'this host has no PCI bus, or its /sys is not mounted here'),

  row('container', 'ENOENT', 'there is no VFIO container here: load the module vfio (`modprobe vfio-pci`)'),
  row('container', 'EACCES', 'this user may not open it: give read and write permission, or run as root'),
  row('container', 'ENODEV', 'the file is there and its module is not: load it (`modprobe vfio`)'),

  row(
    'group',
    'ENOENT',
    'no device of the group is bound to a vfio driver: bind one (`vfio check` says which), and load vfio-pci',
  ),
  row(
    'group',
    'EACCES',
    'this user may not open it: give read and write permission on the file, or run as root',
  ),
  row('group', 'ENODEV', 'the group is going away: its last device was just unbound from its vfio driver'),
  row('group', 'EPERM', 'a group without an IOMMU needs CAP_SYS_RAWIO: run as root, or enable the IOMMU'),
  row(
    'group',
    'EBUSY',
    'the group opens once, and somebody has it open, or one of its devices by cdev: stop that program',
  ),

  row(
    'VFIO_GROUP_GET_STATUS',
    'ENODEV',
    'the last device of the group was unbound from its vfio driver: close the group',
  ),

  row(
    'VFIO_GROUP_SET_CONTAINER',
    'EPERM',
    'the group is not viable: a device of it is bound to a host driver (`vfio check group:N` names it); unbind that one, or bind it to vfio-pci. Or groups with and without an IOMMU are mixed',
  ),
  row(
    'VFIO_GROUP_SET_CONTAINER',
    'EINVAL',
    `the group has a container already, ${DIRECT_REGION}; or, where iommufd provides the container, groups with and without an IOMMU are mixed`,
  ),
  row('VFIO_GROUP_SET_CONTAINER', 'EBADFD', 'the descriptor is not a VFIO container'),
  row(
    'VFIO_GROUP_SET_CONTAINER',
    'ENODEV',
    'the last device of the group was unbound from its vfio driver: close the group',
  ),
  row(
    'VFIO_GROUP_SET_CONTAINER',
    'EBUSY',
    'another IOMMU domain than the default one is attached to the group: a host program or iommufd uses it',
  ),

  row('VFIO_GROUP_UNSET_CONTAINER', 'EINVAL', 'the group has no container'),
  row(
    'VFIO_GROUP_UNSET_CONTAINER',
    'EBUSY',
    'devices of the group are open, close them first; or KVM was told of it (KvmVfio.remove())',
  ),

  row(
    'VFIO_SET_IOMMU',
    'EINVAL',
    'the container has no group yet, or an IOMMU already, or the group reserves addresses that mappings use; or, where iommufd provides the container, the kernel has no such IOMMU type',
  ),
  row(
    'VFIO_SET_IOMMU',
    'ENODEV',
    'the kernel has no such IOMMU type: load its module (`modprobe vfio_iommu_type1`) and ask checkExtension(); or, where iommufd provides the container, it has no group yet',
  ),
  row('VFIO_SET_IOMMU', 'EPERM', NO_ISOLATED_MSI),
  row(
    'VFIO_SET_IOMMU',
    'EBUSY',
    'the group is attached to another IOMMU domain: a host driver or iommufd uses it',
  ),
  row(
    'VFIO_IOMMU_GET_INFO',
    'EINVAL',
    'the container has no IOMMU yet: give it a group, then call setIommu()',
  ),
  row('VFIO_IOMMU_GET_INFO', 'ENODEV', NO_GROUP_YET),

  row('VFIO_GROUP_GET_DEVICE_FD', 'ENODEV', 'the device is not in this group, or not bound to a vfio driver'),
  row(
    'VFIO_GROUP_GET_DEVICE_FD',
    'EINVAL',
    'the group has no container or the container no IOMMU (setContainer(), setIommu()); or, before Linux 5.18, the group is not viable (`vfio check group:N` names the device); or the VF token is malformed or not expected; or, where iommufd provides the container, the firmware demands a 1:1 mapping',
  ),
  row(
    'VFIO_GROUP_GET_DEVICE_FD',
    'EADDRINUSE',
    'something is mapped at addresses that the device reserves (a window for interrupts, a region of the firmware): where iommufd provides the container, open devices before anything is mapped',
  ),
  row(
    'VFIO_GROUP_GET_DEVICE_FD',
    'EACCES',
    'the VF token of its physical function is missing or wrong, which a virtual function wants, and a physical function while virtual ones are in use: give openDevice() as vfToken the UUID that the owner of the physical function has set (the commands of vfio take none)',
  ),
  row(
    'VFIO_GROUP_GET_DEVICE_FD',
    'EAGAIN',
    'the device is locked, another open or reset is running: open it again when that has ended',
  ),
  row(
    'VFIO_GROUP_GET_DEVICE_FD',
    'EPERM',
    'a device without an IOMMU needs CAP_SYS_RAWIO, or the group is not viable (`vfio check group:N`); or, where iommufd provides the container, a device could forge interrupts: enable interrupt remapping in the firmware, or accept the risk with iommufd.allow_unsafe_interrupts=1',
  ),
  row(
    'VFIO_GROUP_GET_DEVICE_FD',
    'EBUSY',
    'a variant driver or the device itself allows no second open: close the first',
  ),
  row(
    'VFIO_GROUP_GET_DEVICE_FD',
    'EIO',
    'the device does not answer: it may be powered off or gone from the bus',
  ),

  row('VFIO_DEVICE_GET_INFO', 'EINVAL', 'the device was opened by cdev and is not bound to an iommufd yet'),
  row(
    'VFIO_DEVICE_GET_REGION_INFO',
    'EINVAL',
    'the device has no region of this index (the VGA region exists on VGA devices only)',
  ),
  row(
    'VFIO_DEVICE_GET_IRQ_INFO',
    'EINVAL',
    'the device has no interrupt of this index (`err` exists on PCI Express devices only before Linux 7)',
  ),

  row(
    'VFIO_DEVICE_SET_IRQS',
    'EINVAL',
    'another kind of interrupt of the device is enabled (disable() it first: INTx, MSI and MSI-X exclude each other), or this one is not enabled or has no such vector',
  ),
  row(
    'VFIO_DEVICE_SET_IRQS',
    'ENOTTY',
    'this kind of interrupt cannot do that: mask(), unmask() and resample() are for INTx',
  ),
  row('VFIO_DEVICE_SET_IRQS', 'ENODEV', 'the device has no interrupt pin, or is gone from the bus'),
  row(
    'VFIO_DEVICE_SET_IRQS',
    'EBADF',
    'a descriptor given is closed, or no eventfd: EventFd.create() makes one',
  ),
  row(
    'VFIO_DEVICE_SET_IRQS',
    'EBUSY',
    'the eventfd resamples another interrupt already, or the line of the interrupt is shared with a host driver',
  ),
  row('VFIO_DEVICE_SET_IRQS', 'ENOSPC', 'the host has no interrupt vector left'),

  row(
    'region',
    'EIO',
    'nothing answers there: the memory or I/O decode of the device is off (config.setCommand()), or it sleeps or is gone',
  ),
  row('region', 'EINVAL', 'the region cannot be read, written or mapped that way (regionInfo() says how)'),
  row('region', 'EPERM', 'the kernel lets nobody write there: the device would get out of its control'),
  row('region', 'EFAULT', 'the kernel could not copy the bytes: the device did not take or give them'),
  row(
    'region',
    'EBUSY',
    'something else on the host holds this memory of the device, often the frame buffer of the firmware: /proc/iomem names it',
  ),
  row('region', 'ENODEV', 'the device is gone from the bus: close it'),
  row(
    'region',
    'ENOMEM',
    'the memory of the device cannot be mapped into this process, which has too many mappings or the host too little memory: each access tries it anew',
  ),

  row(
    'VFIO_DEVICE_RESET',
    'EINVAL',
    'the device has no function reset (info().reset is false): use hotReset(), where hotResetInfo() allows it',
  ),
  row(
    'VFIO_DEVICE_RESET',
    'EAGAIN',
    'the device is locked, another reset or a close is running: reset it again when that has ended',
  ),
  row(
    'VFIO_DEVICE_RESET',
    'ENOTTY',
    'no reset method of the device worked: the kernel log says which were tried',
  ),
  row(
    'VFIO_DEVICE_RESET',
    'ETIMEDOUT',
    'the device did not come back after its reset: only a power cycle is left',
  ),

  row(
    'VFIO_DEVICE_GET_PCI_HOT_RESET_INFO',
    'ENODEV',
    'the device has neither a slot nor a bus that can be reset: it sits on a root bus',
  ),
  row(
    'VFIO_DEVICE_GET_PCI_HOT_RESET_INFO',
    'EPERM',
    'a device that the reset would affect is in no IOMMU group',
  ),
  row(
    'VFIO_DEVICE_GET_PCI_HOT_RESET_INFO',
    'EAGAIN',
    'devices came or went while the kernel counted: ask again',
  ),
  row('VFIO_DEVICE_GET_PCI_HOT_RESET_INFO', 'ENOSPC', 'devices came while the kernel counted: ask again'),

  row(
    'VFIO_DEVICE_PCI_HOT_RESET',
    'EINVAL',
    'not every affected device is bound to a vfio driver and in one of the groups given, or by cdev in a group of the same iommufd: hotResetInfo() lists them; bind them all (bridges cannot be)',
  ),
  row('VFIO_DEVICE_PCI_HOT_RESET', 'EPERM', 'an affected device belongs to a group that was not given'),
  row(
    'VFIO_DEVICE_PCI_HOT_RESET',
    'ENODEV',
    'the device has neither a slot nor a bus that can be reset: it sits on a root bus',
  ),
  row('VFIO_DEVICE_PCI_HOT_RESET', 'ENOTTY', 'the port above the device cannot reset its bus'),
  row(
    'VFIO_DEVICE_PCI_HOT_RESET',
    'EAGAIN',
    'an affected device is locked, another reset or open is running: try again when that has ended',
  ),
  row(
    'VFIO_DEVICE_PCI_HOT_RESET',
    'EBUSY',
    'an affected device is in use and cannot be locked: close it first',
  ),
  row('VFIO_DEVICE_PCI_HOT_RESET', 'EBADF', 'a group given is closed, or not a VFIO group'),

  // What devices have beyond what all have, and KVM (virt/kvm/vfio.c).
  row(
    'VFIO_DEVICE_FEATURE',
    'ENOTTY',
    'the kernel or the driver of the device does not know this feature; feature(name).probe() asks without an error',
  ),
  row(
    'VFIO_DEVICE_FEATURE',
    'EINVAL',
    'the feature has no such operation (feature(name).probe() tells), or not in this state: low power was entered before, a log of DMA runs already or not at all, no way leads to the migration state; or its data is not what it should be',
  ),
  row('VFIO_DEVICE_FEATURE', 'EBADF', 'the eventfd for the wakeup is closed'),
  row(
    'VFIO_DEVICE_FEATURE',
    'E2BIG',
    'the driver cannot log so many ranges of DMA: give fewer and larger ones',
  ),

  row(
    'VFIO_DEVICE_FEATURE',
    'ENODEV',
    'a dma-buf is of a BAR that the device has, no other region; or the function is none of IBM Z',
  ),
  row(
    'VFIO_DEVICE_FEATURE',
    'ENOTSUP',
    'the driver of the device, or its platform, cannot share BARs with other devices (CONFIG_PCI_P2PDMA)',
  ),
  row(
    'VFIO_MIG_GET_PRECOPY_INFO',
    'EINVAL',
    'only in the states pre-copy and pre-copy-p2p the kernel estimates what is left',
  ),
  row(
    'VFIO_MIG_GET_PRECOPY_INFO',
    'ENOTTY',
    'this device or kernel has no pre-copy (migration.support() tells)',
  ),

  row(
    'VFIO_DEVICE_IOEVENTFD',
    'EINVAL',
    'the write is outside of the BARs or on the MSI-X table, the kernel cannot write 64 bits at once here, or the descriptor is no eventfd',
  ),
  row(
    'VFIO_DEVICE_IOEVENTFD',
    'EEXIST',
    'the device has an eventfd for the same write: close that one first',
  ),
  row('VFIO_DEVICE_IOEVENTFD', 'EBADF', 'the eventfd is closed'),
  row('VFIO_DEVICE_IOEVENTFD', 'ENOSPC', 'the device has 1000 of them, which is the most: close some'),
  row('VFIO_DEVICE_IOEVENTFD', 'EBUSY', 'the kernel or another driver holds the memory of the BAR'),

  row(
    'KVM_CREATE_DEVICE',
    'EBUSY',
    'the machine has its VFIO device already: use that one, or close it, which ends it only since Linux 6.2 (and in stable releases with its change)',
  ),
  row('KVM_CREATE_DEVICE', 'ENODEV', 'this KVM was built without VFIO (CONFIG_KVM_VFIO)'),
  row('KVM_CREATE_DEVICE', 'EBADF', 'the descriptor of the machine is closed'),
  row(
    'KVM_CREATE_DEVICE',
    'ENOTTY',
    'the descriptor is no KVM machine: it must be what KVM_CREATE_VM answered',
  ),
  row(
    'KVM_CREATE_DEVICE',
    'EINVAL',
    'the descriptor is no KVM machine: it must be what KVM_CREATE_VM answered, not /dev/kvm itself',
  ),
  row(
    'KVM_CREATE_DEVICE',
    'EIO',
    'another process created the machine, or this one before it became another program: create it where it is used',
  ),
  row('KVM_SET_DEVICE_ATTR', 'EEXIST', 'the machine was told of it already'),
  row('KVM_SET_DEVICE_ATTR', 'ENOENT', 'the machine was not told of it, or it was removed already'),
  row(
    'KVM_SET_DEVICE_ATTR',
    'EINVAL',
    'before Linux 6.6 KVM takes groups only, and before 6.1 those only that have a container with an IOMMU (setContainer(), setIommu())',
  ),
  row('KVM_SET_DEVICE_ATTR', 'EPERM', 'a group without an IOMMU cannot be told of before Linux 6.1'),
  row('KVM_SET_DEVICE_ATTR', 'EIO', 'another process created the machine: only that one can change it'),

  // Devices by their own nodes, and iommufd (drivers/vfio/device_cdev.c and drivers/iommu/iommufd, Linux 6.2 to 7.3).
  row(
    'iommufd',
    'ENOENT',
    'the kernel has no iommufd (CONFIG_IOMMUFD), or its module is not loaded: `modprobe iommufd`, or open the device by its group',
  ),
  row(
    'iommufd',
    'EACCES',
    'this user may not open it: give read and write permission on the file, or run as root',
  ),
  row('iommufd', 'EPERM', 'a device policy of this container forbids it: let it have /dev/iommu'),
  row('iommufd', 'ENODEV', 'the file is there and its module is not: load it (`modprobe iommufd`)'),

  row(
    'cdev',
    'ENOENT',
    'the device is not bound to a vfio driver, or the kernel has no CONFIG_VFIO_DEVICE_CDEV',
  ),
  row(
    'cdev',
    'EACCES',
    'this user may not open it: give read and write permission on the file, or run as root',
  ),
  row('cdev', 'EPERM', 'a device policy of this container forbids it: let it have the node of the device'),
  row('cdev', 'ENODEV', 'the device is going away: it was just unbound from its vfio driver'),

  row(
    'VFIO_DEVICE_BIND_IOMMUFD',
    'EINVAL',
    'the device was opened by group or is bound already, or the firmware demands a 1:1 mapping for it (a line "direct" in /sys/kernel/iommu_groups/N/reserved_regions); or a VF token is given that the device does not ask for, or to a kernel before 6.18, which takes none',
  ),
  row(
    'VFIO_DEVICE_BIND_IOMMUFD',
    'EBUSY',
    'the group of the device is open, or a device of it is bound to another iommufd: close that first',
  ),
  row('VFIO_DEVICE_BIND_IOMMUFD', 'EBADF', 'the iommufd is closed'),
  row('VFIO_DEVICE_BIND_IOMMUFD', 'EBADFD', 'the descriptor is not an iommufd'),
  row(
    'VFIO_DEVICE_BIND_IOMMUFD',
    'EPERM',
    'the group of the device is not viable (`vfio check group:N` names the device), or the platform has no interrupt remapping, so a device could forge interrupts: enable it in the firmware, or accept the risk with iommufd.allow_unsafe_interrupts=1',
  ),
  row(
    'VFIO_DEVICE_BIND_IOMMUFD',
    'EACCES',
    'the VF token of its physical function is missing or wrong, which a virtual function wants, and a physical function while virtual ones are in use: give as vfToken the UUID that the owner of the physical function has set',
  ),
  row(
    'VFIO_DEVICE_BIND_IOMMUFD',
    'EAGAIN',
    'the device is locked, another open or reset is running: open it again when that has ended',
  ),
  row(
    'VFIO_DEVICE_BIND_IOMMUFD',
    'ENODEV',
    'the device is going away: it was just unbound from its vfio driver',
  ),
  row(
    'VFIO_DEVICE_BIND_IOMMUFD',
    'EIO',
    'the device does not answer: it may be powered off or gone from the bus',
  ),

  row(
    'VFIO_DEVICE_ATTACH_IOMMUFD_PT',
    'EINVAL',
    'the IOMMU of the device cannot use this page table, which was allocated for another or, for a PASID, without `pasid`; or the device is not bound to an iommufd',
  ),
  row(
    'VFIO_DEVICE_ATTACH_IOMMUFD_PT',
    'EBUSY',
    'the device, or another of its group, is being reset, or is attached to something else that cannot be replaced: attach it again when that has ended',
  ),
  row(
    'VFIO_DEVICE_ATTACH_IOMMUFD_PT',
    'EADDRINUSE',
    'something is mapped at addresses that the device reserves (a window for interrupts, a region of the firmware), or allow() named some: attach devices before anything is mapped',
  ),
  row('VFIO_DEVICE_ATTACH_IOMMUFD_PT', 'ENOENT', NO_SUCH_OBJECT),
  row(
    'VFIO_DEVICE_ATTACH_IOMMUFD_PT',
    'ENOTSUP',
    'the driver of the device, or its IOMMU, has no address spaces of processes (PASID)',
  ),
  row(
    'VFIO_DEVICE_DETACH_IOMMUFD_PT',
    'EBUSY',
    'the device, or another of its group, is being reset: detach it again when that has ended',
  ),
  row('VFIO_DEVICE_DETACH_IOMMUFD_PT', 'EINVAL', 'the device is not bound to an iommufd'),
  row(
    'VFIO_DEVICE_DETACH_IOMMUFD_PT',
    'ENOTSUP',
    'the driver of the device has no address spaces of processes (PASID)',
  ),

  row(
    'IOMMU_IOAS_MAP',
    'ENOMEM',
    'the limit on locked memory is reached, RLIMIT_MEMLOCK (`ulimit -l`), for all programs of the user together: raise it, or give CAP_IPC_LOCK',
  ),
  row('IOMMU_IOAS_MAP', 'EEXIST', 'the range overlaps a mapping: unmap that first'),
  row(
    'IOMMU_IOAS_MAP',
    'EINVAL',
    'address or size is not a multiple of the alignment, or outside what ranges() tells',
  ),
  row('IOMMU_IOAS_MAP', 'EOVERFLOW', 'the range runs over the last of all addresses'),
  row('IOMMU_IOAS_MAP', 'ENOSPC', 'the kernel finds no place for it: give an address, or unmap something'),
  row('IOMMU_IOAS_MAP', 'EFAULT', 'the memory cannot be pinned: it is not there, or may not be written'),
  row('IOMMU_IOAS_MAP', 'ENOENT', NO_SUCH_OBJECT),
  row(
    'IOMMU_IOAS_MAP_FILE',
    'EINVAL',
    'the file is no memfd and not of hugetlbfs, or has not all of the part; or address or size is not a multiple of the alignment, or outside what ranges() tells',
  ),
  row('IOMMU_IOAS_MAP_FILE', 'EBADF', 'the descriptor is closed'),
  row(
    'IOMMU_IOAS_MAP_FILE',
    'ENODEV',
    'the dma-buf was taken away: the device that it is of is being reset or sleeps, or its memory decode is off (config.setCommand())',
  ),
  row(
    'IOMMU_IOAS_MAP_FILE',
    'ENOTSUP',
    'the kernel maps a dma-buf of one range of a BAR of vfio-pci alone: export one for each range (device.dmaBuf())',
  ),
  row('IOMMU_IOAS_MAP_FILE', 'EEXIST', 'the range overlaps a mapping: unmap that first'),
  row(
    'IOMMU_IOAS_MAP_FILE',
    'ENOMEM',
    'the limit on locked memory is reached, RLIMIT_MEMLOCK (`ulimit -l`), for all programs of the user together: raise it, or give CAP_IPC_LOCK',
  ),
  row(
    'IOMMU_IOAS_MAP_FILE',
    'ENOTTY',
    'the kernel maps files since Linux 6.13 only: map a DmaBuffer of the file (DmaBuffer.fromFd())',
  ),
  row('IOMMU_IOAS_COPY', 'ENOENT', 'what is to be copied is not mapped, or not as a whole'),
  row('IOMMU_IOAS_COPY', 'EEXIST', 'the range overlaps a mapping: unmap that first'),
  row(
    'IOMMU_IOAS_COPY',
    'EINVAL',
    'address or size is not a multiple of the alignment, or outside what ranges() tells',
  ),
  row(
    'IOMMU_IOAS_UNMAP',
    'ENOENT',
    'nothing is mapped there, or the range cuts a mapping in two: unmap whole mappings',
  ),
  row('IOMMU_IOAS_UNMAP', 'EBUSY', 'a mediated device holds the memory, or it is being mapped just now'),
  row('IOMMU_IOAS_UNMAP', 'EOVERFLOW', 'the range runs over the last of all addresses'),
  row('IOMMU_IOAS_IOVA_RANGES', 'ENOENT', NO_SUCH_OBJECT),
  row(
    'IOMMU_IOAS_ALLOW_IOVAS',
    'EADDRINUSE',
    'an attached device reserves some of these addresses: leave out what ranges() does not tell',
  ),
  row('IOMMU_IOAS_ALLOW_IOVAS', 'EINVAL', 'the ranges overlap, or one ends before it starts'),
  row(
    'IOMMU_IOAS_CHANGE_PROCESS',
    'EINVAL',
    'something is mapped from the memory of a process: map all of it by its file (mapFile()) first',
  ),
  row('IOMMU_OPTION', 'EPERM', 'the accounting is changed with CAP_SYS_RESOURCE only: run as root'),
  row(
    'IOMMU_OPTION',
    'EBUSY',
    'the iommufd has devices or address spaces already: choose the accounting before anything else',
  ),
  row(
    'IOMMU_OPTION',
    'EINVAL',
    'huge pages are chosen before a device is attached and something is mapped, or the kernel has no such value',
  ),
  row('IOMMU_OPTION', 'ENOTSUP', 'the kernel has no such option for this object'),
  row(
    'IOMMU_HWPT_ALLOC',
    'ENOTSUP',
    'the IOMMU of the device, or the kernel, has no such page tables: hardwareInfo() tells whether it logs dirty pages',
  ),
  row('IOMMU_HWPT_ALLOC', 'ENOENT', NO_SUCH_OBJECT),
  row(
    'IOMMU_HWPT_SET_DIRTY_TRACKING',
    'ENOTSUP',
    'the page table was not allocated with dirtyTracking, or its IOMMU cannot log dirty pages',
  ),
  row('IOMMU_HWPT_SET_DIRTY_TRACKING', 'ENOENT', NO_SUCH_OBJECT),
  row(
    'IOMMU_HWPT_GET_DIRTY_BITMAP',
    'EINVAL',
    'dirty pages are not being logged (setDirtyTracking()), or the range or the page size is not a multiple of the page size of the IOMMU',
  ),
  row(
    'IOMMU_HWPT_GET_DIRTY_BITMAP',
    'ENOTSUP',
    'the page table was not allocated with dirtyTracking, or its IOMMU cannot log dirty pages',
  ),
  row(
    'IOMMU_GET_HW_INFO',
    'ENOTSUP',
    'the IOMMU has no data of this type, or the kernel is before Linux 6.17 and takes no type: leave it out',
  ),
  row('IOMMU_GET_HW_INFO', 'ENOENT', NO_SUCH_OBJECT),
  row('IOMMU_DESTROY', 'EBUSY', IS_USED),
  row('IOMMU_DESTROY', 'ENOENT', NO_SUCH_OBJECT),
  row('IOMMU_IOAS_NOIOMMU_GET_PA', 'ENOENT', 'nothing is mapped at this address'),
  row('IOMMU_IOAS_NOIOMMU_GET_PA', 'EPERM', 'physical addresses are for CAP_SYS_RAWIO only: run as root'),
  row(
    'IOMMU_IOAS_NOIOMMU_GET_PA',
    'ENOTSUP',
    'no device without an IOMMU is attached, or the kernel has no CONFIG_IOMMUFD_NOIOMMU (since Linux 7.3)',
  ),

  row(
    'VFIO_IOMMU_MAP_DMA',
    'ENOMEM',
    'the limit on locked memory is reached, RLIMIT_MEMLOCK (`ulimit -l`): raise it, or give CAP_IPC_LOCK; each container is charged for itself',
  ),
  row('VFIO_IOMMU_MAP_DMA', 'EEXIST', 'the range overlaps a mapping: unmap that first'),
  row(
    'VFIO_IOMMU_MAP_DMA',
    'ENOSPC',
    'the container has no mapping left (65535 unless vfio_iommu_type1.dma_entry_limit says otherwise): map larger pieces',
  ),
  row(
    'VFIO_IOMMU_MAP_DMA',
    'EINVAL',
    'address or size is not aligned to the page size, or outside iommuInfo().iovaRanges',
  ),

  row('VFIO_IOMMU_MAP_DMA', 'EOVERFLOW', 'the range runs over the last of all addresses'),
  row('VFIO_IOMMU_MAP_DMA', 'ENODEV', NO_GROUP_YET),
  row('VFIO_IOMMU_MAP_DMA', 'EFAULT', 'the memory cannot be pinned: it is not there, or may not be written'),
  row(
    'VFIO_IOMMU_UNMAP_DMA',
    'EINVAL',
    'address or size is not aligned to the page size, or the range cuts a mapping in two: unmap whole mappings',
  ),
  row(
    'VFIO_IOMMU_UNMAP_DMA',
    'ENOENT',
    'nothing is mapped there, or the range cuts a mapping in two: unmap whole mappings',
  ),
  row('VFIO_IOMMU_UNMAP_DMA', 'EBUSY', 'a mediated device holds the memory, or it is being mapped just now'),
  row('VFIO_IOMMU_UNMAP_DMA', 'EOVERFLOW', 'the range runs over the last of all addresses'),
  row('VFIO_IOMMU_UNMAP_DMA', 'ENODEV', NO_GROUP_YET),
  row(
    'VFIO_IOMMU_DIRTY_PAGES',
    'ENOTTY',
    "iommufd provides the container, and that one logs nothing: open the device by its own node (backend 'iommufd'), where the IOMMU can log",
  ),
  row(
    'VFIO_IOMMU_DIRTY_PAGES',
    'EINVAL',
    'dirty pages are not being logged (dirty.start()), or the range cuts a mapping in two or has another page size than iommuInfo().migration says',
  ),
  row(
    'hugepages',
    'ENOMEM',
    'the host has too few free huge pages of this size: raise /sys/kernel/mm/hugepages/hugepages-*kB/nr_hugepages',
  ),
  row('hugepages', 'EINVAL', 'offset and size must be multiples of the size of a huge page'),
  row('hugepages', 'ENODEV', 'the processor or the kernel has no huge pages of this size'),
  row(
    'hugepages',
    'ENOSPC',
    'the host or the control group has no free huge page of this size left, which were reserved for somebody: raise /sys/kernel/mm/hugepages/hugepages-*kB/nr_hugepages or hugetlb.*.max',
  ),
  row('descriptor', 'EBADF', 'no file of this process is open by that number'),
  row(
    'descriptor',
    'EMFILE',
    'this process has as many descriptors as it may (RLIMIT_NOFILE): close some, or raise `ulimit -n`',
  ),
  row('memory', 'ENOMEM', 'there is no memory left, or the process has too many mappings'),
  row(
    'memory',
    'ENOSPC',
    'the file system has no space for all of the file, which is sparse: make the file system larger (`mount -o remount,size=` for tmpfs, --shm-size of a container), or the file smaller',
  ),
  row('memory', 'EFAULT', 'the file has no space for all of it, or is being cut short: give a memfd'),
  row(
    'memory',
    'EMFILE',
    'each DmaBuffer has a descriptor, and this process has as many as it may (RLIMIT_NOFILE): close some, take larger ones, or raise `ulimit -n`',
  ),
  row('memory', 'EFBIG', 'no file can be so large here: take several smaller ones'),
  row('memory', 'EBADF', 'the descriptor is not open, or opened with O_PATH'),
  row('memory', 'EACCES', 'the descriptor must be open for reading and writing'),
  row('memory', 'EPERM', 'the file is sealed against writing'),
  row(
    'memory',
    'ENODEV',
    'this kind of file has no memory to map: give a memfd, or a file of tmpfs or hugetlbfs',
  ),
  row(
    'memory',
    'EINVAL',
    'the offset must be a multiple of the page size; or the file system cannot take space in advance, nor the kernel without it before 5.14: give a memfd, or a file of tmpfs or hugetlbfs',
  ),

  row(
    'probe',
    'EINVAL',
    'vfio-pci takes no bridges, no device that it denies by its list (vfio_pci.disable_denylist), and none without an IOMMU group',
  ),
  row(
    'probe',
    'EBUSY',
    'the device is a physical function with virtual functions enabled: set sriov_numvfs to 0 first',
  ),
  row('bind', 'ENODEV', 'the driver does not match the device: set driver_override to the driver first'),
  row('bind', 'EBUSY', 'the device has a driver: unbind it first'),
  row('new_id', 'EEXIST', 'the driver matches these ids already'),
  row('new_id', 'EINVAL', 'at least a vendor and a device id are needed, in hexadecimal'),
  row('remove_id', 'ENODEV', 'these ids were not added with new_id'),
  row('remove_id', 'EINVAL', 'at least a vendor and a device id are needed, in hexadecimal'),

  row('reset_method', 'EINVAL', 'the kernel does not have this method for the device'),
  row(
    'reset',
    'ENOTTY',
    'the kernel tried its methods for the device, and none of them fits it as it stands',
  ),
  row('reset', 'EAGAIN', 'somebody else holds the device right now: try again when that is done'),

  row(
    'sriov_numvfs',
    'ENOENT',
    'the driver of the device makes no virtual functions: bind its host driver (vfio-pci needs its parameter enable_sriov=1)',
  ),
  row('sriov_numvfs', 'EBUSY', 'the device has another number of virtual functions: set 0 first'),
  row('sriov_numvfs', 'ERANGE', 'the device does not have so many virtual functions (sriov_totalvfs)'),
  row(
    'sriov_numvfs',
    'ENOMEM',
    'the firmware left no room for the memory or the bus numbers of virtual functions: switch SR-IOV on in its setup, or boot with pci=realloc',
  ),
  row('sriov_numvfs', 'EACCES', 'only root may change the number of virtual functions'),

  row('create', 'EEXIST', 'there is a mediated device of this UUID already: take another one'),
  row('create', 'ENOENT', 'the device makes no mediated devices of this type any more: look again'),
  row('create', 'ENODEV', 'the device that makes them is going away, or its driver is'),
  row(
    'create',
    'EUSERS',
    'all instances that the driver has are taken: remove a mediated device of the same parent',
  ),
  row(
    'create',
    'ENOSPC',
    'its driver has no room for it (for i915 that is the aperture, which the firmware setup may enlarge): remove a mediated device of the same parent',
  ),
  row('create', 'EINVAL', "the driver refuses it, and the kernel's log says why"),
  row('create', 'EACCES', 'only root may make a mediated device'),
  row('remove', 'EACCES', 'only root may remove a device'),
  row('remove', 'EAGAIN', 'somebody else is making or removing it right now: try again when that is done'),
  row('remove', 'ENODEV', 'it is gone, or its parent is going away'),

  row('file', 'EACCES', 'this user may not: run as root'),
  row('file', 'EPERM', 'this user may not: run as root'),
  row('file', 'EROFS', 'the file system is read-only: this host keeps its configuration elsewhere'),

  row('command', 'ENOENT', 'there is no such program, or not what is to interpret it: name an existing one'),
  row('command', 'EACCES', 'whoever it runs as may not execute it, or it is no program'),
  row(
    'command',
    'ENOEXEC',
    'it is no program for this machine, and has no line that says what interprets it',
  ),
  row('command', 'EPERM', 'changing user, limits or capabilities takes root'),
  row('process', 'ENOSYS', 'descriptors of processes are there since Linux 5.3'),

  row(
    'uevents',
    'EAFNOSUPPORT',
    'a sandbox forbids netlink sockets (RestrictAddressFamilies= of systemd): allow AF_NETLINK',
  ),
  row(
    'uevents',
    'EPROTONOSUPPORT',
    'the kernel of this sandbox tells nothing of devices: run it on the host',
  ),
  row(
    'uevents',
    'EPERM',
    'a filter of system calls forbids it (a container): allow socket(AF_NETLINK), or run it on the host',
  ),
  row('uevents', 'EACCES', 'a security module forbids it (SELinux, AppArmor): its log says which rule'),
  row(
    'inotify',
    'EMFILE',
    'this user has as many inotify instances as he may, or this process as many files: raise the sysctl fs.inotify.max_user_instances, or `ulimit -n`',
  ),
  row(
    'inotify',
    'ENOSPC',
    'this user watches as many files as he may: raise the sysctl fs.inotify.max_user_watches',
  ),
  row('inotify', 'EACCES', 'this user may not list that directory: run as root'),

  row(
    'thread',
    'EAGAIN',
    'its user or control group has as many threads as it may: raise `ulimit -u` or pids.max, or wait until calls that run have ended',
  ),
  row('*', 'EMFILE', 'this process has too many files open: close some, or raise `ulimit -n`'),
  row('*', 'ENFILE', 'the host has too many files open: raise the sysctl fs.file-max'),
  row('*', 'ENOMEM', 'the kernel has no memory for it'),
  row(
    '*',
    'ENOTTY',
    'the kernel does not know this request for this file: it is older than the request, or the file is not what it should be',
  ),
  row('*', 'EIO', 'the device does not answer: it may be powered off or gone from the bus'),
  row('*', 'EINTR', 'a signal interrupted the call: make it again'),
]

let byRequest: ReadonlyMap<string, string> | undefined

/** The hint for an errno name of a request; `null` where there is nothing to say beyond the errno's own text. */
export function hintFor(request: string, code: string): string | null {
  byRequest ??= new Map(allHints().map((entry) => [`${entry.request} ${entry.code}`, entry.hint]))
  return byRequest.get(`${request} ${code}`) ?? byRequest.get(`* ${code}`) ?? null
}
