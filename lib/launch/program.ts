import { accessSync, constants, statSync } from 'node:fs'
import { constants as system } from 'node:os'
import { delimiter } from 'node:path'
import { VfioSystemError } from '../errors.js'

/**
 * The file of a program, as execvp(3) looks for it.
 * @throws VfioSystemError `ENOENT`, or `EACCES` where what there is may not be executed
 */
export function findProgram(name: string, path: string | undefined): string {
  if (name.includes('/')) return name
  let isThere = false
  for (const directory of (path || DEFAULT_PATH).split(delimiter)) {
    const file = `${directory || '.'}/${name}`
    if (!isFile(file)) continue
    isThere = true
    if (isExecutable(file)) return file
  }
  throw notStarted(isThere ? system.errno.EACCES : system.errno.ENOENT, name)
}

const DEFAULT_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'

/** A program that could not be executed. */
export const notStarted = (errno: number, name: string, syscall = 'execve') =>
  new VfioSystemError({ errno, syscall, request: 'command', path: name })

function isFile(file: string): boolean {
  return statSync(file, { throwIfNoEntry: false })?.isFile() ?? false
}

function isExecutable(file: string): boolean {
  try {
    accessSync(file, constants.X_OK)
    return true
  } catch {
    return false
  }
}
