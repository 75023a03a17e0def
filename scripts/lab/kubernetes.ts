import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { downloadPackages, downloadSource, privateApt } from '../apt.mjs'
import { builder } from './builder.js'
import { cacheDirectory, made } from './cache.js'
import { LabError, messageOf } from './errors.js'
import { findProgram } from './programs.js'
import { withProgress } from './progress.js'
import { unpack } from './unpack.js'

const run = promisify(execFile)

/** A text of the source that has to be there once, and what stands in its place. */
interface Change {
  readonly file: string
  readonly from: string
  readonly to: string
}

/** A program in Go that no distribution has. */
interface Recipe {
  /** Debian releases, where the compiler and the libraries come from. */
  readonly suites: readonly string[]
  /** The compiler's, and of libraries in Go; unpacked, and not installed. */
  readonly toolchain: readonly string[]
  /** The directory of the compiler in them. */
  readonly goroot: string
  /** Part of the source, from its root; all of it where it is left out. */
  readonly part?: string
  readonly changes: readonly Change[]
  /** Our own source, from the root of the project, where the program is not in the source. */
  readonly own?: string
  /** What is built, of the source. */
  readonly target: string
  readonly tags: readonly string[]
  /** Programs that it is used with: packages of the first suites, unpacked beside it. */
  readonly programs: readonly string[]
  /** For people who wait. */
  readonly takes: string
}

const BOOKWORM = ['bookworm', 'bookworm-updates', 'bookworm-security']

/** Where the source is found: Debian's later packages of it lack the kubelet. */
const SOURCE = { name: 'kubernetes', suites: BOOKWORM, root: 'k8s.io/kubernetes' }

/**
 * Up to 1.25 the kubelet has the path of the socket as the name of whom it calls (`:authority`), which the HTTP/2 of Node
 * refuses; since 1.26 it is this one, in the first of these places and, for plugins_registry, in the second.
 */
const AUTHORITY = ['cm/devicemanager/endpoint.go', 'pluginmanager/operationexecutor/operation_generator.go']

const RECIPES = {
  /** The last one of which Debian has the whole source. */
  kubelet: {
    suites: BOOKWORM,
    toolchain: ['golang-1.19-go', 'golang-1.19-src'],
    goroot: 'usr/lib/go-1.19',
    changes: AUTHORITY.map((file) => ({
      file: `pkg/kubelet/${file}`,
      from: 'grpc.DialContext(ctx, unixSocketPath, ',
      to: 'grpc.DialContext(ctx, unixSocketPath, grpc.WithAuthority("localhost"), ',
    })),
    target: 'cmd/kubelet',
    tags: ['providerless', 'dockerless'],
    programs: ['containerd', 'runc', 'libseccomp2'],
    takes: '3 minutes of one processor',
  },
  /** Calls plugins over the gRPC that newer kubelets have. */
  'go-kubelet': {
    suites: ['trixie'],
    toolchain: [
      ...['golang-1.24-go', 'golang-1.24-src', 'golang-google-grpc-dev', 'golang-google-genproto-dev'],
      ...['golang-google-protobuf-dev', 'golang-github-golang-protobuf-1-5-dev'],
      ...['golang-github-gogo-protobuf-dev', 'golang-golang-x-net-dev', 'golang-golang-x-sys-dev'],
      'golang-golang-x-text-dev',
    ],
    goroot: 'usr/lib/go-1.24',
    part: 'staging/src/k8s.io/kubelet/pkg/apis',
    changes: [],
    own: 'test/kubernetes/kubelet.go',
    target: 'cmd/go-kubelet',
    tags: [],
    programs: [],
    takes: 'a minute of one processor',
  },
} satisfies Record<string, Recipe>

/** What it is made of cannot be fetched here, or it is for other machines. */
export class NotToBeHad extends LabError {}

/** A kubelet: Kubernetes' own, or a program that calls plugins as it does. */
export type Kubelet = keyof typeof RECIPES

export const kubelets = Object.keys(RECIPES) as readonly Kubelet[]

const LIMIT_MINUTES = 60
/** So that what else the machine does comes first. */
const NICE = 19

const ownSource = (file: string) => fileURLToPath(new URL(`../../${file}`, import.meta.url))

/** What was built otherwise is another one. */
function entryOf(name: Kubelet): readonly [string, string] {
  const recipe: Recipe = RECIPES[name]
  const own = recipe.own === undefined ? '' : readFileSync(ownSource(recipe.own), 'utf8')
  const identity = createHash('sha256')
    .update(JSON.stringify([recipe, own]))
    .digest('hex')
  return ['kubernetes', `${name}-${identity.slice(0, 12)}`]
}

/**
 * What the cache has of a kubelet: a directory with the program, by its name, and those that it is used with below
 * `programs`; undefined where it was not built yet.
 */
export function builtKubelet(name: Kubelet): string | undefined {
  const directory = join(cacheDirectory(), ...entryOf(name))
  return existsSync(directory) ? directory : undefined
}

/** Builds a kubelet into the cache: once, and whole or not at all; what is there is not looked at again. */
export async function buildKubelet(
  name: Kubelet,
  say: (line: string) => void,
  signal?: AbortSignal,
): Promise<string> {
  const began = Date.now()
  let doing = 'waiting for another process that builds it'
  const begin = (what: string) => {
    doing = what
    say(`${name}: ${what}`)
  }
  const tell = (state: string) => {
    doing = state
  }
  try {
    return await withProgress(
      say,
      (seconds) => `${name}: ${doing} (${seconds} s)`,
      () =>
        made(entryOf(name), async (work) => {
          await build({ name, recipe: RECIPES[name], work, begin, tell, signal })
          say(`${name}: ready (${Math.round((Date.now() - began) / 1000)} s)`)
        }),
    )
  } catch (error) {
    signal?.throwIfAborted()
    if (error instanceof NotToBeHad) throw error
    throw new LabError(`${name} could not be built: ${messageOf(error)}`)
  }
}

interface Build {
  readonly name: Kubelet
  readonly recipe: Recipe
  /** Where the program is put. */
  readonly work: string
  readonly begin: (what: string) => void
  readonly tell: (state: string) => void
  readonly signal: AbortSignal | undefined
}

async function build({ name, recipe, work, begin, tell, signal }: Build): Promise<void> {
  if (process.arch !== 'x64')
    throw new NotToBeHad(`${name} is built for x86-64 alone, and this is ${process.arch}`)
  const scratch = join(work, 'scratch')
  const [toolchain, workspace] = [join(scratch, 'toolchain'), join(scratch, 'workspace')]
  const archive = await fetchAll(name, recipe, toolchain, join(work, 'programs'), begin).catch((error) => {
    throw new NotToBeHad(`what ${name} is built from cannot be fetched: ${messageOf(error)}`)
  })
  const source = join(workspace, 'src', SOURCE.root)
  await unpackSource(archive, source, recipe.part)
  for (const change of recipe.changes) apply(change, source)
  if (recipe.own !== undefined) {
    const directory = join(source, recipe.target)
    mkdirSync(directory, { recursive: true })
    copyFileSync(ownSource(recipe.own), join(directory, 'main.go'))
  }
  if (recipe.part !== undefined) vendor(workspace, source)
  begin(`building, once on this machine: ${recipe.takes}`)
  let built = 0
  const go = builder({
    log: join(cacheDirectory('builds'), `${name}.log`),
    environment: {
      ...{ PATH: process.env.PATH, HOME: scratch, LC_ALL: 'C' },
      ...{ GOROOT: join(toolchain, recipe.goroot), GO111MODULE: 'off', GOPROXY: 'off', GOTOOLCHAIN: 'local' },
      GOPATH: [workspace, join(toolchain, 'usr/share/gocode')].join(':'),
      // Kept while it is not whole, so that one which was stopped goes on from there.
      GOCACHE: cacheDirectory('builds', name),
      CGO_ENABLED: '0',
      // As many as one may expect.
      GOFLAGS: '-p=2',
    },
    directory: source,
    nice: NICE,
    minutes: LIMIT_MINUTES,
    signal,
  })
  await go(
    [
      join(toolchain, recipe.goroot, 'bin/go'),
      ...['build', '-v', '-trimpath', '-tags', recipe.tags.join(','), '-ldflags', '-s -w'],
      ...['-o', join(work, name), `./${recipe.target}`],
    ],
    (line) => {
      built++
      tell(`building, ${built} packages built, last ${line}`)
    },
  )
  tell('taking away what it was built with')
  await rm(scratch, { recursive: true })
  await rm(cacheDirectory('builds', name), { recursive: true })
}

/** Fetches what it is built from, and what it is used with; returns the archive of the source. */
async function fetchAll(
  name: Kubelet,
  { suites, toolchain, programs }: Recipe,
  toolchainRoot: string,
  programsRoot: string,
  begin: (what: string) => void,
): Promise<string> {
  begin('looking for the Debian packages of the compiler')
  const options = await privateApt(cacheDirectory('apt', name), suites)
  begin(`fetching ${[...toolchain, ...programs].join(' ')}`)
  await fetchPackages(options, toolchain, toolchainRoot)
  await fetchPackages(options, programs, programsRoot)
  begin(`fetching the source of ${SOURCE.name}`)
  // Once for all that is built of it.
  const source = await made(['kubernetes', 'source'], async (work) => {
    const withSources = await privateApt(
      cacheDirectory('apt', 'source-kubernetes'),
      SOURCE.suites,
      undefined,
      true,
    )
    await downloadSource(withSources, SOURCE.name, work)
  })
  const archive = readdirSync(source).find((file) => /[.]orig[.]tar[.][a-z0-9]+$/.test(file))
  if (archive === undefined)
    throw new Error(`the source package ${SOURCE.name} holds no archive of the source`)
  return join(source, archive)
}

async function fetchPackages(
  options: readonly string[],
  names: readonly string[],
  root: string,
): Promise<void> {
  if (names.length === 0) return
  const packages = join(root, 'packages')
  mkdirSync(packages, { recursive: true })
  await downloadPackages(options, names, packages)
  await unpack(packages, root)
  rmSync(packages, { recursive: true })
}

async function unpackSource(archive: string, directory: string, part: string | undefined): Promise<void> {
  mkdirSync(directory, { recursive: true })
  const parts = part === undefined ? [] : ['--wildcards', `*/${part}`]
  await run(findProgram('tar', 'tar'), [
    ...['-xf', archive, '-C', directory, '--strip-components=1', '--no-same-owner', ...parts],
  ])
}

function apply({ file, from, to }: Change, source: string): void {
  const path = join(source, file)
  const text = readFileSync(path, 'utf8')
  if (text.split(from).length !== 2) throw new Error(`${file} of ${SOURCE.name} is not what is changed here`)
  writeFileSync(path, text.replace(from, to))
}

/** Staged packages go by names of their own, which links in the source's vendor/ are for; a part of it has none. */
function vendor(workspace: string, source: string): void {
  const staged = join(source, 'staging/src/k8s.io')
  for (const name of readdirSync(staged)) {
    const link = join(workspace, 'src/k8s.io', name)
    mkdirSync(dirname(link), { recursive: true })
    symlinkSync(join(staged, name), link)
  }
}
