/** They are built with no more of the library than they take: people wait for them, and all of it takes as long to load. */
const LOOKS: ReadonlySet<string | undefined> = new Set(['list', 'show', 'doctor'])
const PICTURES: ReadonlySet<string | undefined> = new Set(['topology', 'inventory'])

const [, , name] = process.argv
await (LOOKS.has(name)
  ? import('./looks.js')
  : PICTURES.has(name)
    ? import('./pictures.js')
    : import('./all.js'))
