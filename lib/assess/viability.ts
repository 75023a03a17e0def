import { isAddress } from '../sysfs/address.js'
import { isVfioDriver, isWithVfio, type PciDevice } from '../sysfs/devices.js'
import { isKernelSince, isOfLongRelease } from '../sysfs/kernel.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import { mediatedText } from './mediated.js'
import { onceFor } from './once.js'
import { isBridge, Topology } from './topology.js'
import { unseenAbout, unseenSentence } from './unseen.js'
import { assessUses } from './uses.js'
import { isOfBoard } from './uses-board.js'

/** By which rule the kernel decides: since 5.18 who owns DMA, before that a list of drivers. */
export type ViabilityRule = 'dma-ownership' | 'driver-allowlist'

/** One member of a group, and whether it keeps the group from being given away. */
export interface ViabilityMember {
  readonly address: string
  readonly driver: string | null
  readonly blocks: boolean
  /** One sentence: the device, its driver, the rule and, where it blocks, the cure. */
  readonly reason: string
}

/** Whether VFIO would call a group viable (`VFIO_GROUP_FLAGS_VIABLE`) as the host stands. */
export interface Viability {
  readonly group: number
  readonly viable: boolean
  readonly rule: ViabilityRule
  readonly members: readonly ViabilityMember[]
}

/**
 * The rule of the kernel that was seen. An older number proves nothing where the newer VFIO shows itself (`vfio-dev`, 6.1), or may
 * have been brought to it: of both rules this is the stricter one.
 */
export function viabilityRule(seen: Snapshot): ViabilityRule {
  const { kernel } = seen.host
  return isKernelSince(kernel, 5, 18) || isOfLongRelease(kernel) || hasVfioOf61(seen, null)
    ? 'dma-ownership'
    : 'driver-allowlist'
}

/** A profile of NVIDIA's vGPU proves nothing of the kernel. */
const hasVfioOf61 = onceFor((seen: Snapshot, _all: null): boolean =>
  seen.devices.some(({ vfioRegistered, vgpuType }) => vfioRegistered && vgpuType === null),
)

/**
 * Predicts what `VFIO_GROUP_GET_STATUS` says of a group (`drivers/iommu/iommu.c` since 5.18, `drivers/vfio/vfio.c`
 * before).
 * @throws VfioError `ERR_VFIO_NO_GROUP`
 */
export function assessViability(seen: Snapshot, group: number): Viability {
  return viabilityOf(seen, group)
}

const viabilityOf = onceFor(function judgeGroup(seen: Snapshot, group: number): Viability {
  const { members, others } = seen.group(group)
  const rule = viabilityRule(seen)
  const judged = members.map(
    (address) => judgeUnseen(seen, address) ?? judge(seen, seen.device(address), rule),
  )
  for (const { name, driver } of others) judged.push(judgeMediated(seen, name) ?? judgeOther(name, driver))
  if (seen.unseen.length > 0) judged.push(...judgeUnseenGroup(seen, group))
  return { group, viable: !judged.some((member) => member.blocks), rule, members: judged }
})

/** A device that could not be seen in full may have any driver. */
function judgeUnseen(seen: Snapshot, address: string): ViabilityMember | null {
  // Nearly always, and for thousands of devices.
  if (seen.unseen.length === 0) return null
  const reason = unseenSentence(`all of ${address}`, unseenAbout(seen, seen.unseen, { addresses: [address] }))
  return reason === null ? null : { address, driver: seen.device(address).driver, blocks: true, reason }
}

function judgeUnseenGroup(seen: Snapshot, group: number): ViabilityMember[] {
  const name = `group ${group}`
  const reason = unseenSentence(`who is in ${name}`, unseenAbout(seen, seen.unseen, { groups: [group] }))
  return reason === null ? [] : [{ address: name, driver: null, blocks: true, reason }]
}

/** Drivers besides VFIO's own that leave DMA to others (`.driver_managed_dma`). */
const MANAGED_DMA = new Set(['pci-stub', 'pcieport'])

function judge(seen: Snapshot, device: PciDevice, rule: ViabilityRule): ViabilityMember {
  const { address, driver } = device
  const member = (blocks: boolean, reason: string) => ({ address, driver, blocks, reason })
  if (driver === null) return member(false, `${address} has no driver, so nothing on the host uses it`)
  if (isVfioDriver(driver)) return member(false, `${address} is bound to ${driver}, a VFIO driver`)
  if (isWithVfio(device)) {
    return member(false, `${address} is bound to ${driver}, which has given it to VFIO itself`)
  }
  if (rule === 'dma-ownership') {
    if (MANAGED_DMA.has(driver)) {
      return member(false, `${address} is bound to ${driver}, which does no DMA of its own`)
    }
    return member(
      true,
      isBridge(device)
        ? `${address} is a bridge bound to ${driver}, which claims DMA for the host: unbind it from ${driver}, a bridge works without a driver`
        : `${address} is bound to ${driver}, which claims DMA for the host: ${cureFor(seen, device)}`,
    )
  }
  if (driver === 'pci-stub')
    return member(false, `${address} is bound to pci-stub, which does nothing with it`)
  if (isBridge(device)) {
    return member(false, `${address} is a bridge, and this kernel lets bridges stay with ${driver}`)
  }
  return member(true, `${address} is bound to ${driver}, which is no VFIO driver: ${cureFor(seen, device)}`)
}

/** How a member stops to block, unless something goes with its driver that nobody asked to lose. */
function cureFor(seen: Snapshot, device: PciDevice): string {
  const { address, driver, sriov } = device
  if (Topology.of(seen).isMaker(address)) {
    return `without ${driver} all that is behind it is gone, so it goes as a whole or not at all`
  }
  if (sriov?.role === 'pf' && sriov.numVfs > 0) {
    return `it has virtual functions, which go with ${driver}: there is no way while they are needed`
  }
  // Who surveys a large host has not looked at uses.
  const vital = seen.use.looked ? assessUses(seen, address).find((use) => use.vital) : undefined
  if (vital) return `the host would not survive its loss (${vital.what})`
  return isOfBoard(device)
    ? `unbind it from ${driver}, since it is a part of the board, which no guest should have`
    : 'bind it to vfio-pci, or unbind it'
}

/** A mediated device that its driver has given to VFIO: on its bus nothing claims DMA (`vfio_group_get_device` before 5.18). */
function judgeMediated(seen: Snapshot, name: string): ViabilityMember | null {
  const device = seen.mediated.find(({ uuid }) => uuid === name)
  if (!device) return null
  const { driver } = device
  const reason =
    driver === null
      ? `${mediatedText(device)} is a mediated device without a driver, so nothing uses it`
      : `${mediatedText(device)} is a mediated device of ${driver}, which does the DMA for it`
  return { address: name, driver, blocks: false, reason }
}

function judgeOther(name: string, driver: string | null): ViabilityMember {
  if (isAddress(name)) {
    const reason = `${name} shares the group and is not among the PCI devices, so it could not be judged: look again`
    return { address: name, driver, blocks: true, reason }
  }
  const blocks = driver !== null && !isVfioDriver(driver)
  const reason = blocks
    ? `${name} is no PCI device but shares the group, and is bound to ${driver}: unbind it`
    : `${name} is no PCI device, and ${driver === null ? 'has no driver' : `is bound to ${driver}, a VFIO driver`}`
  return { address: name, driver, blocks, reason }
}
