// Builds the addon for this machine into build/Release/: `npm run build:addon`, in a checkout or in the installed package,
// where it is the way for machines that the package brings no binary for.
import { spawnSync } from 'node:child_process'
import { copyFileSync, existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const ROOT = fileURLToPath(new URL('..', import.meta.url))
const GYP = join(ROOT, 'binding.gyp')

// Under its own name npm would build each time the package is installed.
if (!existsSync(GYP)) copyFileSync(join(ROOT, 'addon.gyp'), GYP)

// node-gyp would fetch Node's headers, which often lie beside Node.
const beside = dirname(dirname(process.execPath))
const hasHeaders = existsSync(join(beside, 'include/node/node_api.h'))
const env = hasHeaders ? { npm_config_nodedir: beside, ...process.env } : process.env

// The one of a checkout, or the one that npm brings and tells its scripts of.
const own = [join(ROOT, 'node_modules/node-gyp/bin/node-gyp.js'), process.env.npm_config_node_gyp].find(
  (file) => file && existsSync(file),
)
const [program, ...first] = own ? [process.execPath, own] : ['node-gyp']
const args = [...first, 'configure', 'build', '--loglevel=error']
const { status, error } = spawnSync(program, args, { cwd: ROOT, stdio: 'inherit', env })
if (error) {
  console.error(
    `build:addon: ${program} could not be started (${error.message}): run it with npm, or npm install -g node-gyp`,
  )
}
process.exitCode = status ?? 1
