import { type Answer, answerIn, answerOfQuickCall, scratch } from '../native/answer.js'
import { binding } from '../native/load.js'
import { translate } from '../native/translate.js'
import { badArgument, checkIndex, checkOptions, namesOf } from './arguments.js'
import {
  type DeviceCapability,
  deviceCapabilities,
  type RegionCapability,
  regionCapabilities,
} from './capabilities.js'
import { ConfigSpace } from './config-space.js'
import type { DeviceHandle } from './device-handle.js'
import { DmaLogging } from './dma-logging.js'
import { type FeatureName, type FeatureOptions, VfioFeature } from './feature.js'
import { VfioGroup } from './group.js'
import { VfioObject, watched } from './handle.js'
import { addIoeventfd, type Ioeventfd, type IoeventfdOptions } from './ioeventfd.js'
import { VfioIrq } from './irq.js'
import { IrqLine } from './irq-line.js'
import { LowPower } from './low-power.js'
import { Migration } from './migration.js'
import { mappableAreas, VfioRegion } from './region.js'
import { checkVfToken, uuidBytes } from './vf-token.js'
import { Windows } from './window.js'

/** Regions of a PCI device by name (`VFIO_PCI_*_REGION_INDEX`). From 9 on they are the device's own. */
export const REGIONS = {
  bar0: 0,
  bar1: 1,
  bar2: 2,
  bar3: 3,
  bar4: 4,
  bar5: 5,
  rom: 6,
  config: 7,
  vga: 8,
} as const
export type RegionName = keyof typeof REGIONS
const REGION_NAMES = namesOf(REGIONS)
const REGION_NAME_LIST = Object.keys(REGIONS)

/** Interrupts of a PCI device by name (`VFIO_PCI_*_IRQ_INDEX`): `err` is the error interrupt of PCI Express, `req` the kernel's request to let go. */
export const IRQS = { intx: 0, msi: 1, msix: 2, err: 3, req: 4 } as const
export type IrqName = keyof typeof IRQS
const IRQ_NAMES = namesOf(IRQS)
const IRQ_NAME_LIST = Object.keys(IRQS)

/** `struct vfio_device_info`. */
export interface DeviceInfo {
  /** The device has a function reset: it worked when the device was opened. */
  readonly reset: boolean
  /** The device sits behind this driver interface: one of them is true. */
  readonly pci: boolean
  readonly platform: boolean
  readonly amba: boolean
  readonly ccw: boolean
  readonly ap: boolean
  readonly fslMc: boolean
  readonly cdx: boolean
  /** As the kernel gave them. */
  readonly flags: number
  /** The largest region index + 1. */
  readonly regions: number
  /** The largest interrupt index + 1. */
  readonly irqs: number
  readonly capabilities: readonly DeviceCapability[]
}

/** `struct vfio_region_info`. */
export interface RegionInfo {
  readonly index: number
  readonly read: boolean
  readonly write: boolean
  readonly mmap: boolean
  /** As the kernel gave them. */
  readonly flags: number
  /** In bytes; 0 where the device does not implement the region. */
  readonly size: bigint
  /** Where the region begins in the device's file, in bytes. */
  readonly offset: bigint
  readonly capabilities: readonly RegionCapability[]
}

/** `struct vfio_irq_info`. */
export interface IrqInfo {
  readonly index: number
  /** Can be delivered to an eventfd. */
  readonly eventfd: boolean
  readonly maskable: boolean
  /** Is masked by the kernel each time that it is delivered. */
  readonly automasked: boolean
  /** The number of vectors in use cannot be raised without letting all of them go first. */
  readonly noresize: boolean
  /** As the kernel gave them. */
  readonly flags: number
  /** How many vectors; 0 where the device has none of this kind. */
  readonly count: number
}

/** One function that a hot reset affects. */
export interface HotResetDevice {
  readonly address: string
  /** Its IOMMU group; `null` where the device was opened by cdev. */
  readonly group: number | null
  /** Its id in the iommufd: 0 owned without an id, −1 not owned; `null` where the device was opened by group. */
  readonly devid: number | null
}

/** `struct vfio_pci_hot_reset_info`. */
export interface HotResetInfo {
  /** Every function on the slot or bus, below bridges too. */
  readonly devices: readonly HotResetDevice[]
  /** Opened by cdev: whether all of them are owned. `null` where the device was opened by group. */
  readonly owned: boolean | null
}

export interface ResetOptions {
  /**
   * Aborts the wait: the promise rejects at once. A reset that has begun ends by itself, and only the device's `close()` and
   * later calls on it wait for that; a program that waits for nothing else ends.
   */
  readonly signal?: AbortSignal | undefined
}

const DEVICE_CAPABILITIES = 1 << 7
const REGION_CAPABILITIES = 1 << 3
const NO_CAPABILITIES: readonly never[] = Object.freeze([])
const BY_DEVID = 1 << 0
const ALL_OWNED = 1 << 1

/** An open device. It comes from `VfioGroup.openDevice()`. */
export class VfioDevice extends VfioObject {
  /** @internal */
  readonly handle: DeviceHandle

  /** In sysfs form. */
  readonly address: string
  /** What it was opened from, and what stays open as long as it is held. */
  readonly group: VfioGroup
  /** Leave to sleep while nobody uses it. */
  readonly lowPower = new LowPower(this)
  /** Saving and loading what is in it. */
  readonly migration = new Migration(this)
  /** Its own log of the memory that it wrote. */
  readonly dmaLogging = new DmaLogging(this)
  readonly #irqs = new Map<number, VfioIrq>()
  readonly #regions = new Map<number, VfioRegion>()
  #config: ConfigSpace | undefined

  /** @internal */
  constructor(handle: DeviceHandle, address: string, group: VfioGroup) {
    super()
    this.handle = watched(this, handle)
    this.address = address
    this.group = group
  }

  /** What the device has (`VFIO_DEVICE_GET_INFO`). */
  info(): DeviceInfo {
    const answer = answerIn(this.ask((native) => native.info(scratch)))
    const flags = answer.u32(4)
    const flag = (bit: number) => (flags & (1 << bit)) !== 0
    return {
      reset: flag(0),
      pci: flag(1),
      platform: flag(2),
      amba: flag(3),
      ccw: flag(4),
      ap: flag(5),
      fslMc: flag(6),
      cdx: flag(8),
      flags,
      regions: answer.u32(8),
      irqs: answer.u32(12),
      capabilities: flags & DEVICE_CAPABILITIES ? deviceCapabilities(answer, answer.u32(16)) : [],
    }
  }

  /**
   * One region, by index or name (`VFIO_DEVICE_GET_REGION_INFO`).
   * @throws VfioSystemError `EINVAL` where the device has no such region: `vga` on what is no VGA device.
   */
  regionInfo(region: RegionName | number): RegionInfo {
    const index = checkIndex(region, REGION_NAMES, 'region')
    let answer: Answer
    try {
      const own = binding().deviceRegionInfo(this.handle.native.id, index)
      answer = own === undefined ? answerOfQuickCall() : answerIn(own)
    } catch (error) {
      throw translate(error)
    }
    const flags = answer.u32(4)
    return {
      index,
      read: (flags & 1) !== 0,
      write: (flags & 2) !== 0,
      mmap: (flags & 4) !== 0,
      flags,
      size: answer.u64(16),
      offset: answer.u64(24),
      capabilities:
        flags & REGION_CAPABILITIES ? regionCapabilities(answer, answer.u32(12)) : NO_CAPABILITIES,
    }
  }

  /**
   * A region to read, write and map, by index or name; the same object each time.
   * @throws VfioSystemError `EINVAL` where the device has no such region.
   */
  region(region: RegionName | number): VfioRegion {
    const index = checkIndex(region, REGION_NAMES, 'region')
    const known = this.#regions.get(index)
    if (known) return known
    const info = this.regionInfo(index)
    const windows = new Windows(this.handle, Number(info.offset), mappableAreas(info))
    this.handle.attach(windows)
    const made = new VfioRegion(this, REGION_NAME_LIST[index] ?? `region ${index}`, info, windows)
    this.#regions.set(index, made)
    return made
  }

  /** Config space by its fields. */
  get config(): ConfigSpace {
    this.#config ??= new ConfigSpace(this.region('config'))
    return this.#config
  }

  /**
   * One kind of interrupt, by index or name (`VFIO_DEVICE_GET_IRQ_INFO`).
   * @throws VfioSystemError `EINVAL` where the device has no such interrupt: `err` on what is not PCI Express before Linux 7.
   */
  irqInfo(irq: IrqName | number): IrqInfo {
    const index = checkIndex(irq, IRQ_NAMES, 'irq')
    let answer: number
    try {
      answer = binding().deviceIrqInfo(this.handle.native.id, index)
    } catch (error) {
      throw translate(error)
    }
    const flags = answer & 0xffff
    return {
      index,
      eventfd: (flags & 1) !== 0,
      maskable: (flags & 2) !== 0,
      automasked: (flags & 4) !== 0,
      noresize: (flags & 8) !== 0,
      flags,
      count: (answer - flags) / 0x10000,
    }
  }

  /**
   * An interrupt to enable and listen to, by index or name; the same object each time.
   * @throws VfioSystemError `EINVAL` where the device has no such interrupt.
   */
  irq(irq: IrqName | number): VfioIrq {
    const index = checkIndex(irq, IRQ_NAMES, 'irq')
    const known = this.#irqs.get(index)
    if (known) return known
    const info = this.irqInfo(index)
    const name = IRQ_NAME_LIST[index] ?? `irq ${index}`
    const line = new IrqLine(this.handle, index, name)
    this.handle.attach(line)
    const made = new VfioIrq(this, name, info, line)
    this.#irqs.set(index, made)
    return made
  }

  /**
   * What a hot reset would affect (`VFIO_DEVICE_GET_PCI_HOT_RESET_INFO`). Addresses have the low 16 bits of the domain:
   * the kernel says no more here.
   * @throws VfioSystemError `ENODEV` where neither slot nor bus can be reset (on a root bus).
   */
  hotResetInfo(): HotResetInfo {
    const answer = answerIn(this.ask((native) => native.hotResetInfo(scratch)))
    const flags = answer.u32(4)
    const byDevid = (flags & BY_DEVID) !== 0
    const devices = Array.from({ length: answer.u32(8) }, (_, i): HotResetDevice => {
      const at = 12 + i * 8
      const id = answer.u32(at)
      const address = addressOf(answer.u16(at + 4), answer.u8(at + 6), answer.u8(at + 7))
      return byDevid ? { address, group: null, devid: id | 0 } : { address, group: id, devid: null }
    })
    return { devices, owned: byDevid ? (flags & ALL_OWNED) !== 0 : null }
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
  async hotReset(groups: readonly VfioGroup[], options: ResetOptions = {}): Promise<void> {
    const { signal } = checkOptions(options)
    if (!Array.isArray(groups) || !groups.every((group) => group instanceof VfioGroup)) {
      throw badArgument('groups must be an array of VfioGroup')
    }
    const handles = groups.map((group) => group.handle)
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
    return new VfioFeature(this, feature)
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
    return addIoeventfd(this, options)
  }
}

function addressOf(domain: number, bus: number, devfn: number): string {
  const hex = (value: number, digits: number) => value.toString(16).padStart(digits, '0')
  return `${hex(domain, 4)}:${hex(bus, 2)}:${hex(devfn >> 3, 2)}.${devfn & 7}`
}
