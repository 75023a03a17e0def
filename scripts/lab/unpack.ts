import { execFile } from 'node:child_process'
import { readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'

const run = promisify(execFile)

/** Unpacks all Debian packages of a directory below another one, and takes them away. */
export async function unpack(from: string, root: string): Promise<void> {
  for (const name of readdirSync(from).filter((file) => file.endsWith('.deb'))) {
    const archive = join(from, name)
    // Not `dpkg-deb -x`, which puts a directory in the place of a link such as /lib.
    await run('sh', [
      '-c',
      'dpkg-deb --fsys-tarfile "$1" | tar -x --keep-directory-symlink -C "$2"',
      'sh',
      archive,
      root,
    ])
    rmSync(archive)
  }
}
