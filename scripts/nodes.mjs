// The lines of Node's releases on which the unit suite runs beside the Node that is installed, as npm packages.
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'

/** All lines after the oldest that `engines` allows, oldest first. */
export const nodeLines = ['22', '24', '26']

const directory = (line) =>
  join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'vfio-lab', 'nodes', line)
const name = `node-linux-${process.arch}`

/** The program of a line, or undefined where it is not in the cache. */
export function nodeProgram(line) {
  const program = join(directory(line), 'node_modules', name, 'bin/node')
  return existsSync(program) ? program : undefined
}

/** Fetches the lines that are missing; what cannot be fetched is for its step to fail on. */
export function fetchNodes(log) {
  for (const line of nodeLines.filter((one) => nodeProgram(one) === undefined)) {
    spawnSync(
      'npm',
      [
        ...['install', '--no-save', '--no-audit', '--no-fund', '--prefix', directory(line)],
        `${name}@${line}`,
      ],
      { stdio: ['ignore', log, log] },
    )
  }
}
