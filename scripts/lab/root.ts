import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { downloadWithDependencies, privateApt } from '../apt.mjs'
import { cacheDirectory, made } from './cache.js'
import { LabError, messageOf } from './errors.js'
import type { LabHost } from './hosts.js'
import { unpack } from './unpack.js'

const run = promisify(execFile)

/** Of Debian, as old as the libraries that the addon may ask for. */
const SUITES = ['bookworm', 'bookworm-updates', 'bookworm-security']
/** What the tests start, and what Node and the addon are linked with. */
const PACKAGES = [
  ...['busybox-static', 'dash', 'bash', 'coreutils', 'util-linux', 'mount', 'procps', 'kmod'],
  ...['e2fsprogs', 'dmsetup', 'iproute2', 'pciutils', 'libstdc++6', 'libgcc-s1', 'libatomic1'],
]
/** The line of Node that npm has for every processor of the lab. */
const NODE = '20'
const DIRECTORIES = ['dev', 'proc', 'sys', 'run', 'tmp', 'root', 'etc', 'usr/local/bin', 'var/lib', 'var/tmp']
/** Debian has one directory where there were two. */
const LINKS = ['bin', 'sbin', 'lib', 'lib64']

/**
 * The root file system of a guest whose processor is not this machine's: Debian's packages of that processor and Node,
 * fetched into the cache on first use.
 */
export async function rootFor(host: LabHost, say: (line: string) => void): Promise<string> {
  const identity = createHash('sha256')
    .update(JSON.stringify([SUITES, PACKAGES, NODE]))
    .digest('hex')
  const name = `${host.architecture}-${identity.slice(0, 12)}`
  return made(['roots', name], async (work) => {
    say(`programs for ${host.architecture}: looking for their Debian packages`)
    prepare(work)
    const options = await privateApt(
      cacheDirectory('apt', `root-${host.architecture}`),
      SUITES,
      host.architecture,
    )
    const packages = join(work, 'packages')
    await downloadWithDependencies(options, PACKAGES, packages)
    say(`programs for ${host.architecture}: unpacking ${readdirSync(packages).length} packages`)
    await unpack(packages, work)
    rmSync(packages, { recursive: true })
    if (!existsSync(join(work, 'usr/bin/sh'))) symlinkSync('dash', join(work, 'usr/bin/sh'))
    say(`programs for ${host.architecture}: fetching Node ${NODE}`)
    await addNode(host, work)
    say(`programs for ${host.architecture}: ready`)
  }).catch((error) => {
    throw new LabError(`the programs for ${host.architecture} could not be fetched: ${messageOf(error)}`)
  })
}

function prepare(root: string): void {
  for (const directory of DIRECTORIES) mkdirSync(join(root, directory), { recursive: true })
  for (const link of LINKS) {
    mkdirSync(join(root, 'usr', link), { recursive: true })
    symlinkSync(`usr/${link}`, join(root, link))
  }
  // What the packages' scripts would write, which only their own processor can run.
  writeFileSync(
    join(root, 'etc/passwd'),
    'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n',
  )
  writeFileSync(join(root, 'etc/group'), 'root:x:0:\nnogroup:x:65534:\n')
}

async function addNode({ processor }: LabHost, root: string): Promise<void> {
  const name = `node-linux-${processor}`
  const scratch = join(root, 'npm')
  await run('npm', [
    ...[
      'install',
      '--no-save',
      '--no-audit',
      '--no-fund',
      '--force',
      '--ignore-scripts',
      '--prefix',
      scratch,
    ],
    `${name}@${NODE}`,
  ])
  renameSync(join(scratch, 'node_modules', name, 'bin/node'), join(root, 'usr/local/bin/node'))
  rmSync(scratch, { recursive: true })
}
