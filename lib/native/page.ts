import { binding } from './load.js'

/**
 * Memory that the addon shares with this thread. The calls that are made most often have their arguments and answers in
 * it as plain numbers: each value that is handed over costs more than the rest of such a call. Write, call, read at once.
 */
export interface Page {
  readonly words: Uint32Array
  readonly longs: BigUint64Array
  readonly doubles: Float64Array
}

let page: Page | undefined

export function sharedPage(): Page {
  page ??= pageOver(binding().answers)
  return page
}

const pageOver = (buffer: ArrayBuffer): Page => ({
  words: new Uint32Array(buffer),
  longs: new BigUint64Array(buffer),
  doubles: new Float64Array(buffer),
})
