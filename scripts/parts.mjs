// Builds the library in parts: index.js names all that it exports, and loads the part that has it when it is first used. A
// program that imports the package and looks at devices does not wait for what binds, opens or draws them.
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join, relative } from 'node:path'
import { build, transform } from 'esbuild'

/** The rooms of each part, or files of them; what is in none is of the first. A part needs those that its files import. */
const PARTS = {
  look: [],
  open: ['vfio', 'actions'],
  plan: [
    'records.ts',
    'assign/plan.ts',
    'assign/slots.ts',
    'assign/resets.ts',
    'vfs/plan.ts',
    'mdev/plan.ts',
  ],
  persist: ['persist', 'features'],
  change: ['change', 'grant', 'vfs', 'mdev', 'assign'],
  export: ['export'],
  launch: ['cdi', 'launch'],
}

const partOf = (file) =>
  [file, file.split('/')[0]]
    .map((name) => Object.keys(PARTS).find((part) => PARTS[part].includes(name)))
    .find((part) => part !== undefined) ?? FIRST

/** What all others need, and what is in none of them. */
const FIRST = 'look'

// Behind a banner esbuild's own would be no directive.
const FILE_URL = '"use strict";var fileUrl=require("node:url").pathToFileURL(__filename).href;'

/** Parts of two builds do not fit: a package may be replaced while a program runs that has loaded some of it. */
const isOf = (part, buildId) => `{
  const { buildId, VfioError } = ${part}
  if (buildId !== '${buildId}')
    throw new VfioError('ERR_VFIO_BAD_FILE', 'the package vfio was replaced by another version since this program loaded it: start the program again')
}
`

/**
 * @param common how everything is bundled
 * @param out where the library is built to
 * @param text all of the library, which tells one build from another
 */
export async function buildParts(common, out, text) {
  const lib = join(common.absWorkingDir, 'lib')
  const files = readdirSync(lib, { recursive: true }).filter(
    (name) => name.endsWith('.ts') && !name.startsWith('cli/') && name !== 'index.ts',
  )
  const exported = await exportsOf(common, lib, files)
  const index = await publicNames(lib)
  const buildId = createHash('sha256').update(text).digest('hex').slice(0, 16)
  const needs = {}
  for (const part of Object.keys(PARTS)) {
    const own = files.filter((file) => partOf(file) === part)
    const shared = own.flatMap((file) => exported.get(file).map((name) => [name, file, `${file}:${name}`]))
    const all = [...shared, ...index.filter(([, file]) => partOf(file) === part)]
    const lines = [
      `export const buildId = '${buildId}'`,
      ...all.map(([name, file, as]) => `export { ${name} as ${JSON.stringify(as)} } from './${file}'`),
    ]
    needs[part] = new Set()
    await build({
      ...common,
      format: 'cjs',
      stdin: { contents: lines.join('\n'), resolveDir: lib, loader: 'ts' },
      outfile: join(out, `${part}.cjs`),
      banner: { js: `${FILE_URL}${part === FIRST ? '' : isOf(`require('./${FIRST}.cjs')`, buildId)}` },
      define: { 'import.meta.url': 'fileUrl' },
      plugins: [fromOtherParts(lib, part, exported, needs[part])],
    })
  }
  const directory = join(common.absWorkingDir, out)
  const all = indexOf(directory, index, needs, buildId)
  const names = index.map(([, , name]) => name).join(', ')
  writeFileSync(
    join(directory, 'index.js'),
    `import { createRequire } from 'node:module'\nconst require = createRequire(import.meta.url)\n${all}export { ${names} }\n`,
  )
  // For the command line, since what loads ES modules takes long to begin.
  writeFileSync(join(directory, 'index.cjs'), `'use strict'\n${all}module.exports = { ${names} }\n`)
}

/** What each file exports beside types. */
async function exportsOf(common, lib, files) {
  const { metafile } = await build({
    ...common,
    bundle: false,
    packages: undefined,
    entryPoints: files.map((file) => join(lib, file)),
    outbase: lib,
    outdir: 'exports',
    write: false,
    metafile: true,
  })
  const outputs = Object.values(metafile.outputs)
  return new Map(
    outputs.map(({ entryPoint, exports }) => [
      relative(lib, join(common.absWorkingDir, entryPoint)),
      exports,
    ]),
  )
}

/** What the package exports: the name there, the file that has it, and its public name. */
export async function publicNames(lib) {
  const { code } = await transform(readFileSync(join(lib, 'index.ts'), 'utf8'), { loader: 'ts' })
  return [...code.matchAll(/export \{([^}]*)\} from "\.\/([^"]+)\.js"/g)].flatMap(([, names, path]) =>
    names
      .split(',')
      .map((name) => name.trim().split(' as '))
      .filter(([name]) => name !== '')
      .map(([name, as = name]) => [name, `${path}.ts`, as]),
  )
}

/** What a part imports of another is taken from that once, when it is loaded. */
const fromOtherParts = (lib, part, exported, needs) => ({
  name: 'from-other-parts',
  setup: ({ onResolve, onLoad }) => {
    onResolve({ filter: /^\.\.?\// }, ({ path, importer, namespace, resolveDir }) => {
      if (namespace === 'part') return { path, external: true }
      const file = relative(lib, join(importer === '<stdin>' ? resolveDir : dirname(importer), path)).replace(
        /\.js$/,
        '.ts',
      )
      if (partOf(file) === part) return undefined
      needs.add(partOf(file))
      return { path: file, namespace: 'part' }
    })
    onLoad({ filter: /.*/, namespace: 'part' }, ({ path: file }) => ({
      contents: [
        `const part = require('./${partOf(file)}.cjs')`,
        ...exported.get(file).map((name) => `export const ${name} = part['${file}:${name}']`),
      ].join('\n'),
    }))
  },
})

/** What names all that the package exports. */
function indexOf(directory, index, needs, buildId) {
  const require = createRequire(join(directory, 'any.js'))
  const lines = index.map(([, file, name]) => {
    const part = partOf(file)
    const value = require(`./${part}.cjs`)[name]
    if (typeof value !== 'function') return `const ${name} = ${JSON.stringify(value)}`
    if (/^class\b/.test(Function.prototype.toString.call(value)))
      return `const ${name} = classOf('${name}', ${part}Part)`
    return `function ${name}(...args) { return ${part}Part().${name}(...args) }`
  })
  const parts = Object.keys(PARTS).map(
    (part) =>
      `const ${part}Part = once(() => load('${part}', [${[...needs[part]].map((one) => `${one}Part`)}]))`,
  )
  return [HEAD, `function checkBuild(part) ${isOf('part', buildId)}`, ...parts, ...lines, ''].join('\n')
}

const HEAD = `// Made by scripts/parts.mjs.
const classes = new Map()

function once(load) {
  let part
  return () => (part ??= load())
}

function load(name, needs) {
  for (const need of needs) need()
  const part = require(\`./\${name}.cjs\`)
  checkBuild(part)
  // To programs the class that is exported is the class itself.
  for (const [name, { target, self }] of classes) {
    if (!Object.hasOwn(part, name)) continue
    const { prototype } = part[name]
    Object.defineProperty(target, 'prototype', { value: prototype, writable: false })
    Object.defineProperty(prototype, 'constructor', { value: self, writable: true, configurable: true })
  }
  return part
}

const TRAPS = [
  'defineProperty',
  'deleteProperty',
  'getOwnPropertyDescriptor',
  'getPrototypeOf',
  'has',
  'ownKeys',
  'set',
  'setPrototypeOf',
]

// A class before its part is loaded, which the first use of it does.
function classOf(name, part) {
  const real = () => part()[name]
  const target = { [name]: function () {} }[name]
  const handler = {
    // As the engine calls a class without \`new\`: it throws.
    apply: (_target, self, args) => Reflect.apply(real(), self, args),
    construct: (_target, args, by) => Reflect.construct(real(), args, by === self ? real() : by),
    // What another copy of the package made is an instance too, by what the class itself says.
    get: (_target, key, by) =>
      key === Symbol.hasInstance && by === self ? (value) => value instanceof real() : Reflect.get(real(), key, by),
  }
  for (const trap of TRAPS) handler[trap] = (_target, ...rest) => Reflect[trap](real(), ...rest)
  const self = new Proxy(target, handler)
  classes.set(name, { target, self })
  return self
}
`
