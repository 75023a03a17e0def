import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'

const manifest = createRequire(import.meta.url).resolve('vfio-device-plugin/package.json')

/** A file of this package, wherever this code was compiled to. */
export const packaged = (path: string) => join(dirname(manifest), path)

export const version = (): string => JSON.parse(readFileSync(manifest, 'utf8')).version
