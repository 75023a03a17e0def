// Builds dist/: the library as one module, since a process that imports thirty files waits for thirty files, the
// command line as another on top of it, and the declarations of each.
import { spawnSync } from 'node:child_process'
import { chmodSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'

const ROOT = fileURLToPath(new URL('..', import.meta.url))
const LIBRARY = '../index.js'

// Made beside dist/ and put in its place whole: a build that fails leaves the last one usable.
const OUT = 'build/dist'

rmSync(join(ROOT, OUT), { recursive: true, force: true })
const tsc = join(ROOT, 'node_modules/.bin/tsc')
const { status, error } = spawnSync(tsc, ['-p', 'tsconfig.json', '--outDir', OUT], {
  cwd: ROOT,
  stdio: 'inherit',
})
if (error) throw error
if (status !== 0) process.exit(1)

const common = {
  absWorkingDir: ROOT,
  bundle: true,
  platform: 'node',
  format: 'esm',
  target: 'node20.19',
  packages: 'external',
  logLevel: 'warning',
}
await build({ ...common, entryPoints: ['lib/index.ts'], outfile: `${OUT}/index.js` })
await build({
  ...common,
  entryPoints: ['lib/cli/main.ts'],
  outfile: `${OUT}/cli/main.js`,
  external: [LIBRARY],
})
chmodSync(join(ROOT, OUT, 'cli/main.js'), 0o755)
rmSync(join(ROOT, 'dist'), { recursive: true, force: true })
renameSync(join(ROOT, OUT), join(ROOT, 'dist'))
