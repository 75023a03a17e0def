import { compareAddresses, readUuid, slotOf } from '../sysfs/address.js'
import { isWithVfio, type PciDevice } from '../sysfs/devices.js'
import type { IommuGroup } from '../sysfs/groups.js'
import type { MediatedDevice } from '../sysfs/mediated.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import { bridgesAbove, whyUnreachable } from './answering.js'
import { lackingBars, obstacleToEnabling } from './bars.js'
import { driverOfModule } from './driver-names.js'
import { assessIsolation } from './isolation.js'
import { moduleSwitch } from './kernel-parameters.js'
import { judgeMediated, mediatedReset } from './mediated.js'
import { judgeUngrouped, NO_IOMMU_RISK } from './no-iommu.js'
import { onceFor } from './once.js'
import { isDenylisted } from './quirks.js'
import { assessReset, isHotOnceBound, type ResetCapability } from './reset.js'
import { iommuIn, isBridge } from './topology.js'
import { unseenAbout, unseenSentence } from './unseen.js'
import { assessUses, type HostUse } from './uses.js'
import { assessViability, type Viability } from './viability.js'

/** The verdict over one device: can it be given away, what must come along, how can it be reset. */
export interface Assessment {
  /** Of the PCI function; of a mediated device the UUID. */
  readonly address: string
  readonly group: number | null
  /** Bound and viable; or it would be once `toBind` is bound to VFIO; or it cannot be. */
  readonly verdict: 'ready' | 'bindable' | 'blocked'
  /** One sentence that says why. */
  readonly reason: string
  /** What has to be bound to a VFIO driver first, this device included. */
  readonly toBind: readonly string[]
  /** Only where it is given away without an IOMMU: its bound group is of that mode, or will be. */
  readonly noIommu?: true
  /** The variant driver that would be taken for it in the place of vfio-pci; left out where there is none, or it is bound already. */
  readonly variant?: string
  /** `null` where the device is in no group (yet). */
  readonly viability: Viability | null
  readonly reset: ResetCapability
  /** Where that would be another once all of its group that can be is bound to VFIO. */
  readonly resetOnceBound?: 'hot'
  /** What on this host would lose the device, or one of `toBind`. It takes no part in the verdict. */
  readonly uses: readonly HostUse[]
  /** What the kernel itself answered, where it was asked. */
  readonly kernel?: KernelAnswer
}

/** The kernel's answers to what an assessment predicts. */
export interface KernelAnswer {
  /** `VFIO_GROUP_FLAGS_VIABLE`; by iommufd: it was bound, which takes a viable group. */
  readonly viable: boolean
  /** `VFIO_DEVICE_FLAGS_RESET` */
  readonly functionReset: boolean
  /**
   * What `VFIO_DEVICE_GET_PCI_HOT_RESET_INFO` lists, or the name of the errno that it answered. By iommufd the groups are
   * those of the look.
   */
  readonly hotReset: readonly { readonly address: string; readonly group: number }[] | string
}

/** Did the kernel answer as was predicted? `null` where it was not asked. */
export function agreesWithKernel({ kernel, viability, reset }: Assessment): boolean | null {
  if (kernel === undefined) return null
  const named = (list: readonly { readonly address: string }[]) =>
    list
      .map(({ address }) => address)
      .sort(compareAddresses)
      .join()
  return (
    // A mediated device may be in no group, which nothing speaks against.
    kernel.viable === (viability?.viable ?? reset.function.unknown === true) &&
    (reset.function.unknown === true || kernel.functionReset === reset.function.supported) &&
    named(typeof kernel.hotReset === 'string' ? [] : kernel.hotReset) === named(reset.hot.affected)
  )
}

/**
 * Judges one device over everything: group, viability, obstacles to binding, reset.
 * @param address of a PCI function, or the UUID of a mediated device
 * @throws VfioError `ERR_VFIO_BAD_ADDRESS`, `ERR_VFIO_NO_DEVICE`
 */
export function assess(seen: Snapshot, address: string): Assessment {
  const uuid = seen.has(address) || typeof address !== 'string' ? null : readUuid(address)
  if (uuid !== null) return assessMediated(seen, seen.mediatedDevice(uuid))
  return assessmentOf(seen, seen.device(address))
}

const assessmentOf = onceFor((seen: Snapshot, device: PciDevice): Assessment => {
  const viability = device.group === null ? null : assessViability(seen, device.group)
  const bare = assessWithin(seen, device, viability)
  return withUses(seen, { ...bare, reset: assessReset(seen, device.address) })
})

function assessMediated(seen: Snapshot, device: MediatedDevice): Assessment {
  const { uuid, group } = device
  return {
    address: uuid,
    group,
    ...judgeMediated(seen, device),
    viability: group === null ? null : assessViability(seen, group),
    reset: mediatedReset(device),
    uses: assessUses(seen, uuid),
  }
}

/** An assessment without the uses. */
type BareAssessment = Omit<Assessment, 'uses' | 'kernel'>

function withUses(seen: Snapshot, judged: BareAssessment): Assessment {
  const once =
    judged.verdict === 'bindable' &&
    judged.reset.scope === 'none' &&
    isHotOnceBound(seen, seen.device(judged.address))
  const bare = once ? { ...judged, resetOnceBound: 'hot' as const } : judged
  const affected = new Set([bare.address, ...bare.toBind])
  const uses = [...affected].flatMap((address) => assessUses(seen, address))
  return { ...bare, reason: `${bare.reason}${vitalWarning(seen, bare, uses)}`, uses }
}

/**
 * What the reason of a verdict ends with where the host would not survive it, else an empty text: uses take no part in the verdict,
 * but a reason must not advise to take what the host runs on. @internal
 */
export function vitalWarning(
  seen: Snapshot,
  { address, verdict }: Pick<Assessment, 'address' | 'verdict'>,
  uses: readonly HostUse[],
): string {
  const vital = uses.find((use) => use.vital)
  // For an IOMMU the reason says already that it stays with the host.
  if (!vital || iommuIn(seen, seen.device(address))) return ''
  // The reason of a blocked device names the obstacle only.
  return verdict === 'blocked'
    ? `; besides, the host could not do without it: ${vital.what}`
    : `, and the host would not survive that: ${vital.what}${elsewhere(seen, address, vital.address)}`
}

/**
 * Of a card that shares its group with what is in another slot or on the board: where it may get a group of its own. An empty text
 * for what no slot has, and for functions of one card. @internal
 */
export function elsewhere(seen: Snapshot, address: string, other: string): string {
  const { parent, sriov } = seen.device(address)
  const isCard = parent !== null && sriov?.role !== 'vf' && slotOf(address) !== slotOf(other)
  return isCard ? '; in another slot, whose ports isolate it (ACS), it may have a group without that' : ''
}

/** The same with the viability of the group given, and without the resets, to judge many devices. @internal */
export function assessWithin(
  seen: Snapshot,
  device: PciDevice,
  viability: Viability | null,
): Omit<BareAssessment, 'reset'> {
  const { address, group } = device
  const isUnprotected = viability !== null && seen.group(viability.group).noIommu
  const { verdict, reason, toBind, noIommu } =
    viability === null ? judgeAlone(seen, device) : judge(seen, device, viability)
  const variant = variantFor(seen, device)
  // Of thousands of devices nearly all have neither, and a spread of nothing is dear.
  if (!isUnprotected && noIommu === undefined && variant === undefined) {
    return { address, group, verdict, reason, toBind, viability }
  }
  return {
    ...{ address, group, verdict, reason, toBind },
    ...((isUnprotected || noIommu) && { noIommu: true as const }),
    ...(variant !== undefined && { variant }),
    viability,
  }
}

function variantFor(seen: Snapshot, device: PciDevice): string | undefined {
  const module = isWithVfio(device) ? undefined : device.variantDrivers[0]
  return module === undefined ? undefined : driverOfModule(seen, module).name
}

/** Every member of a group that could be assigned: all but bridges, which stay with the host. */
export function assessGroup(seen: Snapshot, group: number): Assessment[] {
  const members = seen.group(group).members.map((address) => seen.device(address))
  const functions = members.filter((device) => !isBridge(device)).map((device) => assessmentOf(seen, device))
  const mediated = seen.mediated.filter((device) => device.group === group)
  return [...functions, ...mediated.map((device) => assessMediated(seen, device))]
}

type Verdict = Pick<Assessment, 'verdict' | 'reason' | 'toBind' | 'noIommu'>

const blocked = (reason: string): Verdict => ({ verdict: 'blocked', reason, toBind: [] })

/** A function in no group: VFIO may make one for it, or the kernel may look for its group only when it is bound. */
function judgeAlone(seen: Snapshot, device: PciDevice): Verdict {
  const { address } = device
  const obstacle = obstacleToJudging(seen, device, null) ?? obstacleToBinding(seen, device)
  if (obstacle && (isBridge(device) || iommuIn(seen, device))) return blocked(obstacle)
  const found = judgeUngrouped(seen, device)
  if (found.kind === 'none') return blocked(found.reason)
  const hindrance =
    obstacle ??
    obstacleToEnabling(device) ??
    (found.kind === 'when-bound' ? obstacleToInterrupts(seen) : null)
  if (hindrance) return blocked(hindrance)
  const once = `${address} can be given away once it is bound to vfio-pci`
  const token = tokenToOpen(seen, device) + missing(device)
  if (found.kind === 'no-iommu') {
    const reason = `${once}, without an IOMMU: ${NO_IOMMU_RISK}${token}`
    return { verdict: 'bindable', reason, toBind: [address], noIommu: true }
  }
  const reason = `${once}, if an IOMMU covers it: on this kernel its group, and who shares it, is known only then${token}`
  return { verdict: 'bindable', reason, toBind: [address] }
}

function judge(seen: Snapshot, device: PciDevice, viability: Viability): Verdict {
  const { address } = device
  const group = seen.group(viability.group)
  const obstacle =
    obstacleToJudging(seen, device, group) ??
    whyUnreachable(seen, device) ??
    obstacleToBinding(seen, device) ??
    obstacleToEnabling(device) ??
    obstacleToOpening(seen, group)
  if (obstacle) return blocked(obstacle)
  // With room for one, as nearly all need: an empty list takes room for seventeen at its first element.
  const toBind: string[] = isWithVfio(device) ? [] : [address]
  for (const member of viability.members) {
    if (!member.blocks || member.address === address) continue
    const other = group.members.includes(member.address) ? seen.device(member.address) : null
    // What its own driver makes goes when that driver does, and is not there to be bound.
    if (other && makersOf(seen, other).includes(address)) continue
    const loss = other && lossThrough(seen, device, other)
    if (loss) return blocked(loss)
    const hindrance = other ? obstacleToBinding(seen, other) : member.reason
    // A blocking bridge has its cure in its own reason: it cannot be bound, only unbound.
    if (hindrance) return blocked(other && isBridge(other) ? member.reason : hindrance)
    toBind.push(member.address)
  }
  const token = tokenToOpen(seen, device) + missing(device)
  if (toBind.length === 0) {
    return {
      verdict: 'ready',
      reason: group.noIommu
        ? `${address} is bound to ${device.driver} without an IOMMU: ${NO_IOMMU_RISK}${token}`
        : `${address} is bound to ${device.driver} and its group is viable${token}`,
      toBind,
    }
  }
  const isAlone = toBind.length === 1 && toBind[0] === address
  const reason = isAlone
    ? `${address} can be given away once it is bound to vfio-pci`
    : `${address} can be given away once ${allBound(toBind)} bound to vfio-pci: they share group ${group.group}`
  return { verdict: 'bindable', reason: `${reason}${token}`, toBind }
}

function missing(device: PciDevice): string {
  const lack = lackingBars(device)
  return lack === '' ? '' : `; ${lack}`
}

const allBound = (addresses: readonly string[]) =>
  addresses.length === 1 ? `${addresses[0]} is` : `all of ${addresses.join(', ')} are`

/**
 * The physical function that is with vfio-pci like its virtual function, so that whoever opens that has to give a VF token
 * (`vfToken`) to the kernel (since 5.7; before, it had none); `null` where none is asked for.
 */
export function askerOfVfToken(seen: Snapshot, { sriov }: PciDevice): string | null {
  if (sriov?.role !== 'vf' || !seen.has(sriov.pf)) return null
  return seen.device(sriov.pf).driver === 'vfio-pci' ? sriov.pf : null
}

/** What else it takes to open such a virtual function, an empty text for nothing. @internal */
export function tokenToOpen(seen: Snapshot, device: PciDevice): string {
  const pf = askerOfVfToken(seen, device)
  if (pf === null) return ''
  return `; its physical function ${pf} is bound to vfio-pci too, so whoever opens it must give the VF token (vf_token) that the owner of ${pf} has set`
}

/** Facts that could not be read block every verdict that depends on them. */
function obstacleToJudging(seen: Snapshot, device: PciDevice, group: IommuGroup | null): string | null {
  if (seen.unseen.length === 0) return null
  const { address } = device
  // A bridge that does not answer lets nothing below it answer.
  const above = [...bridgesAbove(seen, device)].map((bridge) => bridge.address)
  // Who has one of those open keeps the driver of the function that carries them.
  const carried = seen.mediated.filter((one) => one.function === address).map(({ uuid }) => uuid)
  const addresses = [address, ...carried, ...above, ...(group?.members ?? [])]
  const about = { addresses, groups: group ? [group.group] : [], host: true }
  return unseenSentence(`what ${address} depends on`, unseenAbout(seen, seen.unseen, about))
}

/** The functions whose drivers make the bus that a device is on, the nearest first. @internal */
export function makersOf(seen: Snapshot, device: PciDevice): string[] {
  const makers: string[] = []
  for (let at = device.madeBy; at !== null && !makers.includes(at); ) {
    makers.push(at)
    at = seen.has(at) ? seen.device(at).madeBy : null
  }
  return makers
}

/** Why another member of the group cannot be taken along: the device that was asked for would go with its driver. */
function lossThrough(seen: Snapshot, device: PciDevice, other: PciDevice): string | null {
  const { address } = device
  if (makersOf(seen, device).includes(other.address)) {
    return `${address} is behind ${other.address}, whose driver ${other.driver} makes its bus, and shares group ${device.group} with it: without that driver ${address} is gone. Give away ${other.address} as a whole, with all that is behind it, or let the firmware take this slot from it (for Intel VMD: switch VMD off there)`
  }
  if (device.sriov?.role === 'vf' && device.sriov.pf === other.address) {
    return `${address} is a virtual function of ${other.address} and shares group ${device.group} with it: VFIO does not take ${other.address} as long as it has virtual functions, and without its driver ${other.driver} they have no network, disk or display to offer. Only a slot whose ports isolate (ACS) puts them into groups of their own`
  }
  return null
}

/** Why vfio-pci would refuse to bind a device; `null` where it is bound already or nothing is in the way. */
function obstacleToBinding(seen: Snapshot, device: PciDevice): string | null {
  const { address } = device
  if (isWithVfio(device)) return null
  const unreachable = whyUnreachable(seen, device)
  if (unreachable) return unreachable
  if (isBridge(device)) {
    return `${address} is a bridge: VFIO takes only endpoints, and a bridge stays with the host`
  }
  const unit = iommuIn(seen, device)
  if (unit) {
    return `${address} is an IOMMU of this host itself (${unit.kind}), which the others are behind: it stays with the host`
  }
  if (device.sriov?.role === 'pf' && device.sriov.numVfs > 0) {
    const vfs = device.sriov.numVfs === 1 ? '1 virtual function' : `${device.sriov.numVfs} virtual functions`
    return `${address} has ${vfs} enabled, and vfio-pci refuses it with them: take them away first, if nobody needs them ("vfio vfs ${address} 0")`
  }
  if (device.vgpuType === 0) {
    return `${address} is a virtual function of NVIDIA's vGPU without a profile: give it one (an id of nvidia/creatable_vgpu_types into nvidia/current_vgpu_type in its directory), and its driver hands it to VFIO as it is`
  }
  const isLifted = seen.host.denylistDisabled ?? moduleSwitch(seen.host, 'vfio_pci', 'disable_denylist')
  if (isDenylisted(device) && isLifted !== true) {
    return `${address} is on vfio-pci's denylist, since user space could hang the host with it: only the module parameter disable_denylist=1 lifts that`
  }
  return null
}

/** Why the kernel would refuse the group even when it is viable. */
function obstacleToOpening(seen: Snapshot, group: IommuGroup): string | null {
  if (group.noIommu) return null
  const direct = group.reservedRegions.find((region) => region.type === 'direct')
  if (direct) {
    return `group ${group.group} has memory that the firmware maps for itself (0x${direct.start.toString(16)}–0x${direct.end.toString(16)}), and the kernel gives no such group away: look for a firmware setting of the device or its slot that ends this (its RMRR, pre-boot use, on ProLiant servers the shared memory features that HPE's conrep switches off), and for newer firmware; kernels with a patch for it, like those of Proxmox and Harvester, take intel_iommu=relax_rmrr, at the risk of what the firmware does there`
  }
  return obstacleToInterrupts(seen)
}

/** type1 and iommufd refuse what may forge interrupts, whatever else is well. */
function obstacleToInterrupts(seen: Snapshot): string | null {
  const { isolated, accepted, detail, cure } = assessIsolation(seen)
  if (isolated !== false || accepted) return null
  return `on this host ${detail}: ${cure}`
}
