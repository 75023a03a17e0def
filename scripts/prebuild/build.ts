import { execFile } from 'node:child_process'
import { createHash, type Hash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { headersDirectory } from '../headers.mjs'
import { cacheDirectory } from '../lab/cache.js'
import { messageOf } from '../lab/errors.js'
import { type Compiler, compilerFor } from './compiler.js'
import { inspect } from './inspect.js'
import { binaryOf, ROOT, type Target } from './targets.js'

const run = promisify(execFile)
const require = createRequire(import.meta.url)

const OUT = join(ROOT, 'build/prebuild')

/** The part of binding.gyp where all flags are. */
type Flags = Readonly<Record<string, readonly string[]>>
interface Gyp {
  readonly targets: readonly [{ readonly conditions: readonly [readonly [string, Flags]] }]
}

/** Builds targets side by side, as many as there are processors; answers with what failed, in words. */
export async function buildAll(wanted: readonly Target[], say: (line: string) => void): Promise<string[]> {
  const waiting = [...wanted]
  const failures: string[] = []
  const lane = async () => {
    for (let target = waiting.shift(); target !== undefined; target = waiting.shift()) {
      await build(target, say).catch((error) => failures.push(messageOf(error)))
    }
  }
  await Promise.all(Array.from({ length: availableParallelism() }, lane))
  return failures
}

/** Makes the binary of a target where it is not there yet or something changed. */
async function build(target: Target, say: (line: string) => void): Promise<void> {
  const compiler = await compilerFor(target, say)
  const commands = commandsFor(compiler, target)
  const made = fingerprint(compiler, commands)
  if (isFresh(target, made)) return
  const began = Date.now()
  const binary = join(ROOT, binaryOf(target))
  mkdirSync(directoryOf(target), { recursive: true })
  mkdirSync(dirname(binary), { recursive: true })
  for (const { source, text, args } of commands) {
    if (source !== undefined) writeFileSync(source, text)
    await compile(compiler, args, target)
  }
  const foreign = inspect(join(directoryOf(target), 'vfio.node')).wanted.filter(({ name }) =>
    name.startsWith('_Z'),
  )
  if (compiler.runtime.length > 0 && foreign.length > 0) {
    const names = foreign.map(({ name }) => name).join(', ')
    throw new Error(`${target.name}: ${names} is in a part of the C++ library that compiler.ts does not name`)
  }
  renameSync(join(directoryOf(target), 'vfio.node'), binary)
  writeFileSync(stamp(target), JSON.stringify({ made, binary: hashOf(binary) }))
  say(`${binaryOf(target)}: ${((Date.now() - began) / 1000).toFixed(1)} s, ${compiler.name}`)
}

async function compile({ command, environment, name }: Compiler, args: readonly string[], target: Target) {
  const [program = '', ...first] = command
  const failed = (said: string) => new Error(`${target.name} could not be built with ${name}:\n${said}`)
  try {
    const { stdout, stderr } = await run(program, [...first, ...args], { cwd: ROOT, env: environment })
    // Zig says this of its own libraries.
    const said = `${stdout}${stderr}`.replace(/^zig: warning: argument unused during compilation: .*\n/gm, '')
    if (said !== '') throw failed(said)
  } catch (error) {
    throw failed(messageOf(error))
  }
}

interface Compilation {
  /** A source made of others, and what it says; undefined for the link. */
  readonly source?: string
  readonly text: string
  readonly args: readonly string[]
}

/** Each group of sources in one piece, and the link. */
function commandsFor(compiler: Compiler, target: Target): Compilation[] {
  const { targets } = JSON.parse(readFileSync(join(ROOT, 'binding.gyp'), 'utf8')) as Gyp
  const [, flags] = targets[0].conditions[0]
  const taken = (...names: string[]) =>
    names
      .flatMap((name) => flags[name] ?? [])
      .filter((flag) => !compiler.refused.includes(flag))
      .map((flag) => flag.replace('<(module_root_dir)', ROOT))
  const headers = headersDirectory()
  if (headers === undefined) throw new Error("Node's headers are missing: npm run setup fetches them")
  const { include_dir: nodeAddonApi } = require('node-addon-api') as { include_dir: string }
  const own = {
    sources: [join(ROOT, 'native/vfio.cc')],
    flags: [
      '-Werror',
      ...(flags.defines ?? []).map((define) => `-D${define}`),
      ...['-isystem', join(ROOT, nodeAddonApi), '-isystem', join(headers, 'include/node')],
      ...taken('cflags', 'cflags_cc'),
    ],
  }
  // The C++ library's own code is made as ours is, but for its standard and warnings.
  const code = taken('cflags', 'cflags_cc').filter((flag) => !/^-(W|std=|iquote)/.test(flag))
  const at = (name: string) => join(directoryOf(target), name)
  const compilations = [own, ...compiler.runtime].map(({ sources, flags }, index) => ({
    source: at(`${index}.cc`),
    text: sources.map((source) => `#include "${source}"\n`).join(''),
    args: ['-c', '-fPIC', '-fexceptions', ...code, ...flags, '-o', at(`${index}.o`), at(`${index}.cc`)],
  }))
  const objects = compilations.map((_none, index) => at(`${index}.o`))
  const link = ['-shared', '-s', ...taken('ldflags'), ...objects, ...compiler.link, '-o', at('vfio.node')]
  return [...compilations, { text: '', args: link }]
}

const directoryOf = ({ name }: Target) => join(OUT, name)
const stamp = ({ name }: Target) => join(OUT, name, 'made.json')

/** Whether the binary is the one that these sources made. */
function isFresh(target: Target, made: string): boolean {
  const binary = join(ROOT, binaryOf(target))
  if (!existsSync(binary) || !existsSync(stamp(target))) return false
  const stamped = JSON.parse(readFileSync(stamp(target), 'utf8')) as { made?: string; binary?: string }
  return stamped.made === made && stamped.binary === hashOf(binary)
}

/** Of everything that a binary comes from. */
function fingerprint({ name, command }: Compiler, commands: readonly Compilation[]): string {
  const hash = createHash('sha256')
  // The same wherever the checkout and the cache lie.
  const places = [...new Set([ROOT, cacheDirectory()])]
  const said = JSON.stringify([name, command, commands])
  hash.update(places.reduce((text, place) => text.replaceAll(place, ''), said))
  hash.update(require('node-addon-api/package.json').version)
  addFiles(hash, 'native')
  return hash.digest('hex')
}

function addFiles(hash: Hash, directory: string): void {
  const entries = readdirSync(join(ROOT, directory), { withFileTypes: true })
  for (const entry of entries.toSorted((one, other) => (one.name < other.name ? -1 : 1))) {
    const path = join(directory, entry.name)
    // Only packing puts something there.
    if (entry.name === 'node-addon-api') continue
    if (entry.isDirectory()) addFiles(hash, path)
    else hash.update(`\0${path}\0`).update(readFileSync(join(ROOT, path)))
  }
}

const hashOf = (file: string) => createHash('sha256').update(readFileSync(file)).digest('hex')
