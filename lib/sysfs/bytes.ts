/**
 * The one way in which names and texts of the kernel become strings: UTF-8, and each byte that is none becomes a lone
 * surrogate (U+DC80 to U+DCFF) of its own. So what differs in bytes differs as a string, and {@link encode} has the way back.
 */

const NON_ASCII = /[\x80-\xff]/
const REPLACEMENT = '\ufffd'
/** The first lone surrogate less the first byte that is not ASCII. */
const ESCAPE = 0xdc00

export function decode(bytes: Uint8Array, start = 0, end = bytes.length): string {
  const buffer = Buffer.isBuffer(bytes)
    ? bytes
    : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const text = buffer.toString('latin1', start, end)
  return NON_ASCII.test(text) ? decodeUtf8(buffer.subarray(start, end)) : text
}

function decodeUtf8(buffer: Buffer): string {
  const text = buffer.toString('utf8')
  if (!text.includes(REPLACEMENT)) return text
  // Rarely, so it may be slow: takes the longest valid character at each place, else one byte.
  let out = ''
  for (let at = 0; at < buffer.length; ) {
    const length = lengthOf(buffer, at)
    out +=
      length > 0 ? buffer.toString('utf8', at, at + length) : String.fromCharCode(ESCAPE + (buffer[at] ?? 0))
    at += Math.max(length, 1)
  }
  return out
}

/** The length in bytes of the character that starts here; 0 where none does. */
function lengthOf(buffer: Buffer, at: number): number {
  const first = buffer[at] ?? 0
  if (first < 0x80) return 1
  const length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2
  const character = buffer.subarray(at, at + length)
  return Buffer.from(character.toString('utf8')).equals(character) ? length : 0
}

/** The bytes of a text that {@link decode} gave. */
export function encode(text: string): Buffer {
  if (text.isWellFormed()) return Buffer.from(text)
  const parts = Array.from(text, (character) => {
    const code = character.charCodeAt(0)
    const isByte = character.length === 1 && code >= ESCAPE + 0x80 && code <= ESCAPE + 0xff
    return isByte ? Buffer.from([code - ESCAPE]) : Buffer.from(character)
  })
  return Buffer.concat(parts)
}

/** A path for calls of `node:fs`: as it is where it is text, which every platform takes, else in bytes. */
export const pathOf = (text: string): string | Buffer =>
  // From JavaScript it may be what these calls take besides, in bytes already.
  typeof text !== 'string' || text.isWellFormed() ? text : encode(text)

/** What `node:fs` gave for a name or a link that was asked for in bytes: some runtimes give text all the same. */
export const decodeName = (name: string | Buffer): string => (typeof name === 'string' ? name : decode(name))

/** Bytes one character each, so that what is written in ASCII can be taken apart before it is decoded. */
export const asBytes = (bytes: Uint8Array) =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('latin1')

/** A field of a mount table or of `/proc/swaps`, given by {@link asBytes}: the kernel writes some bytes in octal there. */
export function decodeField(field: string): string {
  const bytes = field.replace(/\\([0-3][0-7]{2})/g, (_all, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 8)),
  )
  return decode(Buffer.from(bytes, 'latin1'))
}
