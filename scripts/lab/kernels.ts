import { execFile } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { downloadPackages, packageNames, privateApt } from '../apt.mjs'
import { buildKernel, builtInCache, builtKernels, seriesOf } from './build.js'
import { cacheDirectory, exclusively } from './cache.js'
import { LabError, messageOf } from './errors.js'
import type { LabHost } from './hosts.js'
import { kernelSource } from './source.js'

const run = promisify(execFile)

/** A kernel that the lab can boot. */
export interface Kernel {
  /** What a person calls it: a series such as `6.12`, or the path of the image. */
  readonly name: string
  readonly image: string
  /** The directory that holds `modules.dep`; null where everything is built in. */
  readonly modules: string | null
}

/** The Debian suites that carry each series, for every processor, newest series first. */
const SERIES: Readonly<Record<string, readonly string[]>> = {
  '7.3': ['trixie-backports'],
  '6.18': ['trixie-backports'],
  '6.12': ['bookworm-backports'],
  '6.1': ['bookworm', 'bookworm-security'],
  '5.10': ['bullseye', 'bullseye-security'],
}

/** The series that the lab knows by name, oldest first. */
export const kernelSeries: readonly string[] = Object.keys(SERIES).reverse()

/** All kernels that the lab knows by name. */
export const kernelNames: readonly string[] = [...kernelSeries, ...builtKernels]

/** Finds the kernel of a host that `--kernel` names, fetching or building it when it is a known one that is not in the cache. */
export async function findKernel(
  host: LabHost,
  name: string | undefined,
  say: (line: string) => void,
  signal?: AbortSignal,
): Promise<Kernel> {
  if (name === undefined) return newestKernel(host, say)
  const source = seriesOf(name)
  if (source !== undefined) return builtKernel(host, name, source, say, signal)
  return Object.hasOwn(SERIES, name) ? ofSeries(host, name, say) : kernelAt(name)
}

/** Why a kernel by name is not to be had without minutes of building it; null where it is. */
export const awaitsBuild = (name: string): string | null =>
  seriesOf(name) === undefined || builtInCache(name) !== undefined
    ? null
    : `the kernel ${name} takes 20 minutes of a processor to build, and is not in the cache: "npm run lab -- --kernel ${name} -- true" puts it there`

async function builtKernel(
  host: LabHost,
  name: string,
  series: string,
  say: (line: string) => void,
  signal: AbortSignal | undefined,
): Promise<Kernel> {
  if (host.processor !== 'x64') {
    throw new LabError(`the kernel ${name} is built for x86-64 alone, and the host ${host.name} is another`)
  }
  const built =
    builtInCache(name) ??
    (await buildKernel(name, await kernelSource(series, SERIES[series] ?? [], say), say, signal))
  return { name, ...built }
}

const ofSeries = async (host: LabHost, series: string, say: (line: string) => void) =>
  cached(host, series) ?? (await fetchKernel(host, series, SERIES[series] ?? [], say))

async function newestKernel(host: LabHost, say: (line: string) => void): Promise<Kernel> {
  const refusals: string[] = []
  for (const series of host.kernels.toReversed()) {
    try {
      return await ofSeries(host, series, say)
    } catch (error) {
      refusals.push(`${series}: ${messageOf(error)}`)
    }
  }
  throw new LabError(
    `no kernel could be fetched; name one with --kernel IMAGE,MODULES-DIR\n  ${refusals.join('\n  ')}`,
  )
}

function kernelAt(name: string): Kernel {
  const [path = '', directory] = name.split(',', 2)
  const image = resolve(path)
  if (!existsSync(image)) {
    const known = kernelNames.join(', ')
    throw new LabError(
      `--kernel ${name}: there is no file ${image}; give one of ${known}, or IMAGE[,MODULES-DIR]`,
    )
  }
  if (!statSync(image).isFile()) throw new LabError(`--kernel ${name}: ${image} is not a kernel image`)
  return { name: path, image, modules: directory === undefined ? null : modulesAt(resolve(directory)) }
}

/** Accepts both `…/lib/modules/RELEASE` and the root above `lib/modules` that INSTALL_MOD_PATH makes. */
function modulesAt(directory: string): string {
  const below = join(directory, 'lib/modules')
  const releases = existsSync(below) ? readdirSync(below) : []
  const candidates = [directory, ...releases.map((release) => join(below, release))]
  const found = candidates.find((candidate) => existsSync(join(candidate, 'modules.dep')))
  if (found === undefined) {
    throw new LabError(
      `${directory} has no modules.dep; run \`depmod -b BASE RELEASE\` for BASE/lib/modules/RELEASE`,
    )
  }
  return found
}

/** What a series of one host is called in the cache. */
const nameOf = ({ flavour }: LabHost, series: string) =>
  flavour === 'amd64' ? series : `${series}-${flavour}`

const kernelDirectory = (host: LabHost, series: string) =>
  join(cacheDirectory('kernels'), nameOf(host, series))

function cached(host: LabHost, series: string): Kernel | undefined {
  const directory = kernelDirectory(host, series)
  const marker = join(directory, 'release')
  if (!existsSync(marker)) return undefined
  const release = readFileSync(marker, 'utf8').trim()
  const modules = join(directory, 'lib/modules', release)
  const image = imageIn(directory, release)
  return image === undefined ? undefined : { name: series, image, modules }
}

/** From Linux 7.0 on Debian has it beside the modules. */
const imageIn = (root: string, release: string) =>
  [join(root, 'boot', `vmlinuz-${release}`), join(root, 'lib/modules', release, 'vmlinuz')].find(existsSync)

async function fetchKernel(
  host: LabHost,
  series: string,
  suites: readonly string[],
  say: (line: string) => void,
): Promise<Kernel> {
  const name = nameOf(host, series)
  return exclusively(`kernel-${name}`, async () => {
    const already = cached(host, series)
    if (already !== undefined) return already
    const work = await mkdtemp(join(cacheDirectory('kernels'), `.${name}-`))
    try {
      const began = Date.now()
      const release = await unpackPackages(host, series, suites, work, say)
      await run('depmod', ['-b', work, release])
      await writeFile(join(work, 'release'), `${release}\n`)
      await rename(work, kernelDirectory(host, series))
      say(`kernel ${name}: ${release} ready (${((Date.now() - began) / 1000).toFixed(1)} s)`)
    } catch (error) {
      await rm(work, { recursive: true, force: true })
      throw new LabError(`kernel ${name} could not be fetched: ${messageOf(error)}`)
    }
    const fetched = cached(host, series)
    if (fetched === undefined) throw new LabError(`the package of kernel ${name} holds no kernel`)
    return fetched
  })
}

/** Downloads the newest packages of a series and unpacks them below `work`; returns the kernel's release. */
async function unpackPackages(
  host: LabHost,
  series: string,
  suites: readonly string[],
  work: string,
  say: (line: string) => void,
): Promise<string> {
  const name = nameOf(host, series)
  say(`kernel ${name}: looking for its Debian package`)
  const options = await privateApt(cacheDirectory('apt', `kernel-${name}`), suites, host.architecture)
  const pattern = `^linux-image-${literally(series)}[.][0-9][^ ]*-${host.flavour}$`
  const names = (await packageNames(options, pattern)).filter((each) => !/-(rt|cloud)-/.test(each))
  const newest = names.sort(byNumbers).at(-1)
  if (newest === undefined) throw new Error(`no package linux-image-${series}.* in ${suites.join(', ')}`)
  const release = newest.slice('linux-image-'.length)
  // From Linux 7.0 on the image is a package without files, and what it had is in several.
  const parts = await packageNames(options, `^linux-(image|base|binary|modules)-${literally(release)}$`)
  say(`kernel ${name}: downloading ${newest}`)
  await downloadPackages(options, parts, work)
  for (const archive of readdirSync(work).filter((file) => file.endsWith('.deb'))) {
    await run('dpkg-deb', ['-x', join(work, archive), work])
    await rm(join(work, archive))
  }
  // Some unpack into /usr, which is one with the root where they are installed; depmod looks below lib/modules.
  const merged = join(work, 'usr/lib/modules')
  if (existsSync(merged)) {
    await mkdir(join(work, 'lib'), { recursive: true })
    await rename(merged, join(work, 'lib/modules'))
  }
  if (imageIn(work, release) === undefined) throw new Error(`${parts.join(', ')} hold no kernel image`)
  return release
}

/** A text that stands for itself in a regular expression of apt. */
const literally = (text: string) => text.replace(/[.+]/g, '[$&]')

/** Orders names by the numbers in them, so that 6.12.9 comes before 6.12.10. */
function byNumbers(left: string, right: string): number {
  return left.localeCompare(right, 'en', { numeric: true })
}
