// Makes a fresh clone ready: system packages, npm packages, the addon and the compiled TypeScript.
// Plain JavaScript without dependencies, because it runs before there are any.
import { spawnSync } from 'node:child_process'
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { homedir } from 'node:os'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { buildEnvironment, headersCache, headersDirectory, headersPackage } from './headers.mjs'
import { fetchNodes, nodeLines, nodeProgram } from './nodes.mjs'
import { canInstall, howToInstall, installPackages, missingPackages } from './packages.mjs'
import { fetchTools, hasTools } from './tools.mjs'

const ROOT = fileURLToPath(new URL('..', import.meta.url))
const LOG = join(ROOT, 'build', 'setup.log')
const lab = process.argv.includes('--lab')
const forPackage = process.argv.includes('--package')
const forSoak = process.argv.includes('--soak')
/** What does not compile is an error, also where there is an older one. */
const strict = process.argv.includes('--strict')

/** The C programs of the lab's tests: source, output, flags. */
const PROGRAMS = [
  ['test/lab/oracle.c', `build/test/${process.arch}/oracle`],
  ['test/lab/uevent.c', `build/test/${process.arch}/uevent`],
  ['test/lab/kvm-vm.c', 'build/test/kvm-vm.so', '-shared', '-fPIC'],
]

/** What is to be made, in order; each is made only when `stale` says so. */
const STEPS = [
  {
    name: () =>
      `installing ${packages()
        .map(({ debian }) => debian)
        .join(' ')}`,
    stale: () => packages().length > 0,
    async make(log) {
      await installPackages(
        packages(),
        join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'vfio-lab'),
        log,
      )
      found = undefined
      if (packages().length > 0) throw new Error(howToInstall(packages()))
    },
  },
  {
    name: () => 'npm ci',
    stale: () => newest(['package-lock.json']) > time('node_modules/.package-lock.json'),
    make: (log) => run('npm', ['ci', '--include=dev', '--no-audit', '--no-fund', '--loglevel=error'], log),
  },
  {
    name: () => "fetching Node's headers",
    stale: () => headersDirectory() === undefined,
    // When this fails, node-gyp still tries its own source.
    make: (log) =>
      spawnSync(
        'npm',
        ['install', '--no-save', '--no-audit', '--no-fund', '--prefix', headersCache, headersPackage],
        {
          cwd: ROOT,
          stdio: ['ignore', log, log],
        },
      ),
  },
  {
    name: () => `fetching Node ${nodeLines.filter((line) => nodeProgram(line) === undefined).join(', ')}`,
    stale: () => lab && nodeLines.some((line) => nodeProgram(line) === undefined),
    make: (log) => fetchNodes(log),
  },
  {
    name: () => 'fetching package managers, runtimes, bundlers, helm and kubectl',
    stale: () => forPackage && !hasTools(),
    make: (log) => fetchTools(log),
  },
  {
    name: () => 'building the native addon',
    stale: () => isOlder('addon', ['native', 'binding.gyp'], 'build/Release/vfio.node'),
    // Not `rebuild`, which would take away everything below build/.
    make: () => stamped('addon', () => compile('node', ['native/build.mjs'], 'build/Release/vfio.node')),
  },
  {
    name: () => 'compiling lib/',
    stale: () =>
      isOlder(
        'dist',
        [
          'lib',
          'tsconfig.json',
          'scripts/bundle.mjs',
          'scripts/parts.mjs',
          'scripts/schemas.mjs',
          'scripts/man.mjs',
        ],
        'dist/index.js',
      ),
    make: () =>
      stamped('dist', () => compile('node', ['scripts/bundle.mjs', 'scripts/schemas.mjs'], 'dist/index.js')),
  },
  {
    name: () => 'compiling kubernetes/',
    stale: () =>
      isOlder('kubernetes', ['kubernetes/src', 'kubernetes/tsconfig.json', 'lib'], 'kubernetes/dist/main.js'),
    make: () =>
      stamped('kubernetes', () => {
        const args = ['-p', 'kubernetes/tsconfig.json', '--pretty', 'false']
        const compiled = compile('tsc', args, 'kubernetes/dist/main.js')
        prune('kubernetes/dist', 'kubernetes/src')
        return compiled
      }),
  },
  {
    name: () => 'compiling test/',
    stale: () =>
      isOlder('tests', ['test', 'scripts', 'examples', 'lib', 'kubernetes/src', 'tsconfig.json'], 'build/ts'),
    make: () =>
      stamped('tests', () => {
        const compiled = compile('tsc', ['-p', 'test/tsconfig.json', '--pretty', 'false'], 'build/ts')
        prune('build/ts/test', 'test')
        return compiled
      }),
  },
  // Here and not in the guests that run them, where a compiler takes seconds.
  ...PROGRAMS.map(([source, output, ...flags]) => ({
    name: () => `compiling ${source}`,
    stale: () => lab && isOlder(output.replaceAll('/', '-'), [source], output),
    make: () =>
      stamped(output.replaceAll('/', '-'), () => {
        mkdirSync(join(ROOT, dirname(output)), { recursive: true })
        const warnings = ['-Wall', '-Wextra', '-Werror']
        return compile('cc', [...warnings, '-O1', ...flags, '-o', output, source], output)
      }),
  })),
]

let found
function packages() {
  found ??= missingPackages(lab, forSoak)
  return found
}

async function main() {
  if (Number(process.versions.node.split('.')[0]) < 20)
    throw new Error(`Node 20.19 or newer is needed, not ${process.version}`)
  if (packages().length > 0 && !canInstall()) throw new Error(howToInstall(packages()))
  if (!STEPS.some((step) => step.stale())) return
  mkdirSync(join(ROOT, 'build'), { recursive: true })
  if (process.env.VFIO_SETUP_LOCKED !== '1') return underLock()
  for (const step of STEPS) {
    if (step.stale()) await perform(step)
  }
}

/** Runs this program again where no other set-up of this checkout runs at the same time. */
function underLock() {
  const args = [join(ROOT, 'build', 'setup.lock'), process.execPath, ...process.argv.slice(1)]
  const { status, error } = spawnSync('flock', args, {
    stdio: 'inherit',
    env: { ...process.env, VFIO_SETUP_LOCKED: '1' },
  })
  if (error) throw new Error('flock is missing; install util-linux')
  process.exitCode = status ?? 1
}

async function perform(step) {
  const began = Date.now()
  // To standard error, because the output of `npm run lab -- COMMAND` belongs to COMMAND.
  process.stderr.write(`setup: ${step.name()} … `)
  const log = openSync(LOG, 'w')
  try {
    await step.make(log)
  } catch (error) {
    process.stderr.write('failed\n')
    const said = readFileSync(LOG, 'utf8').trimEnd().split('\n').slice(-40).join('\n')
    if (said !== '') process.stderr.write(`${said}\n`)
    throw error
  } finally {
    closeSync(log)
  }
  process.stderr.write(`${((Date.now() - began) / 1000).toFixed(1)} s\n`)
}

function run(program, args, log) {
  const { status, error } = spawnSync(program, args, {
    cwd: ROOT,
    stdio: ['ignore', log, log],
    env: environment(),
  })
  if (error) throw new Error(`${program} could not be started: ${error.message}`)
  if (status !== 0)
    throw new Error(
      `\`${program} ${args.join(' ')}\` failed; its whole output is in ${relative(process.cwd(), LOG)}`,
    )
}

/**
 * Compiles, and goes on with what there is when that fails: the lab has its uses beside half-written code, and
 * `npm test` fails on the errors shown here.
 */
function compile(program, args, output) {
  const { status, stdout, stderr, error } = spawnSync(program, args, {
    cwd: ROOT,
    env: environment(),
    encoding: 'utf8',
  })
  if (error) throw new Error(`${program} could not be started: ${error.message}`)
  if (status === 0) return true
  const said = `${stdout}${stderr}`.trimEnd()
  if (strict || time(output) === 0) throw new Error(`\`${program} ${args.join(' ')}\` failed:\n${said}`)
  process.stderr.write(`\n${said}\nsetup: went on after these errors … `)
  return false
}

/** The environment of the programs that npm installed here. */
function environment() {
  return { ...buildEnvironment(), PATH: `${join(ROOT, 'node_modules/.bin')}:${process.env.PATH}` }
}

const stamp = (name) => join('build', 'stamps', name)

/** Unless `make` says false: marks what was made with the time at which making it began, so that a change meanwhile is seen. */
function stamped(name, make) {
  const began = Date.now() / 1000
  if (make() === false) return
  mkdirSync(join(ROOT, 'build', 'stamps'), { recursive: true })
  const file = join(ROOT, stamp(name))
  writeFileSync(file, '')
  utimesSync(file, began, began)
}

function isOlder(name, sources, output) {
  return time(output) === 0 || newest([...sources, 'package-lock.json']) > time(stamp(name))
}

function time(file) {
  return statSync(join(ROOT, file), { throwIfNoEntry: false })?.mtimeMs ?? 0
}

/** The latest change below these files and directories; a directory counts too, because a removal changes it. */
function newest(files) {
  return Math.max(
    0,
    ...files.map((file) => {
      const stat = statSync(join(ROOT, file), { throwIfNoEntry: false })
      if (stat === undefined) return 0
      if (!stat.isDirectory()) return stat.mtimeMs
      const inside = readdirSync(join(ROOT, file)).filter(
        // The last is filled by packing, for those who have no checkout.
        (name) => !['node_modules', 'build', 'node-addon-api'].includes(name),
      )
      return Math.max(stat.mtimeMs, newest(inside.map((name) => join(file, name))))
    }),
  )
}

/** Takes away what was compiled from sources that are no longer there. */
function prune(output, source) {
  const directory = join(ROOT, output)
  if (!existsSync(directory)) return
  for (const entry of readdirSync(directory, { recursive: true })) {
    const match = /^(.*?)(\.d)?\.[cm]?[jt]s(\.map)?$/.exec(entry)
    if (match && !existsSync(join(ROOT, source, `${match[1]}.ts`))) rmSync(join(directory, entry))
  }
}

try {
  await main()
} catch (error) {
  console.error(`setup: ${error.message}`)
  if (process.env.VFIO_DEBUG === '1') console.error(error.stack)
  process.exitCode = 1
}
