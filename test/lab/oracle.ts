import { execFileSync } from 'node:child_process'
import { join } from 'node:path'

/** What the kernel said of one device: `ok` or an errno name for each call; a call that was not reached is absent. */
export interface Answer {
  readonly group: number
  readonly address: string
  readonly open: string
  readonly viable?: boolean
  readonly setContainer?: string
  readonly setIommu?: string
  readonly device?: string
  readonly functionReset?: boolean
  readonly hotInfo?: string
  readonly affected?: readonly { readonly address: string; readonly group: number }[]
  readonly hotReset?: string
}

/** The C program beside this file, compiled; it knows nothing of the library. */
export class Oracle {
  /** Compiled by the set-up, because a compiler takes seconds where the processor is emulated. */
  readonly #program = join(process.cwd(), `build/test/${process.arch}/oracle`)

  /** Opens, and so resets, each device; with `hot` does a hot reset by the descriptor of its own group as well. */
  ask(questions: readonly { readonly group: number; readonly address: string }[], hot = true): Answer[] {
    const input = questions.map(({ group, address }) => `${group} ${address}\n`).join('')
    const output = execFileSync(this.#program, hot ? [] : ['no-hot-reset'], {
      input,
      encoding: 'utf8',
      maxBuffer: 1 << 28,
    })
    return output
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line) as Answer)
  }
}
