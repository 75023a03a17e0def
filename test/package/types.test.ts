import assert from 'node:assert/strict'
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { contents, PATIENCE, ROOT, succeed, tool, user } from './support.js'

const tsc = () => [process.execPath, join(ROOT, 'node_modules/typescript/bin/tsc')]

const COMPILERS: Readonly<Record<string, () => readonly string[]>> = {
  'TypeScript 5': () => [process.execPath, tool('typescript5/bin/tsc')],
  'TypeScript 7': tsc,
}

/** `--module` for each `--moduleResolution`. */
const RESOLUTIONS = { node16: 'node16', nodenext: 'nodenext', bundler: 'esnext' } as const

const STRICT = ['--noEmit', '--strict', '--skipLibCheck', 'false', '--target', 'es2022']

const USE = `import { assess, type Assessment, Host, openDevice, VfioContainer, VfioError } from 'vfio'

const verdict: Assessment = assess(new Host().snapshot(), '59:00.0')
export const scope: 'function' | 'hot' | 'none' = verdict.reset.scope
// @ts-expect-error a verdict is one of three words
export const wrong: 'perhaps' = verdict.verdict
export const code = (error: unknown) => (error instanceof VfioError ? error.code : null)
export async function read(signal: AbortSignal): Promise<number> {
  const opened = await openDevice('59:00.0', { signal })
  try {
    return opened.device.region('bar0').read32(0)
  } finally {
    await opened[Symbol.asyncDispose]()
  }
}
// @ts-expect-error it is opened, not constructed
export const made = new VfioContainer()
// @ts-expect-error what the library has behind it is nobody else's
export const behind = VfioContainer.open().handle
`

/** What lib/index.ts exports, which has lists of names and nothing else. */
function exportedNames(): { readonly name: string; readonly isType: boolean }[] {
  const source = readFileSync(join(ROOT, 'lib/index.ts'), 'utf8').replaceAll(/^\/\/.*$/gm, '')
  const list = /export (type )?\{([^}]*)\} from '[^']*'/g
  assert.equal(source.replaceAll(list, '').trim(), '')
  return [...source.matchAll(list)].flatMap(([, type, names = '']) =>
    names
      .split(',')
      .map((name) => name.trim())
      .filter(Boolean)
      .map((name) => ({
        name: name.replace(/^type /, ''),
        isType: Boolean(type) || name.startsWith('type '),
      })),
  )
}

describe('the declarations', function () {
  this.timeout(PATIENCE)
  const text = () => readFileSync(join(contents(), 'dist/index.d.ts'), 'utf8')

  /** Gives the user a version of Node's types, as it is installed beside. */
  function bringNodeTypes(name: string): void {
    const types = join(user(), 'node_modules/@types')
    rmSync(types, { recursive: true, force: true })
    mkdirSync(types, { recursive: true })
    cpSync(tool(`@types/${name}`), join(types, 'node'), { recursive: true })
    const undici = tool('undici-types')
    cpSync(undici, join(user(), 'node_modules/undici-types'), { recursive: true })
  }

  before(() => {
    writeFileSync(join(user(), 'use.ts'), USE)
    writeFileSync(join(user(), 'use.cts'), USE)
    bringNodeTypes('node')
  })

  it('are one file, without what is internal', () => {
    const code = text().replaceAll(/\/\*.*?\*\//gs, '')
    const inside = /@internal|\bfrom '\.|import\('\.|<reference path|^declare class |\bNative[A-Z]|Handle\b/m
    assert.deepEqual(
      code.split('\n').filter((line) => inside.test(line)),
      [],
    )
    assert(!text().includes('@internal'))
  })

  it('have every name that the library exports, and the library has every value', async () => {
    const names = exportedNames()
    assert(names.length > 100)
    const all = names.map(({ name, isType }) => `${isType ? 'type ' : ''}${name} as _${name}`)
    writeFileSync(join(user(), 'all.ts'), `import { ${all.join(', ')} } from 'vfio'\n`)
    succeed(user(), [...tsc(), ...STRICT, '--module', 'nodenext', 'all.ts'])
    const values = names.filter(({ isType }) => !isType).map(({ name }) => name)
    const library: object = await import('vfio')
    assert.deepEqual(Object.keys(library).sort(), values.sort())
  })

  for (const [compiler, command] of Object.entries(COMPILERS)) {
    for (const [resolution, module] of Object.entries(RESOLUTIONS)) {
      it(`hold for ${compiler} with moduleResolution ${resolution}`, () => {
        // Who bundles has the types of browsers too, as often as not.
        const lib = resolution === 'bundler' ? [] : ['--lib', 'es2022']
        const options = ['--module', module, '--moduleResolution', resolution, ...lib]
        const files = resolution === 'nodenext' ? ['use.ts', 'use.cts'] : ['use.ts']
        succeed(user(), [...command(), ...STRICT, ...options, ...files])
      })
    }
  }

  it("hold with the newest of Node's types", () => {
    bringNodeTypes('node-26')
    succeed(user(), [...tsc(), ...STRICT, '--module', 'nodenext', 'use.ts'])
  })
})
