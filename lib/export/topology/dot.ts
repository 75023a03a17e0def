import { shortAddress } from '../../sysfs/short-names.js'
import { printable } from '../../text.js'
import { type Folded, foldRoots } from './fold.js'
import type { HostTopology } from './model.js'
import { notesOf } from './notes.js'
import { addressText, rangeText } from './rows.js'
import { type Item, treeOf } from './tree.js'

const FILLS: Readonly<Record<Item['word'], string>> = {
  ready: '#dafbe1',
  bindable: '#fff8c5',
  'in use': '#ffebe9',
  blocked: '#eaeef2',
}

/** What stands in quotes, where a backslash has a meaning too, and an ampersand begins a character of HTML. */
const safe = (text: string) =>
  printable(text)
    .replaceAll('&', '&amp;')
    .replace(/["\\]/g, (mark) => `\\${mark}`)
const quoted = (text: string) => `"${safe(text)}"`
const lines = (texts: readonly string[]) => `"${texts.filter(Boolean).map(safe).join('\\n')}"`

/** The tree for Graphviz: a cluster for each group with several members, a dashed line between what resets together. */
export function topologyDot(topology: HostTopology): string {
  const roots = foldRoots(treeOf(topology))
  const out: string[] = [
    'digraph topology {',
    `  label=${lines([`PCI topology, Linux ${topology.host.kernel}`, ...notesOf(topology)])}; labelloc=t; rankdir=LR; fontname="Helvetica";`,
    '  node [shape=box, style="filled,rounded", fillcolor="#ffffff", fontname="Helvetica", fontsize=10];',
    '  edge [arrowhead=none, color="#818b98"];',
  ]
  const nodes = new Map<string, string[]>()
  const edges: string[] = []
  const sets = new Map<number, string[]>()
  const visit = (place: Folded, above: string) => {
    const first = place.items[0] as Item
    const name = quoted(first.id)
    const groups = new Set(place.items.map(({ group }) => group))
    const cluster = groups.size === 1 && first.group !== null ? String(first.group) : ''
    nodes.set(cluster, [...(nodes.get(cluster) ?? []), `${name} [${attributes(place)}];`])
    edges.push(`  ${above} -> ${name};`)
    // Of those that are drawn as one, what is reset with any of them.
    for (const set of new Set(place.items.flatMap((item) => item.sets)))
      sets.set(set, [...(sets.get(set) ?? []), name])
    for (const child of place.children) visit(child, name)
  }
  for (const { bus, children } of roots) {
    const root = quoted(`bus ${bus}`)
    out.push(
      `  ${root} [shape=plaintext, style="", label=${quoted(bus === '' ? 'no PCI function' : `root bus ${bus}`)}];`,
    )
    for (const child of children) visit(child, root)
  }
  for (const [group, members] of nodes) {
    if (group === '' || members.length < 2) out.push(...members.map((member) => `  ${member}`))
    else {
      out.push(`  subgraph cluster_${group} {`, `    label="group ${group}"; color="#0969da"; style=rounded;`)
      out.push(...members.map((member) => `    ${member}`), '  }')
    }
  }
  out.push(...edges)
  for (const members of sets.values()) {
    for (const [at, member] of members.entries()) {
      const before = members[at - 1]
      if (before !== undefined)
        out.push(
          `  ${before} -> ${member} [style=dashed, color="#8250df", constraint=false, tooltip="reset together"];`,
        )
    }
  }
  return `${[...out, '}'].join('\n')}\n`
}

function attributes({ items }: Folded): string {
  const [first] = items as [Item, ...Item[]]
  const group = rangeText(items.map((item) => item.group))
  const verdict = [
    first.word,
    first.use === '' ? '' : `used: ${first.use}`,
    first.reset === '' ? '' : `reset: ${first.reset}`,
  ]
  const label = lines([
    `${addressText(items)} ${first.what}`,
    first.name,
    `${first.driver === '-' ? 'no driver' : first.driver}, ${group === '-' ? 'no group' : `group ${group}`}${first.numa === null ? '' : `, NUMA ${first.numa}`}`,
    first.infrastructure ? '' : verdict.filter(Boolean).join(', '),
  ])
  const fill = first.infrastructure ? '#f6f8fa' : FILLS[first.word]
  return `label=${label}, fillcolor="${fill}", tooltip=${quoted(shortAddress(first.id))}`
}
