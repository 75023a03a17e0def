import { execFile } from 'node:child_process'
import { cpSync, mkdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { buildAll } from '../prebuild/build.js'
import { ROOT, targets } from '../prebuild/targets.js'

const run = promisify(execFile)

/** Of the main package, which brings the command `vfio` too, and of the plugin. */
const FILES: readonly string[] = [
  ...['package.json', 'LICENSE', 'bin', 'dist'],
  ...['package.json', 'bin', 'dist', 'proto', 'schemas'].map((name) => `kubernetes/${name}`),
]

export const version = (): string =>
  JSON.parse(readFileSync(join(ROOT, 'kubernetes/package.json'), 'utf8')).version

/**
 * Makes what `kubernetes/deploy/Containerfile` is built of: both packages as they were built, the binary for this
 * processor, and what they depend on, in the versions of the lock file.
 */
export async function makeContext(directory: string, say: (line: string) => void): Promise<void> {
  const target = targets.find(({ arch, libc }) => arch === process.arch && libc === 'glibc')
  if (target === undefined) throw new Error(`there is no binary of the addon for ${process.arch}`)
  const failures = await buildAll([target], say)
  if (failures.length > 0) throw new Error(failures.join('\n'))
  const app = join(directory, 'app')
  const binary = `prebuilds/linux-${target.arch}/vfio.glibc.node`
  for (const file of [...FILES, binary, 'package-lock.json']) {
    mkdirSync(dirname(join(app, file)), { recursive: true })
    cpSync(join(ROOT, file), join(app, file), { recursive: true })
  }
  say('fetching what the plugin depends on')
  await run('npm', ['ci', '--omit=dev', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'], {
    cwd: app,
  })
  cpSync(join(ROOT, 'kubernetes/deploy/Containerfile'), join(directory, 'Containerfile'))
}
