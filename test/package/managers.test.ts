import assert from 'node:assert/strict'
import { symlinkSync } from 'node:fs'
import { join } from 'node:path'
import {
  barePath,
  fixture,
  look,
  manifest,
  npmProgram,
  PATIENCE,
  program,
  project,
  registry,
  run,
  scratchDirectory,
  sees,
  succeed,
  tarball,
  tool,
} from './support.js'

/** One package manager: how it is told where packages come from, how it installs, and how it runs things. */
interface Manager {
  readonly name: string
  readonly files: () => Readonly<Record<string, string>>
  readonly install: (directory: string) => readonly string[]
  /** What stands before `node …` and `vfio …`. */
  readonly runs?: () => readonly string[]
}

const npmrc = () => ({ '.npmrc': `registry=${registry()}\n` })
const yarnrc = (linker: string) => () => ({
  // Where its project begins.
  'yarn.lock': '',
  '.yarnrc.yml': [
    `nodeLinker: ${linker}`,
    `npmRegistryServer: ${JSON.stringify(registry())}`,
    `unsafeHttpWhitelist: [${JSON.stringify(new URL(registry()).hostname)}]`,
    'enableScripts: false',
    'enableTelemetry: false',
    'enableGlobalCache: false',
    '',
  ].join('\n'),
})

const npm = () => [process.execPath, npmProgram()]
const berry = () => [process.execPath, tool('@yarnpkg/cli-dist/bin/yarn.js')]
const pnpm = (program: () => readonly string[]) => (directory: string) => [
  ...[...program(), 'add', '--ignore-scripts', '--store-dir', join(directory, 'store'), tarball()],
]
const quiet = ['--no-audit', '--no-fund', '--ignore-scripts']

const MANAGERS: readonly Manager[] = [
  {
    name: 'npm',
    files: npmrc,
    install: () => [...npm(), 'install', ...quiet, '--prefer-offline', tarball()],
  },
  { name: 'pnpm 10', files: npmrc, install: pnpm(() => [process.execPath, tool('pnpm/bin/pnpm.cjs')]) },
  { name: 'pnpm 12', files: npmrc, install: pnpm(() => [tool(`@pnpm/exe.linux-${process.arch}/pnpm`)]) },
  {
    name: 'yarn 1',
    files: npmrc,
    install: (directory) => [
      ...[process.execPath, tool('yarn/bin/yarn.js'), 'add', '--ignore-scripts', '--non-interactive'],
      ...['--cache-folder', join(directory, 'cache'), `file:${tarball()}`],
    ],
  },
  {
    name: 'yarn berry with node_modules',
    files: yarnrc('node-modules'),
    install: () => [...berry(), 'add', `vfio@file:${tarball()}`],
  },
  {
    name: "yarn berry with Plug'n'Play",
    files: yarnrc('pnp'),
    install: () => [...berry(), 'add', `vfio@file:${tarball()}`],
    runs: berry,
  },
]

describe('the package, installed without scripts and without a compiler', function () {
  this.timeout(PATIENCE)

  const bare = () => ({ PATH: barePath() })

  it('has no compiler to find', () => {
    for (const name of ['cc', 'g++', 'clang++', 'make', 'python3']) {
      assert.notEqual(run('/', ['sh', '-c', `command -v ${name}`], bare()).status, 0, name)
    }
  })

  for (const { name, files, install, runs } of MANAGERS) {
    it(`by ${name} runs, and so does its command`, () => {
      const directory = project(`by ${name}`, { ...files(), 'look.mjs': program() })
      succeed(directory, install(directory), bare())
      sees(look(directory, [...(runs?.() ?? []), 'node', 'look.mjs'], bare()))
      const command = runs ? [...runs(), 'vfio'] : [join(directory, 'node_modules/.bin/vfio')]
      assert.equal(run(directory, [...command, '--version'], bare()).stdout.trim(), manifest.version)
      const listed = run(directory, [...command, 'list', '--sysfs', fixture().sysfs], bare())
      assert.match(listed.stdout, /^GROUP ADDRESS .*\n +7 59:00\.0 /)
      assert.equal(listed.stderr, '')
      assert.equal(listed.status, 0)
    })
  }

  it('for all of the machine has a command that runs from anywhere, also through a link', () => {
    const prefix = scratchDirectory('global')
    succeed('/', [...npm(), 'install', '--global', '--prefix', prefix, ...quiet, tarball()], bare())
    const command = join(prefix, 'bin/vfio')
    const link = join(scratchDirectory('links'), 'vfio')
    symlinkSync(command, link)
    for (const [from, path] of [
      ['/', command],
      [scratchDirectory('elsewhere'), link],
      [prefix, 'bin/vfio'],
    ] as const) {
      const listed = run(from, [path, 'list', '--sysfs', fixture().sysfs], bare())
      assert.match(listed.stdout, /^GROUP ADDRESS .*\n +7 59:00\.0 /, listed.stderr)
      assert.equal(listed.status, 0)
    }
    // The README's first command, which looks at whatever machine this is.
    const own = run('/', [command, 'list'], bare())
    assert.match(own.stdout, /^GROUP ADDRESS /, own.stderr)
    assert.equal(own.status, 0)
  })
})
