import { execFile } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { mkdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { downloadPackages, packageNames, privateApt } from '../apt.mjs'
import { cacheDirectory, made } from './cache.js'
import { LabError, messageOf } from './errors.js'
import { withProgress } from './progress.js'

const run = promisify(execFile)

/** The source of a kernel, with Debian's changes. */
export interface KernelSource {
  readonly directory: string
  /** Of the Debian package. */
  readonly version: string
}

/** The source of a series, fetched into the cache on first use; later packages of the series are not looked for. */
export async function kernelSource(
  series: string,
  suites: readonly string[],
  say: (line: string) => void,
): Promise<KernelSource> {
  const title = `source of kernel ${series}`
  let doing = 'waiting for another process that fetches it'
  const begin = (what: string) => {
    doing = what
    say(`${title}: ${what}`)
  }
  const directory = await withProgress(
    say,
    (seconds) => `${title}: still ${doing} (${seconds} s)`,
    () =>
      made(['sources', series], async (work) => {
        begin('looking for its Debian package')
        await fetchSource(series, suites, work, begin)
      }),
  ).catch((error) => {
    throw new LabError(`the ${title} could not be fetched: ${messageOf(error)}`)
  })
  return {
    directory: join(directory, 'linux'),
    version: readFileSync(join(directory, 'version'), 'utf8').trim(),
  }
}

async function fetchSource(
  series: string,
  suites: readonly string[],
  work: string,
  begin: (what: string) => void,
): Promise<void> {
  const options = await privateApt(cacheDirectory('apt', `source-${series}`), suites)
  const name = `linux-source-${series}`
  if ((await packageNames(options, `^${name.replaceAll('.', '[.]')}$`)).length === 0) {
    throw new Error(`no package ${name} in ${suites.join(', ')}`)
  }
  begin(`downloading ${name}`)
  await downloadPackages(options, [name], work)
  const archive = readdirSync(work).find((file) => file.endsWith('.deb'))
  if (archive === undefined) throw new Error(`${name} was not downloaded`)
  begin('unpacking it')
  const { stdout: version } = await run('dpkg-deb', ['-f', join(work, archive), 'Version'])
  await run('dpkg-deb', ['-x', join(work, archive), work])
  await rm(join(work, archive))
  await mkdir(join(work, 'linux'))
  const tree = join(work, 'usr/src', `${name}.tar.xz`)
  await run('tar', ['-xf', tree, '-C', join(work, 'linux'), '--strip-components=1'])
  await rm(join(work, 'usr'), { recursive: true })
  if (!existsSync(join(work, 'linux/Makefile'))) throw new Error(`${name} holds no kernel source`)
  await writeFile(join(work, 'version'), version)
}
