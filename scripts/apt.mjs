// Debian releases that the user's own apt configuration does not name, reached without touching it.
import { execFile } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'

const run = promisify(execFile)
const KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg'

/** Runs apt-get or apt-cache; an error carries the program's own words. */
async function apt(program, args, cwd = process.cwd()) {
  try {
    const { stdout } = await run(program, args, {
      cwd,
      maxBuffer: 1 << 28,
      env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive', LC_ALL: 'C' },
    })
    return stdout
  } catch (error) {
    if (error.code === 'ENOENT') {
      throw new Error(`${program} is not on this machine: it takes a Debian system to fetch packages`)
    }
    const detail = String(error.stderr ?? '').trim()
    throw new Error(
      `${program} ${args.filter((a) => !a.startsWith('-') && !a.includes('::')).join(' ')} failed: ${detail || error.message}`,
    )
  }
}

/** The machine's own Debian mirrors: where the archive and its security updates come from. */
async function mirrors(directory) {
  const ask = (options) =>
    apt('apt-get', [
      ...options,
      'indextargets',
      '--format',
      '$(CODENAME) $(REPO_URI)',
      'Identifier: Packages',
    ])
  let targets = await ask([])
  if (targets.trim() === '') {
    // A machine that never ran `apt-get update` knows no targets yet: learn them in a place of our own.
    const options = [
      '-o',
      `Dir::State::Lists=${join(directory, 'own-lists')}`,
      '-o',
      'APT::Sandbox::User=root',
    ]
    mkdirSync(join(directory, 'own-lists', 'partial'), { recursive: true })
    await apt('apt-get', [...options, '-q', 'update'])
    targets = await ask(options)
  }
  const release = osRelease()
  const uris = new Map(
    targets
      .split('\n')
      .map((line) => line.trim().split(' '))
      .filter((words) => words.length === 2),
  )
  const archive = uris.get(release.VERSION_CODENAME)
  if (release.ID !== 'debian' || archive === undefined) {
    throw new Error(
      'this machine has no Debian mirror in its apt configuration (apt-get indextargets names none)',
    )
  }
  return { archive, security: uris.get(`${release.VERSION_CODENAME}-security`) }
}

/** /etc/os-release as an object; empty where there is none. */
export function osRelease() {
  const file = '/etc/os-release'
  if (!existsSync(file)) return {}
  const lines = readFileSync(file, 'utf8').split('\n')
  return Object.fromEntries(
    lines.flatMap((line) => {
      const match = /^([A-Z_]+)="?([^"]*)"?$/.exec(line)
      return match ? [[match[1], match[2]]] : []
    }),
  )
}

/**
 * Prepares a private apt state below `directory` that knows the suites named, updates it, and returns the options
 * that make apt-get and apt-cache use it. A suite that ends in `-security` is looked for on the security mirror.
 * `architecture`: that of the packages, as Debian names it; left out: the machine's own. `sources`: knows source
 * packages too.
 */
export async function privateApt(directory, suites, architecture, sources = false) {
  mkdirSync(join(directory, 'lists', 'partial'), { recursive: true })
  const { archive, security } = await mirrors(directory)
  const signed = existsSync(KEYRING) ? `[signed-by=${KEYRING}] ` : ''
  const lines = suites.flatMap((suite) => {
    const uri = suite.endsWith('-security') ? security : archive
    const kinds = uri === undefined ? [] : sources ? ['deb', 'deb-src'] : ['deb']
    return kinds.map((kind) => `${kind} ${signed}${uri} ${suite} main`)
  })
  writeFileSync(join(directory, 'sources.list'), `${lines.join('\n')}\n`)
  const options = [
    ['Dir::Etc::SourceList', join(directory, 'sources.list')],
    ['Dir::Etc::SourceParts', '-'],
    ['Dir::State::Lists', join(directory, 'lists')],
    ['Dir::Cache::pkgcache', ''],
    ['Dir::Cache::srcpkgcache', ''],
    ['APT::Sandbox::User', 'root'],
    ...(architecture === undefined
      ? []
      : [
          ['APT::Architecture', architecture],
          ['APT::Architectures', architecture],
        ]),
  ].flatMap(([name, value]) => ['-o', `${name}=${value}`])
  await apt('apt-get', [...options, '-q', 'update'])
  return options
}

/** The names of the packages, known to the apt state of `options`, that match a regular expression. */
export async function packageNames(options, pattern) {
  const found = await apt('apt-cache', [...options, 'search', '--names-only', pattern])
  return found.split('\n').flatMap((line) => (line === '' ? [] : [line.split(' ')[0]]))
}

/** Downloads packages as .deb files into a directory, installing nothing. */
export async function downloadPackages(options, names, directory) {
  await apt('apt-get', [...options, '-q', 'download', ...names], directory)
}

/** Downloads the files of a source package into a directory, unpacking nothing; the newest version that is known. */
export async function downloadSource(options, name, directory) {
  await apt('apt-get', [...options, '-q', 'source', '--download-only', name], directory)
}

/**
 * Packages with all that they depend on, as on a machine that has nothing yet; `directory` is made.
 */
export async function downloadWithDependencies(options, names, directory) {
  mkdirSync(join(directory, 'partial'), { recursive: true })
  const nothing = join(directory, 'status')
  writeFileSync(nothing, '')
  const places = [
    ['Dir::State::status', nothing],
    ['Dir::State::extended_states', `${nothing}-extended`],
    ['Dir::Cache::archives', directory],
    ['Debug::NoLocking', '1'],
  ].flatMap(([name, value]) => ['-o', `${name}=${value}`])
  await apt('apt-get', [
    ...options,
    ...places,
    '-y',
    '-q',
    '--download-only',
    '--no-install-recommends',
    'install',
    ...names,
  ])
}
