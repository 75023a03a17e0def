import { randomBytes } from 'node:crypto'
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { exportCdi, type Snapshot } from 'vfio'
import type { Config } from './config.js'
import { isServed, socketPath } from './endpoint.js'

/** Container engines look at it, and it does not outlive the machine's run. */
export const SPECIFICATIONS = '/var/run/cdi'

const PREFIX = 'vfio-device-plugin_'
const fileOf = (resource: string) => `${PREFIX}${resource.replace('/', '_')}.json`
/** A domain has no underscore: the first one is the slash. */
const resourceOf = (file: string) => file.slice(PREFIX.length, -'.json'.length).replace('_', '/')

/** The files by which Kata finds the devices of a resource: their kind is its name, and their names are the ids. */
export class Specifications {
  readonly #directory: string

  constructor(directory: string) {
    this.#directory = directory
  }

  /** Where the specification of a resource is. */
  path(resource: string): string {
    return join(this.#directory, fileOf(resource))
  }

  /** Those of all resources, Kata's or not: one may have been Kata's. */
  pathsOf({ resources }: Config): string[] {
    return resources.map(({ name }) => this.path(name))
  }

  /**
   * Says what there is now. What was given stays until the devices are no more: a pod that was admitted starts later.
   * @throws Error where it cannot be written
   */
  write(seen: Snapshot, resource: string, ids: readonly string[]): void {
    const path = this.path(resource)
    if (ids.length === 0) {
      rmSync(path, { force: true })
      return
    }
    const { text } = exportCdi(seen, ids, { kind: resource, consumer: 'kata' })
    if (contentOf(path) === text) return
    mkdirSync(this.#directory, { recursive: true })
    // Not `.json`, which is read half written; nobody else's, since in containers every plugin has the same pid.
    const draft = join(this.#directory, `.${PREFIX}${randomBytes(6).toString('hex')}`)
    try {
      writeFileSync(draft, text, { mode: 0o644, flag: 'wx' })
      renameSync(draft, path)
    } finally {
      rmSync(draft, { force: true })
    }
  }

  /** @throws Error where it cannot be taken away */
  remove(resource: string): void {
    rmSync(this.path(resource), { force: true })
  }

  /** Does what is on disk name these devices? Only so does Kata find them. */
  names(resource: string, ids: readonly string[]): boolean {
    try {
      const { kind, devices } = JSON.parse(contentOf(this.path(resource)) ?? '') as Partial<Written>
      return kind === resource && ids.every((id) => devices?.some(({ name }) => name === id))
    } catch {
      return false
    }
  }

  /**
   * The resources that have one here and that nobody serves for Kata, of this plugin and others like it. Whether another
   * serves it is asked of its socket: what a crash leaves there answers nobody.
   */
  async abandoned({ resources }: Config, kubeletSockets: string): Promise<string[]> {
    const own = new Map(resources.map(({ name, consumer }) => [name, consumer]))
    const found: string[] = []
    for (const name of this.#resources()) {
      const consumer = own.get(name)
      const isNeeded =
        consumer === undefined ? await isServed(socketPath(kubeletSockets, name)) : consumer === 'kata'
      if (!isNeeded) found.push(name)
    }
    return found
  }

  #resources(): string[] {
    try {
      return readdirSync(this.#directory)
        .filter((name) => name.startsWith(PREFIX) && name.endsWith('.json'))
        .map(resourceOf)
    } catch {
      return []
    }
  }
}

interface Written {
  readonly kind: string
  readonly devices: readonly { readonly name: string }[]
}

function contentOf(path: string): string | null {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return null
  }
}
