import { badArgument, checkOptions, checkVfToken, uuidBytes } from '../arguments.js'
import { VfioObject, watched } from '../handle.js'
import { ConfigSpace } from './config-space.js'
import { DmaLogging, type FeatureName, type FeatureOptions, LowPower, VfioFeature } from './features.js'
import { type DeviceHandle, type DevicePart, GroupFile } from './handle.js'
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

/** An open device. It comes from `VfioGroup.openDevice()`. */
export class VfioDevice extends VfioObject {
  /** @internal */
  readonly handle: DeviceHandle

  /** In sysfs form. */
  readonly address: string
  /** @internal What it was opened from, and what stays open as long as it is held. */
  readonly opener: object
  /** Leave to sleep while nobody uses it. */
  readonly lowPower: LowPower
  /** Saving and loading what is in it. */
  readonly migration: Migration
  /** Its own log of the memory that it wrote. */
  readonly dmaLogging: DmaLogging
  readonly #part: DevicePart
  readonly #irqs = new Map<number, VfioIrq>()
  readonly #regions = new Map<number, VfioRegion>()
  #poll: IrqPoll | undefined
  #config: ConfigSpace | undefined

  /** @internal */
  constructor(handle: DeviceHandle, address: string, opener: object) {
    super()
    this.handle = watched(this, handle)
    this.address = address
    this.opener = opener
    this.#part = { handle, address, owner: this }
    this.lowPower = new LowPower(this.#part)
    this.migration = new Migration(this.#part)
    this.dmaLogging = new DmaLogging(this.#part)
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
    const windows = new Windows(this.handle, Number(info.offset), mappableAreas(info))
    this.handle.attach(windows)
    const made = new VfioRegion(this.#part, regionName(index), info, windows)
    this.#regions.set(index, made)
    return made
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
      this.handle.attach(this.#poll)
    }
    const line = new IrqLine(this.handle, this.#poll, index, irqName(index))
    this.handle.attach(line)
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
   * function must be bound to a vfio driver and be in one of these groups.
   * @throws VfioSystemError `EINVAL` where one is not, `ENODEV` where neither slot nor bus can be reset.
   */
  async hotReset(groups: readonly OpenGroup[], options: ResetOptions = {}): Promise<void> {
    const { signal } = checkOptions(options)
    const handles = filesOf(groups)
    await this.handle.run(
      () => {
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
   * Lets the kernel write to a BAR each time an eventfd is signalled (`VFIO_DEVICE_IOEVENTFD`).
   * @throws VfioSystemError `EEXIST` where the device has the same write already, `EINVAL` outside of BARs, on the MSI-X table
   * and for a width that the kernel cannot write, `ENOSPC` beyond 1000.
   */
  ioeventfd(options: IoeventfdOptions): Ioeventfd {
    return addIoeventfd(this.handle, options)
  }
}

function filesOf(groups: readonly OpenGroup[]): GroupFile[] {
  if (!Array.isArray(groups)) throw badArgument('groups must be an array of VfioGroup')
  return groups.map((group: unknown) => {
    if (group instanceof VfioObject && group.handle instanceof GroupFile) return group.handle
    throw badArgument('groups must be an array of VfioGroup')
  })
}
