import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync } from 'node:fs'
import { mkdtemp, rename, rm } from 'node:fs/promises'
import { homedir } from 'node:os'
import { basename, join } from 'node:path'

/** A directory below the lab's cache, created when it is not there. */
export function cacheDirectory(...names: string[]): string {
  const base = process.env.XDG_CACHE_HOME || join(homedir(), '.cache')
  const directory = join(base, 'vfio-lab', ...names)
  mkdirSync(directory, { recursive: true })
  return directory
}

/** Runs `work` while no other process on this machine does so under the same name. */
export async function exclusively<T>(name: string, work: () => Promise<T>): Promise<T> {
  // The lock is held by a child that ends with our end of its pipe, so a crash cannot leave it behind.
  const holder = spawn('flock', [join(cacheDirectory('locks'), name), 'sh', '-c', 'echo locked; exec cat'], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  try {
    await Promise.race([
      once(holder.stdout, 'data'),
      once(holder, 'exit').then(() => {
        throw new Error(`flock could not lock ${name}`)
      }),
    ])
    return await work()
  } finally {
    holder.stdin.end()
  }
}

/** A directory of the cache that `fill` fills where it is not there yet: once, and whole or not at all. */
export async function made(
  names: readonly [string, ...string[]],
  fill: (work: string) => Promise<void>,
): Promise<string> {
  const directory = join(cacheDirectory(), ...names)
  if (existsSync(directory)) return directory
  return exclusively(names.join('-'), async () => {
    if (existsSync(directory)) return directory
    const work = await mkdtemp(join(cacheDirectory(...names.slice(0, -1)), `.${basename(directory)}-`))
    try {
      await fill(work)
      await rename(work, directory)
    } catch (error) {
      await rm(work, { recursive: true, force: true })
      throw error
    }
    return directory
  })
}
