import { assess, assessUses, compareAddresses, type HostUse, type PciDevice, type Snapshot } from 'vfio'
import { type Claim, whyClaimed } from './claims.js'
import type { Config, Resource } from './config.js'
import type { Consumer } from './names.js'
import { everyNode, nodesFor } from './nodes.js'
import { fits, isFunction } from './select.js'

/** One schedulable device: a whole group. */
export interface OfferedDevice {
  /** The address of its primary function. */
  readonly id: string
  /** `null` where it gets one only when it is bound. */
  readonly group: number | null
  /** All functions of the group that can be given away, by address. */
  readonly functions: readonly string[]
  readonly healthy: boolean
  /** Why it is not healthy. */
  readonly reason: string | null
  /** Who has it open, or that it seems to be. It stays healthy: it is the one who was given it. */
  readonly inUse: string | null
  /** Was somebody seen who has it open? Without the processes of the host nobody is, and a former driver may have left it as if. */
  readonly holderSeen: boolean
  /** The NUMA nodes of its functions; empty where the platform names none. */
  readonly numa: readonly number[]
  /** What it hangs on, from the root bus down. */
  readonly above: readonly string[]
  /** What its container gets, paths of the host. */
  readonly nodes: readonly string[]
}

export interface OfferedResource {
  readonly name: string
  readonly consumer: Consumer
  readonly devices: readonly OfferedDevice[]
}

/** A group that was selected and belongs to no resource. */
export interface RefusedGroup {
  readonly group: number | null
  readonly functions: readonly string[]
  /** Those that select it. */
  readonly resources: readonly string[]
  readonly reason: string
}

export interface Offer {
  readonly resources: readonly OfferedResource[]
  readonly refused: readonly RefusedGroup[]
}

/** What is known beside a look. */
export interface Knowledge {
  /** What the kernel has told of functions that a look does not show, by address, a sentence each. */
  readonly marks?: ReadonlyMap<string, string>
  /** What others hand to containers. */
  readonly claims?: readonly Claim[]
}

/** What this host offers. */
export function offer(seen: Snapshot, config: Config, knowledge: Knowledge = {}): Offer {
  const refused: RefusedGroup[] = []
  const devices = new Map<string, OfferedDevice[]>(config.resources.map(({ name }) => [name, []]))
  for (const chosen of chosenGroups(seen, config)) {
    const { group, functions, selected } = chosen
    const refuse = (reason: string) =>
      refused.push({
        group,
        functions: functions.map(({ address }) => address),
        resources: [...selected.keys()].map(({ name }) => name),
        reason,
      })
    const goes = takerOf(chosen)
    if (typeof goes === 'string') refuse(goes)
    else {
      const { resource, primary } = goes
      devices.get(resource.name)?.push(deviceOf(seen, chosen, primary, resource, knowledge))
    }
  }
  return {
    resources: config.resources.map(({ name, consumer }) => ({
      name,
      consumer,
      devices: (devices.get(name) ?? []).sort((one, other) => compareAddresses(one.id, other.id)),
    })),
    refused,
  }
}

/** A group with a function that some resource selects. */
export interface ChosenGroup {
  readonly group: number | null
  /** Of the group, by address, without bridges. */
  readonly functions: readonly PciDevice[]
  /** Which of them each resource selects. */
  readonly selected: ReadonlyMap<Resource, readonly PciDevice[]>
}

/** The groups that a configuration is about. */
export function chosenGroups(seen: Snapshot, { resources }: Config): ChosenGroup[] {
  const keys = new Map<string, PciDevice[]>()
  for (const device of seen.devices.filter(isFunction)) {
    const key = device.group === null ? device.address : String(device.group)
    const known = keys.get(key)
    if (known) known.push(device)
    else keys.set(key, [device])
  }
  return [...keys.values()].flatMap((members) => {
    const functions = members.sort((one, other) => compareAddresses(one.address, other.address))
    const chosen = chosenOf(functions, resources)
    return chosen.selected.size === 0 ? [] : [chosen]
  })
}

/** @param functions of one group, by address */
export function chosenOf(functions: readonly PciDevice[], resources: readonly Resource[]): ChosenGroup {
  const selected = new Map(
    resources.flatMap((resource) => {
      const own = functions.filter((device) => resource.select.some((selector) => fits(device, selector)))
      return own.length === 0 ? [] : [[resource, own] as const]
    }),
  )
  return { group: functions[0]?.group ?? null, functions, selected }
}

/** The resource that a chosen group goes to, and the function that stands for it there; or why it goes to none. */
export function takerOf(
  chosen: ChosenGroup,
): string | { readonly resource: Resource; readonly primary: PciDevice } {
  const conflict = conflictIn(chosen)
  const [first] = chosen.selected
  if (conflict !== null || first === undefined) return conflict ?? 'no resource selects it'
  const [resource, own] = first
  const primary = primaryOf(chosen, resource, own)
  return typeof primary === 'string' ? primary : { resource, primary }
}

/** One group goes to one resource. */
function conflictIn({ group, selected }: ChosenGroup): string | null {
  if (selected.size <= 1) return null
  const names = [...selected.keys()].map(({ name }) => name)
  const twice = [...selected.values()].flat().find((device, at, all) => all.indexOf(device) !== at)
  if (twice !== undefined) {
    const both = [...selected].filter(([, own]) => own.includes(twice)).map(([{ name }]) => name)
    return `${twice.address} is selected by ${both.join(' and ')}, and one device cannot be two: neither offers it until one lets it go`
  }
  const parts = [...selected].map(
    ([{ name }, own]) => `${own.map(({ address }) => address).join(', ')} for ${name}`,
  )
  return `group ${group} is split over ${names.join(' and ')} (${parts.join('; ')}), and a group goes to one container as a whole: select all of it for one of them`
}

/** The function that stands for its group, or why there is none. */
function primaryOf({ group, functions }: ChosenGroup, resource: Resource, own: readonly PciDevice[]) {
  const { primary } = resource
  if (primary === null) return own[0] as PciDevice
  const candidates = functions.filter((device) => fits(device, primary))
  const [only] = candidates
  if (only !== undefined && candidates.length === 1) return only
  const of = `group ${group} (${functions.map(({ address }) => address).join(', ')})`
  return only === undefined
    ? `no function of ${of} is what "primary" of ${resource.name} says, so that it has none to stand for it`
    : `${candidates.map(({ address }) => address).join(' and ')} of ${of} are both what "primary" of ${resource.name} says: it has to say which`
}

function deviceOf(
  seen: Snapshot,
  { group, functions }: ChosenGroup,
  primary: PciDevice,
  resource: Resource,
  { marks, claims = [] }: Knowledge,
): OfferedDevice {
  const nodes = nodesFor(seen, primary, functions, resource)
  const use = useOf(seen, functions)
  const mark = functions.map(({ address }) => marks?.get(address)).find((sentence) => sentence !== undefined)
  const reason =
    mark ?? nodes.missing ?? whyUnprotected(seen, primary) ?? whyClaimed(claims, everyNode(group, functions))
  return {
    id: primary.address,
    group,
    functions: functions.map(({ address }) => address),
    healthy: reason === null,
    reason,
    inUse: use?.what ?? null,
    holderSeen: use !== undefined && use.inferred !== true,
    numa: [...new Set(functions.flatMap(({ numaNode }) => numaNode ?? []))].sort((one, other) => one - other),
    above: placesAbove(seen, primary),
    nodes: nodes.paths,
  }
}

/** Whoever has such a device reaches all memory of the host, which nobody asks a scheduler for. */
function whyUnprotected(seen: Snapshot, { address }: PciDevice): string | null {
  const { reason, noIommu } = assess(seen, address)
  return noIommu === true ? reason : null
}

/** By the library's rules; who was seen goes first, and who is only perhaps there does not count. */
function useOf(seen: Snapshot, functions: readonly PciDevice[]): HostUse | undefined {
  const uses = functions
    .flatMap(({ address }) => assessUses(seen, address))
    .filter(({ kind, severity }) => kind === 'vfio' && severity === 'blocks')
  return uses.find(({ inferred }) => inferred !== true) ?? uses[0]
}

function placesAbove(seen: Snapshot, device: PciDevice): string[] {
  const chain: string[] = []
  for (let at = device.parent; at !== null && !chain.includes(at); ) {
    chain.unshift(at)
    at = seen.has(at) ? seen.device(at).parent : null
  }
  const top = chain[0] ?? device.address
  return [`pci${top.slice(0, top.lastIndexOf(':'))}`, ...chain]
}
