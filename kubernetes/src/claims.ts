import { closeSync, constants, fstatSync, openSync, readdirSync, readSync } from 'node:fs'
import { join } from 'node:path'

/** Where container engines look for specifications of the Container Device Interface. */
export const CDI_DIRECTORIES: readonly string[] = ['/etc/cdi', '/var/run/cdi']

/** A specification of another program. */
export interface Claim {
  readonly file: string
  /** `null`: it could not be read, so that it may name any device. */
  readonly text: string | null
}

/** What others hand to containers: drivers of dynamic resource allocation write specifications too. */
export function readClaims(directories: readonly string[], own: ReadonlySet<string>): Claim[] {
  return directories.flatMap((directory) =>
    namesIn(directory)
      .filter((name) => /\.(json|ya?ml)$/.test(name))
      .map((name) => join(directory, name))
      .filter((file) => !own.has(file))
      .flatMap((file) => readClaim(file) ?? []),
  )
}

/** More than any engine is given. */
const LARGEST = 2 ** 24

function readClaim(file: string): Claim | null {
  try {
    const text = readText(file)
    // JSON may write a slash with a backslash before it.
    return text === null ? null : { file, text: text.replaceAll('\\/', '/') }
  } catch (error) {
    return isAbsence(error) ? null : { file, text: null }
  }
}

/** `null` for a directory, into which engines do not look. */
function readText(file: string): string | null {
  // A FIFO must not hang the plugin.
  const descriptor = openSync(file, constants.O_RDONLY | constants.O_NONBLOCK)
  try {
    const facts = fstatSync(descriptor)
    if (facts.isDirectory()) return null
    if (!facts.isFile()) throw new Error('it is no file')
    if (facts.size > LARGEST) throw new Error('it is too large')
    // It may grow meanwhile.
    const bytes = Buffer.alloc(facts.size)
    let length = 0
    for (let read = -1; read !== 0 && length < bytes.length; length += read)
      read = readSync(descriptor, bytes, length, bytes.length - length, length)
    return bytes.toString('utf8', 0, length)
  } finally {
    closeSync(descriptor)
  }
}

/** Why one of these nodes may be given to two containers; `null` where nobody else gives them. */
export function whyClaimed(claims: readonly Claim[], nodes: readonly string[]): string | null {
  for (const { file, text } of claims) {
    if (text === null)
      return `${file} cannot be read, and may hand it to containers too: let it be read, or take it away`
    // By its text, whatever its form: a comment that names a node is a reason to ask, too.
    if (nodes.some((node) => namesNode(text, node)))
      return `${file} hands it to containers too, so that two could be given it: let one of them go`
  }
  return null
}

function namesNode(text: string, node: string): boolean {
  for (let at = text.indexOf(node); at >= 0; at = text.indexOf(node, at + 1)) {
    if (!/[\w-]/.test(text[at + node.length] ?? '')) return true
  }
  return false
}

function namesIn(directory: string): string[] {
  try {
    return readdirSync(directory).sort()
  } catch (error) {
    if (isAbsence(error)) return []
    throw error
  }
}

const isAbsence = (error: unknown) =>
  ['ENOENT', 'ENOTDIR'].includes(String((error as NodeJS.ErrnoException).code))
