import assert from 'node:assert/strict'
import { cpSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import {
  contents,
  look,
  PATIENCE,
  PREBUILD,
  program,
  ROOT,
  SEEN,
  scratchDirectory,
  sees,
  succeed,
  tool,
  user,
} from './support.js'

/** Makes one bundle of `look.mjs` in the user's project, with the package in it or beside it. */
type Bundle = (output: string, external: boolean) => readonly string[]

const node = (path: string, ...args: readonly string[]) => [process.execPath, path, ...args]

/** A program that bundles by a bundler's own interface, where it has no command for it. */
function script(name: string, text: string): readonly string[] {
  const file = join(scratchDirectory('bundling'), `${name}.mjs`)
  writeFileSync(file, text)
  return node(file)
}

const esbuild =
  (format: 'esm' | 'cjs'): Bundle =>
  (output, external) => [
    join(ROOT, 'node_modules/esbuild/bin/esbuild'),
    ...['look.mjs', '--bundle', '--platform=node', `--format=${format}`, `--outfile=${output}`],
    ...['--loader:.node=copy', '--log-level=error', ...(external ? ['--external:vfio'] : [])],
  ]

const BUNDLERS: Readonly<Record<string, Bundle>> = {
  'esbuild (ESM)': esbuild('esm'),
  'esbuild (CJS)': esbuild('cjs'),
  rollup: (output, external) =>
    script(
      'rollup',
      `import { rollup } from '${tool('rollup/dist/es/rollup.js')}'
import { nodeResolve } from '${tool('@rollup/plugin-node-resolve/dist/es/index.js')}'
const plugins = [nodeResolve({ exportConditions: ['node'] })]
const bundle = await rollup({ input: 'look.mjs', plugins, external: ${external} ? ['vfio'] : [] })
await bundle.write({ file: ${JSON.stringify(output)}, format: 'es' })`,
    ),
  rolldown: (output, external) =>
    node(
      tool('rolldown/bin/cli.mjs'),
      ...['look.mjs', '--file', output, '--platform', 'node', '--format', 'esm'],
      ...(external ? ['--external', 'vfio'] : []),
    ),
  'vite (SSR)': (output, external) =>
    script(
      'vite',
      `import { build } from '${tool('vite/dist/node/index.js')}'
await build({
  root: process.cwd(), configFile: false, logLevel: 'error',
  ssr: ${external ? '{}' : '{ noExternal: true }'},
  build: { ssr: 'look.mjs', outDir: ${JSON.stringify(join(output, '..'))}, rollupOptions: { output: { entryFileNames: ${JSON.stringify(output.slice(output.lastIndexOf('/') + 1))} } } },
})`,
    ),
  webpack: (output, external) =>
    script(
      'webpack',
      `import { createRequire } from 'node:module'
const webpack = createRequire('${tool('any.js')}')('webpack')
webpack({
  context: process.cwd(), entry: './look.mjs', target: 'node20', mode: 'production', optimization: { minimize: false }, devtool: false,
  experiments: { outputModule: true }, externals: ${external} ? { vfio: 'module vfio' } : {},
  output: { path: ${JSON.stringify(join(output, '..'))}, filename: ${JSON.stringify(output.slice(output.lastIndexOf('/') + 1))}, module: true, chunkFormat: 'module', library: { type: 'module' } },
}, (error, stats) => {
  if (error || stats.hasErrors()) { console.error(error ?? stats.toString()); process.exitCode = 1 }
})`,
    ),
  ncc: (output, external) =>
    node(
      tool('@vercel/ncc/dist/ncc/cli.js'),
      ...['build', 'look.mjs', '--out', join(output, '..'), ...(external ? ['--external', 'vfio'] : [])],
    ),
}

/** It opens something too, where it is told to: that takes the addon. */
const OPENING = `import { Host, VfioContainer } from 'vfio'
if (process.env.OPENS) VfioContainer.open('/nowhere')`

describe('a bundle', function () {
  this.timeout(PATIENCE)
  before(() => writeFileSync(join(user(), 'look.mjs'), program(OPENING)))

  /** Bundles, and gives the one file that came of it, which is far from the package. */
  function made(name: string, external: boolean): string {
    const directory = scratchDirectory(`${external ? 'beside' : 'within'}/${name.replace(/\W+/g, '-')}`)
    const bundle = BUNDLERS[name]
    assert(bundle)
    const output = join(directory, name.includes('CJS') ? 'look.cjs' : 'look.mjs')
    succeed(user(), bundle(output, external))
    const [file = '', ...others] = readdirSync(directory).filter((one) => /\.[cm]?js$/.test(one))
    assert.deepEqual(others, [])
    return join(directory, file)
  }

  for (const name of Object.keys(BUNDLERS)) {
    it(`by ${name} runs with the package beside it`, () => {
      const file = made(name, true)
      cpSync(join(user(), 'node_modules'), join(file, '../node_modules'), { recursive: true })
      sees(look('/', [process.execPath, file]))
    })

    it(`by ${name} with the package in it looks, says what more takes, and runs with the addon named`, () => {
      const file = made(name, false)
      const looked = look('/', [process.execPath, file])
      assert.equal(looked.stdout.trim(), SEEN.replace('by the addon', 'by something else'), looked.stderr)
      const { status, stdout, stderr } = look('/', [process.execPath, file], { OPENS: 'yes' })
      assert.equal(stdout, '')
      assert.match(stderr, /VfioError: The native addon of the package "vfio" could not be loaded\.\n/)
      assert.match(stderr, /bundle/)
      assert.match(stderr, /code: 'ERR_VFIO_ADDON'/)
      assert.equal(status, 1)
      sees(look('/', [process.execPath, file], { VFIO_ADDON: join(contents(), PREBUILD) }))
    })
  }
})
