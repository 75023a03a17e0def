import { isFree, verdictWord } from '../../../assess/overview.js'
import { shortAddress, shortly } from '../../../sysfs/short-names.js'
import { printable } from '../../../text.js'
import type { HostTopology, TopologyDevice } from '../model.js'

/** What the page tells of one device, in the order in which it does. */
export interface Facts {
  readonly heading: string
  readonly about: string
  readonly word: string
  /** Part of the machine: its verdict goes without saying. */
  readonly part: boolean
  readonly reason: string
  /** What takes it, where that does no harm. */
  readonly command: string | null
  /** What each is called, sentences about it, and other devices that it is about. */
  readonly facts: readonly (readonly [
    name: string,
    sentences: readonly string[],
    members: readonly string[],
  ])[]
}

/** Those of every device, by address or UUID. */
export function factsOf(topology: HostTopology): Record<string, Facts> {
  const groups = new Map(topology.groups.map(({ group, members }) => [group, members]))
  const along = new Along(topology.resets)
  const entries = topology.devices.map((device) => {
    const { address, group } = device
    const others = (all: readonly string[] = []) => all.filter((member) => member !== address)
    const members = others(group === null ? [] : groups.get(group))
    return [address, factsOfDevice(device, members, along, topology.host.iommu === true)] as const
  })
  const mediated = (topology.mediated ?? []).map((device): [string, Facts] => [
    device.uuid,
    {
      heading: device.uuid,
      about: `mediated device${device.type === null ? '' : ` of type ${printable(device.type)}`}`,
      word: device.verdict,
      part: false,
      reason: said(device.reason),
      command: null,
      facts: [
        ['Driver', [printable(device.driver ?? 'none')], []],
        ['Group', [device.group === null ? 'none' : String(device.group)], []],
      ],
    },
  ])
  return Object.fromEntries([...entries, ...mediated])
}

function factsOfDevice(
  device: TopologyDevice,
  inGroup: readonly string[],
  along: Along,
  isProtected: boolean,
): Facts {
  const { address, names, ids, group, numaNode, blockers, infrastructure, resets } = device
  const full = [names.vendor, names.device].filter(Boolean).join(' ')
  const facts: Facts['facts'] = [
    ['Driver', [device.driver ?? 'none'], []],
    [
      'Group',
      [group === null ? 'none' : `${group}${inGroup.length > 0 ? ', shared with' : ', alone'}`],
      inGroup,
    ],
    ...(blockers.length > 0 && !infrastructure ? [['In the way', blockers, []] as const] : []),
    ...usesOf(device),
    ...(infrastructure ? [] : [['Reset', resets, []] as const]),
    ...along.of(address),
    ...(numaNode === null ? [] : [['NUMA node', [String(numaNode)], []] as const]),
  ]
  return {
    heading: shortAddress(address),
    about: printable([names.class, full, ids].filter(Boolean).join(' · ')),
    word: verdictWord(device),
    part: infrastructure,
    reason: said(device.reason),
    command: commandFor(device, isProtected),
    facts: facts.map(([name, sentences, members]) => [name, sentences.map(said), members]),
  }
}

/** What is reset along with each device: by its own reset, and where it is only hit by that of others. */
class Along {
  readonly #own = new Map<string, readonly string[]>()
  readonly #others = new Map<string, Set<string>>()

  constructor(resets: HostTopology['resets']) {
    for (const { members, dependents } of resets) {
      for (const address of dependents) this.#own.set(address, members)
      for (const address of members) {
        if (dependents.includes(address)) continue
        const known = this.#others.get(address) ?? new Set()
        for (const other of dependents) known.add(other)
        this.#others.set(address, known)
      }
    }
  }

  of(address: string): Facts['facts'] {
    const own = (this.#own.get(address) ?? []).filter((member) => member !== address)
    const others = [...(this.#others.get(address) ?? [])].filter((member) => !own.includes(member))
    return [
      ...(own.length > 0 ? [['Resets together with', [], own] as const] : []),
      ...(others.length > 0 ? [['Is hit by the reset of', [], others] as const] : []),
    ]
  }
}

/** As check says it. */
const said = (sentence: string) => printable(shortly(sentence))

function usesOf({ address: own, uses, infrastructure }: TopologyDevice): Facts['facts'] {
  if (infrastructure) return []
  if (uses === undefined) return [['Used', ['what the host does with it was not looked at'], []]]
  const sentences = uses.map(
    ({ address, kind, what }) =>
      `${kind === 'vfio' ? 'open' : kind}: ${address === own ? '' : `${shortAddress(address)}: `}${what}`,
  )
  return [['Used', sentences.length > 0 ? sentences : ['nothing on this host uses it'], []]]
}

/** Only what does no harm is offered, as far as all of it is known. */
function commandFor(device: TopologyDevice, isProtected: boolean): string | null {
  if (device.infrastructure || !isProtected) return null
  if (device.verdict === 'ready') return `vfio export qemu ${shortAddress(device.address)}`
  if (device.verdict !== 'bindable' || !isFree(device)) return null
  const along = device.toBind.filter((member) => member !== device.address)
  return `vfio bind ${[device.address, ...along].map(shortAddress).join(' ')}`
}
