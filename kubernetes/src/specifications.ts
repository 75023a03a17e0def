import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { exportCdi, type Snapshot } from 'vfio'
import type { Config } from './config.js'

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
    // Not `.json`, which is read half written.
    const draft = join(this.#directory, `.${fileOf(resource)}.${process.pid}`)
    try {
      writeFileSync(draft, text, { mode: 0o644 })
      renameSync(draft, path)
    } finally {
      rmSync(draft, { force: true })
    }
  }

  /** @throws Error where it cannot be taken away */
  remove(resource: string): void {
    rmSync(this.path(resource), { force: true })
  }

  /** The resources that have one here, of this plugin and others like it. */
  resources(): string[] {
    try {
      return readdirSync(this.#directory)
        .filter((name) => name.startsWith(PREFIX) && name.endsWith('.json'))
        .map(resourceOf)
    } catch {
      return []
    }
  }
}

function contentOf(path: string): string | null {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return null
  }
}
