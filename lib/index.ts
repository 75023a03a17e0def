/// <reference types="node" preserve="true" />
// --- errors, and the kernel's own objects (OPEN)

// --- verdicts (JUDGE)
export { type Assessment, assess, assessGroup, type KernelAnswer } from './assess/assessment.js'
export { type Check, type Diagnosis, diagnose } from './assess/doctor.js'
export { type DriverName, driverOfModule } from './assess/driver-names.js'
export { type KernelParameters, kernelParameters, type ParameterAdvice } from './assess/kernel-parameters.js'
export { type AffectedFunction, assessReset, type ResetCapability } from './assess/reset.js'
export { type Survey, type SurveyedDevice, type SurveyedGroup, survey } from './assess/survey.js'
export { assessUses, type HostUse } from './assess/uses.js'
export {
  assessViability,
  type Viability,
  type ViabilityMember,
  type ViabilityRule,
} from './assess/viability.js'
// --- what changes the host (CHANGE)
export { AssignError, type Assignment, type AssignOptions, assign } from './assign/assign.js'
export { detectBootLoader, detectInitramfs, findModprobe, type RootTree } from './assign/boot-system.js'
export type { ChangeOptions, Progress } from './assign/changes.js'
export {
  type Grant,
  type GrantOptions,
  type GrantPlace,
  grant,
  type Revocation,
  revoke,
  revokeAll,
} from './assign/grant.js'
export type { GrantedNode, GrantRecord, GrantRecords } from './assign/grant-records.js'
export { type BadRecord, JOURNAL, type JournalRecord, type RecordState } from './assign/journal.js'
export type { NodeState, Ownership } from './assign/nodes.js'
export {
  builtinModules,
  type PersistReport,
  type PersistTree,
  removePersistence,
  writePersistence,
} from './assign/persist.js'
export {
  type CheckedDevice,
  type CheckedLine,
  checkPersistence,
  type PersistCheck,
} from './assign/persist-check.js'
export {
  type BootLine,
  type PersistedDevice,
  type PersistedFacts,
  readPersistence,
} from './assign/persisted.js'
export {
  type Blocker,
  type FormerState,
  type Plan,
  type PlannedDevice,
  type PlanOptions,
  planAssignment,
  type ResetPolicy,
  type Step,
} from './assign/plan.js'
export {
  type AssignmentStatus,
  type JournalStatus,
  type RecoveryReport,
  recover,
  status,
} from './assign/recover.js'
export { type ReleaseOptions, type ReleaseReport, release } from './assign/release.js'
export { type RescanOptions, type RescanReport, rescanDevice } from './assign/rescan.js'
export { type ResetMethodOptions, type ResetMethodReport, resetByMethod } from './assign/reset-method.js'
export { setVfs, type VfsOptions, type VfsReport } from './assign/vfs.js'
export { planVfs, type VfsFacts, type VfsPlan } from './assign/vfs-plan.js'
export { type ErrnoName, VfioError, type VfioErrorCode, VfioSystemError } from './errors.js'
// --- text for others (HAND ON)
export type { BootLoader, BootLoaderName, CommandLineAdvice, ParameterReason } from './export/boot-loader.js'
export {
  type CloudHypervisorExport,
  type CloudHypervisorOptions,
  exportCloudHypervisor,
} from './export/cloud-hypervisor.js'
export { grantRule, type RuleOwner } from './export/grant-rule.js'
export { parseZpci, type ZpciIds } from './export/guest.js'
export type { Initramfs } from './export/initramfs.js'
export { exportLibvirt, type LibvirtExport, type LibvirtOptions } from './export/libvirt.js'
export { lockedMemory, type Memlock, type MemlockOptions } from './export/memlock.js'
export {
  type ByHand,
  type PersistBy,
  type PersistFile,
  type PersistOptions,
  type PersistPlan,
  planPersistence,
} from './export/persist.js'
export { exportQemu, type QemuDevice, type QemuExport, type QemuOptions } from './export/qemu.js'
export { parseSize } from './export/size.js'
// --- what the kernel publishes (LOOK)
export { compareAddresses, parseAddress } from './sysfs/address.js'
export type { Capabilities, CapabilityEntry, ConfigHeader, PcieCapability } from './sysfs/config.js'
export type { Bar, PciDevice, Sriov } from './sysfs/devices.js'
export type { HostFacts, HostPaths, IommuUnit, ModuleState, NodeFacts, VfioModule } from './sysfs/facts.js'
export type { IommuGroup, ReservedRegion } from './sysfs/groups.js'
export { Host, type HostOptions, type SnapshotOptions } from './sysfs/host.js'
export type { HostLimits } from './sysfs/limits.js'
export type { DeviceNames } from './sysfs/names.js'
export type { Architecture, Hypervisor, PlatformFacts } from './sysfs/platform.js'
export type { Snapshot } from './sysfs/snapshot.js'
export type { UseFacts } from './sysfs/use.js'

// --- whole steps on an open device
export { askKernel } from './vfio/ask.js'
export type {
  DeviceCapability,
  IommuCapability,
  IovaRange,
  MappableArea,
  RegionCapability,
  UnknownCapability,
} from './vfio/capabilities.js'
export { ConfigSpace, type PciCommand } from './vfio/device/config-space.js'
export { type OpenGroup, type ResetOptions, VfioDevice } from './vfio/device/device.js'
export {
  DmaLogging,
  type DmaLoggingOptions,
  type DmaLoggingRange,
  type FeatureName,
  type FeatureOperation,
  type FeatureOptions,
  LowPower,
  type LowPowerOptions,
  VfioFeature,
} from './vfio/device/features.js'
export type {
  DeviceInfo,
  HotResetDevice,
  HotResetInfo,
  IrqInfo,
  IrqName,
  RegionInfo,
  RegionName,
} from './vfio/device/info.js'
export { Ioeventfd, type IoeventfdOptions } from './vfio/device/ioeventfd.js'
export { type IrqEvent, type IrqOptions, VfioIrq } from './vfio/device/irq.js'
export {
  Migration,
  MigrationData,
  type MigrationStateName,
  type MigrationSupport,
} from './vfio/device/migration.js'
export { VfioRegion, type WordOrder } from './vfio/device/region.js'
export { RegionMapping } from './vfio/device/region-memory.js'
export { EventFd } from './vfio/event-fd.js'
export type { HandedDevice } from './vfio/hand-over.js'
export { DmaBuffer, type DmaBufferOptions } from './vfio/iommu/buffer.js'
export { DirtyPages, DmaMapping, DmaSpace, type MapOptions } from './vfio/iommu/space.js'
export {
  type ExtensionName,
  type GroupStatus,
  type IommuInfo,
  type IommuTypeName,
  type MigrationInfo,
  type OpenDeviceOptions,
  VfioContainer,
  VfioGroup,
} from './vfio/iommu/type1.js'
export { KvmVfio } from './vfio/kvm.js'
export { type OpenedDevice, type OpenOptions, openDevice, receiveDevice } from './vfio/open.js'
export { type ResetDeviceOptions, type ResetReport, resetDevice } from './vfio/reset.js'
