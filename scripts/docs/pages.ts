import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { ROOT } from './root.js'

const { slugify } = (await import(join(ROOT, 'docs/.vitepress/slug.mjs'))) as {
  slugify: (text: string) => string
}

/** A block of code of a page. */
export interface Block {
  /** Its first line in the file. */
  readonly line: number
  readonly language: string
  /** What stands behind the language: for whom a session is. */
  readonly info: string
  readonly text: string
  /** The paragraph before it. */
  readonly said: string
}

export interface Link {
  readonly line: number
  readonly target: string
}

/** A page, by its path from the root of the repository. */
export class Page {
  readonly path: string
  readonly text: string

  constructor(path: string, text = readFileSync(join(ROOT, path), 'utf8')) {
    this.path = path
    this.text = text
  }

  get blocks(): readonly Block[] {
    return [...this.text.matchAll(FENCED)].map(({ 1: language = '', 2: info = '', 3: code = '', index }) => {
      const before = this.text.slice(0, index).trimEnd()
      return {
        line: this.#lineOf(index) + 1,
        language,
        info: info.trim(),
        text: code,
        said: before.slice(before.lastIndexOf('\n\n') + 2).replaceAll('\n', ' '),
      }
    })
  }

  #anchors: ReadonlySet<string> | undefined

  get anchors(): ReadonlySet<string> {
    this.#anchors ??= this.#findAnchors()
    return this.#anchors
  }

  #findAnchors(): ReadonlySet<string> {
    const anchors = new Set<string>()
    for (const [, title = ''] of this.#prose.matchAll(/^#{1,6} (.*)$/gm)) {
      const anchor = slugify(title.replace(/\[([^\]]*)\]\([^)]*\)/g, '$1').replaceAll(/[`*]/g, ''))
      let name = anchor
      for (let number = 1; anchors.has(name); number++) name = `${anchor}-${number}`
      anchors.add(name)
    }
    return anchors
  }

  get links(): readonly Link[] {
    return [...this.#prose.matchAll(/\]\(([^)\s]+)\)|\b(?:src|srcset|href)="([^"]+)"/g)].map(
      ({ 1: target, 2: source, index }) => ({ line: this.#lineOf(index), target: target ?? source ?? '' }),
    )
  }

  /** Without code, in as many lines. */
  get #prose(): string {
    const empty = (text: string) => text.replaceAll(/[^\n]/g, ' ')
    return this.text
      .replace(FENCED, empty)
      .replace(/`[^`\n]*`/g, (code) => (/\]\(|\b(?:src|srcset|href)="/.test(code) ? empty(code) : code))
  }

  #lineOf(index: number): number {
    return this.text.slice(0, index).split('\n').length
  }
}

const FENCED = /^```([\w-]*)([^\n]*)\n(.*?)^```$/gms

/** Every page for people: those of docs/, and those that stand at the root. */
export function allPages(): Page[] {
  const docs = join(ROOT, 'docs')
  const rooms = readdirSync(docs, { withFileTypes: true })
    .filter((entry) => entry.isDirectory() && !/^(node_modules|\.vitepress)$/.test(entry.name))
    .map(({ name }) => `docs/${name}`)
  const below = ['docs', ...rooms].flatMap((room) =>
    readdirSync(join(ROOT, room))
      .filter((name) => name.endsWith('.md'))
      .map((name) => `${room}/${name}`),
  )
  return ['README.md', 'CONTRIBUTING.md', 'CHANGELOG.md', 'SECURITY.md', ...below.sort()].map(
    (path) => new Page(path),
  )
}

/** One command of a session, with what stands below it. */
export interface Entry {
  /** `$` anybody, `#` root: what changes the host, and is not run here. */
  readonly prompt: '$' | '#'
  readonly command: string
  readonly output: string
}

/** Where a command begins: what is printed may have lines that begin with a `#` too. */
export const PROMPT = /^(?=\$ |# (?:vfio|npm) )/m

/** The commands of a `console` block. */
export function entriesOf({ text }: Pick<Block, 'text'>): Entry[] {
  return text
    .split(PROMPT)
    .filter((part) => /^[$#] /.test(part))
    .map((part) => {
      const end = part.indexOf('\n')
      return {
        prompt: part.startsWith('$') ? '$' : '#',
        command: part.slice(2, end).replace(/\s+# .*$/, ''),
        output: part.slice(end + 1).trimEnd(),
      }
    })
}

/** Puts another text between the marks of what is made from the sources. */
export function fill(text: string, name: string, make: (argument: string) => string): string {
  const marked = new RegExp(`(<!-- ${name}: ([^\\n]*?) -->\\n).*?(<!-- /${name} -->)`, 'gs')
  return text.replace(
    marked,
    (_all, begin: string, argument: string, end: string) => `${begin}\n${make(argument)}\n${end}`,
  )
}
