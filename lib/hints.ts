import { FEATURE_HINTS } from './hints-features.js'
import { type Hint, row } from './hints-row.js'

export type { Hint } from './hints-row.js'

const NO_ISOLATED_MSI =
  'the platform has no interrupt remapping, so a device could forge interrupts: enable it in the firmware, or accept the risk with vfio_iommu_type1.allow_unsafe_interrupts=1'
const DIRECT_REGION =
  'or the firmware demands a 1:1 mapping for one of its devices (a line "direct" in /sys/kernel/iommu_groups/N/reserved_regions)'

/** Every hint of the package, from the kernel's source (drivers/vfio, Linux 5.10 to 6.12). One row, one test. */
export const HINTS: readonly Hint[] = [
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
    'cdev',
    'ENOENT',
    'the device is not bound to a vfio driver, or the kernel has no CONFIG_VFIO_DEVICE_CDEV',
  ),
  row(
    'cdev',
    'EACCES',
    'this user may not open it: give read and write permission on the file, or run as root',
  ),
  row('cdev', 'ENODEV', 'the device is going away: it was just unbound from its vfio driver'),
  row('cdev', 'EBUSY', 'the group of the device is open: a device opens by group or by cdev, not both'),

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
  row('VFIO_GROUP_SET_CONTAINER', 'EINVAL', `the group has a container already, ${DIRECT_REGION}`),
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
    'the container has no group yet, or an IOMMU already, or the group reserves addresses that mappings use',
  ),
  row(
    'VFIO_SET_IOMMU',
    'ENODEV',
    'the kernel has no such IOMMU type: load its module (`modprobe vfio_iommu_type1`) and ask checkExtension()',
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

  row('VFIO_GROUP_GET_DEVICE_FD', 'ENODEV', 'the device is not in this group, or not bound to a vfio driver'),
  row(
    'VFIO_GROUP_GET_DEVICE_FD',
    'EINVAL',
    'the group has no container or the container no IOMMU (setContainer(), setIommu()); or, before Linux 5.18, the group is not viable (`vfio check group:N` names the device); or the VF token is malformed or not expected',
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
    'a device without an IOMMU needs CAP_SYS_RAWIO, or the group is not viable (`vfio check group:N`)',
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
    'not every affected device is bound to a vfio driver and in one of the groups given: hotResetInfo() lists them; bind them all (bridges cannot be)',
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

  ...FEATURE_HINTS,

  row(
    'VFIO_DEVICE_BIND_IOMMUFD',
    'EINVAL',
    `the device was opened by group or is bound already, ${DIRECT_REGION}`,
  ),
  row('VFIO_DEVICE_BIND_IOMMUFD', 'EBUSY', 'the group of the device is open: close it first'),
  row('VFIO_DEVICE_BIND_IOMMUFD', 'EBADF', 'the iommufd is closed'),
  row('VFIO_DEVICE_BIND_IOMMUFD', 'EBADFD', 'the descriptor is not an iommufd'),
  row(
    'VFIO_DEVICE_BIND_IOMMUFD',
    'EPERM',
    `the group of the device is not viable (\`vfio check group:N\` names the device), or ${NO_ISOLATED_MSI}`,
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

  row('VFIO_IOMMU_MAP_DMA', 'EFAULT', 'the memory cannot be pinned: it is not there, or may not be written'),
  row(
    'VFIO_IOMMU_UNMAP_DMA',
    'EINVAL',
    'address or size is not aligned to the page size, or the range cuts a mapping in two: unmap whole mappings',
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

  row('file', 'EACCES', 'this user may not: run as root'),
  row('file', 'EPERM', 'this user may not: run as root'),
  row('file', 'EROFS', 'the file system is read-only: this host keeps its configuration elsewhere'),

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

const byRequest = new Map(HINTS.map((entry) => [`${entry.request} ${entry.code}`, entry.hint]))

/** The hint for an errno name of a request; `null` where there is nothing to say beyond the errno's own text. */
export function hintFor(request: string, code: string): string | null {
  return byRequest.get(`${request} ${code}`) ?? byRequest.get(`* ${code}`) ?? null
}
