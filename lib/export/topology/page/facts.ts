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
  const sets = new Map<string, string[]>()
  for (const { members } of topology.resets)
    for (const member of members) sets.set(member, [...new Set([...(sets.get(member) ?? []), ...members])])
  const entries = topology.devices.map((device) => {
    const { address, group } = device
    const others = (all: readonly string[] = []) => all.filter((member) => member !== address)
    const members = others(group === null ? [] : groups.get(group))
    return [
      address,
      factsOfDevice(device, members, others(sets.get(address)), topology.host.iommu === true),
    ] as const
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
  inReset: readonly string[],
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
    ...(inReset.length > 0 ? [['Resets together with', [], inReset] as const] : []),
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
