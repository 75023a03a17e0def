/**
 * What the page does in a browser: the tree by keys and pointers, the details of what is chosen, search. It writes text, and never
 * markup; what it says stands in the data beside it.
 */
export const SCRIPT = String.raw`
'use strict'
;(() => {
  const byId = (id) => document.getElementById(id)
  const data = JSON.parse(byId('data').textContent)
  const tree = byId('tree')
  const root = document.documentElement
  // A node is a list item: its first child is the line with the role of an item of a tree.
  const nodes = [...tree.querySelectorAll('li')]
  const own = nodes.filter((node) => node.dataset.id !== undefined)
  const nodeOf = new Map(own.map((node) => [node.dataset.id, node]))
  if (nodes.length === 0) return
  root.classList.add('js')

  // --- the tree

  let current = nodes[0]
  let chosen = null
  const lineOf = (node) => node.firstElementChild
  const parentOf = (node) => {
    const above = node.parentElement.closest('li')
    return above && tree.contains(above) ? above : null
  }
  const isOpen = (node) => lineOf(node).getAttribute('aria-expanded') === 'true'
  const canOpen = (node) => lineOf(node).hasAttribute('aria-expanded')
  const open = (node, isOpened) => {
    if (canOpen(node)) lineOf(node).setAttribute('aria-expanded', String(isOpened))
  }
  const isShown = (node) => {
    if (node.hidden) return false
    for (let at = parentOf(node); at; at = parentOf(at)) if (at.hidden || !isOpen(at)) return false
    return true
  }
  const shown = () => nodes.filter(isShown)
  const reveal = (node) => {
    for (let at = parentOf(node); at; at = parentOf(at)) open(at, true)
  }
  const makeCurrent = (node) => {
    lineOf(current).tabIndex = -1
    current = node
    lineOf(node).tabIndex = 0
  }
  const focus = (node) => {
    makeCurrent(node)
    lineOf(node).focus()
    lineOf(node).scrollIntoView({ block: 'nearest' })
  }
  const close = (node) => {
    open(node, false)
    if (node !== current && node.contains(current)) focus(node)
  }

  // --- what belongs together

  const numbers = (text) => (text ? text.split(' ') : [])
  const mark = (node) => {
    const { g, s } = node ? node.dataset : {}
    const sets = numbers(s)
    for (const each of nodes) {
      each.classList.toggle('in-group', g !== undefined && each.dataset.g === g)
      each.classList.toggle('in-reset', numbers(each.dataset.s).some((set) => sets.includes(set)))
    }
  }

  // --- details

  const make = (name, text, classes) => {
    const element = document.createElement(name)
    if (text !== undefined) element.textContent = text
    if (classes) element.className = classes
    return element
  }
  const factOf = (node) => data[node?.dataset.id ?? node?.dataset.like]
  const panel = byId('facts')
  const show = (node) => {
    const fact = factOf(node)
    if (!fact) return
    byId('heading').textContent = fact.heading
    const pill = byId('verdict')
    pill.textContent = fact.word
    pill.className = 'pill ' + fact.word.replace(' ', '-')
    pill.hidden = fact.part
    const parts = [make('p', fact.about, 'muted')]
    if (node.dataset.like) parts.push(make('p', 'One of ' + node.dataset.count + ' that are alike.'))
    parts.push(make('p', fact.reason))
    if (fact.command) {
      const block = make('pre')
      block.append(make('code', fact.command))
      parts.push(block)
    }
    const list = make('dl')
    for (const [name, texts, members] of fact.facts) {
      list.append(make('dt', name))
      for (const text of texts) list.append(make('dd', text))
      for (const member of members) {
        const line = make('dd')
        const button = make('button', data[member] ? data[member].heading : member, 'link')
        button.type = 'button'
        button.dataset.go = member
        line.append(button)
        list.append(line)
      }
    }
    panel.replaceChildren(...parts, list)
  }
  const say = (text) => {
    byId('said').textContent = text
  }
  const choose = (node) => {
    if (chosen) lineOf(chosen).setAttribute('aria-selected', 'false')
    chosen = node
    lineOf(node).setAttribute('aria-selected', 'true')
    mark(node)
    const fact = factOf(node)
    root.classList.toggle('open', fact !== undefined)
    if (!fact) return
    show(node)
    byId('details').scrollTop = 0
    say(fact.heading + ', ' + (fact.part ? '' : fact.word + '. ') + fact.reason)
  }
  const go = (id) => {
    const node = nodeOf.get(id)
    if (!node) return
    if (node.hidden) clear()
    reveal(node)
    choose(node)
    focus(node)
  }
  const dismiss = () => {
    root.classList.remove('open')
    lineOf(current).focus()
  }

  // --- pointers

  const at = (event) => event.target.closest('#tree li')
  tree.addEventListener('click', (event) => {
    const node = at(event)
    if (!node) return
    if (canOpen(node) && event.target.closest('.twist')) {
      if (isOpen(node)) close(node)
      else open(node, true)
      return
    }
    // What is no device has nothing to tell but what is in it.
    if (canOpen(node) && !factOf(node)) open(node, !isOpen(node))
    choose(node)
    focus(node)
  })
  const wide = matchMedia('(min-width: 48.01rem)')
  tree.addEventListener('pointerover', (event) => {
    if (event.pointerType !== 'mouse' || !wide.matches) return
    const node = at(event)
    if (!node || !factOf(node)) return
    mark(node)
    show(node)
  })
  tree.addEventListener('pointerleave', () => {
    mark(chosen)
    if (chosen) show(chosen)
  })
  document.addEventListener('click', (event) => {
    const id = event.target.closest('[data-go]')?.dataset.go
    if (id !== undefined) go(id)
  })
  byId('close').addEventListener('click', dismiss)

  // --- keys, as the ARIA practices have them for trees

  let typed = ''
  let typing = 0
  const typeahead = (key) => {
    clearTimeout(typing)
    typing = setTimeout(() => (typed = ''), 700)
    typed += key.toLowerCase()
    const all = shown()
    const from = all.indexOf(current) + (typed.length === 1 ? 1 : 0)
    const found = [...all.slice(from), ...all.slice(0, from)].find((node) =>
      numbers(node.dataset.start).some((start) => start.startsWith(typed)),
    )
    if (found) focus(found)
  }
  const keys = {
    ArrowDown: (all, index) => all[index + 1],
    ArrowUp: (all, index) => all[index - 1],
    Home: (all) => all[0],
    End: (all) => all.at(-1),
    ArrowRight: (all, index) => {
      if (!canOpen(current)) return
      if (isOpen(current)) return all[index + 1] && parentOf(all[index + 1]) === current ? all[index + 1] : undefined
      open(current, true)
    },
    ArrowLeft: () => {
      if (canOpen(current) && isOpen(current)) close(current)
      else return parentOf(current)
    },
    Enter: () => choose(current),
    ' ': () => choose(current),
    Escape: () => dismiss(),
    '*': () => {
      for (const sibling of current.parentElement.children) open(sibling, true)
    },
  }
  tree.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return
    const { key } = event
    if (key in keys) {
      event.preventDefault()
      const all = shown()
      const next = keys[key](all, all.indexOf(current))
      if (next) focus(next)
    } else if (key.length === 1) typeahead(key)
  })
  tree.addEventListener('focusin', (event) => {
    const node = at(event)
    if (node && node !== current) makeCurrent(node)
  })
  byId('details').addEventListener('keydown', (event) => {
    if (event.key === 'Escape') dismiss()
  })

  // --- search

  const search = byId('search')
  const only = byId('only')
  let before = null
  const below = (node) => [...(node.querySelector(':scope > ul')?.children ?? [])]
  const filter = () => {
    // A number of a group is meant whole.
    const words = (search.value.toLowerCase().match(/(?:group|numa) \d+|\S+/g) ?? []).map((word) =>
      /^(?:group|numa) \d+$/.test(word) ? '|' + word + '|' : word,
    )
    const tag = only.value
    if (words.length === 0 && tag === '') {
      if (before) for (const [node, wasOpen] of before) open(node, wasOpen)
      before = null
      for (const node of nodes) node.hidden = false
      if (chosen) reveal(chosen)
      byId('count').textContent = own.length + ' functions and devices'
    } else {
      before ??= new Map(nodes.filter(canOpen).map((node) => [node, isOpen(node)]))
      const fits = new Set(
        own.filter(
          ({ dataset }) =>
            (tag === '' || numbers(dataset.t).includes(tag)) && words.every((word) => dataset.q.includes(word)),
        ),
      )
      const visit = (node) => {
        const inner = below(node).map(visit)
        const some = inner.some(Boolean)
        node.hidden = !fits.has(node) && !some
        // Those that are alike stay folded where they fit all.
        if (canOpen(node)) open(node, some && !(node.dataset.like && inner.every(Boolean)))
        return !node.hidden
      }
      for (const node of tree.children) visit(node)
      byId('count').textContent = fits.size + ' of ' + own.length + ' found'
    }
    if (!isShown(current)) makeCurrent(shown()[0] ?? nodes[0])
  }
  const clear = () => {
    search.value = ''
    only.value = ''
    filter()
  }
  search.addEventListener('input', filter)
  only.addEventListener('change', filter)
  byId('tools').addEventListener('submit', (event) => {
    event.preventDefault()
    const found = shown().find((node) => node.dataset.id !== undefined && data[node.dataset.id])
    if (found) focus(found)
  })
  search.addEventListener('keydown', (event) => {
    if (event.key === 'Escape') clear()
    if (event.key === 'ArrowDown') {
      event.preventDefault()
      if (isShown(current)) focus(current)
    }
  })
  const openAll = (isOpened) => {
    for (const node of nodes) open(node, isOpened)
    if (!isShown(current)) makeCurrent(shown()[0] ?? nodes[0])
  }
  byId('expand').addEventListener('click', () => openAll(true))
  byId('collapse').addEventListener('click', () => openAll(false))
  // Where there is little room the tree comes first.
  if (!wide.matches) for (const card of document.querySelectorAll('.glance details')) card.open = false
  byId('tools').hidden = false
  lineOf(current).tabIndex = 0
  filter()
})()
`.trim()
