import { existsSync, mkdirSync, symlinkSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** What runs in a container. */
export const PROGRAM = [
  process.execPath,
  fileURLToPath(new URL('container-program.js', import.meta.url)),
] as const

/** What of this guest a container has to have for that: programs and libraries, Node where it is elsewhere, and this checkout. */
export const SHARED: readonly string[] = [
  ...new Set(['/usr', dirname(dirname(process.execPath)), process.cwd()]),
].filter((path, _index, all) => !all.some((other) => path.startsWith(`${other}/`)))

/** A file system that is empty but for where these go, and the names by which programs find their libraries. */
export function makeRoot(root: string): string {
  for (const name of ['dev', 'etc', 'proc', 'run', 'sys', 'tmp', 'usr'])
    mkdirSync(join(root, name), { recursive: true })
  for (const name of ['bin', 'sbin', 'lib', 'lib64'])
    if (existsSync(`/usr/${name}`)) symlinkSync(`usr/${name}`, join(root, name))
  return root
}
