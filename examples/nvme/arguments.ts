import { backendOf, UsageError } from '../program.js'

export interface Arguments {
  readonly address: string
  /** Take the other devices of its group along. */
  readonly group: boolean
  /** What it is opened with. */
  readonly backend: ReturnType<typeof backendOf>
  readonly verify: boolean
  /** How long each measurement takes; 0 measures nothing. */
  readonly seconds: number
  /** In bytes. */
  readonly read: { readonly offset: number; readonly length: number } | null
}

const USAGE =
  'usage: npm run example:nvme -- ADDRESS [--group] [--backend auto|iommufd|group] [--verify] [--seconds S], or with -s and ADDRESS [--group] [--backend …] --read OFFSET LENGTH'

/** @throws UsageError */
export function parseArguments(words: readonly string[]): Arguments {
  const rest = [...words]
  const found: { -readonly [K in keyof Arguments]?: Arguments[K] } = {}
  for (let word = rest.shift(); word !== undefined; word = rest.shift()) {
    if (word === '--group') found.group = true
    else if (word === '--backend') found.backend = backendOf(rest.shift())
    else if (word === '--verify') found.verify = true
    else if (word === '--seconds') found.seconds = seconds(rest.shift())
    else if (word === '--read')
      found.read = { offset: bytes('OFFSET', rest.shift()), length: bytes('LENGTH', rest.shift()) }
    else if (word.startsWith('-')) throw new UsageError(`there is no option ${word}; ${USAGE}`)
    else if (found.address !== undefined) throw new UsageError(`${word} is one word too many; ${USAGE}`)
    else found.address = word
  }
  if (found.address === undefined) throw new UsageError(USAGE)
  if (found.read && (found.verify !== undefined || found.seconds !== undefined))
    throw new UsageError('--read goes without --verify and --seconds')
  const otherwise = { group: false, backend: 'auto', verify: false, seconds: 2, read: null } as const
  return { ...otherwise, ...found, address: found.address }
}

function bytes(name: string, word: string | undefined): number {
  const number = word !== undefined && /^(\d+|0x[0-9a-f]+)$/i.test(word) ? Number(word) : Number.NaN
  if (Number.isSafeInteger(number)) return number
  throw new UsageError(
    `--read takes OFFSET and LENGTH in bytes, and ${word === undefined ? `${name} is missing` : `${word} is no such number`}`,
  )
}

function seconds(word: string | undefined): number {
  const number = word !== undefined && /^\d+(\.\d+)?$/.test(word) ? Number(word) : Number.NaN
  if (number <= 3600) return number
  throw new UsageError(`--seconds takes a number from 0 to 3600, not ${word ?? 'nothing'}`)
}
