/// <reference types="node" preserve="true" />

// --- errors, and the kernel's own objects (OPEN)

export {
  type ErrnoName,
  type SystemFailure,
  VfioError,
  type VfioErrorCode,
  VfioSystemError,
} from './errors.js'
export type {
  DeviceCapability,
  IommuCapability,
  IovaRange,
  MappableArea,
  RegionCapability,
  UnknownCapability,
  ZpciBase,
  ZpciFunctionPath,
  ZpciGroup,
  ZpciUtilityString,
} from './vfio/capabilities.js'
export { ConfigSpace, type PciCommand } from './vfio/device/config-space.js'
export {
  type AttachOptions,
  type FromDescriptorOptions,
  type OpenCdevOptions,
  type OpenGroup,
  type ResetOptions,
  VfioDevice,
} from './vfio/device/device.js'
export { DmaBuf, type DmaBufOptions, type RegionRange } from './vfio/device/dma-buf.js'
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
  type PrecopyInfo,
} from './vfio/device/migration.js'
export { VfioRegion, type WordOrder } from './vfio/device/region.js'
export { RegionMapping } from './vfio/device/region-memory.js'
export { EventFd } from './vfio/event-fd.js'
export { type GivenDescriptor, listenDescriptors, openGivenDevices } from './vfio/given.js'
export type { GroupParts, HandedDevice, IommufdParts, Offered } from './vfio/hand-over.js'
export type { VfioObject } from './vfio/handle.js'
export { DmaBuffer, type DmaBufferOptions } from './vfio/iommu/buffer.js'
export {
  type Accounting,
  type BoundDevice,
  type HardwareInfo,
  Hwpt,
  type HwptOptions,
  Ioas,
  Iommufd,
  type MapFileOptions,
  type PageTable,
} from './vfio/iommu/iommufd.js'
export { DirtyPages, DmaMapping, DmaSpace, type MapOptions, type PlaceOptions } from './vfio/iommu/space.js'
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
export {
  type Backend,
  type Opened,
  type OpenedByGroup,
  type OpenedByIommufd,
  type OpenedDevice,
  type OpenedDevices,
  type OpenOptions,
  openDevice,
  openDevices,
  receiveDevice,
} from './vfio/open.js'

// --- whole steps on an open device

export { askKernel } from './actions/ask.js'
export { type ResetDeviceOptions, type ResetReport, resetDevice } from './actions/reset.js'

// --- verdicts (JUDGE)

export {
  type Assessment,
  agreesWithKernel,
  askerOfVfToken,
  assess,
  assessGroup,
  type KernelAnswer,
} from './assess/assessment.js'
export { changesBetween, type SurveyChange } from './assess/changes.js'
export { type Choice, choose } from './assess/choose.js'
export { type Check, type Diagnosis, diagnose, whatIsMissing } from './assess/doctor.js'
export { type DriverName, driverOfModule } from './assess/driver-names.js'
export { type KernelParameters, kernelParameters, type ParameterAdvice } from './assess/kernel-parameters.js'
export { lockedMemory, type Memlock, type MemlockOptions } from './assess/memlock.js'
export {
  harmsOf,
  isFree,
  isInfrastructure,
  kindWord,
  resetWord,
  useWord,
  verdictWord,
} from './assess/overview.js'
export { type AffectedFunction, assessReset, type ResetCapability } from './assess/reset.js'
export {
  type Survey,
  type SurveyedDevice,
  type SurveyedGroup,
  type SurveyedMediated,
  survey,
  surveyDevice,
  surveyGroup,
  surveyMediated,
} from './assess/survey.js'
export { assessUses, type HostUse } from './assess/uses.js'
export {
  assessViability,
  type Viability,
  type ViabilityMember,
  type ViabilityRule,
} from './assess/viability.js'

// --- what changes the host (CHANGE)

export { AssignError, type Assignment, type AssignOptions, assign } from './assign/assign.js'
export type { JournalRecord, ManagedRun, RecordState } from './assign/journal.js'
export {
  type Blocker,
  type Plan,
  type PlannedDevice,
  type PlanOptions,
  planAssignment,
  type ResetPolicy,
} from './assign/plan.js'
export {
  type AssignmentStatus,
  type JournalStatus,
  type RecoverOptions,
  type RecoveryReport,
  recover,
  status,
  type UnfinishedStatus,
} from './assign/recover.js'
export { type ReleaseOptions, type ReleaseReport, release } from './assign/release.js'
export { type RescanOptions, type RescanReport, rescanDevice } from './assign/rescan.js'
export { type ResetMethodOptions, type ResetMethodReport, resetByMethod } from './assign/reset-method.js'
export type { RestoreOptions } from './assign/restore.js'
export type {
  AddIdStep,
  BindStep,
  LoadStep,
  OverrideStep,
  ResetStep,
  Step,
  UnbindStep,
} from './assign/steps.js'
export type { ChangeOptions, Progress } from './change/changes.js'
export type { FormerState } from './change/former.js'
export type { Program } from './change/program.js'
export type {
  UnfinishedCommon,
  UnfinishedMdev,
  UnfinishedRescan,
  UnfinishedReset,
  UnfinishedStep,
  UnfinishedVfs,
} from './change/unfinished.js'
export { type FeaturesReport, writeNodeFeatures } from './features/write.js'
export {
  type Grant,
  type GrantOptions,
  type GrantPlace,
  grant,
  type Revocation,
  revoke,
  revokeAll,
} from './grant/grant.js'
export type { NodeState, Ownership } from './grant/nodes.js'
export type { GrantedNode, GrantRecord } from './grant/records.js'
export {
  type CreatedMdev,
  type CreateMdevOptions,
  createMdev,
  type RemovedMdev,
  type RemoveMdevOptions,
  removeMdev,
} from './mdev/make.js'
export { type MdevOptions, type MdevPlan, mdevTypes, type OfferedMdevType, planMdev } from './mdev/plan.js'
export type { BootLoader, BootLoaderName, CommandLineAdvice } from './persist/boot-loader.js'
export {
  builtinModules,
  detectBootLoader,
  detectInitramfs,
  findModprobe,
  type RootTree,
} from './persist/boot-system.js'
export {
  type CheckedDevice,
  type CheckedLine,
  checkPersistence,
  type PersistCheck,
} from './persist/check.js'
export type { Initramfs } from './persist/initramfs.js'
export {
  type ByHand,
  type PersistBy,
  type PersistFile,
  type PersistOptions,
  type PersistPlan,
  planPersistence,
} from './persist/plan.js'
export {
  type BootLine,
  type PersistedDevice,
  type PersistedFacts,
  readPersistence,
} from './persist/read.js'
export { type PersistReport, removePersistence, writePersistence } from './persist/write.js'
export { type BadRecord, JOURNAL } from './records.js'
export { planVfs, type VfsFacts, type VfsPlan } from './vfs/plan.js'
export { setVfs, type VfsOptions, type VfsReport } from './vfs/set.js'

// --- text for others (HAND ON)

export { type CdiReport, type RemoveCdiOptions, removeCdi, writeCdi } from './cdi/write.js'
export {
  type CdiDevice,
  type CdiEdits,
  type CdiExport,
  type CdiNode,
  type CdiOptions,
  type CdiSpecification,
  exportCdi,
} from './export/cdi.js'
export { type CdiConsumer, cdiFile, checkCdiKind } from './export/cdi-kind.js'
export {
  type CloudHypervisorExport,
  type CloudHypervisorOptions,
  exportCloudHypervisor,
} from './export/cloud-hypervisor.js'
export { grantRule, type RuleOwner } from './export/grant-rule.js'
export { parseZpci, type ZpciIds } from './export/guest.js'
export {
  type DeviceAttributes,
  exportInventory,
  type Inventory,
  type InventoryDevice,
  type InventoryGroup,
  type InventoryHost,
} from './export/inventory.js'
export {
  exportKubevirt,
  type KubevirtExport,
  type KubevirtOptions,
  type PciHostDevice,
} from './export/kubevirt.js'
export { exportLibvirt, type LibvirtExport, type LibvirtOptions } from './export/libvirt.js'
export { exportNodeFeatures, type NodeFeatures, type NodeFeaturesOptions } from './export/node-features.js'
export { exportQemu, type QemuDevice, type QemuExport, type QemuOptions } from './export/qemu.js'
export { parseSize } from './export/size.js'
export {
  describeTopology,
  type HostTopology,
  type TopologyDevice,
  type TopologyGlance,
  type TopologyKind,
  type TopologyReset,
} from './export/topology/model.js'
export type { SvgOptions } from './export/topology/svg.js'
export type { Paint, TextOptions } from './export/topology/text.js'
export {
  exportTopology,
  type TopologyExport,
  type TopologyFormat,
  type TopologyOptions,
} from './export/topology.js'

// --- a command that has devices while it runs (LAUNCH)

export type { Ending } from './launch/command.js'
export type { Environment, PassedDescriptor } from './launch/environment.js'
export type { RunEvent } from './launch/events.js'
export { type LaunchOptions, launch, type Run } from './launch/launch.js'
export type { LaunchBackend } from './launch/nodes.js'
export type { StdioChoice } from './launch/stdio.js'

// --- what the kernel publishes (LOOK)

export { compareAddresses, parseAddress, parseName } from './sysfs/address.js'
export { classWord, isClassWord, isOfMachine } from './sysfs/class-names.js'
export type { Capabilities, CapabilityEntry, ConfigHeader, PcieCapability } from './sysfs/config.js'
export type { Bar, PciDevice, Sriov } from './sysfs/devices.js'
export type { HostFacts, HostPaths, IommuUnit, ModuleState, NodeFacts, VfioModule } from './sysfs/facts.js'
export type { IommuGroup, ReservedRegion } from './sysfs/groups.js'
export { Host, type HostOptions, type SnapshotOptions } from './sysfs/host.js'
export type { HostLimits } from './sysfs/limits.js'
export type { MdevParent, MdevType, MediatedDevice } from './sysfs/mediated.js'
export type { DeviceNames } from './sysfs/names.js'
export type { Architecture, Hypervisor, PlatformFacts } from './sysfs/platform.js'
export { shortAddress, shortly, shortName } from './sysfs/short-names.js'
export type { Snapshot } from './sysfs/snapshot.js'
export type { Unseen } from './sysfs/unseen.js'
export type { UseFacts } from './sysfs/use.js'
export type { BlockDevice } from './sysfs/use-block.js'
export type { DisplayFacts } from './sysfs/use-display.js'
export type { HeldMemory, MemoryFacts } from './sysfs/use-memory.js'
export type { Mount, Swap } from './sysfs/use-mounts.js'
export type { NetworkFacts, NetworkInterface, Route } from './sysfs/use-network.js'
export type { DeviceNode, KernelConsole } from './sysfs/use-nodes.js'
export type { Placed } from './sysfs/use-paths.js'
export type { MountView, OpenFile, Process, ProcessFacts } from './sysfs/use-processes.js'
export type { Share } from './sysfs/use-shares.js'
export type { LoadedModule } from './sysfs/vfio-modules.js'
export {
  type DeviceEvent,
  type DeviceEventKind,
  type Watch,
  type WatchOptions,
  type WatchTopic,
  watchDevices,
} from './sysfs/watch.js'
