import { closeSync, constants, openSync } from 'node:fs'
import { VfioError } from '../errors.js'

/** What a command has as one of its standard streams. */
export type StdioChoice = 'inherit' | 'ignore' | number

/** The descriptors of this process that become a command's standard streams. */
export class Stdio {
  readonly numbers: readonly number[]
  #nothing: number | null = null

  constructor(choices: readonly StdioChoice[] = ['inherit', 'inherit', 'inherit']) {
    this.numbers = choices.map((choice, index) => {
      if (choice === 'inherit') return index
      if (choice === 'ignore') return this.#null()
      if (Number.isInteger(choice) && choice >= 0) return choice
      throw new VfioError(
        'ERR_VFIO_BAD_ARGUMENT',
        `stdio takes 'inherit', 'ignore' or a descriptor, not ${choice}`,
      )
    })
  }

  #null(): number {
    this.#nothing ??= openSync('/dev/null', constants.O_RDWR)
    return this.#nothing
  }

  [Symbol.dispose](): void {
    if (this.#nothing !== null) closeSync(this.#nothing)
  }
}
