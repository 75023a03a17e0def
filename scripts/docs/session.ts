import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type ExampleHost, exampleHost } from './host.js'
import { ROOT } from './root.js'
import type { SystemName } from './systems.js'

/** The library with another default: a host that is not named is the example. */
const LIBRARY = (library: string, trees: ExampleHost['trees']) => `
const library = require('${library}')
class Host extends library.Host {
  constructor(options = ${JSON.stringify(trees)}) { super(options) }
}
module.exports = { ...library, Host }
`

export interface Answered {
  readonly status: number | null
  readonly stdout: string
  readonly stderr: string
}

/** Runs `vfio` as the pages show it: on the example host, for a terminal of 80 columns without colours. */
export class Session {
  readonly #host = exampleHost()
  readonly #program: string
  readonly #known = new Map<string, Answered>()

  constructor() {
    // The command line takes its library from beside it.
    const directory = join(this.#host.base, 'program')
    mkdirSync(join(directory, 'dist'), { recursive: true })
    for (const path of ['package.json', 'dist/cli']) {
      cpSync(join(ROOT, path), join(directory, path), { recursive: true })
    }
    const library = join(ROOT, 'dist/index.cjs')
    writeFileSync(join(directory, 'dist/index.cjs'), LIBRARY(library, this.#host.trees))
    symlinkSync(join(ROOT, 'node_modules'), join(directory, 'node_modules'))
    // What main.js would choose for a look has a library of its own, which knows no other host than this one.
    this.#program = join(directory, 'dist/cli/all.js')
  }

  /** @param system whose root file system `vfio persist` is to find */
  run(line: string, system?: SystemName): Answered {
    const key = `${system ?? ''} ${line}`
    const known = this.#known.get(key)
    if (known) return known
    const words = line.split(' ').filter(Boolean).slice(1)
    const root = system === undefined ? [] : ['--root', this.#host.root(system)]
    const { status, stdout, stderr, error } = spawnSync(
      process.execPath,
      [this.#program, ...words, ...root],
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
