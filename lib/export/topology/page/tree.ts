import { useWord } from '../../../assess/overview.js'
import { shortAddress } from '../../../sysfs/short-names.js'
import { alikeSiblings, isWanted, type Sizes, sizesOf } from '../fold.js'
import { escaped } from '../markup.js'
import type { HostTopology } from '../model.js'
import { addressText, rangeText } from '../rows.js'
import { type Item, type Root, treeOf } from '../tree.js'

/** On a host with more than these, what is only bridges and parts of the machine is folded at first. */
const SMALL = 48

/** The items of the tree, by the ARIA pattern for trees: lists in lists, each with a line. */
export const treeHtml = (topology: HostTopology): string => new Tree(topology).html()

const USE_TEXTS: Readonly<Record<string, string>> = { '': '', '?': '<span class="muted">unknown</span>' }

/** A line of the tree, before it is HTML. */
interface Line {
  readonly classes: string
  readonly data: Readonly<Record<string, string>>
  readonly cells: string
  readonly children: readonly string[]
  readonly isOpen: boolean
}

class Tree {
  readonly #roots: readonly Root[]
  readonly #sizes: Sizes
  readonly #isLarge: boolean
  /** How many go with a device, itself included. */
  readonly #along: ReadonlyMap<string, number>
  /** How many the one reset that it has reaches. */
  readonly #reached: ReadonlyMap<string, number>
  readonly #tags: ReadonlyMap<string, string>
  readonly #resets: HostTopology['resets']
  readonly #hasNuma: boolean
  readonly #hasUses: boolean

  constructor(topology: HostTopology) {
    this.#roots = treeOf(topology)
    this.#sizes = sizesOf(this.#roots)
    this.#isLarge = topology.devices.length > SMALL
    this.#resets = topology.resets
    this.#hasNuma = new Set(topology.devices.map(({ numaNode }) => numaNode)).size > 1
    this.#hasUses = topology.devices.some((device) => !device.infrastructure && useWord(device) !== '')
    const { glance } = topology
    this.#along = new Map(
      glance.together.flatMap(({ members }) => members.map((member) => [member, members.length] as const)),
    )
    this.#reached = new Map(
      topology.resets.flatMap(({ members, dependents }) =>
        dependents.map((id) => [id, members.length] as const),
      ),
    )
    const tags = new Map<string, string>()
    const tag = (name: string, ids: readonly string[]) => {
      for (const id of ids) tags.set(id, `${tags.get(id) ?? ''} ${name}`.trim())
    }
    tag('free', glance.free)
    tag('use', glance.inUse)
    tag('blocked', glance.blocked)
    for (const { members } of glance.together) tag('together', members)
    for (const { members } of topology.resets) tag('reset', members)
    this.#tags = tags
  }

  html(): string {
    return this.#roots
      .map(({ bus, children }) => {
        const name = bus === '' ? 'on no PCI function' : `root bus ${bus}`
        const isWorth = !this.#isLarge || children.some(isWanted)
        return this.#line(
          {
            classes: 'bus',
            data: { start: bus },
            cells: `<span class="first">${escaped(name)}</span>`,
            children: this.#siblings(children, 2),
            isOpen: isWorth,
          },
          1,
        )
      })
      .join('\n')
  }

  #siblings(items: readonly Item[], level: number): string[] {
    const parts = this.#isLarge ? items.filter((item) => !isWanted(item)) : []
    const folded = parts.length > 1 ? parts : []
    const others = items.filter((item) => !folded.includes(item))
    return [
      ...alikeSiblings(others, this.#sizes).map((alike) =>
        alike.length > 1 ? this.#alike(alike, level) : this.#device(alike[0] as Item, level),
      ),
      ...(folded.length > 0 ? [this.#folded(folded, level)] : []),
    ]
  }

  #folded(items: readonly Item[], level: number): string {
    return this.#line(
      {
        classes: 'part',
        data: { start: '' },
        cells: `<span class="first what">${items.length} bridges and parts of the machine</span>`,
        children: items.map((item) => this.#device(item, level + 1)),
        isOpen: false,
      },
      level,
    )
  }

  #alike(items: readonly Item[], level: number): string {
    const [first] = items as [Item]
    return this.#line(
      {
        classes: first.infrastructure ? 'part' : '',
        data: { like: first.id, count: String(items.length), start: shortAddress(first.id) },
        cells: this.#cells(items),
        children: items.map((item) => this.#device(item, level + 1)),
        isOpen: false,
      },
      level,
    )
  }

  #device(item: Item, level: number): string {
    const { id, group, sets, infrastructure } = item
    return this.#line(
      {
        classes: infrastructure ? 'part' : '',
        data: {
          id,
          start: `${id} ${shortAddress(id)}`,
          q: wordsOf(item),
          t: this.#tags.get(id) ?? '',
          s: sets.join(' '),
          ...(group !== null && { g: String(group) }),
        },
        cells: this.#cells([item]),
        children: this.#siblings(item.children, level + 1),
        isOpen: !this.#isLarge || isWanted(item),
      },
      level,
    )
  }

  #cells(items: readonly Item[]): string {
    const [item] = items as [Item]
    const group = rangeText(items.map((one) => one.group))
    const along = this.#along.get(item.id)
    const groupText = group === '-' ? 'no group' : `group${/\D/.test(group) ? 's' : ''} ${group}`
    const all = item.sets.map((set) => this.#resets[set]?.members.length ?? 0)
    // Of one that can be reset by itself, how many the resets of others reach.
    const together = this.#reached.get(item.id) ?? Math.max(0, ...all)
    const cell = (name: string, html: string) => `<span class="cell ${name}">${html}</span>`
    // Told beside it where there are no columns.
    const of = (what: string) => `<span class="label">${what} </span>`
    const driver = item.infrastructure ? '' : 'no driver'
    const pill = `<span class="pill ${item.word.replace(' ', '-')}">${item.word}</span>`
    const reset = `${of('reset')}${item.reset}${together > 1 ? ` × ${together}` : ''}`
    const resetCell = together > 1 ? `<span class="chip own-reset">${reset}</span>` : reset
    const cells = [
      cell('driver', item.driver === '-' ? driver : `${of('driver')}${escaped(item.driver)}`),
      cell('verdict', item.infrastructure ? '' : pill),
      ...(this.#hasUses ? [cell('use', USE_TEXTS[item.use] ?? `✗ ${item.use}`)] : []),
      cell(
        'group',
        along === undefined ? groupText : `<span class="chip own-group">${groupText} × ${along}</span>`,
      ),
      cell('reset', item.reset === '' ? '' : resetCell),
      ...(this.#hasNuma ? [cell('numa', item.numa === null ? '' : `NUMA ${item.numa}`)] : []),
    ]
    const address = `<span class="address mono">${escaped(addressText(items))}</span>`
    const names = `<span class="what">${escaped(item.what)}</span> <span class="name">${escaped(item.name)}</span>`
    return `<span class="first">${address} ${names}</span> <span class="cells">${cells.join(' ')}</span>`
  }

  #line({ classes, data, cells, children, isOpen }: Line, level: number): string {
    const attributes = Object.entries(data).map(([name, value]) => ` data-${name}="${escaped(value)}"`)
    const expanded = children.length > 0 ? ` aria-expanded="${isOpen}"` : ''
    const inner = children.length > 0 ? `\n<ul role="group">\n${children.join('\n')}\n</ul>` : ''
    return `<li role="none" class="${classes}"${attributes.join('')}><div class="row" role="treeitem" aria-level="${level}" aria-selected="false"${expanded} tabindex="-1"><span class="twist" aria-hidden="true"></span>${cells}</div>${inner}</li>`
  }
}

/** What a search finds it by, with a bar around each. */
const wordsOf = (item: Item) =>
  `|${[
    ...[item.id, shortAddress(item.id), item.ids, item.what, item.name, item.driver, item.word, item.use],
    ...[item.group === null ? 'no group' : `group ${item.group}`, `reset ${item.reset}`],
    ...(item.numa === null ? [] : [`numa ${item.numa}`]),
  ].join('|')}|`.toLowerCase()
