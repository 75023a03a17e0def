import { constants } from 'node:os'
import { type SystemFailure, VfioError, VfioSystemError } from '../../errors.js'
import { keepAlive } from '../../native/alive.js'
import { scratch } from '../../native/answer.js'
import type { NativeDevice, NativeIommufd } from '../../native/binding.js'
import { binding } from '../../native/load.js'
import { type CallSite, call, callSite, translate } from '../../native/translate.js'
import { directoryOf, parseName } from '../../sysfs/address.js'
import { listNames } from '../../sysfs/files.js'
import {
  badArgument,
  checkInteger,
  checkOptions,
  checkPath,
  checkVfToken,
  show,
  uuidBytes,
} from '../arguments.js'
import { describe } from '../descriptor.js'
import { VfioObject, watched } from '../handle.js'
import { type Hwpt, type Ioas, Iommufd, LARGEST_ID, PageTable } from '../iommu/iommufd.js'
import { attach, wasAttached } from '../iommu/tables.js'
import { ConfigSpace } from './config-space.js'
import { type DmaBuf, type DmaBufOptions, exportDmaBuf } from './dma-buf.js'
import { DmaLogging, type FeatureName, type FeatureOptions, LowPower, VfioFeature } from './features.js'
import { DeviceHandle, type DevicePart, GroupFile } from './handle.js'
import {
  askHotResetInfo,
  askInfo,
  askIrqInfo,
  askRegionInfo,
  type DeviceInfo,
  type HotResetInfo,
  type IrqInfo,
  type IrqName,
  irqIndex,
  irqName,
  type RegionInfo,
  type RegionName,
  regionIndex,
  regionName,
} from './info.js'
import { addIoeventfd, type Ioeventfd, type IoeventfdOptions } from './ioeventfd.js'
import { VfioIrq } from './irq.js'
import { IrqLine, IrqPoll } from './irq-line.js'
import { Migration } from './migration.js'
import { VfioRegion } from './region.js'
import { mappableAreas, Windows } from './region-memory.js'

/** What the addon has room for, in bytes; a hundred times what kernels have. */
const LONGEST_ERROR = 4096

/** A group that is open, as `VfioGroup` is: whoever has it owns the devices in it. */
export interface OpenGroup {
  status(): { readonly viable: boolean }
  close(): Promise<void>
}

export interface ResetOptions {
  /**
   * Aborts the wait: the promise rejects at once. A reset that has begun ends by itself, and only the device's `close()` and
   * later calls on it wait for that; a program that waits for nothing else ends.
   */
  readonly signal?: AbortSignal | undefined
}

const LARGEST_PASID = 2 ** 20 - 1

export interface OpenCdevOptions {
  readonly iommufd: Iommufd
  /** Its node; left out: that below `/dev/vfio/devices` which sysfs names. */
  readonly path?: string | undefined
  /** The UUID that the driver of the physical function was given; virtual functions of vfio-pci ask for it (since Linux 6.18). */
  readonly vfToken?: string | undefined
  /** Aborts the wait: the promise rejects at once, and the device is closed when the call has ended. */
  readonly signal?: AbortSignal | undefined
}

export interface FromDescriptorOptions {
  /** Which device it is; needed where neither sysfs nor the kernel says so: of a group, before Linux 6.17. */
  readonly address?: string | undefined
  /** That of a device by its own node: the one to bind it to, or that it is bound to. */
  readonly iommufd?: Iommufd | undefined
  /** Its number there, where somebody else has bound it. */
  readonly devid?: number | undefined
  /** As in {@link OpenCdevOptions}, where it is bound here. */
  readonly vfToken?: string | undefined
  /** Aborts the wait: the promise rejects at once, and the device is closed when the call has ended. */
  readonly signal?: AbortSignal | undefined
}

export interface AttachOptions {
  /** A process address space of the device, since Linux 6.15; left out: the device itself. */
  readonly pasid?: number | undefined
  /** Aborts the wait: the promise rejects at once. What has begun ends by itself. */
  readonly signal?: AbortSignal | undefined
}

/** An open device. It comes from `VfioGroup.openDevice()`, or from {@link VfioDevice.openCdev}. */
export class VfioDevice extends VfioObject {
  /** @internal */
  readonly handle: DeviceHandle

  /** In sysfs form; of a mediated device the UUID. */
  readonly address: string
  /** Its number in the iommufd that it is bound to; `null` where it was opened by its group. */
  readonly devid: number | null
  /** @internal What it was opened from, and what stays open as long as it is held. */
  readonly opener: object
  readonly #part: DevicePart
  /** They stay open as long as it is attached to them. */
  readonly #tables = new Map<number | null, PageTable>()
  readonly #irqs = new Map<number, VfioIrq>()
  readonly #regions = new Map<number, VfioRegion>()
  #poll: IrqPoll | undefined
  // Made when they are asked for: most programs open a device without.
  #config: ConfigSpace | undefined
  #lowPower: LowPower | undefined
  #migration: Migration | undefined
  #dmaLogging: DmaLogging | undefined

  /** @internal */
  constructor(handle: DeviceHandle, address: string, opener: object, devid: number | null = null) {
    super()
    this.handle = watched(this, handle)
    this.address = address
    this.opener = opener
    this.devid = devid
    this.#part = { handle, address, owner: this }
  }

  /**
   * Opens a device by its own node (`/dev/vfio/devices/vfioN`) and binds it to an iommufd (`VFIO_DEVICE_BIND_IOMMUFD`), which
   * resets it. It reaches no memory before {@link attach}. It runs on a thread of its own: see {@link reset} for what ends when.
   * @throws VfioError `ERR_VFIO_NO_DEVICE` where sysfs names no such node: the device is not bound to a vfio driver, or the kernel has
   * no CONFIG_VFIO_DEVICE_CDEV
   * @throws VfioSystemError `EBUSY` while its group is open, `EPERM` where the group is not viable or interrupts are not isolated,
   * `EINVAL` where it is bound already, `EACCES` for a wrong VF token, or without permission for the node
   */
  static openCdev(address: string, options: OpenCdevOptions): Promise<VfioDevice> {
    return openByNode(address, options)
  }

  /**
   * One that somebody else has opened, by its descriptor, which is duplicated and stays the caller's: the device is open until both are
   * closed. One by its own node that is bound to nothing yet is bound to `iommufd`, which resets it.
   * @throws VfioError `ERR_VFIO_BAD_ARGUMENT` where it is no device, another than `address`, or needs what `options` do not have
   * @throws VfioSystemError `EBADF`; as {@link openCdev}
   */
  static fromDescriptor(fd: number, options: FromDescriptorOptions = {}): Promise<VfioDevice> {
    return openByDescriptor(fd, options)
  }

  /**
   * The number of its descriptor, for other code of this process and for programs that it starts: lent, not given. It is good until the
   * object closes, also because it was dropped: hold it for as long, and close nothing but the object. It is not inherited by
   * itself; `spawn(command, { stdio: ['inherit', 'inherit', 'inherit', device.descriptor()] })` gives a child one of its own, 3
   * there, with which the device stays open after this object has closed.
   */
  descriptor(): number {
    return this.ask((native) => native.number())
  }

  /**
   * Attaches it to an address space, or to a page table of one, in the place of what it is attached to
   * (`VFIO_DEVICE_ATTACH_IOMMUFD_PT`). It may read and write what is mapped there from then on.
   * @throws VfioSystemError `EBUSY` while a device of its group is being reset, `EADDRINUSE` where something is mapped at addresses
   * that it reserves, `ENOTSUP` where it has no PASIDs, `EINVAL` where its IOMMU cannot use the page table.
   */
  async attach(table: Ioas | Hwpt, options: AttachOptions = {}): Promise<void> {
    const { signal } = checkOptions(options)
    const { devid, pasid } = this.#checkAttach(options)
    if (!(table instanceof PageTable))
      throw badArgument(`table must be an Ioas or a Hwpt, not ${show(table)}`)
    const target = table.handle
    // Each iommufd counts its objects from 1: the number would be that of something else.
    if (target.iommufd !== this.handle.parent)
      throw badArgument(
        `${target.name} is of another iommufd than the one that ${this.address} is bound to: allocate it there`,
      )
    if (target.closed) throw target.closedError()
    await this.handle.run(
      async () => {
        await attach(this.handle, devid, pasid, target)
        this.#tables.set(pasid, table)
      },
      { signal },
      this.attach,
    )
  }

  /**
   * Detaches it: from then on it reaches no memory (`VFIO_DEVICE_DETACH_IOMMUFD_PT`). Does nothing where it is not attached.
   * @throws VfioSystemError `EBUSY` while a device of its group is being reset.
   */
  async detach(options: AttachOptions = {}): Promise<void> {
    const { signal } = checkOptions(options)
    const { pasid } = this.#checkAttach(options)
    await this.handle.run(
      async () => {
        await this.handle.native.detach(pasid)
        this.handle.tables.get(pasid)?.forget()
        this.#tables.delete(pasid)
      },
      { signal },
      this.detach,
    )
  }

  /** @internal Another thread has attached it. */
  isOn(ioas: Ioas): void {
    wasAttached(this.handle, this.devid ?? 0, ioas.handle)
    this.keep(ioas)
  }

  /** @internal It is attached there, so that both stay open together. */
  keep(ioas: Ioas): void {
    this.#tables.set(null, ioas)
  }

  #checkAttach({ pasid }: AttachOptions): { devid: number; pasid: number | null } {
    const { devid } = this
    if (devid === null)
      throw badArgument(`${this.address} was opened by its group: its memory is that of the container`)
    return { devid, pasid: pasid === undefined ? null : checkInteger(pasid, LARGEST_PASID, 'options.pasid') }
  }

  /** What the device has (`VFIO_DEVICE_GET_INFO`). */
  info(): DeviceInfo {
    return askInfo(this.handle)
  }

  /**
   * One region, by index or name (`VFIO_DEVICE_GET_REGION_INFO`).
   * @throws VfioSystemError `EINVAL` where the device has no such region: `vga` on what is no VGA device.
   */
  regionInfo(region: RegionName | number): RegionInfo {
    return askRegionInfo(this.handle, regionIndex(region))
  }

  /**
   * A region to read, write and map, by index or name; the same object each time.
   * @throws VfioSystemError `EINVAL` where the device has no such region.
   */
  region(region: RegionName | number): VfioRegion {
    const index = regionIndex(region)
    const known = this.#regions.get(index)
    if (known) return known
    const info = this.regionInfo(index)
    const windows = new Windows(this.handle, Number(info.offset), Number(info.size), mappableAreas(info))
    this.handle.own(windows)
    const made = new VfioRegion(this.#part, regionName(index), info, windows)
    this.#regions.set(index, made)
    return made
  }

  /** Runtime suspend while nobody uses it. */
  get lowPower(): LowPower {
    this.#lowPower ??= new LowPower(this.#part)
    return this.#lowPower
  }

  /** Saving and loading what is in it. */
  get migration(): Migration {
    this.#migration ??= new Migration(this.#part)
    return this.#migration
  }

  /** Its own log of the memory that it wrote. */
  get dmaLogging(): DmaLogging {
    this.#dmaLogging ??= new DmaLogging(this.#part)
    return this.#dmaLogging
  }

  /** Config space by its fields. */
  get config(): ConfigSpace {
    this.#config ??= new ConfigSpace(this.region('config'), this.address)
    return this.#config
  }

  /**
   * One kind of interrupt, by index or name (`VFIO_DEVICE_GET_IRQ_INFO`).
   * @throws VfioSystemError `EINVAL` where the device has no such interrupt: `err` on what is not PCI Express before Linux 7.
   */
  irqInfo(irq: IrqName | number): IrqInfo {
    return askIrqInfo(this.handle, irqIndex(irq))
  }

  /**
   * An interrupt to enable and listen to, by index or name; the same object each time.
   * @throws VfioSystemError `EINVAL` where the device has no such interrupt.
   */
  irq(irq: IrqName | number): VfioIrq {
    const index = irqIndex(irq)
    const known = this.#irqs.get(index)
    if (known) return known
    const info = this.irqInfo(index)
    if (this.#poll === undefined) {
      this.#poll = new IrqPoll()
      this.handle.own(this.#poll)
    }
    const line = new IrqLine(this.handle, this.#poll, index, irqName(index))
    this.handle.own(line)
    const made = new VfioIrq(this.#part, irqName(index), info, line)
    this.#irqs.set(index, made)
    return made
  }

  /**
   * What a hot reset would affect (`VFIO_DEVICE_GET_PCI_HOT_RESET_INFO`). Addresses have the low 16 bits of the domain:
   * the kernel says no more here.
   * @throws VfioSystemError `ENODEV` where neither slot nor bus can be reset (on a root bus).
   */
  hotResetInfo(): HotResetInfo {
    return askHotResetInfo(this.handle)
  }

  /**
   * Resets this function alone (`VFIO_DEVICE_RESET`). Takes 100 ms and more, at worst a minute, or as long as a device
   * keeps the kernel waiting. It runs on a thread of its own, and nothing but this device waits for it; a register that is
   * accessed meanwhile makes the accessing thread wait. A program may end at any time: what of the reset the kernel cannot
   * interrupt keeps the process listed until it is over, and the devices that it had open are closed after that.
   * @throws VfioSystemError `EINVAL` where the device has no function reset (`info().reset`).
   */
  async reset(options: ResetOptions = {}): Promise<void> {
    const { signal } = checkOptions(options)
    await this.handle.run(() => this.handle.native.reset(), { signal }, this.reset)
  }

  /**
   * Resets the slot or bus with all devices on it (`VFIO_DEVICE_PCI_HOT_RESET`). `groups` own all of them: each affected
   * function must be bound to a vfio driver and be in one of these groups. Of a device that was opened by its own node none are
   * given: each affected function must be bound to the same iommufd, or be in a group of such a one.
   * @throws VfioSystemError `EINVAL` where one is not, `ENODEV` where neither slot nor bus can be reset.
   */
  async hotReset(groups: readonly OpenGroup[] = [], options: ResetOptions = {}): Promise<void> {
    const { signal } = checkOptions(options)
    filesOf(groups)
    // The groups themselves, so that none is found dropped while this waits.
    const held = [...groups]
    await this.handle.run(
      () => {
        const handles = filesOf(held)
        const work = this.handle.native.hotReset(handles.map((handle) => handle.native))
        for (const handle of handles) handle.lend(work)
        return work
      },
      { signal },
      this.hotReset,
    )
  }

  /**
   * One feature, by index or name (`VFIO_DEVICE_FEATURE`): whether the kernel has it, and its data as it is. What is typed has
   * properties and methods of its own.
   */
  feature(feature: FeatureName | number): VfioFeature {
    return new VfioFeature(this.#part, feature)
  }

  /**
   * Sets the UUID that programs must give as `vfToken` to open a virtual function of this physical function
   * (`VFIO_DEVICE_FEATURE_PCI_VF_TOKEN`). The kernel never tells it again.
   * @throws VfioSystemError `ENOTTY` where the device is no physical function.
   */
  async setVfToken(uuid: string, options: FeatureOptions = {}): Promise<void> {
    const bytes = uuidBytes(checkVfToken(uuid, 'uuid'))
    await this.feature('vf-token').setBytes(bytes, options, this.setVfToken)
  }

  /**
   * Memory of a BAR as a file that other devices can do DMA with (`VFIO_DEVICE_FEATURE_DMA_BUF`, since Linux 6.19).
   * @throws VfioSystemError `ENODEV` for what is no BAR, `EINVAL` for ranges that are not whole pages of it or overlap, `ENOTTY`
   * and `ENOTSUP` where the kernel or the device cannot do DMA between devices.
   */
  dmaBuf(region: RegionName | number, options: DmaBufOptions = {}): Promise<DmaBuf> {
    return exportDmaBuf(this.#part, region, options, this.dmaBuf)
  }

  /**
   * IBM Z: the error of the function that waits to be told, as bytes of `struct zpci_ccdf_err`; `null` where none does
   * (`VFIO_DEVICE_FEATURE_ZPCI_ERROR`, in Linux 7.3). The interrupt `err` announces one.
   * @throws VfioSystemError `ENOTTY` on other machines and older kernels.
   */
  async zpciError(options: FeatureOptions = {}): Promise<Uint8Array | null> {
    const { signal } = checkOptions(options)
    const base = this.info().capabilities.find((each) => each.name === 'zpci-base')
    const length = base?.name === 'zpci-base' ? (base.ccdfErrorLength ?? 0) : 0
    try {
      const work = () => this.handle.native.zpciError(Math.min(length, LONGEST_ERROR))
      return new Uint8Array(await this.handle.run(work, { signal, subject: 'zpci-error' }, this.zpciError))
    } catch (error) {
      if (error instanceof VfioSystemError && error.code === 'ENOMSG') return null
      throw error
    }
  }

  /**
   * Lets the kernel write to a BAR each time an eventfd is signalled (`VFIO_DEVICE_IOEVENTFD`).
   * @throws VfioSystemError `EEXIST` where the device has the same write already, `EINVAL` outside of BARs, on the MSI-X table
   * and for a width that the kernel cannot write, `ENOSPC` beyond 1000.
   */
  ioeventfd(options: IoeventfdOptions): Ioeventfd {
    return addIoeventfd(this.handle, options)
  }
}

// Outside of the class, which keeps its name in the bundle only if it does not name itself.
async function openByNode(address: string, options: OpenCdevOptions): Promise<VfioDevice> {
  return await openOnto(null, address, options, callSite(openByNode))
}

/** Opens a device by its own node, and attaches it to an address space of the iommufd, unless that is `null`, in the same go. */
export function openOnto(
  ioas: Ioas | null,
  address: string,
  options: OpenCdevOptions,
  site: CallSite,
): Promise<VfioDevice> {
  const name = parseName(address)
  const { iommufd, signal } = checkOptions(options)
  checkIommufd(iommufd)
  const token = tokenIn(options)
  const path = options.path === undefined ? nodeOf(name) : checkPath(options.path)
  signal?.throwIfAborted()
  if (iommufd.handle.closed) throw iommufd.handle.closedError()
  let native: NativeDevice
  try {
    native = binding().Device.openCdev(path)
  } catch (error) {
    throw translate(error, undefined, name)
  }
  return bindTo({ iommufd, ioas }, native, name, token, signal, site)
}

function checkIommufd(iommufd: unknown): asserts iommufd is Iommufd {
  if (!(iommufd instanceof Iommufd)) throw badArgument(`iommufd must be an Iommufd, not ${show(iommufd)}`)
}

const tokenIn = ({ vfToken }: { vfToken?: string | undefined }) =>
  vfToken === undefined ? null : uuidBytes(checkVfToken(vfToken, 'options.vfToken'))

/** Binds an open device to an iommufd, and attaches it to an address space of it where one is given; where that fails, it is closed. */
async function bindTo(
  { iommufd, ioas }: { iommufd: Iommufd; ioas: Ioas | null },
  native: NativeDevice,
  name: string,
  token: Uint8Array | null,
  signal: AbortSignal | undefined,
  site: CallSite,
): Promise<VfioDevice> {
  const owner = iommufd.handle
  const handle = new DeviceHandle(native, `device ${name}`, owner)
  try {
    const bind = () => {
      const work = ioas
        ? bindOnto(handle, owner.native, token, ioas)
        : native.bindIommufd(owner.native, token)
      owner.lend(work)
      return work
    }
    const devid = await handle.run(bind, { signal, subject: name }, site)
    const device = new VfioDevice(handle, name, iommufd, devid)
    if (ioas) device.keep(ioas)
    return device
  } catch (error) {
    const closing = handle.release()
    if (!signal?.aborted) await keepAlive(closing)
    throw error
  }
}

function bindOnto(
  handle: DeviceHandle,
  iommufd: NativeIommufd,
  token: Uint8Array | null,
  { handle: target }: Ioas,
): Promise<number> {
  const work = (async () => {
    const devid = await handle.native.bindAndAttach(iommufd, token, target.native.id, null)
    // One that was aborted closes, and with it all that it would be attached to.
    if (!handle.closed && !target.closed) wasAttached(handle, devid, target)
    return devid
  })()
  // Which is not destroyed before this has ended.
  target.lend(work)
  return work
}

async function openByDescriptor(fd: number, options: FromDescriptorOptions): Promise<VfioDevice> {
  const { iommufd, signal } = checkOptions(options)
  const devid = options.devid === undefined ? null : checkInteger(options.devid, LARGEST_ID, 'options.devid')
  const token = tokenIn(options)
  const { kind, address: found } = describe(fd, ['device', 'device of a group'])
  const asked = options.address === undefined ? null : parseName(options.address)
  const name = asked ?? found
  if (name === null)
    throw badArgument(`the kernel does not say which device descriptor ${fd} is: give options.address`)
  if (found !== null && found !== name) throw badArgument(`descriptor ${fd} is ${found}, and not ${name}`)
  const isOfGroup = kind === 'device of a group'
  if (isOfGroup && (iommufd !== undefined || devid !== null))
    throw badArgument(`${name} was opened by its group: it takes no iommufd`)
  if (!isOfGroup) {
    if (iommufd === undefined)
      throw badArgument(
        `${name} was opened by its own node: give the Iommufd that it is to be bound to (options.iommufd)`,
      )
    checkIommufd(iommufd)
    if (iommufd.handle.closed) throw iommufd.handle.closedError()
  }
  signal?.throwIfAborted()
  const native = call(() => binding().Device.fromDescriptor(fd))
  try {
    const isBound = isOfGroup || answers(native)
    if (iommufd !== undefined && !isBound) {
      if (devid === null)
        return await bindTo({ iommufd, ioas: null }, native, name, token, signal, callSite(openByDescriptor))
      throw badArgument(`${name} is bound to no iommufd yet: leave options.devid out, and it is bound here`)
    }
    if (iommufd !== undefined && devid === null)
      throw badArgument(
        `${name} is bound to an iommufd already: give its number there (options.devid), which who has bound it knows as device.devid`,
      )
    const handle = new DeviceHandle(native, `device ${name}`, iommufd?.handle ?? null)
    return new VfioDevice(handle, name, iommufd ?? handle, devid)
  } catch (error) {
    native.closeNow()
    throw error
  }
}

/** One by its own node says nothing before it is bound (`vfio_device_fops_unl_ioctl`). */
function answers(native: NativeDevice): boolean {
  try {
    native.info(scratch)
    return true
  } catch (error) {
    if ((error as Partial<SystemFailure>).errno === constants.errno.EINVAL) return false
    throw translate(error)
  }
}

/** The node of a device, as sysfs names it. */
function nodeOf(address: string): string {
  const [name] = listNames(`${directoryOf('/sys', address)}/vfio-dev`)
  if (name !== undefined) return `/dev/vfio/devices/${name}`
  throw noNode(address)
}

export const noNode = (address: string) =>
  new VfioError(
    'ERR_VFIO_NO_DEVICE',
    `${address} has no node below /dev/vfio/devices: bind it to a vfio driver ("vfio bind ${address}"), or open it by its group where the kernel has no CONFIG_VFIO_DEVICE_CDEV`,
  )

function filesOf(groups: readonly OpenGroup[]): GroupFile[] {
  if (!Array.isArray(groups)) throw badArgument('groups must be an array of VfioGroup')
  return groups.map((group: unknown) => {
    if (group instanceof VfioObject && group.handle instanceof GroupFile) return group.handle
    throw badArgument('groups must be an array of VfioGroup')
  })
}
