import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { type HostTrees, writeHost } from '../fixtures/host.js'

/** The root of the package, wherever this test was compiled to. */
export const ROOT = dirname(createRequire(import.meta.url).resolve('vfio/package.json'))

// Plain JavaScript, which is not compiled and stays where it is.
const script = <T>(name: string) => import(join(ROOT, 'scripts', name)) as Promise<T>
const { fetchTools, toolsDirectory } = await script<typeof import('../../scripts/tools.mjs')>('tools.mjs')
export const { nodeLines, nodeProgram } = await script<typeof import('../../scripts/nodes.mjs')>('nodes.mjs')

export const manifest = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as {
  readonly version: string
  readonly os?: unknown
  readonly engines: { readonly node: string }
  readonly scripts: Readonly<Record<string, string>>
  readonly dependencies?: Readonly<Record<string, string>>
}

/** In milliseconds: whoever asks for the tarball first waits until every addon is built. */
export const PATIENCE = 900_000

/** The prebuilt addon of this machine. */
export const PREBUILD = `prebuilds/linux-${process.arch}/vfio.glibc.node`

export interface Run {
  readonly status: number | null
  readonly stdout: string
  readonly stderr: string
}

/** npm's own settings of the run that tests it must not reach the one that is tested. */
const OUTSIDE = Object.fromEntries(
  Object.entries(process.env).filter(([name]) => !/^(npm_|INIT_CWD$|NODE_OPTIONS$|VFIO_)/i.test(name)),
)

/** Runs a program to its end, as somebody would from a shell in `cwd`. */
export function run(
  cwd: string,
  [program = '', ...args]: readonly string[],
  environment: Readonly<Record<string, string>> = {},
): Run {
  const { status, stdout, stderr, error } = spawnSync(program, args, {
    cwd,
    encoding: 'utf8',
    maxBuffer: 1 << 28,
    env: { ...OUTSIDE, NO_COLOR: '1', ...environment },
  })
  if (error) throw error
  return { status, stdout, stderr }
}

/** The same, and it must succeed. */
export function succeed(...asked: Parameters<typeof run>): Run {
  const result = run(...asked)
  assert.equal(result.status, 0, `${asked[1].join(' ')}\n${result.stdout}${result.stderr}`)
  return result
}

let scratch: string | undefined

/** A directory for all that these tests write; each makes its own below it. */
export function scratchDirectory(name: string): string {
  scratch ??= mkdtempSync(join(tmpdir(), 'vfio-package-'))
  const directory = join(scratch, name)
  mkdirSync(directory, { recursive: true })
  return directory
}

after(function () {
  this.timeout(60_000)
  if (scratch !== undefined) rmSync(scratch, { recursive: true, force: true })
})

let packed: string | undefined

/** The tarball that would be published; made once. */
export function tarball(): string {
  packed ??= pack()
  return packed
}

function pack(): string {
  const destination = scratchDirectory('packed')
  succeed(ROOT, ['npm', 'pack', '--pack-destination', destination])
  const [name = '', ...others] = readdirSync(destination)
  assert.deepEqual(others, [])
  return join(destination, name)
}

let unpacked: string | undefined

/** What is in it, unpacked. */
export function contents(): string {
  if (unpacked === undefined) {
    const directory = scratchDirectory('contents')
    succeed(directory, ['tar', '-xzf', tarball(), '--strip-components=1'])
    unpacked = directory
  }
  return unpacked
}

/** The path of something that test/package/tools/ pins. */
export function tool(path: string): string {
  fetchTools('inherit')
  return join(toolsDirectory('package'), 'node_modules', path)
}

/** A module that test/package/tools/ pins, of a type that is not known here. */
export const requireTool = <T>(name: string): T => createRequire(join(tool('.'), 'any.js'))(name) as T

let programs: string | undefined

/** A PATH on which there are Node and a shell, and neither compiler nor make nor Python. */
export function barePath(): string {
  if (programs === undefined) {
    programs = scratchDirectory('programs')
    symlinkSync(process.execPath, join(programs, 'node'))
    for (const name of ['env', 'sh', 'sed', 'dirname', 'basename', 'uname', 'readlink']) {
      symlinkSync(
        execFileSync('sh', ['-c', `command -v ${name}`], { encoding: 'utf8' }).trim(),
        join(programs, name),
      )
    }
  }
  return programs
}

/** The registry that npm is set up to use. */
export const registry = () => succeed(ROOT, ['npm', 'config', 'get', 'registry']).stdout.trim()

/** Where npm's own program is, to be run by any Node. */
export const npmProgram = () => {
  const root = succeed(ROOT, ['npm', 'root', '--global']).stdout.trim()
  return join(root, 'npm/bin/npm-cli.js')
}

/** A project that wants to use the package. */
export function project(name: string, files: Readonly<Record<string, string>> = {}): string {
  const directory = scratchDirectory(name)
  const own = JSON.stringify({ name: 'user', version: '1.0.0', private: true, type: 'module' })
  for (const [path, text] of Object.entries({ 'package.json': own, ...files })) {
    mkdirSync(dirname(join(directory, path)), { recursive: true })
    writeFileSync(join(directory, path), text)
  }
  return directory
}

let installed: string | undefined

/** A project with the package installed by npm: for those who ask how it runs, not how it was installed. */
export function user(): string {
  if (installed === undefined) {
    const directory = project('user')
    succeed(directory, ['npm', 'install', '--prefer-offline', '--no-audit', '--no-fund', tarball()])
    installed = directory
  }
  return installed
}

let trees: HostTrees | undefined

/** A host to look at; one device of it is given away already. */
export function fixture(): HostTrees {
  trees ??= writeHost(scratchDirectory('host'), {
    devices: [
      { address: DEVICE, driver: 'vfio-pci', group: 7, resetMethod: 'flr' },
      { address: '0000:59:00.1', group: 8 },
    ],
  })
  return trees
}

export const DEVICE = '0000:59:00.0'

/**
 * What a user's program does: imports the package and looks at a host, which the addon reads. Prints the addresses, and
 * whether the addon is in memory, which no other way of reading could pretend.
 */
export const program = (imports = "import { Host } from 'vfio'") => `${imports}
import { readFileSync as readMaps } from 'node:fs'
const { devices } = new Host(JSON.parse(process.env.FIXTURE)).snapshot()
const addon = /vfio[^/]*\\.node$/m.test(readMaps('/proc/self/maps', 'utf8')) ? 'by the addon' : 'by something else'
console.log(devices.map(({ address }) => address).join(' '), addon)
`

export const SEEN = `${DEVICE} 0000:59:00.1 by the addon`

/** Runs that program. */
export const look = (
  cwd: string,
  command: readonly string[],
  environment: Readonly<Record<string, string>> = {},
) => run(cwd, command, { FIXTURE: JSON.stringify(fixture()), ...environment })

/** It saw what there is. */
export function sees(result: Run): void {
  assert.equal(result.stdout.trim(), SEEN, result.stderr)
  assert.equal(result.status, 0)
}

export const has = (path: string) => existsSync(path)
