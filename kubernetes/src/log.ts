import { printable } from './text.js'

export type Log = (sentence: string) => void

/** To standard error, where a pod's log comes from. */
export const toStandardError: Log = (sentence) => {
  process.stderr.write(`vfio-device-plugin: ${printable(sentence)}\n`)
}
