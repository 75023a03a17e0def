import { createRequire } from 'node:module'
import { dirname } from 'node:path'

/** The root of the package, wherever this was compiled to. */
export const ROOT = dirname(createRequire(import.meta.url).resolve('vfio/package.json'))
