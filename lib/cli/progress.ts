import { Option } from 'commander'
import type { ChangeOptions } from '../index.js'
import { colour, isTerminal, note, write } from './output.js'

/** What a command that changes something may be given. */
export interface Verbose {
  readonly verbose?: boolean
}

/** What only looks prints all that it has; what changes something tells of it. */
export const verbose = () => new Option('-v, --verbose', 'print each change as it is made')

const still = (what: string) => note(`vfio: still ${what}`)

/** For the library: after a second a person is told what is waited for, and with `-v` each change. */
export const progress = ({ verbose = false }: Verbose): Pick<ChangeOptions, 'onChange' | 'onWait'> => ({
  onWait: still,
  ...(verbose && { onChange: (change) => note(`vfio: ${change}`) }),
})

/** After so long without a word a person wonders, in milliseconds. */
const SOON = 1000

/** The same for one step that reports nothing itself. */
export async function waiting<T>(what: string, step: Promise<T>): Promise<T> {
  const timer = setTimeout(still, SOON, what)
  try {
    return await step
  } finally {
    clearTimeout(timer)
  }
}

/** Names the command that comes next, for a person at a terminal; apart from what may be pasted. */
export function next(commands: string, isJson = false): void {
  if (isTerminal() && !isJson) write('stderr', `${colour.faint(`next: ${commands}`)}\n`)
}
