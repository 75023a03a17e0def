import { readFileSync } from 'node:fs'
import { readCapabilities, readHeader } from '../../lib/sysfs/config.js'
import { type Facts, hex, inFull, lspci, parseVerbose } from './facts.js'
import { capabilityFacts } from './ours.js'

/** Config space of each function out of the text that `lspci -x`, `-xxx` or `-xxxx` printed. */
function parseDump(text: string): Map<string, Uint8Array> {
  const spaces = new Map<string, Uint8Array>()
  for (const block of text.split(/\n\s*\n|\n(?=(?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7] )/)) {
    const address = /^(?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]/m.exec(block)?.[0]
    if (address === undefined) continue
    const bytes: number[] = []
    for (const [, at = '', line = ''] of block.matchAll(/^([0-9a-f]{2,3}): ?((?:[0-9a-f]{2} ?)+)\s*$/gm)) {
      for (const [index, byte] of line.trim().split(' ').entries()) {
        bytes[Number.parseInt(at, 16) + index] = Number.parseInt(byte, 16)
      }
    }
    if (bytes.length >= 64)
      spaces.set(
        inFull(address),
        Uint8Array.from(bytes, (byte) => byte ?? 0),
      )
  }
  return spaces
}

/** What is in the bytes of a dump: read by the library, and by `lspci -F`. */
export function dumpFacts(path: string): { ours: Facts; lspci: Facts } {
  const ours = new Map<string, string>()
  for (const [address, config] of parseDump(readFileSync(path, 'latin1'))) {
    const header = readHeader(config)
    if (header === null) continue
    ours.set(`${address} ids`, `${hex(header.vendor, 4)}:${hex(header.device, 4)}`)
    ours.set(`${address} class`, hex(header.class >>> 8, 4))
    for (const [name, value] of capabilityFacts(address, readCapabilities(config))) ours.set(name, value)
  }
  const theirs = parseVerbose(lspci('-F', path, '-Dvvn'))
  for (const line of lspci('-F', path, '-Dn').split('\n')) {
    const [, address, code, ids] = /^(\S+) ([0-9a-f]{4}): ([0-9a-f]{4}:[0-9a-f]{4})/.exec(line) ?? []
    if (address === undefined || code === undefined || ids === undefined) continue
    theirs.set(`${address} class`, code)
    theirs.set(`${address} ids`, ids)
  }
  return { ours, lspci: theirs }
}
