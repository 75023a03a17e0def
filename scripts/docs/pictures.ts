import { exportTopology, Host } from 'vfio'
import { exampleHost } from './host.js'
import { Page } from './pages.js'
import { seeServer } from './server.js'

/** The pictures that the program draws: of the host that the pages show, and of a server with 500 functions. */
export function pictures(): Page[] {
  const example = exampleHost()
  try {
    const hosts = { topology: new Host(example.trees).snapshot(), 'topology-server': seeServer() }
    return Object.entries(hosts).flatMap(([name, seen]) =>
      (['light', 'dark'] as const).map((theme) => {
        const path = `docs/pictures/${name}${theme === 'dark' ? '-dark' : ''}.svg`
        return new Page(path, exportTopology(seen, { format: 'svg', theme }).text)
      }),
    )
  } finally {
    example.remove()
  }
}
