import { shortAddress } from '../../sysfs/short-names.js'
import { printable } from '../../text.js'
import { type Folded, foldRoots } from './fold.js'
import { resetWhen } from './glance.js'
import type { HostTopology } from './model.js'
import { notesOf } from './notes.js'
import { addressText, type Row, rangeText, rowsOf } from './rows.js'
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

/** What is drawn around several places, or beside them: by the key that they have in common. */
type Shared = Map<string, string[]>

function share(shared: Shared, key: string, line: string): void {
  const known = shared.get(key)
  if (known) known.push(line)
  else shared.set(key, [line])
}

/** How many functions there are behind the rows of each group, or of groups that are drawn as one. */
function sizesOf(rows: readonly Row[]): ReadonlyMap<string, number> {
  const sizes = new Map<string, number>()
  for (const { groupKeys, place } of rows)
    for (const key of groupKeys) sizes.set(key, (sizes.get(key) ?? 0) + (place?.items.length ?? 0))
  return sizes
}

/** Has each of these groups more than one member? */
const isShared = (key: string, sizes: ReadonlyMap<string, number>) =>
  (sizes.get(key) ?? 0) > key.split(',').length

/** The tree for Graphviz: a cluster for each group with several members, and for each reset of several a node that all of them are tied to. */
export function topologyDot(topology: HostTopology): string {
  const rows = rowsOf(foldRoots(treeOf(topology)))
  const out: string[] = [
    'digraph topology {',
    `  label=${lines([`PCI topology, Linux ${topology.host.kernel}`, ...notesOf(topology)])}; labelloc=t; rankdir=LR; fontname="Helvetica";`,
    '  node [shape=box, style="filled,rounded", fillcolor="#ffffff", fontname="Helvetica", fontsize=10];',
    '  edge [arrowhead=none, color="#818b98"];',
  ]
  const sizes = sizesOf(rows)
  const clusters: Shared = new Map()
  const resets: Shared = new Map()
  const edges: string[] = []
  const above: string[] = []
  for (const { follows, place, item, address, groupKeys, resetKeys } of rows) {
    const name = quoted(item?.id ?? address)
    above[follows.length] = name
    if (place === null) {
      out.push(`  ${name} [shape=plaintext, style="", label=${quoted(address)}];`)
      continue
    }
    const [group = ''] = groupKeys
    share(clusters, isShared(group, sizes) ? group : '', `${name} [${attributes(place)}];`)
    edges.push(`  ${above[follows.length - 1]} -> ${name};`)
    for (const key of resetKeys) share(resets, key, name)
  }
  for (const [key, members] of clusters) {
    if (key === '') out.push(...members.map((member) => `  ${member}`))
    else {
      const groups = key.split(',')
      const label =
        groups.length === 1 ? `group ${key}` : `groups ${rangeText(groups.map(Number))}, each as a whole`
      out.push(
        `  subgraph cluster_${groups.join('_')} {`,
        `    label=${quoted(label)}; color="#0969da"; style=rounded;`,
      )
      out.push(...members.map((member) => `    ${member}`), '  }')
    }
  }
  out.push(...edges)
  for (const [key, members] of resets) out.push(...resetLines(topology, key.split(',').map(Number), members))
  return `${[...out, '}'].join('\n')}\n`
}

/** A node of its own for a reset, so that each is told from others that reach some of the same functions. */
function resetLines({ resets }: HostTopology, sets: readonly number[], members: readonly string[]): string[] {
  const [first = 0] = sets
  const { through = null, possible } = resets[first] ?? {}
  const name = quoted(`reset ${first}`)
  const label = lines([
    sets.length === 1 ? 'reset together' : `${sets.length} resets, each by itself`,
    through === null || sets.length > 1 ? '' : `through ${shortAddress(through)}`,
    possible === undefined ? '' : resetWhen(possible),
  ])
  return [
    `  ${name} [shape=ellipse, style=dashed, color="#8250df", fontcolor="#6639ba", label=${label}];`,
    ...members.map((member) => `  ${member} -> ${name} [style=dashed, color="#8250df", weight=0];`),
  ]
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
