/** They are built with no more of the library than they take: people wait for them, and all of it takes as long to load. */
const LOOKS: ReadonlySet<string | undefined> = new Set(['list', 'show', 'doctor'])

await (LOOKS.has(process.argv[2]) ? import('./looks.js') : import('./all.js'))
