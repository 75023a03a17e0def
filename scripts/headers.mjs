// Where Node's C headers are, so that building an addon needs no download.
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'

/** The environment in which node-gyp and cmake-js find the headers of the running Node. */
export function buildEnvironment() {
  const prefix = dirname(dirname(process.execPath))
  const shipped = existsSync(join(prefix, 'include/node/node_api.h'))
  return shipped ? { ...process.env, npm_config_nodedir: prefix } : process.env
}
