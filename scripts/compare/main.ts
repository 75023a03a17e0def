// `npm run compare -- DIR…`: what the library reads of sysfs trees and of `lspci -x` dumps below DIR, beside what lspci says of the same.
import { execFileSync } from 'node:child_process'
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { dumpFacts } from './dumps.js'
import type { Facts } from './facts.js'
import { treeFacts } from './trees.js'

interface Source {
  readonly path: string
  /** Both sides: function and name of a fact to what it is. */
  readonly read: (path: string) => { ours: Facts; lspci: Facts }
}

/** Trees have `bus/pci/devices`; dumps are text with a line of hexadecimal for each 16 bytes. */
function* sources(path: string): Generator<Source> {
  if (!statSync(path).isDirectory()) {
    if (/^[0-9a-f]{1,2}0: ?([0-9a-f]{2} ?){16}/m.test(readFileSync(path, 'latin1').slice(0, 2 ** 16))) {
      yield { path, read: dumpFacts }
    }
    return
  }
  const names = readdirSync(path, { withFileTypes: true })
  if (names.some(({ name }) => name === 'bus') && isDirectory(join(path, 'bus/pci/devices'))) {
    yield { path, read: treeFacts }
    return
  }
  // Links are not followed: they may lead round in circles.
  for (const entry of names.sort((a, b) => (a.name < b.name ? -1 : 1))) {
    if (entry.isDirectory() || entry.isFile()) yield* sources(join(path, entry.name))
  }
}

const isDirectory = (path: string) => statSync(path, { throwIfNoEntry: false })?.isDirectory() === true

/** The facts that both name and that differ, and how many they share. */
function compare(ours: Facts, lspci: Facts): { same: number; different: string[] } {
  let same = 0
  const different: string[] = []
  for (const [name, expected] of lspci) {
    const found = ours.get(name)
    if (found === expected) same++
    else different.push(`${name}: lspci says ${expected}, the library ${found ?? 'nothing'}`)
  }
  return { same, different }
}

function main(directories: readonly string[]): boolean {
  if (directories.length === 0) throw new Error('usage: npm run compare -- DIR…')
  console.log(execFileSync('lspci', ['--version'], { encoding: 'utf8' }).trim())
  let [all, wrong, count] = [0, 0, 0]
  for (const { path, read } of directories.flatMap((directory) => [...sources(directory)])) {
    const { ours, lspci } = read(path)
    const { same, different } = compare(ours, lspci)
    all += same + different.length
    wrong += different.length
    count++
    console.log(`${path}: ${same} of ${same + different.length} facts agree`)
    for (const line of different) console.log(`  ${line}`)
  }
  console.log(`${all - wrong} of ${all} facts agree, in ${count} trees and dumps`)
  return count > 0 && wrong === 0
}

try {
  process.exitCode = main(process.argv.slice(2)) ? 0 : 1
} catch (error) {
  console.error(`compare: ${error instanceof Error ? error.message : error}`)
  process.exitCode = 2
}
