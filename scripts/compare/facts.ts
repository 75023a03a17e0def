import { spawnSync } from 'node:child_process'

/** `address fact` to its value, both as text. */
export type Facts = ReadonlyMap<string, string>

/** What lspci prints; it complains of trees that lack a file, and tells the rest. */
export function lspci(...args: string[]): string {
  const { stdout, error } = spawnSync('lspci', args, { encoding: 'utf8', maxBuffer: 2 ** 28 })
  if (error) throw error
  return stdout
}

export const hex = (value: number, digits: number) => value.toString(16).padStart(digits, '0')

/** Addresses as lspci -D writes them. */
export const inFull = (address: string) => (/^[0-9a-f]{2}:/.test(address) ? `0000:${address}` : address)

/** The capability lists and what stands in a few of them, out of `lspci -vv`. */
export function parseVerbose(text: string): Map<string, string> {
  const facts = new Map<string, string>()
  for (const block of text.split(/\n(?=\S)/)) {
    const address = /^(?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]/.exec(block)?.[0]
    if (address === undefined) continue
    const fact = (name: string, value: string | undefined) => {
      if (value !== undefined) facts.set(`${inFull(address)} ${name}`, value)
    }
    // Two runs of blanks in one line: what lspci could not read of a chain it says in words.
    const offsets = Array.from(block.matchAll(/^\tCapabilities: \[([0-9a-f]+)(?: v\d+)?\]/gm), ([, at]) => at)
    fact('capabilities', offsets.join(' '))
    fact('FLR', /\bDevCap:[\s\S]*?FLReset([+-])/.exec(block)?.[1])
    const msi = /\] MSI: Enable([+-]) Count=\d+\/(\d+) Maskable([+-]) 64bit([+-])/.exec(block)
    fact('MSI', msi?.slice(1).join(' '))
    const msix = /\] MSI-X: Enable([+-]) Count=(\d+)/.exec(block)
    fact('MSI-X', msix?.slice(1).join(' '))
    fact('NoSoftRst', /\tStatus: D\d NoSoftRst([+-])/.exec(block)?.[1])
    fact('total VFs', /Total VFs: (\d+)/.exec(block)?.[1])
  }
  return facts
}
