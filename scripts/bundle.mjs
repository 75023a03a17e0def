// Builds dist/: the library in parts, and as one module for those who bundle it, the
// command line as another on top of it, the declarations of what the library exports in one file, the schemas of what the
// commands print, and their manual pages.
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { cpSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Extractor, ExtractorConfig } from '@microsoft/api-extractor'
import { build } from 'esbuild'
import { writeManual } from './man.mjs'
import { buildParts, publicNames } from './parts.mjs'
import { writeSchemas } from './schemas.mjs'

const ROOT = fileURLToPath(new URL('..', import.meta.url))

// Made beside dist/ and put in its place whole: a build that fails leaves the last one usable.
const OUT = 'build/dist'
const TYPES = 'build/types'

for (const directory of [OUT, TYPES]) rmSync(join(ROOT, directory), { recursive: true, force: true })
const tsc = join(ROOT, 'node_modules/.bin/tsc')
const { status, error } = spawnSync(tsc, ['-p', 'tsconfig.json', '--outDir', TYPES], {
  cwd: ROOT,
  stdio: 'inherit',
})
if (error) throw error
if (status !== 0) process.exit(1)
rollUp(`${TYPES}/index.d.ts`, `${OUT}/index.d.ts`)
writeSchemas(join(ROOT, TYPES), join(ROOT, 'tsconfig.json'), join(ROOT, OUT, 'schemas'))

/**
 * Modules of Node's own that take long to load, and what stands for them in the command line: commander starts programs for
 * commands that are files of their own, which none here is; `process` is there without its module; and in CommonJS there is a
 * `require` already.
 */
const INSTEAD = [
  { name: 'node:child_process', of: '/commander/', contents: 'module.exports = {}' },
  { name: 'node:process', of: '/commander/', contents: 'module.exports = process' },
  { name: 'node:module', of: '/lib/', contents: 'exports.createRequire = () => require' },
]
const withoutSlowModules = {
  name: 'without-slow-modules',
  setup: ({ onResolve, onLoad }) => {
    for (const { name, of, contents } of INSTEAD) {
      onResolve({ filter: new RegExp(`^${name}$`) }, ({ path, importer }) =>
        importer.includes(of) ? { path, namespace: name } : undefined,
      )
      onLoad({ filter: /.*/, namespace: name }, () => ({ contents }))
    }
  },
}

/** The library is beside the command line: all of its files take it from there once. */
const library = {
  name: 'library',
  setup: ({ onResolve, onLoad }) => {
    const namespace = 'library'
    onResolve({ filter: /^\.\.\/index\.c?js$/ }, ({ path }) =>
      path.endsWith('.cjs') ? { path, external: true } : { path: namespace, namespace },
    )
    onLoad({ filter: /.*/, namespace }, async () => {
      const names = (await publicNames(join(ROOT, 'lib'))).map(([, , name]) => name)
      return {
        contents: `const library = require('../index.cjs')\n${names.map((name) => `export const ${name} = library.${name}`).join('\n')}`,
      }
    })
  },
}

const common = {
  absWorkingDir: ROOT,
  bundle: true,
  platform: 'node',
  format: 'esm',
  target: 'node20.19',
  packages: 'external',
  logLevel: 'warning',
  // A third less to read and to parse, with every name as it is.
  minifyWhitespace: true,
  lineLimit: 160,
}
// As one module for those who bundle it.
await build({ ...common, entryPoints: ['lib/index.ts'], outfile: `${OUT}/bundle.js` })
await buildParts(common, OUT, readFileSync(join(ROOT, OUT, 'bundle.js')))
// The command line on top of it, and the commands that only look with no more of it than they take.
// As CommonJS, since what loads ES modules takes as long to start as a small command, and with all that it needs beside
// Node: a file that is looked for takes longer than one that is read along.
const { packages: _external, ...whole } = common
const command = {
  ...whole,
  format: 'cjs',
  outdir: `${OUT}/cli`,
  define: { 'import.meta.url': '__filename' },
}
await build({ ...command, entryPoints: ['lib/cli/all.ts'], plugins: [withoutSlowModules, library] })
await build({
  ...command,
  entryPoints: ['lib/cli/looks.ts'],
  // A third less to read and to copy, at each start.
  minify: true,
  plugins: [withoutSlowModules, addonFrom('../../')],
})
// Run by what keeps what the compiler makes of it, and copies of it take as long as reading.
const looks = `(function (exports, require, module, __filename, __dirname) {${readFileSync(join(ROOT, OUT, 'cli/looks.js'))}})`
if (Buffer.byteLength(looks) !== looks.length) throw new Error('looks.js is to be ASCII: it is read as that')
writeFileSync(join(ROOT, OUT, 'cli/looks.js'), looks)
await build({
  ...command,
  entryPoints: ['lib/cli/main.ts'],
  external: ['./all.js'],
  define: { LOOKS_BUILD: JSON.stringify(createHash('sha256').update(looks).digest('hex').slice(0, 32)) },
})
cpSync(join(ROOT, 'node_modules/commander/LICENSE'), join(ROOT, OUT, 'cli/commander.LICENSE'))
await writeManual(common, OUT, `${OUT}/man`)
writeFileSync(join(ROOT, OUT, 'cli/package.json'), '{ "type": "commonjs" }\n')
rmSync(join(ROOT, 'dist'), { recursive: true, force: true })
renameSync(join(ROOT, OUT), join(ROOT, 'dist'))

/** Where the library looks for its addon is said from dist/: elsewhere there is another way to it. */
function addonFrom(root) {
  const setup = ({ onLoad }) =>
    onLoad({ filter: /\/lib\/native\/load\.ts$/ }, ({ path }) => ({
      contents: readFileSync(path, 'utf8').replaceAll("require('../", `require('${root}`),
      loader: 'ts',
    }))
  return { name: 'addon', setup }
}

/** What users see of a tree of declarations, in one file: without what is internal, and without what only that needs. */
function rollUp(entry, output) {
  const off = { enabled: false }
  const quiet = { default: { logLevel: 'none' } }
  const configObject = {
    projectFolder: ROOT,
    mainEntryPointFilePath: join(ROOT, entry),
    compiler: { tsconfigFilePath: join(ROOT, 'tsconfig.json') },
    apiReport: off,
    docModel: off,
    newlineKind: 'lf',
    tsdocMetadata: off,
    dtsRollup: { enabled: true, untrimmedFilePath: '', publicTrimmedFilePath: join(ROOT, output) },
    messages: {
      compilerMessageReporting: { default: { logLevel: 'error' } },
      extractorMessageReporting: quiet,
      tsdocMessageReporting: quiet,
    },
  }
  const config = ExtractorConfig.prepare({
    configObject,
    configObjectFullPath: undefined,
    packageJsonFullPath: join(ROOT, 'package.json'),
  })
  const messageCallback = (message) => {
    if (message.logLevel === 'info' || message.logLevel === 'verbose') message.handled = true
  }
  if (!Extractor.invoke(config, { localBuild: true, messageCallback }).succeeded) process.exit(1)
}
