import { type Hint, row } from './hints-row.js'

/** What devices have beyond what all have, and KVM (virt/kvm/vfio.c). */
export const FEATURE_HINTS: readonly Hint[] = [
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
]
