import { accessSync, constants } from 'node:fs'
import { delimiter, join } from 'node:path'
import { LabError } from './errors.js'

/** The path of a program of this machine. */
export function onPath(name: string): string | undefined {
  const directories = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/usr/bin', '/sbin', '/bin']
  return directories
    .map((directory) => join(directory, name))
    .find((file) => {
      try {
        accessSync(file, constants.X_OK)
        return true
      } catch {
        return false
      }
    })
}

/** The path of a program, or an error that names the Debian package that has it. */
export function findProgram(name: string, debianPackage: string): string {
  const found = onPath(name)
  if (found !== undefined) return found
  throw new LabError(`${name} is missing; install it with \`apt-get install ${debianPackage}\``)
}
