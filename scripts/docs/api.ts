import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Page } from './pages.js'
import { ROOT } from './root.js'
import { type Node, parse, ts } from './typescript.js'

/** A page of the reference: what stands in these rooms of lib/, in the order in which data goes. */
const ROOMS = [
  {
    name: 'look',
    title: 'Look',
    rooms: ['sysfs'],
    about:
      'What the kernel publishes, as plain, immutable data. Nothing here opens a device, starts a program or changes the host.',
  },
  {
    name: 'judge',
    title: 'Judge',
    rooms: ['assess'],
    about: 'Pure functions from a snapshot to a verdict: they read nothing.',
  },
  {
    name: 'change',
    title: 'Change',
    rooms: ['assign', 'cdi', 'change', 'grant', 'launch', 'mdev', 'persist', 'features', 'records', 'vfs'],
    about: 'What changes the host: plans that are pure, and what carries them out, with a journal.',
  },
  {
    name: 'open',
    title: 'Open',
    rooms: ['vfio', 'actions'],
    about:
      "The kernel's own objects, one method for each ioctl, and whole steps on an open device. What may take more than a millisecond is a promise, and takes an `AbortSignal`; `close()` is idempotent, and everything is disposable.",
  },
  {
    name: 'hand-on',
    title: 'Hand on',
    rooms: ['export'],
    about: 'Pure functions to text for other programs.',
  },
  {
    name: 'errors',
    title: 'Errors',
    rooms: ['errors'],
    about: 'What is thrown. [Every code, with what to do](../trouble/errors.md) has a page of its own.',
  },
] as const

interface Declaration {
  readonly name: string
  readonly nodes: readonly Node[]
  readonly exported: boolean
}

/** The reference, from the one file of declarations that the package has. */
export function apiPages(): Page[] {
  const source = readFileSync(join(ROOT, 'dist/index.d.ts'), 'utf8')
  const declarations = declarationsIn(parse('index.d.ts', source))
  const roomOf = roomsOfExports()
  const pageOf = new Map<string, string>()
  for (const { name, exported } of declarations) {
    if (!exported) continue
    const room = roomOf.get(name)
    const page = ROOMS.find(({ rooms }) => (rooms as readonly string[]).includes(room ?? ''))
    if (!page) throw new Error(`${name} comes from lib/${room}, and no page of the reference has that room`)
    pageOf.set(name, page.name)
  }
  // What only others are made of stands with the first of them.
  for (const { name, exported } of declarations) {
    if (exported) continue
    const user = declarations.find((other) => other.exported && namesIn(other).has(name))
    pageOf.set(name, pageOf.get(user?.name ?? '') ?? 'errors')
  }
  const anchors = new Map<string, string>()
  for (const { name: page } of ROOMS) {
    const used = new Map<string, number>()
    for (const { name } of declarations.filter((each) => pageOf.get(each.name) === page)) {
      const base = name.toLowerCase()
      const count = used.get(base) ?? 0
      used.set(base, count + 1)
      anchors.set(name, `${page}.md#${base}${count === 0 ? '' : `-${count}`}`)
    }
  }
  const pages = ROOMS.map(({ name: page, title, about }) => {
    const parts = declarations
      .filter(({ name }) => pageOf.get(name) === page)
      .map((declaration) => render(declaration, page, anchors))
    return new Page(`docs/api/${page}.md`, `${MADE}# ${title}\n\n${about}\n\n${parts.join('\n')}`)
  })
  const list = ROOMS.map(({ name: page, title, about }) => {
    const names = declarations
      .filter(({ name, exported, nodes }) => exported && pageOf.get(name) === page && isValue(nodes[0]))
      .map(({ name }) => `[\`${name}\`](${anchors.get(name)})`)
    return `## [${title}](${page}.md)\n\n${about}\n\n${names.join(', ')}\n`
  })
  const begin = `# The library

Everything that \`import { … } from 'vfio'\` has, from the docstrings of its one file of declarations,
\`dist/index.d.ts\`. Data goes one way: an address → look gives facts → judge gives a verdict → change plans and applies →
open gives handles → hand on gives text for others. [How to use it](../guides/library.md) is a guide.
`
  return [new Page('docs/api/README.md', `${MADE}${begin}\n${list.join('\n')}`), ...pages]
}

const MADE = '<!-- Made by `npm run docs:update` from dist/index.d.ts: change the docstrings in lib/. -->\n\n'

const isValue = (node: Node | undefined) =>
  node !== undefined && !ts.isInterfaceDeclaration(node) && !ts.isTypeAliasDeclaration(node)

function declarationsIn(file: Node): Declaration[] {
  const found = new Map<string, { nodes: Node[]; exported: boolean }>()
  for (const node of file.statements) {
    const name = nameOf(node)
    if (name === null) continue
    const { nodes } = found.get(name) ?? { nodes: [] }
    found.set(name, { nodes: [...nodes, node], exported: /^export /.test(codeOf(node)) })
  }
  return [...found].map(([name, rest]) => ({ name, ...rest }))
}

function nameOf(node: Node): string | null {
  if (ts.isVariableStatement(node)) return /\bconst (\w+)/.exec(codeOf(node))?.[1] ?? null
  return node.name?.text ?? null
}

/** Which directory or file of lib/ each exported name comes from. */
function roomsOfExports(): Map<string, string> {
  const source = readFileSync(join(ROOT, 'lib/index.ts'), 'utf8')
  const lists = source.matchAll(/export (?:type )?\{([^}]*)\} from '\.\/([\w-]+)/g)
  return new Map(
    [...lists].flatMap(([, names = '', room = '']) =>
      names.split(',').map((name) => [name.trim().replace(/^type /, ''), room] as const),
    ),
  )
}

/** What a declaration says without its comments. */
function codeOf(node: Node): string {
  return node
    .getText()
    .replaceAll(/[ \t]*\/\*\*.*?\*\/[ \t]*\n?/gs, '')
    .replace(/^export declare /, 'export ')
    .replaceAll(/^( {4})+/gm, (indent) => ' '.repeat(indent.length / 2))
    .replaceAll(/ +$/gm, '')
}

const namesIn = ({ nodes }: Declaration) =>
  new Set(nodes.flatMap((node) => codeOf(node).match(/\b[A-Za-z]\w+\b/g) ?? []))

/** The comment right before a node. */
function docOf(node: Node): string {
  const text = node.jsDoc?.at(-1)?.getText() ?? ''
  return text
    .replace(/^\/\*\*/, '')
    .replace(/\*\/$/, '')
    .replaceAll(/^[ \t]*\* ?/gm, '')
    .trim()
}

function render(declaration: Declaration, page: string, anchors: ReadonlyMap<string, string>): string {
  const { name, nodes } = declaration
  const link = (target: string) => {
    const [type = '', member] = target.split('.')
    const anchor = anchors.get(type)
    const shown = `\`${member === undefined ? type : target}\``
    return anchor === undefined
      ? shown
      : `[${shown}](${anchor.startsWith(`${page}.md`) ? anchor.slice(page.length + 3) : anchor})`
  }
  const prose = (doc: string) => proseOf(doc, link)
  const lines = [`## ${name}\n`]
  for (const doc of new Set(nodes.map(docOf).filter((doc) => doc !== ''))) lines.push(`${prose(doc)}\n`)
  lines.push(`\`\`\`ts\n${nodes.map(codeOf).join('\n')}\n\`\`\`\n`)
  const members = nodes
    .flatMap((node) => node.members ?? [])
    .flatMap((member) => {
      const doc = docOf(member)
      const called = member.name?.getText() ?? ''
      return doc === '' || called === '' ? [] : [{ called, doc }]
    })
  if (members.length > 0) {
    const items = members.map(
      ({ called, doc }) => `- \`${called}\`: ${prose(doc).replaceAll('\n', '\n  ')}\n`,
    )
    lines.push(items.join(''))
  }
  const others = [...namesIn(declaration)].filter((other) => other !== name && anchors.has(other)).sort()
  if (others.length > 0) lines.push(`See ${others.map(link).join(', ')}\n`)
  return lines.join('\n')
}

/** A docstring as Markdown: its sentences in one paragraph, what it throws and takes as a list. */
function proseOf(doc: string, link: (name: string) => string): string {
  const [text = '', ...tags] = doc.split(/^(?=@\w)/m)
  const inline = (part: string) =>
    part
      .split(/(`[^`]*`|\{@link [^}]*\})/)
      .map((piece) => {
        const target = /^\{@link ([\w.]+)\}$/.exec(piece)?.[1]
        if (target !== undefined) return link(target)
        return piece.startsWith('`') ? piece : piece.replace(/[<>{}[\]_|]/g, (mark) => `\\${mark}`)
      })
      .join('')
  const paragraphs = text
    .trim()
    .split(/\n\s*\n/)
    .map((paragraph) => inline(paragraph.replace(/\s*\n\s*/g, ' ')))
  const listed = tags.map((tag) => {
    const [, kind = '', rest = ''] = /^@(\w+)\s*(.*)$/s.exec(tag.trim()) ?? []
    const label = { throws: 'Throws', param: 'Takes', returns: 'Answers' }[kind] ?? kind
    return `- ${label} ${inline(rest.replace(/\s*\n\s*/g, ' '))}`
  })
  return [
    ...paragraphs.filter((part) => part !== ''),
    ...(listed.length > 0 ? [listed.join('\n')] : []),
  ].join('\n\n')
}
