import { execFile } from 'node:child_process'
import { createHash, type Hash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { headersDirectory } from '../headers.mjs'
import { messageOf } from '../lab/errors.js'
import { ROOT } from '../test/steps.js'
import { type Compiler, compilerFor } from './compiler.js'
import { binaryOf, type Target } from './targets.js'

const run = promisify(execFile)
const require = createRequire(import.meta.url)

const OUT = join(ROOT, 'build/prebuild')

/** The part of binding.gyp where all flags are. */
type Flags = Readonly<Record<string, readonly string[]>>
interface Gyp {
  readonly targets: readonly [{ readonly conditions: readonly [readonly [string, Flags]] }]
}

/** Makes the binary of a target where it is not there yet or something changed; says whether it did. */
export async function build(target: Target, say: (line: string) => void): Promise<boolean> {
  const compiler = await compilerFor(target, say)
  const command = commandFor(compiler)
  const made = fingerprint(compiler, command)
  const binary = join(ROOT, binaryOf(target))
  if (isFresh(target, made)) return false
  const began = Date.now()
  mkdirSync(OUT, { recursive: true })
  mkdirSync(dirname(binary), { recursive: true })
  const fresh = join(OUT, `${target.name}.node`)
  const [program = '', ...args] = [...command, '-o', fresh, unit()]
  try {
    const { stdout, stderr } = await run(program, args, { cwd: ROOT, env: compiler.environment })
    // Zig tells of its own C++ library what concerns nobody; of our source every warning is an error.
    const said = `${stdout}${stderr}`.replace(/^zig: warning: argument unused during compilation: .*\n/gm, '')
    if (said !== '') throw new Error(said)
  } catch (error) {
    throw new Error(`${target.name} could not be built with ${compiler.name}: ${messageOf(error)}`)
  }
  renameSync(fresh, binary)
  writeFileSync(stamp(target), JSON.stringify({ made, binary: hashOf(binary) }))
  say(`${binaryOf(target)}: ${((Date.now() - began) / 1000).toFixed(1)} s, ${compiler.name}`)
  return true
}

/** Everything in one piece: the headers are read once, and what is not used is seen without a linker's help. */
function unit(): string {
  const sources = JSON.parse(readFileSync(join(ROOT, 'native/sources.json'), 'utf8')) as string[]
  const file = join(OUT, 'vfio.cc')
  const text = sources.map((source) => `#include "${source}"\n`).join('')
  // Others may be compiling it.
  if (!existsSync(file) || readFileSync(file, 'utf8') !== text) writeFileSync(file, text)
  return file
}

function commandFor({ command, unknown }: Compiler): string[] {
  const { targets } = JSON.parse(readFileSync(join(ROOT, 'binding.gyp'), 'utf8')) as Gyp
  const [, flags] = targets[0].conditions[0]
  const known = (...names: string[]) =>
    names
      .flatMap((name) => flags[name] ?? [])
      .filter((flag) => !unknown.includes(flag))
      .map((flag) => flag.replace('<(module_root_dir)', ROOT))
  const headers = headersDirectory()
  if (headers === undefined) throw new Error("Node's headers are missing: npm run setup fetches them")
  const { include_dir: nodeAddonApi } = require('node-addon-api') as { include_dir: string }
  return [
    ...command,
    ...['-shared', '-s', '-fPIC', '-fexceptions', '-Werror'],
    ...(flags.defines ?? []).map((define) => `-D${define}`),
    ...['-DNODE_ADDON_API_CPP_EXCEPTIONS_ALL', '-DNAPI_CPP_EXCEPTIONS'],
    ...['-I', ROOT, '-I', join(ROOT, 'native')],
    ...['-isystem', join(ROOT, nodeAddonApi), '-isystem', join(headers, 'include/node')],
    ...known('cflags', 'cflags_cc', 'ldflags'),
  ]
}

const stamp = ({ name }: Target) => join(OUT, `${name}.json`)

/** Whether the binary is the one that these sources made. */
function isFresh(target: Target, made: string): boolean {
  const binary = join(ROOT, binaryOf(target))
  if (!existsSync(binary) || !existsSync(stamp(target))) return false
  const stamped = JSON.parse(readFileSync(stamp(target), 'utf8')) as { made?: string; binary?: string }
  return stamped.made === made && stamped.binary === hashOf(binary)
}

/** Of everything that a binary comes from. */
function fingerprint({ name }: Compiler, command: readonly string[]): string {
  const hash = createHash('sha256').update(name).update(JSON.stringify(command).replaceAll(ROOT, ''))
  hash.update(require('node-addon-api/package.json').version)
  addFiles(hash, 'native')
  return hash.digest('hex')
}

function addFiles(hash: Hash, directory: string): void {
  const entries = readdirSync(join(ROOT, directory), { withFileTypes: true })
  for (const entry of entries.toSorted((one, other) => (one.name < other.name ? -1 : 1))) {
    const path = join(directory, entry.name)
    if (entry.isDirectory()) addFiles(hash, path)
    else hash.update(`\0${path}\0`).update(readFileSync(join(ROOT, path)))
  }
}

const hashOf = (file: string) => createHash('sha256').update(readFileSync(file)).digest('hex')
