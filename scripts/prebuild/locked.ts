import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { cpSync, existsSync, mkdtempSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { cacheDirectory, exclusively } from '../lab/cache.js'
import { ROOT } from './targets.js'

const run = promisify(execFile)

/**
 * The node_modules of a folder beside this file, which is a package of its own: its lock file pins large programs that
 * no user and not every contributor needs, for whatever platform. Fetched once for each machine.
 * @throws Error with npm's own words.
 */
export async function lockedPackages(name: string, say: (line: string) => void): Promise<string> {
  const source = join(ROOT, 'scripts/prebuild', name)
  const files = ['package.json', 'package-lock.json']
  const hash = createHash('sha256')
  for (const file of files) hash.update(readFileSync(join(source, file)))
  const directory = join(cacheDirectory('prebuild'), `${name}-${hash.digest('hex').slice(0, 16)}`)
  const modules = join(directory, 'node_modules')
  if (existsSync(modules)) return modules
  return exclusively(`prebuild-${name}`, async () => {
    if (existsSync(modules)) return modules
    const work = mkdtempSync(join(cacheDirectory('prebuild'), `.${name}-`))
    try {
      const began = Date.now()
      say(`fetching ${name}: ${packagesIn(source).join(', ')}`)
      for (const file of files) cpSync(join(source, file), join(work, file))
      // By force, because what is for other processors is wanted too.
      const options = ['--force', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error']
      await run('npm', ['ci', ...options], { cwd: work })
      renameSync(work, directory)
      say(`fetched ${name} (${((Date.now() - began) / 1000).toFixed(1)} s)`)
      return modules
    } catch (error) {
      rmSync(work, { recursive: true, force: true })
      throw error
    }
  })
}

function packagesIn(source: string): string[] {
  const { dependencies } = JSON.parse(readFileSync(join(source, 'package.json'), 'utf8')) as {
    dependencies: Record<string, string>
  }
  return Object.entries(dependencies).map(([name, version]) => `${name} ${version}`)
}
