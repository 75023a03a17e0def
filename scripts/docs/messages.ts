import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { ROOT } from './root.js'
import { type Node, parse, ts } from './typescript.js'

/** A text of the library or the command line that a person may read; `…` stands for what differs from time to time. */
export interface Message {
  /** Below lib/. */
  readonly file: string
  readonly text: string
  /** Of an error, or of what blocks a plan. */
  readonly code: string | null
}

/** Fewer words are a name, a unit, or a part of another message. */
const FEWEST_WORDS = 4

/** Declarations of commands, which `--help` prints. */
const DECLARING = /(^|\.)(description|option|argument|Option|Argument|createOption)$/

/** What these have is the table of errnos, with a page of its own, and text for programs. */
const APART =
  /^(hints|native\/binding|persist\/(lines|initramfs|made-from|boot-system|read)|export\/(qemu|libvirt|cloud-hypervisor|grant-rule|topology\/.*))\.ts$/

/** Every message in the sources, in their order. */
export function collectMessages(): Message[] {
  const lib = join(ROOT, 'lib')
  return (readdirSync(lib, { recursive: true }) as string[])
    .filter((file) => file.endsWith('.ts') && !APART.test(file))
    .sort()
    .flatMap((file) => messagesOf(file, readFileSync(join(lib, file), 'utf8')))
}

/** Those of one source. */
export function messagesOf(file: string, source: string): Message[] {
  const found: Message[] = []
  const visit = (node: Node, code: string | null) => {
    if (ts.isImportDeclaration(node) || ts.isExportDeclaration(node) || ts.isLiteralTypeNode(node)) return
    if (
      (ts.isNewExpression(node) || ts.isCallExpression(node)) &&
      DECLARING.test(node.expression.getText())
    ) {
      // A chain of declarations: what it is called on, and not what it declares.
      visit(node.expression, code)
      return
    }
    const text = textOf(node)
    if (text !== null && wordsIn(text) >= FEWEST_WORDS && !isPath(text) && !isProgram(text))
      found.push({ file, text, code })
    const inner = codeOf(node) ?? code
    ts.forEachChild(node, (child) => visit(child, inner))
  }
  visit(parse(file, source), null)
  const known = new Set<string>()
  return found.filter(({ text, code }) => {
    const key = `${code} ${text}`
    return !known.has(key) && known.add(key)
  })
}

const wordsIn = (text: string) => text.split(/\s+/).filter((word) => /[a-zA-Z]/.test(word)).length
/** What another process of the same runtime is given to run. */
const isProgram = (text: string) => /\brequire\('[\w:]+'\)/.test(text)
const isPath = (text: string) => /^[\w./…-]*\/[\w./…-]*$/.test(text)

/** The text of a literal. */
function textOf(node: Node): string | null {
  if (ts.isStringLiteral(node) || ts.isNoSubstitutionTemplateLiteral(node)) return node.text
  if (!ts.isTemplateExpression(node)) return null
  return node.head.text + node.templateSpans.map(({ literal }) => `…${literal.text}`).join('')
}

/** The code that an error, or what blocks a plan, has beside its message. */
function codeOf(node: Node): string | null {
  const literal = (value: Node | undefined) =>
    value !== undefined && ts.isStringLiteral(value) && value.text.startsWith('ERR_VFIO_') ? value.text : null
  if (ts.isNewExpression(node) || ts.isCallExpression(node)) return literal(node.arguments?.[0])
  if (!ts.isObjectLiteralExpression(node)) return null
  const property = node.properties.find((each) => ts.isPropertyAssignment(each) && each.name?.text === 'code')
  return literal(property?.initializer)
}
