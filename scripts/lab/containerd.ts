import { execFile } from 'node:child_process'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { downloadPackages, privateApt } from '../apt.mjs'
import { cacheDirectory, made } from './cache.js'
import { LabError, messageOf } from './errors.js'
import { onPath } from './programs.js'
import { unpack } from './unpack.js'

const run = promisify(execFile)

/** The first release of Debian whose containerd knows CDI: it runs on older ones too. */
const SUITE = 'trixie'

/**
 * The directory of a containerd that knows CDI (1.7 and newer): installed, in the cache, or fetched into it, installing
 * nothing.
 */
export async function containerdWithCdi(say: (line: string) => void): Promise<string> {
  const installed = onPath('containerd')
  if (installed !== undefined && (await knowsCdi(installed))) return dirname(installed)
  const directory = await made(['containerd', SUITE], async (work) => {
    say(`containerd: downloading that of ${SUITE}`)
    const options = await privateApt(cacheDirectory('apt', 'containerd'), [SUITE])
    await downloadPackages(options, ['containerd'], work)
    await unpack(work, work)
    if (!(await knowsCdi(join(work, 'usr/bin/containerd')))) throw new Error('it knows no CDI')
  }).catch((error) => {
    throw new LabError(
      `containerd 1.7 or newer is not installed, and could not be fetched: ${messageOf(error)}`,
    )
  })
  return join(directory, 'usr/bin')
}

/** Older ones take no notice of the names of devices, and start containers without. */
async function knowsCdi(program: string): Promise<boolean> {
  const { stdout } = await run(program, ['config', 'default'])
  return stdout.includes('enable_cdi')
}
