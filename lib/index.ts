// --- errors, and the kernel's own objects (OPEN)
export { VfioError, type VfioErrorCode, VfioSystemError } from './errors.js'
export type {
  DeviceCapability,
  IommuCapability,
  MappableArea,
  RegionCapability,
  UnknownCapability,
} from './vfio/capabilities.js'
export {
  type ExtensionName,
  type IommuInfo,
  type IommuTypeName,
  type IovaRange,
  type MigrationInfo,
  VfioContainer,
} from './vfio/container.js'
export {
  type DeviceInfo,
  type HotResetDevice,
  type HotResetInfo,
  type IrqInfo,
  type IrqName,
  type RegionInfo,
  type RegionName,
  type ResetOptions,
  VfioDevice,
} from './vfio/device.js'
export { type GroupStatus, type OpenDeviceOptions, VfioGroup } from './vfio/group.js'
