import { isUuid, readUuid } from '../sysfs/address.js'
import { isWithVfio, type PciDevice } from '../sysfs/devices.js'
import type { MediatedDevice } from '../sysfs/mediated.js'
import type { Snapshot } from '../sysfs/snapshot.js'
import { printable } from '../text.js'
import type { Finding, HostUse } from './host-use.js'
import { onceFor } from './once.js'
import { iommuIn, isBridge, Topology } from './topology.js'
import { unseenAbout, unseenSentence } from './unseen.js'
import { boardUses, memoryUses } from './uses-board.js'
import { displayUses } from './uses-display.js'
import { Network } from './uses-network.js'
import { nodeUses, vfioUses } from './uses-open.js'
import { pathsOf, Storage } from './uses-storage.js'
import { several } from './uses-text.js'

export type { HostUse } from './host-use.js'

/** What the uses of all devices rest on. */
const indexOf = onceFor((seen: Snapshot, _all: null) => {
  const storage = new Storage(seen.use)
  return { storage, network: new Network(seen.use, storage.remotes()) }
})

/**
 * What on this host would lose the device at an address. A use that could not be looked for blocks as `unknown`. An empty
 * answer means that nothing was seen: the kernel does not publish its own users without a block device (LIO, nvmet).
 * @throws VfioError `ERR_VFIO_BAD_ADDRESS`, `ERR_VFIO_NO_DEVICE`
 */
export function assessUses(seen: Snapshot, address: string): HostUse[] {
  const uuid = seen.has(address) || typeof address !== 'string' ? null : readUuid(address)
  if (uuid !== null) return mediatedUses(seen, seen.mediatedDevice(uuid))
  return [...usesOf(seen, seen.device(address))]
}

const NONE: readonly never[] = Object.freeze([])

const usesOf = onceFor(function findUses(seen: Snapshot, device: PciDevice): readonly HostUse[] {
  return isOutOfUse(seen, device) ? NONE : findEachUse(seen, device)
})

/** The same by looking for each kind of use. @internal */
export function findEachUse(seen: Snapshot, device: PciDevice): readonly HostUse[] {
  const { storage, network } = indexOf(seen, null)
  const findings = [
    ...storage.usesOf(device.address),
    ...network.usesOf(device.address),
    ...displayUses(seen, device),
    ...nodeUses(seen.use, device),
    ...vfioUses(seen.use, device),
    ...openChildren(seen, device.address),
    ...dependentUses(seen, device),
    ...boardUses(device),
    ...memoryUses(device),
  ]
  const isOpen = findings.some(({ kind, severity }) => kind === 'vfio' && severity === 'blocks')
  const unknown = unknownUses(seen, storage, device, isOpen).map(
    (what): Finding => ({ kind: 'other', what, severity: 'blocks', unknown: true }),
  )
  return [...findings, ...network.unknownOf(device.address), ...unknown].map(({ what, ...rest }) => ({
    address: device.address,
    ...rest,
    what: printable(what),
  }))
}

/** What the facts about uses have: every text that is a value or a key anywhere in them, and the groups that are open. */
const mentions = onceFor((seen: Snapshot, _all: null) => {
  const texts = new Set<string>()
  const groups = new Set<number>()
  const collect = (value: unknown): void => {
    if (typeof value === 'string') texts.add(value)
    else if (Array.isArray(value)) for (const item of value) collect(item)
    else if (typeof value === 'object' && value !== null) {
      for (const [key, item] of Object.entries(value)) {
        texts.add(key)
        collect(item)
      }
    }
  }
  collect(seen.use)
  for (const { function: carrier } of seen.mediated) if (carrier !== null) texts.add(carrier)
  for (const { node } of seen.use.processes.open) {
    const group = VFIO_GROUP.exec(node ?? '')?.[1]
    if (group !== undefined) groups.add(Number(group))
  }
  return { texts, groups, isWhole: seen.use.looked && seen.use.unseen.length === 0 }
})

/** The node of a group. */
const VFIO_GROUP = /^vfio\/(?:noiommu-)?(\d+)$/

/**
 * Nearly all functions of a large host are named by no fact about uses, and then only what they are themselves can be one:
 * a display, a bridge, an IOMMU, a part of the board, memory, what has virtual functions, or what is with VFIO and may be open there.
 */
const isOutOfUse = (seen: Snapshot, device: PciDevice): boolean => {
  const { texts, groups, isWhole } = mentions(seen, null)
  return (
    isWhole &&
    !texts.has(device.address) &&
    (device.group === null || !groups.has(device.group)) &&
    device.class >>> 16 !== DISPLAY_CLASS &&
    !device.bootVga &&
    !isBridge(device) &&
    !isWithVfio(device) &&
    (device.sriov?.role !== 'pf' || device.sriov.vfs.length === 0) &&
    iommuIn(seen, device) === null &&
    boardUses(device).length === 0 &&
    memoryUses(device).length === 0
  )
}

const DISPLAY_CLASS = 0x03

/** The host itself has no use for a mediated device: who has it open through VFIO is all. */
function mediatedUses(seen: Snapshot, device: MediatedDevice): HostUse[] {
  const { uuid } = device
  const findings = openMediated(seen, device)
  const { use } = seen
  const unseen = unseenSentence(
    'what the host does with it',
    unseenAbout(seen, use.unseen, { addresses: [uuid], host: true }),
  )
  const sentences = [
    ...(use.looked ? [] : [NOT_LOOKED]),
    ...(unseen === null ? [] : [unseen]),
    ...(use.looked && device.vfioRegistered && findings.length === 0 && use.processes.complete !== true
      ? [`whether it is open through VFIO could not be seen: ${processCure(seen)}`]
      : []),
  ]
  const unknown = sentences.map(
    (what): Finding => ({ kind: 'other', what, severity: 'blocks', unknown: true }),
  )
  return [...findings, ...unknown].map(({ what, ...rest }) => ({
    address: uuid,
    ...rest,
    what: printable(what),
  }))
}

const openMediated = (seen: Snapshot, { uuid, group, driver, vfioDevice }: MediatedDevice): Finding[] =>
  vfioUses(seen.use, { address: uuid, group, driver, vfioDevice })

/** Unbinding the driver of a parent ends its mediated devices, which waits for whoever has one open. */
const openChildren = (seen: Snapshot, address: string): Finding[] =>
  seen.mediated
    .filter((device) => device.function === address)
    .flatMap((device) =>
      openMediated(seen, device).map(({ what, ...rest }) => ({
        ...rest,
        what: `its mediated device ${device.uuid} goes with it, and ${what}`,
      })),
    )

/** Other functions and virtual devices that go with this one. */
function dependentUses(seen: Snapshot, device: PciDevice): Finding[] {
  const { address, sriov } = device
  const below = functionsBelow(seen, device)
  const vfs = sriov?.role === 'pf' ? sriov.vfs : []
  const virtual = seen.use.virtualDevices
    .filter(({ functions }) => functions.at(-1) === address)
    .map(({ name }) => name)
  const unit = iommuIn(seen, device)
  if (unit) {
    const what = `it is an IOMMU of this host (${unit.kind}), through which others reach memory`
    return [{ kind: 'other', what, severity: 'blocks', vital: true }]
  }
  const sentences: readonly [names: readonly string[], sentence: string][] = [
    [below, `other functions hang on it: ${several(below)}`],
    [vfs, `there are virtual functions of it: ${several(vfs)}`],
    [
      virtual,
      `there are virtual devices on it: ${several(virtual)}${virtual.some(isUuid) ? ', and mediated devices are gone for good once its driver lets it go' : ''}`,
    ],
  ]
  return sentences
    .filter(([names]) => names.length > 0)
    .map(([, what]) => ({ kind: 'other', what, severity: 'blocks' }))
}

function functionsBelow(seen: Snapshot, device: PciDevice): string[] {
  const below = Object.keys(seen.use.behind).filter(
    (name) => name !== device.address && seen.use.behind[name]?.includes(device.address),
  )
  if (!isBridge(device)) return below
  const topology = Topology.of(seen)
  topology.everyBelow(topology.directlyBelow(device), ({ address }) => {
    below.push(address)
    return true
  })
  return below
}

const NOT_LOOKED = 'what the host does with it was not looked at: take a snapshot that is not brief'

/** Uses that could not be looked for, a sentence each with the cure. */
function unknownUses(seen: Snapshot, storage: Storage, device: PciDevice, isOpenInVfio: boolean): string[] {
  const { use } = seen
  const { address } = device
  if (!use.looked) return [NOT_LOOKED]
  const sentences: string[] = []
  const unseen = unseenSentence(
    'what the host does with it',
    unseenAbout(seen, use.unseen, { addresses: [address], host: true }),
  )
  if (unseen !== null) sentences.push(unseen)
  const disks = storage.disksOf(address)
  const shares = use.shares.filter(({ functions }) => functions.includes(address))
  const carriers = [
    ...disks.map(({ node }) => `/dev/${node}`),
    ...shares.map(({ type }) => `the ${type} share`),
  ]
  if (carriers.length > 0 && !use.known.mounts) {
    sentences.push(`whether ${several(carriers)} is mounted is not known: this takes /proc/self/mountinfo`)
  }
  if (disks.length > 0 && !use.known.swaps) {
    sentences.push(`whether ${several(carriers)} is swapped to is not known: this takes /proc/swaps`)
  }
  const pooled = storage.maybeInPools(address)
  if (pooled.length > 0) {
    sentences.push(
      `whether ${several(pooled)} belongs to a ZFS pool that is imported is not known, since udev does not tell: see "zpool status"`,
    )
  }
  const names = new Set(seen.use.blocks.flatMap(pathsOf))
  const strange = use.swaps.filter(({ path, kind }) => kind === 'device' && !names.has(path))
  if (disks.length > 0 && strange.length > 0) {
    sentences.push(
      `${several(strange.map(({ path }) => path))} is swap space in use and the name of no known disk, so it may be on ${several(carriers)}: swapoff it to be sure`,
    )
  }
  const nodes = [...disks, ...use.nodes.filter(({ functions }) => functions.includes(address))]
  if (isWithVfio(device) && !isOpenInVfio && use.processes.complete !== true) {
    sentences.push(`whether it is open through VFIO could not be seen: ${processCure(seen)}`)
  } else if (nodes.length > 0 && use.processes.complete !== true) {
    sentences.push(
      `who has ${several(nodes.map(({ node }) => `/dev/${node}`))} open could not be seen: ${processCure(seen)}`,
    )
  } else if (shares.length > 0 && use.processes.complete !== true) {
    sentences.push(`who has ${several(carriers)} mounted could not be seen: ${processCure(seen)}`)
  }
  if (use.interfacesElsewhere.includes(address)) {
    sentences.push(
      'it has a network interface in another network namespace, where its use could not be seen: look from there, or bring it back',
    )
  }
  return sentences
}

function processCure({ use: { processes } }: Snapshot): string {
  if (processes.complete === null) return 'this takes /proc with the processes of the host'
  return processes.isolated
    ? 'this is a PID namespace of its own, run in that of the host (--pid=host)'
    : 'root sees it'
}
