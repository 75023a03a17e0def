import { type Glimpse, glimpsesOf } from './glance.js'
import { escaped } from './markup.js'
import type { HostTopology } from './model.js'
import { notesOf } from './notes.js'
import { type Facts, factsOf } from './page/facts.js'
import { POLICY } from './page/policy.js'
import { SCRIPT } from './page/script.js'
import { STYLE } from './page/style.js'
import { treeHtml } from './page/tree.js'
import { summaryOf } from './summary.js'

/** The tree as a page in one file, which loads nothing: for keyboards, pointers and screen readers, without its script readable too. */
export function topologyHtml(topology: HostTopology): string {
  const title = `PCI topology, Linux ${topology.host.kernel}`
  const items = treeHtml(topology)
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${POLICY}">
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
${cards(topology)}
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
<ul id="tree"${items === '' ? '' : ' role="tree" aria-labelledby="tree-title"'}>
${items}
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

/** So many answers are told at once; more are unfolded by who wants them. */
const FEW = 12

function cards(topology: HostTopology): string {
  const glimpses = glimpsesOf(topology)
  const told = glimpses.filter(({ kind }) => kind !== 'free' && kind !== 'unsure')
  const isFew = told.reduce((sum, { entries }) => sum + entries.length, 0) <= FEW
  return glimpses.map((glimpse) => card(glimpse, isFew && told.includes(glimpse))).join('\n')
}

function card({ kind, title, entries }: Glimpse, isOpen: boolean): string {
  const items = entries.map(
    ({ ids: [id = ''], text }) =>
      `<li><button type="button" class="link" data-go="${escaped(id)}">${escaped(text)}</button></li>`,
  )
  return `<details class="${kind}"${isOpen ? ' open' : ''}><summary><b>${entries.length}</b> ${title}</summary><ul>${items.join('')}</ul></details>`
}
