import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  closeSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { canInstall, howToInstall, installPackages, missingForKernels } from '../packages.mjs'
import { type Builder, builder } from './builder.js'
import { cacheDirectory, exclusively, made } from './cache.js'
import { LabError, messageOf } from './errors.js'
import { findProgram } from './programs.js'
import { withProgress } from './progress.js'
import type { KernelSource } from './source.js'

const run = promisify(execFile)

/** A kernel that no distribution has. */
interface Recipe {
  /** The series of Debian's whose source it is built from. */
  readonly series: string
  /** Files of configs/, each of which goes before those ahead of it. */
  readonly configs: readonly string[]
  /** Directories of the source's tools/testing/selftests/, whose programs go to selftests/ beside the lists of modules. */
  readonly selftests: readonly string[]
}

const RECIPES: Readonly<Record<string, Recipe>> = {
  iommufd: { series: '7.3', configs: ['iommufd'], selftests: ['vfio'] },
  'iommufd-container': { series: '7.3', configs: ['iommufd', 'iommufd-container'], selftests: ['vfio'] },
}

/** The kernels that are built on this machine, by name. */
export const builtKernels: readonly string[] = Object.keys(RECIPES)

/** The series of the source, or undefined where no kernel of this name is built. */
export const seriesOf = (name: string) => (Object.hasOwn(RECIPES, name) ? RECIPES[name]?.series : undefined)

/** What a build left: the image, and the directory that holds `modules.dep`. */
export interface Built {
  readonly image: string
  readonly modules: string
}

/** Two cores need ten minutes; the rest is for a busy machine. */
const LIMIT_MINUTES = 150
/** So that what else the machine does comes first. */
const NICE = 5

const configFile = (name: string) => fileURLToPath(new URL(`configs/${name}.config`, import.meta.url))

/** What a kernel is asked to be; its release ends in its name. */
function configuration(name: string, { configs }: Recipe): string {
  const parts = configs.map((each) => readFileSync(configFile(each), 'utf8'))
  return [...parts, `CONFIG_LOCALVERSION="-${name}"\n`].join('')
}

/** What a kernel comes from, apart from the source: what was built otherwise is another one. */
function identityOf(name: string, recipe: Recipe): string {
  const text = JSON.stringify([configuration(name, recipe), recipe.selftests])
  return createHash('sha256').update(text).digest('hex').slice(0, 12)
}

function recipeOf(name: string): Recipe {
  const recipe = RECIPES[name]
  if (recipe === undefined) throw new LabError(`there is no kernel ${name} to build`)
  return recipe
}

/** What the cache has of a kernel in its present configuration, of the newest source. */
export function builtInCache(name: string): Built | undefined {
  const identity = identityOf(name, recipeOf(name))
  const [newest] = readdirSync(cacheDirectory('kernels'))
    .filter((entry) => entry.startsWith(`${name}-`) && entry.endsWith(`-${identity}`))
    .sort((left, right) => right.localeCompare(left, 'en', { numeric: true }))
  return newest === undefined ? undefined : builtIn(join(cacheDirectory('kernels'), newest))
}

function builtIn(directory: string): Built {
  const release = readFileSync(join(directory, 'release'), 'utf8').trim()
  return { image: join(directory, 'vmlinuz'), modules: join(directory, 'lib/modules', release) }
}

/** Builds a kernel into the cache: once for each source and configuration, and whole or not at all. */
export async function buildKernel(
  name: string,
  source: KernelSource,
  say: (line: string) => void,
  signal?: AbortSignal,
): Promise<Built> {
  const recipe = recipeOf(name)
  const title = `kernel ${name}`
  const began = Date.now()
  let doing = 'waiting for another process that builds one'
  const begin = (what: string) => {
    doing = what
    say(`${title}: ${what}`)
  }
  const work = async (directory: string) => {
    // The kernels of one source are built in one tree, where the second one is made of what is there.
    await exclusively(`build-${source.version}`, async () => {
      await installTools(begin)
      begin(
        `building Linux ${source.version}, once on this machine: from nothing, 20 minutes of one processor`,
      )
      const tell = (state: string) => {
        doing = state
      }
      await build({ name, recipe, source, directory, signal, tell })
    })
    say(`${title}: ready (${Math.round((Date.now() - began) / 1000)} s)`)
  }
  try {
    const directory = await withProgress(
      say,
      (seconds) => `${title}: ${doing} (${seconds} s)`,
      () => made(['kernels', `${name}-${source.version}-${identityOf(name, recipe)}`], work),
    )
    return builtIn(directory)
  } catch (error) {
    signal?.throwIfAborted()
    throw new LabError(`${title} could not be built: ${messageOf(error)}`)
  }
}

async function installTools(begin: (what: string) => void): Promise<void> {
  const missing = missingForKernels()
  if (missing.length === 0) return
  if (!canInstall()) throw new Error(howToInstall(missing))
  begin(`installing ${missing.map(({ debian }) => debian).join(' ')}`)
  const file = join(cacheDirectory('builds'), 'packages.log')
  const log = openSync(file, 'w')
  try {
    await installPackages(missing, cacheDirectory(), log)
  } catch (error) {
    throw new Error(`${messageOf(error)}; what it said is in ${file}`)
  } finally {
    closeSync(log)
  }
  const still = missingForKernels()
  if (still.length > 0) throw new Error(howToInstall(still))
}

interface Build {
  readonly name: string
  readonly recipe: Recipe
  readonly source: KernelSource
  /** Where the kernel is put. */
  readonly directory: string
  readonly signal: AbortSignal | undefined
  readonly tell: (state: string) => void
}

async function build({ name, recipe, source, directory, signal, tell }: Build): Promise<void> {
  const objects = cacheDirectory('builds', source.version)
  const log = join(cacheDirectory('builds'), `${source.version}.log`)
  const make = builder({ log, environment: environment(), nice: NICE, minutes: LIMIT_MINUTES, signal })
  const kbuild: Builder = (args, line) =>
    make(['make', '-C', source.directory, `O=${objects}`, 'ARCH=x86', ...args], line)
  let files = 0
  const count = (line: string) => {
    const [, what] = MADE.exec(line) ?? []
    if (what === undefined) return
    files++
    tell(`building, ${files} files made, last ${what}`)
  }
  const resumed = existsSync(join(objects, '.config'))
  await configure(configuration(name, recipe), source, objects, kbuild)
  try {
    await kbuild([PARALLEL, 'bzImage'], count)
  } catch (error) {
    // Stopped, it can go on from here; what fails on top of something older may fail because of that.
    if (resumed && !signal?.aborted) rmSync(objects, { recursive: true, force: true })
    throw error
  }
  const release = install(objects, directory)
  if (recipe.selftests.length > 0) await kbuild(['headers'], count)
  for (const each of recipe.selftests) {
    const sources = join(source.directory, 'tools/testing/selftests', each)
    const output = cacheDirectory('builds', `${source.version}-selftests`, each)
    const headers = `-isystem ${objects}/usr/include`
    await make(['make', '-C', sources, PARALLEL, `OUTPUT=${output}`, `KHDR_INCLUDES=${headers}`])
    copyPrograms([output, join(sources, 'scripts')], join(directory, 'lib/modules', release, 'selftests'))
  }
  await run(findProgram('depmod', 'kmod'), ['-b', directory, release])
  writeFileSync(join(directory, 'release'), `${release}\n`)
}

/** Copies what a build left of the kernel itself; returns its release. */
function install(objects: string, directory: string): string {
  const release = readFileSync(join(objects, 'include/config/kernel.release'), 'utf8').trim()
  const modules = join(directory, 'lib/modules', release)
  mkdirSync(modules, { recursive: true })
  copyFileSync(join(objects, 'arch/x86/boot/bzImage'), join(directory, 'vmlinuz'))
  copyFileSync(join(objects, '.config'), join(directory, 'config'))
  for (const list of ['modules.builtin', 'modules.builtin.modinfo']) {
    copyFileSync(join(objects, list), join(modules, list))
  }
  // Nothing is a module, and depmod wants to hear so.
  writeFileSync(join(modules, 'modules.order'), '')
  return release
}

function copyPrograms(from: readonly string[], to: string): void {
  mkdirSync(to, { recursive: true })
  for (const directory of from) {
    for (const name of readdirSync(directory).filter((file) => /(_test|\.sh)$/.test(file))) {
      copyFileSync(join(directory, name), join(to, name))
    }
  }
}

/** `  CC      drivers/pci/probe.o` */
const MADE = /^ {2}[A-Z]\S* +(\S+)$/

const PARALLEL = `-j${availableParallelism()}`

/** The smallest kernel there is, and what is asked for; an option that the source does not know is an error. */
async function configure(
  config: string,
  source: KernelSource,
  objects: string,
  kbuild: Builder,
): Promise<void> {
  const wanted = join(objects, 'wanted.config')
  writeFileSync(wanted, config)
  await kbuild(['tinyconfig'])
  await run(
    join(source.directory, 'scripts/kconfig/merge_config.sh'),
    ['-m', '-O', objects, join(objects, '.config'), wanted],
    { cwd: source.directory, env: environment(), maxBuffer: 1 << 26 },
  )
  await kbuild(['olddefconfig'])
  const got = new Map(optionsOf(readFileSync(join(objects, '.config'), 'utf8')))
  const refused = [...new Map(optionsOf(config))].filter(([name, value]) => (got.get(name) ?? 'n') !== value)
  if (refused.length > 0) {
    throw new Error(
      `Linux ${source.version} does not take ${refused.map((option) => option.join('=')).join(', ')}`,
    )
  }
}

const optionsOf = (text: string) =>
  [...text.matchAll(/^(CONFIG_\w+)=(.*)$/gm)].map(([, name = '', value = '']) => [name, value] as const)

/** Nothing of the caller's: make hands options down by its environment. */
const environment = () => ({
  PATH: process.env.PATH,
  HOME: process.env.HOME,
  LC_ALL: 'C',
  KBUILD_BUILD_USER: 'vfio',
  KBUILD_BUILD_HOST: 'lab',
})
