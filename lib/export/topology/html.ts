import { createHash } from 'node:crypto'
import { shortAddress } from '../../sysfs/short-names.js'
import { alikeSiblings, isWanted, type Sizes, sizesOf } from './fold.js'
import { type Glimpse, glimpsesOf } from './glance.js'
import { escaped } from './markup.js'
import type { HostTopology } from './model.js'
import { notesOf } from './notes.js'
import { type Facts, factsOf } from './page/facts.js'
import { SCRIPT } from './page/script.js'
import { STYLE } from './page/style.js'
import { addressText, rangeText } from './rows.js'
import { summaryOf } from './summary.js'
import { type Item, type Root, treeOf } from './tree.js'

/** On a host with more than these, what is only bridges and parts of the machine is folded at first. */
const SMALL = 48

const hashOf = (text: string) => `'sha256-${createHash('sha256').update(text).digest('base64')}'`

/** Nothing is loaded, and only this script and this style do anything. */
const policy = () =>
  [
    "default-src 'none'",
    `script-src ${hashOf(SCRIPT)}`,
    `style-src ${hashOf(STYLE)}`,
    'img-src data:',
    "base-uri 'none'",
    "form-action 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
  ].join('; ')

/** The tree as a page in one file, which loads nothing: for keyboards, pointers and screen readers, without its script readable too. */
export function topologyHtml(topology: HostTopology): string {
  const title = `PCI topology, Linux ${topology.host.kernel}`
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${policy()}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escaped(title)}</title>
<link rel="icon" href="data:,">
<style>${STYLE}</style>
</head>
<body>
<header>
<h1>${escaped(title)}</h1>
<p class="muted">${escaped(summaryOf(topology))}</p>
${notesOf(topology)
  .map((note) => `<p class="note">${escaped(note)}</p>\n`)
  .join('')}</header>
<section class="glance" aria-label="At a glance">
${glimpsesOf(topology).map(card).join('\n')}
</section>
<form id="tools" class="tools" role="search" hidden>
<label class="find">Search <input id="search" type="search" autocomplete="off" spellcheck="false" placeholder="address, name, driver, group 7 …"></label>
<label>Show <select id="only"><option value="">everything</option><option value="free">what can go</option><option value="use">what is in use</option><option value="blocked">what is blocked</option><option value="together">what goes together</option><option value="reset">what resets together</option></select></label>
<button id="expand" type="button">Unfold all</button>
<button id="collapse" type="button">Fold all</button>
<output id="count" role="status"></output>
</form>
<main>
<section aria-labelledby="tree-title">
<h2 id="tree-title" class="unseen">Devices</h2>
<ul id="tree" role="tree" aria-labelledby="tree-title">
${new Tree(topology).html()}
</ul>
${LEGEND}
</section>
<aside id="details" aria-labelledby="heading">
<header><h2 id="heading">Details</h2> <span id="verdict" class="pill" hidden></span> <button id="close" type="button">Close</button></header>
<div id="facts"><p class="muted">Choose a device in the tree: here stands what it is, what its verdict is, and what to do about it.</p></div>
</aside>
</main>
<p id="said" class="unseen" role="status"></p>
<script type="application/json" id="data">${jsonOf(factsOf(topology))}</script>
<script>${SCRIPT}</script>
</body>
</html>
`
}

/** JSON that nothing in it can end the element of. */
const jsonOf = (facts: Record<string, Facts>) =>
  JSON.stringify(facts).replace(
    /[<>&\u2028\u2029]/g,
    (mark) => `\\u${mark.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )

const LEGEND = `<p class="legend"><span><span class="pill ready">ready</span> bound, and its group is viable</span><span><span class="pill bindable">bindable</span> would be, once it is bound</span><span><span class="pill in-use">in use</span> and the host would lose something</span><span><span class="pill blocked">blocked</span> cannot be given away</span><span><span class="chip own-group">group</span> goes together</span><span><span class="chip own-reset">reset</span> is reset together; * once all of it is bound</span></p>`

function card({ kind, title, entries }: Glimpse): string {
  const items = entries.map(
    ({ ids: [id = ''], text }) =>
      `<li><button type="button" class="link" data-go="${escaped(id)}">${escaped(text)}</button></li>`,
  )
  return `<details class="${kind}"><summary><b>${entries.length}</b> ${title}</summary><ul>${items.join('')}</ul></details>`
}

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
  /** How many others go with a device, and are reset with it. */
  readonly #along: ReadonlyMap<string, number>
  readonly #tags: ReadonlyMap<string, string>
  readonly #resets: HostTopology['resets']
  readonly #hasNuma: boolean
  #count = 0

  constructor(topology: HostTopology) {
    this.#roots = treeOf(topology)
    this.#sizes = sizesOf(this.#roots)
    this.#isLarge = topology.devices.length > SMALL
    this.#resets = topology.resets
    this.#hasNuma = new Set(topology.devices.map(({ numaNode }) => numaNode)).size > 1
    const { glance } = topology
    this.#along = new Map(
      glance.together.flatMap(({ members }) => members.map((member) => [member, members.length] as const)),
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
        return this.#line({
          classes: 'bus',
          data: { start: bus },
          cells: `<span class="first">${escaped(name)}</span>`,
          children: this.#siblings(children),
          isOpen: isWorth,
        })
      })
      .join('\n')
  }

  #siblings(items: readonly Item[]): string[] {
    const parts = this.#isLarge ? items.filter((item) => !isWanted(item)) : []
    const folded = parts.length > 1 ? parts : []
    const others = items.filter((item) => !folded.includes(item))
    return [
      ...alikeSiblings(others, this.#sizes).map((alike) =>
        alike.length > 1 ? this.#alike(alike) : this.#device(alike[0] as Item),
      ),
      ...(folded.length > 0 ? [this.#folded(folded)] : []),
    ]
  }

  #folded(items: readonly Item[]): string {
    return this.#line({
      classes: 'part',
      data: { start: '' },
      cells: `<span class="first what">${items.length} bridges and parts of the machine</span>`,
      children: items.map((item) => this.#device(item)),
      isOpen: false,
    })
  }

  #alike(items: readonly Item[]): string {
    const [first] = items as [Item]
    return this.#line({
      classes: first.infrastructure ? 'part' : '',
      data: { like: first.id, count: String(items.length), start: shortAddress(first.id) },
      cells: this.#cells(items),
      children: items.map((item) => this.#device(item)),
      isOpen: false,
    })
  }

  #device(item: Item): string {
    const { id, group, sets, infrastructure } = item
    return this.#line({
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
      children: this.#siblings(item.children),
      isOpen: !this.#isLarge || isWanted(item),
    })
  }

  #cells(items: readonly Item[]): string {
    const [item] = items as [Item]
    const group = rangeText(items.map((one) => one.group))
    const along = this.#along.get(item.id)
    const groupText = group === '-' ? 'no group' : `group${/\D/.test(group) ? 's' : ''} ${group}`
    const together = Math.max(0, ...item.sets.map((set) => this.#resets[set]?.members.length ?? 0))
    const cell = (name: string, html: string) => `<span class="cell ${name}">${html}</span>`
    const of = (what: string) => `<span class="unseen">${what} </span>`
    const reset =
      item.reset === '' ? '' : `${of('reset')}${item.reset}${together > 1 ? ` × ${together}` : ''}`
    return [
      `<span class="first"><span class="address mono">${escaped(addressText(items))}</span> <span class="what">${escaped(item.what)}</span> <span class="name">${escaped(item.name)}</span></span>`,
      cell('driver', item.driver === '-' ? of('no driver') : `${of('driver')}${escaped(item.driver)}`),
      cell(
        'verdict',
        item.infrastructure ? '' : `<span class="pill ${item.word.replace(' ', '-')}">${item.word}</span>`,
      ),
      cell(
        'use',
        item.use === '' ? '' : item.use === '?' ? '<span class="muted">use unknown</span>' : `✗ ${item.use}`,
      ),
      cell(
        'group',
        along === undefined ? groupText : `<span class="chip own-group">${groupText} × ${along}</span>`,
      ),
      cell('reset', together > 1 && reset !== '' ? `<span class="chip own-reset">${reset}</span>` : reset),
      ...(this.#hasNuma ? [cell('numa', item.numa === null ? '' : `NUMA ${item.numa}`)] : []),
    ].join(' ')
  }

  #line({ classes, data, cells, children, isOpen }: Line): string {
    const row = `r${this.#count++}`
    const attributes = Object.entries(data).map(([name, value]) => ` data-${name}="${escaped(value)}"`)
    const expanded = children.length > 0 ? ` aria-expanded="${isOpen}"` : ''
    const inner = children.length > 0 ? `\n<ul role="group">\n${children.join('\n')}\n</ul>` : ''
    return `<li role="treeitem" class="${classes}" aria-labelledby="${row}" aria-selected="false"${expanded} tabindex="-1"${attributes.join('')}><div class="row" id="${row}"><span class="twist" aria-hidden="true"></span>${cells}</div>${inner}</li>`
  }
}

/** What a search finds it by, with a bar around each. */
const wordsOf = (item: Item) =>
  `|${[
    ...[item.id, shortAddress(item.id), item.ids, item.what, item.name, item.driver, item.word, item.use],
    ...[item.group === null ? 'no group' : `group ${item.group}`, `reset ${item.reset}`],
    ...(item.numa === null ? [] : [`numa ${item.numa}`]),
  ].join('|')}|`.toLowerCase()
