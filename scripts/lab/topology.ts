import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { LabError, messageOf } from './errors.js'
import { patternImage } from './pattern.js'

/**
 * Reads a file of QEMU arguments: one or more on a line, `#` starts a comment, quotes keep words together.
 * `{pattern:BYTES}` stands for the path of a disk image of this size whose content is known (pattern.ts),
 * `{include:FILE}` for the arguments of another file beside this one.
 */
export function readTopology(file: string): string[] {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (error) {
    throw new LabError(`the topology cannot be read: ${messageOf(error)}`)
  }
  return text.split('\n').flatMap((line, index) => {
    try {
      return splitWords(line).flatMap((word) => {
        const [, other] = /^\{include:(.+)\}$/.exec(word) ?? []
        return other === undefined ? [withImages(word)] : readTopology(join(dirname(file), other))
      })
    } catch (error) {
      throw new LabError(`${file}:${index + 1}: ${messageOf(error)}`)
    }
  })
}

/** Splits a line as a shell would, without expanding anything. */
export function splitWords(line: string): string[] {
  const words: string[] = []
  // A word is a run of bare characters and quoted pieces; a comment starts only where a word could.
  const token = /\s*(?:(#.*)|((?:[^\s"'\\]|\\.|"(?:[^"\\]|\\.)*"|'[^']*')+)|(\S))/y
  for (;;) {
    const match = token.exec(line)
    if (match === null) return words
    const [, , word, stray] = match
    if (stray !== undefined) throw new LabError(`a quote is opened and never closed: ${line.trim()}`)
    if (word !== undefined) words.push(unquote(word))
  }
}

/** QEMU takes a comma for the end of a value unless it is there twice. */
function withImages(word: string): string {
  return word.replace(/\{pattern:(\d+)\}/g, (_all, size) => patternImage(Number(size)).replaceAll(',', ',,'))
}

function unquote(word: string): string {
  return word.replace(/\\(.)|"((?:[^"\\]|\\.)*)"|'([^']*)'/g, (_all, escaped, double, single) => {
    if (escaped !== undefined) return String(escaped)
    return double !== undefined ? String(double).replace(/\\(["\\])/g, '$1') : String(single)
  })
}
