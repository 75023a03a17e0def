import { type Hint, row } from './hints-row.js'

const NO_SUCH_OBJECT = 'the iommufd has no object of this number: it was closed'
const IS_USED =
  'something still uses it: a device that is attached, a page table over it, or another program that has the same iommufd'

/** Devices by their own nodes, and iommufd (drivers/vfio/device_cdev.c and drivers/iommu/iommufd, Linux 6.2 to 7.3). */
export const IOMMUFD_HINTS: readonly Hint[] = [
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
  row('cdev', 'EBUSY', 'the group of the device is open: a device opens by group or by cdev, not both'),

  row(
    'VFIO_DEVICE_BIND_IOMMUFD',
    'EINVAL',
    'the device was opened by group or is bound already, or the firmware demands a 1:1 mapping for it (a line "direct" in /sys/kernel/iommu_groups/N/reserved_regions); or a VF token is given to a kernel before 6.18, which takes none',
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
    'the IOMMU of the device cannot use this page table, which was allocated for another; or the device is not bound to an iommufd',
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
]
