import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { downloadPackages, osRelease, privateApt } from '../apt.mjs'
import { cacheDirectory, made } from './cache.js'
import { LabError, messageOf } from './errors.js'
import type { LabHost } from './hosts.js'
import { onPath } from './programs.js'
import { unpack } from './unpack.js'

const run = promisify(execFile)

/** QEMU, ready to be started. */
export interface Emulator {
  readonly program: string
  /** Where it finds its firmware. */
  readonly args: readonly string[]
}

const OLDEST_MAJOR = 8
/** Where boot ROMs of network cards are, which do not start without: the set-up installs them. */
const ROMS = ['/usr/share/qemu', '/usr/lib/ipxe/qemu']

/** Finds the emulator of a host: installed, in the cache, or fetched into it, installing nothing. */
export async function emulatorFor(host: LabHost, say: (line: string) => void): Promise<Emulator> {
  const { program, debian } = host.qemu
  const installed = onPath(program)
  if (installed !== undefined && (await majorOf(installed)) >= OLDEST_MAJOR) {
    return { program: installed, args: [] }
  }
  const directory = await made(['emulators', debian], async (work) => {
    say(`${program}: downloading ${debian}`)
    await fetchQemu(debian, work)
    const fetched = join(work, 'usr/bin', program)
    const major = existsSync(fetched) ? await majorOf(fetched) : 0
    if (major < OLDEST_MAJOR) throw new Error(`the package ${debian} has no QEMU ${OLDEST_MAJOR} or newer`)
    say(`${program}: QEMU ${major} ready`)
  }).catch((error) => {
    throw new LabError(
      `${program} is missing: install ${debian} (QEMU ${OLDEST_MAJOR} or newer); it could not be fetched: ${messageOf(error)}`,
    )
  })
  const places = [join(directory, 'usr/share/qemu'), ...ROMS].filter((place) => existsSync(place))
  return { program: join(directory, 'usr/bin', program), args: places.flatMap((place) => ['-L', place]) }
}

/** QEMU finds what belongs to it relative to its own place, so it can be anywhere. */
async function fetchQemu(debian: string, work: string): Promise<void> {
  const { VERSION_CODENAME = '', VERSION_ID } = osRelease()
  const suite = Number(VERSION_ID) < 13 ? `${VERSION_CODENAME}-backports` : VERSION_CODENAME
  const options = await privateApt(cacheDirectory('apt', debian), [suite])
  await downloadPackages(options, [debian, 'qemu-system-common', 'qemu-system-data'], work)
  await unpack(work, work)
}

async function majorOf(program: string): Promise<number> {
  const { stdout } = await run(program, ['--version'])
  return Number(/version (\d+)/.exec(stdout)?.[1] ?? 0)
}
