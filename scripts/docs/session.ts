import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { type ExampleHost, exampleHost } from './host.js'
import { ROOT } from './root.js'
import type { SystemName } from './systems.js'

/** The command line takes its library from here: one whose hosts are the example where nothing else is named. */
const LIBRARY = (library: string, trees: ExampleHost['trees']) => `
export * from ${JSON.stringify(`${library}?real`)}
import { Host as Real } from ${JSON.stringify(`${library}?real`)}
export class Host extends Real {
  constructor(options = ${JSON.stringify(trees)}) { super(options) }
}`

const HOOKS = (library: string, given: string) => `
export async function resolve(specifier, context, next) {
  const found = await next(specifier, context)
  return found.url === ${JSON.stringify(library)} ? { url: ${JSON.stringify(given)}, shortCircuit: true } : found
}`

const asModule = (source: string) => `data:text/javascript,${encodeURIComponent(source)}`

export interface Answered {
  readonly status: number | null
  readonly stdout: string
  readonly stderr: string
}

/** Runs `vfio` as the pages show it: on the example host, for a terminal of 80 columns without colours. */
export class Session {
  readonly #host = exampleHost()
  readonly #preload: string
  readonly #known = new Map<string, Answered>()

  constructor() {
    const library = pathToFileURL(join(ROOT, 'dist/index.js')).href
    const hooks = asModule(HOOKS(library, asModule(LIBRARY(library, this.#host.trees))))
    this.#preload = asModule(`import { register } from 'node:module'; register(${JSON.stringify(hooks)})`)
  }

  /** @param system whose root file system `vfio persist` is to find */
  run(line: string, system?: SystemName): Answered {
    const key = `${system ?? ''} ${line}`
    const known = this.#known.get(key)
    if (known) return known
    const words = line.split(' ').filter(Boolean).slice(1)
    const { status, stdout, stderr, error } = spawnSync(
      process.execPath,
      [
        ...['--no-warnings', '--import', this.#preload, join(ROOT, 'dist/cli/main.js'), ...words],
        ...(system === undefined ? [] : ['--root', this.#host.root(system)]),
      ],
      {
        encoding: 'utf8',
        cwd: '/',
        env: { PATH: process.env.PATH ?? '', NO_COLOR: '1', COLUMNS: '80', LC_ALL: 'C.UTF-8' },
      },
    )
    if (error) throw error
    // Where the trees are is nobody's business: on a host they are /sys, /dev and /proc.
    const plain = (text: string) => text.replaceAll(this.#host.base, '')
    const answered = { status, stdout: plain(stdout), stderr: plain(stderr) }
    this.#known.set(key, answered)
    return answered
  }

  end(): void {
    this.#host.remove()
  }
}
