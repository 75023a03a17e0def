// What the tests of the package run beside it (package managers, runtimes, bundlers): pinned in test/package/tools/, and
// installed into the cache, since it is far more than the project itself takes.
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const PINS = fileURLToPath(new URL('../test/package/tools', import.meta.url))
const CACHE = join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'vfio-lab', 'tools')
const LOCK = 'package-lock.json'

/** Where they are, or belong: another lock file, another directory. */
export function toolsDirectory() {
  const hash = createHash('sha256')
    .update(readFileSync(join(PINS, LOCK)))
    .update(process.arch)
    .digest('hex')
  return join(CACHE, hash.slice(0, 16))
}

export const hasTools = () => existsSync(toolsDirectory())

/** Installs them, without running a script of theirs, unless they are there. */
export function fetchTools(log) {
  if (hasTools()) return
  mkdirSync(CACHE, { recursive: true })
  // Put in its place whole: another checkout may do the same.
  const scratch = mkdtempSync(join(CACHE, 'new-'))
  try {
    for (const name of ['package.json', LOCK]) copyFileSync(join(PINS, name), join(scratch, name))
    const args = [
      'ci',
      '--ignore-scripts',
      '--no-audit',
      '--no-fund',
      '--loglevel=error',
      '--prefix',
      scratch,
    ]
    const { status, error } = spawnSync('npm', args, { cwd: scratch, stdio: ['ignore', log, log] })
    if (error) throw new Error(`npm could not be started: ${error.message}`)
    if (status !== 0) throw new Error('npm could not install what test/package/tools/ pins')
    renameSync(scratch, toolsDirectory())
  } catch (failure) {
    rmSync(scratch, { recursive: true, force: true })
    // Somebody else was quicker.
    if (!hasTools()) throw failure
  }
}
