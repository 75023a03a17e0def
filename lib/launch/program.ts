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
  let isDenied = false
  for (const directory of (path || DEFAULT_PATH).split(delimiter)) {
    const file = `${directory || '.'}/${name}`
    const denial = denialOf(file)
    if (denial === null) return file
    isDenied ||= denial === 'EACCES'
  }
  throw notStarted(isDenied ? system.errno.EACCES : system.errno.ENOENT, name)
}

const DEFAULT_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'

/** A program that could not be executed. */
export const notStarted = (errno: number, name: string, syscall = 'execve') =>
  new VfioSystemError({ errno, syscall, request: 'command', path: name })

/** Why a file may not be executed: there is none, or it is not for this user. */
function denialOf(file: string): 'ENOENT' | 'EACCES' | null {
  try {
    if (!statSync(file).isFile()) return 'EACCES'
    accessSync(file, constants.X_OK)
    return null
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EACCES' ? 'EACCES' : 'ENOENT'
  }
}
