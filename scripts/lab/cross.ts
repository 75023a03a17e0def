import { execFile } from 'node:child_process'
import { mkdirSync, renameSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { build as bundle } from 'esbuild'
import { buildAll } from '../prebuild/build.js'
import { zig, zigEnvironment } from '../prebuild/compiler.js'
import { type Target, targets } from '../prebuild/targets.js'
import { ROOT } from '../test/steps.js'
import { exclusively } from './cache.js'
import { LabError, messageOf } from './errors.js'
import type { LabHost } from './hosts.js'
import { onPath } from './programs.js'

const run = promisify(execFile)

/** What asks the kernel beside the library, in the tests (test/lab/oracle.ts). */
const SOURCE = 'test/lab/oracle.c'
/** Of the root file system (root.ts). */
const GLIBC = '2.36'

/** Where the guest finds the runner of its tests: the Node of s390x is too old to load mocha as it comes. */
export const runnerFor = ({ processor }: LabHost) => join(ROOT, 'build/test', processor, 'suite.mjs')

/** By the processor: guests that start side by side must not compile over each other. */
const compiled = new Map<string, Promise<void>>()

/** Makes for the processor of a host what the guest is to find in this checkout: the addon, and what runs and judges tests. */
export function compileFor(host: LabHost, say: (line: string) => void): Promise<void> {
  const begun =
    compiled.get(host.processor) ?? exclusively(`compile-${host.processor}`, () => compileAll(host, say))
  compiled.set(host.processor, begun)
  return begun
}

async function compileAll(host: LabHost, say: (line: string) => void): Promise<void> {
  const target = targets.find(({ arch, libc }) => arch === host.processor && libc === 'glibc')
  if (target === undefined) throw new LabError(`nothing is compiled for ${host.processor}`)
  try {
    const [failure] = await buildAll([target], say)
    if (failure !== undefined) throw new Error(failure)
    await compileOracle(target, say)
    await bundleRunner(host)
  } catch (error) {
    throw new LabError(`what the guest is to run could not be compiled: ${messageOf(error)}`)
  }
}

/** Mocha and what runs it in one file. */
async function bundleRunner(host: LabHost): Promise<void> {
  await bundle({
    absWorkingDir: ROOT,
    entryPoints: ['scripts/test/suite.ts'],
    outfile: runnerFor(host),
    bundle: true,
    platform: 'node',
    format: 'esm',
    // What mocha requires is in the bundle, but for Node's own modules.
    banner: {
      js: "import { createRequire as requireOf } from 'node:module'; const require = requireOf(import.meta.url)",
    },
    logLevel: 'silent',
  })
}

async function compileOracle(target: Target, say: (line: string) => void): Promise<void> {
  const program = join(ROOT, 'build/test', target.arch, 'oracle')
  const made = statSync(program, { throwIfNoEntry: false })?.mtimeMs ?? 0
  if (made > statSync(join(ROOT, SOURCE)).mtimeMs) return
  mkdirSync(dirname(program), { recursive: true })
  const scratch = `${program}.${process.pid}`
  const [compiler = '', ...args] = await compilerOf(target, say)
  await run(compiler, [...args, '-Wall', '-Wextra', '-Werror', '-O1', '-o', scratch, SOURCE], {
    cwd: ROOT,
    env: zigEnvironment(),
  })
  renameSync(scratch, program)
  say(`${SOURCE}: compiled for ${target.arch}`)
}

async function compilerOf({ processor }: Target, say: (line: string) => void): Promise<string[]> {
  const installed = onPath(`${processor}-linux-gnu-gcc`)
  return installed === undefined
    ? [await zig(say), 'cc', '-target', `${processor}-linux-gnu.${GLIBC}`]
    : [installed]
}
