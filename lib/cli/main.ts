import { createRequire } from 'node:module'

/** They are built with no more of the library than they take: people wait for them, and all of it takes as long to load. */
const LOOKS: ReadonlySet<string | undefined> = new Set(['list', 'show', 'doctor'])

// Not by import(), for which Node would load what loads ES modules.
const require = createRequire(import.meta.url)
require(LOOKS.has(process.argv[2]) ? './looks.js' : './all.js')
