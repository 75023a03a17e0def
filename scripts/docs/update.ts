// What the pages take from the sources and from the program: `npm run docs:update` writes it, and a test holds it.
import { mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { allHints, type Hint } from '../../lib/hints.js'
import { apiPages } from './api.js'
import { collectMessages, type Message } from './messages.js'
import { allPages, entriesOf, fill, Page, PROMPT } from './pages.js'
import { pictures } from './pictures.js'
import { ROOT } from './root.js'
import { Session } from './session.js'
import type { SystemName } from './systems.js'

/** Every page as it should be, those that are made as a whole, and the pictures that the program draws. */
export function upToDate(session: Session): Page[] {
  const messages = collectMessages()
  const written = allPages().filter(({ path }) => !isMade(path))
  return [
    ...written.map(({ path, text }) => {
      const filled = fill(
        fill(text, 'messages', (names) => listOf(messages, names)),
        'hints',
        () => hintTables(),
      )
      return new Page(path, withJson(withSessions(filled, session), session))
    }),
    ...apiPages(),
    ...pictures(),
  ]
}

/** The reference is made as a whole, so that what is gone from the library is gone from there. */
export const isMade = (path: string) => path.startsWith('docs/api/')

/** The marks that say which messages stand there: files below lib/, directories with a slash, or codes of errors. */
export const isNamed = ({ file, code }: Message, names: string) =>
  names
    .split(/,? /)
    .some((name) =>
      name.startsWith('ERR_')
        ? code === name
        : code === null && (file === name || (name.endsWith('/') && file.startsWith(name))),
    )

function listOf(messages: readonly Message[], names: string): string {
  const chosen = new Set(
    messages.filter((message) => isNamed(message, names)).map(({ text }) => lineOf(text)),
  )
  return `${[...chosen].map((line) => `- ${line}\n`).join('')}`
}

/** As code, in which nothing of it is a mark. */
export function lineOf(text: string): string {
  const line = text.trim().replace(/\s+/g, ' ').replaceAll('……', '…')
  const ticks = line.includes('`') ? '``' : '`'
  return `${ticks}${line.startsWith('`') ? ' ' : ''}${line}${line.endsWith('`') ? ' ' : ''}${ticks}`
}

function hintTables(): string {
  const byRequest = new Map<string, Hint[]>()
  for (const hint of allHints()) byRequest.set(hint.request, [...(byRequest.get(hint.request) ?? []), hint])
  return [...byRequest]
    .map(([request, hints]) => {
      const rows = hints.map(({ code, hint }) => `- \`${code}\`: ${escaped(hint)}\n`)
      return `### ${request === '*' ? 'Any request' : request}\n\n${rows.join('')}`
    })
    .join('\n')
}

/** Outside of code, what Markdown or the site would read as marks. */
const escaped = (text: string) =>
  text
    .split(/(`[^`]*`)/)
    .map((part) => (part.startsWith('`') ? part : part.replace(/[<>*[\]{}|\\]/g, (mark) => `\\${mark}`)))
    .join('')

/** What `$ vfio …` prints on the example host; what root does (`#`) stands as it was written. */
function withSessions(text: string, session: Session): string {
  return text.replace(/^```console([^\n]*)\n(.*?)^```$/gms, (_all, info: string, code: string) => {
    const system = info.trim() === '' ? undefined : (info.trim() as SystemName)
    const parts = code.split(PROMPT).map((part) => {
      const [entry] = entriesOf({ text: part })
      if (entry?.prompt !== '$' || !entry.command.startsWith('vfio ')) return part
      const { stdout, stderr } = session.run(entry.command, system)
      return `${part.slice(0, part.indexOf('\n'))}\n${stdout}${stderr}${part.endsWith('\n\n') ? '\n' : ''}`
    })
    return `\`\`\`console${info}\n${parts.join('')}\`\`\``
  })
}

/** What a command answers as JSON, laid out for people. */
function withJson(text: string, session: Session): string {
  return fill(text, 'json', (command) => {
    const answer: unknown = JSON.parse(session.run(command).stdout)
    return `\`\`\`json\n${JSON.stringify(answer, null, 2)}\n\`\`\`\n`
  })
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const session = new Session()
  try {
    const pages = upToDate(session)
    const wanted = new Set(pages.map(({ path }) => path))
    for (const { path, text } of pages) {
      mkdirSync(dirname(join(ROOT, path)), { recursive: true })
      writeFileSync(join(ROOT, path), text)
    }
    for (const name of readdirSync(join(ROOT, 'docs/api')))
      if (!wanted.has(`docs/api/${name}`)) rmSync(join(ROOT, 'docs/api', name))
  } finally {
    session.end()
  }
}
