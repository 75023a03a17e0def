import type {
  Assessment,
  Assignment,
  CdiExport,
  CdiReport,
  CloudHypervisorExport,
  CreatedMdev,
  Diagnosis,
  FeaturesReport,
  Grant,
  HostTopology,
  Inventory,
  IommuGroup,
  JournalStatus,
  KubevirtExport,
  LibvirtExport,
  MdevType,
  MediatedDevice,
  NodeFeatures,
  OfferedMdevType,
  PciDevice,
  PersistCheck,
  PersistPlan,
  PersistReport,
  Plan,
  QemuExport,
  RecoveryReport,
  ReleaseReport,
  RemovedMdev,
  RescanReport,
  ResetMethodReport,
  ResetReport,
  Revocation,
  RunEvent,
  Survey,
  SurveyChange,
  SurveyedMediated,
  VfsReport,
} from '../index.js'
import type { Failure } from './failure.js'

export type { Failure }

/** A line of `vfio list --watch --json`: first what there is, then each change of it; `lost`: messages were, so that it was looked anew. */
export type ListEvent =
  | { readonly event: 'list'; readonly list: Survey }
  | { readonly event: 'lost'; readonly what: string }
  | SurveyChange

/** Everything about one device. */
export interface Shown {
  readonly device: PciDevice
  /** Its IOMMU group, `null` where it has none. */
  readonly group: IommuGroup | null
  readonly assessment: Assessment
}

/** Everything about one mediated device. */
export interface ShownMediated {
  readonly device: MediatedDevice
  /** The type that it is of, where its parent still offers it. */
  readonly type: MdevType | null
  readonly group: IommuGroup | null
  readonly assessment: Assessment
}

/** Mediated devices, and what can be made. */
export interface ListedMdevs {
  readonly types: readonly OfferedMdevType[]
  readonly devices: readonly SurveyedMediated[]
}

/** An assessment; beside it why the kernel could not be asked, where that was wanted. */
export type Checked = Assessment & Partial<Failure>

/** Devices that were bound. */
export type Bound = Pick<Assignment, 'devices' | 'record'>

/** Device nodes that were given away; the udev rule that makes it last, where that was wanted. */
export type Granted = Grant & { readonly rule?: string }

/** What was planned, and what was done of it. */
export interface Persisted {
  readonly plan: PersistPlan
  readonly report: PersistReport
}

/** Devices for containers, and what became of their file. */
export interface CdiWritten {
  readonly exported: CdiExport
  readonly report: CdiReport
}

/** Labels of a node, and the file that they were written to. */
export type WrittenFeatures = NodeFeatures & FeaturesReport

/** What each command prints with `--json` where it does not fail: the schemas are made of this. */
export interface Answers {
  /** With `--watch` an event in each line. */
  list: Survey | ListEvent
  topology: HostTopology
  show: Shown | ShownMediated
  /** Of a group, and of an address that leaves its function open, one for each device. */
  check: Checked | readonly Checked[]
  /** With `--nfd` the labels, and with `--write` too what was written. */
  inventory: Inventory | NodeFeatures | WrittenFeatures
  reset: ResetReport | ResetMethodReport
  rescan: RescanReport
  /** With `--json-events`, an event in each line. */
  run: RunEvent
  /** With `--dry-run` the plan. */
  bind: Bound | Plan
  release: ReleaseReport
  status: JournalStatus
  recover: RecoveryReport
  grant: Granted
  revoke: Revocation
  export: QemuExport | LibvirtExport | CloudHypervisorExport | KubevirtExport
  /** With `--write` also what became of the file, with `--remove` that alone. */
  cdi: CdiExport | CdiWritten | CdiReport
  /** The plan; with `--write` also what was done of it, with `--remove` that alone; with `--check` what was found. */
  persist: PersistPlan | Persisted | PersistReport | PersistCheck
  vfs: VfsReport
  /** What there is, what was made, or what was removed. */
  mdev: ListedMdevs | CreatedMdev | RemovedMdev
  doctor: Diagnosis
}
