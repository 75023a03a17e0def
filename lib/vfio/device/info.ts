import { type Answer, answerIn, scratch } from '../../native/answer.js'
import { binding } from '../../native/load.js'
import { call, translate } from '../../native/translate.js'
import { checkIndex, namesOf } from '../arguments.js'
import {
  type DeviceCapability,
  deviceCapabilities,
  type RegionCapability,
  regionCapabilities,
} from '../capabilities.js'
import type { DeviceHandle } from './handle.js'

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

/** Interrupts of a PCI device by name (`VFIO_PCI_*_IRQ_INDEX`): `err` is the error interrupt (of PCI Express alone before Linux 7), `req` the kernel's request to let go. */
export const IRQS = { intx: 0, msi: 1, msix: 2, err: 3, req: 4 } as const
export type IrqName = keyof typeof IRQS
const IRQ_NAMES = namesOf(IRQS)
const IRQ_NAME_LIST = Object.keys(IRQS)

/** `struct vfio_device_info`. */
export interface DeviceInfo {
  /** The device has a function reset: it worked when the device was opened. */
  readonly reset: boolean
  /** The kind of device by its bus: one of them is true. */
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
  /** Vectors can be added only after all were turned off. */
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

const DEVICE_CAPABILITIES = 1 << 7
const REGION_CAPABILITIES = 1 << 3
const NO_CAPABILITIES: readonly never[] = Object.freeze([])
const BY_DEVID = 1 << 0
const ALL_OWNED = 1 << 1

/** `VFIO_DEVICE_GET_INFO` */
export function askInfo(device: DeviceHandle): DeviceInfo {
  const { native } = device
  const answer = answerIn(call(() => native.info(scratch)))
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

/** The index of a region by its name. */
export const regionIndex = (region: RegionName | number) => checkIndex(region, REGION_NAMES, 'region')

/** What errors call a region. */
export const regionName = (index: number) => REGION_NAME_LIST[index] ?? `region ${index}`

/** `VFIO_DEVICE_GET_REGION_INFO` */
export function askRegionInfo(device: DeviceHandle, index: number): RegionInfo {
  let answer: Answer
  try {
    answer = answerIn(binding().deviceRegionInfo(device.native.id, index, scratch))
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
    capabilities: flags & REGION_CAPABILITIES ? regionCapabilities(answer, answer.u32(12)) : NO_CAPABILITIES,
  }
}

/** The index of an interrupt by its name. */
export const irqIndex = (irq: IrqName | number) => checkIndex(irq, IRQ_NAMES, 'irq')

/** What errors call an interrupt. */
export const irqName = (index: number) => IRQ_NAME_LIST[index] ?? `irq ${index}`

/** `VFIO_DEVICE_GET_IRQ_INFO` */
export function askIrqInfo(device: DeviceHandle, index: number): IrqInfo {
  let answer: number
  try {
    answer = binding().deviceIrqInfo(device.native.id, index)
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

/** `VFIO_DEVICE_GET_PCI_HOT_RESET_INFO` */
export function askHotResetInfo(device: DeviceHandle): HotResetInfo {
  const { native } = device
  const answer = answerIn(call(() => native.hotResetInfo(scratch)))
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

function addressOf(domain: number, bus: number, devfn: number): string {
  const hex = (value: number, digits: number) => value.toString(16).padStart(digits, '0')
  return `${hex(domain, 4)}:${hex(bus, 2)}:${hex(devfn >> 3, 2)}.${devfn & 7}`
}
