// Where Node's C headers are. node-gyp would fetch them from nodejs.org, which not every machine reaches.
import { existsSync } from 'node:fs'
import { homedir } from 'node:os'
import { dirname, join } from 'node:path'

const { version, arch, execPath } = process

/** The npm package that carries the headers of the running Node, and where it is unpacked. */
export const headersPackage = `node-linux-${arch}@${version.slice(1)}`
export const headersCache = join(
  process.env.XDG_CACHE_HOME || join(homedir(), '.cache'),
  'vfio-lab',
  `node-${version}`,
)

/** The directory above include/node: beside Node itself, or fetched; undefined when there is none. */
export function headersDirectory() {
  const places = [
    dirname(dirname(execPath)),
    process.env.npm_config_nodedir,
    join(headersCache, 'node_modules', `node-linux-${arch}`),
  ]
  return places.find((place) => place && existsSync(join(place, 'include/node/node_api.h')))
}

/** The environment in which node-gyp and cmake-js find the headers of the running Node. */
export function buildEnvironment() {
  const directory = headersDirectory()
  return directory === undefined ? process.env : { ...process.env, npm_config_nodedir: directory }
}
