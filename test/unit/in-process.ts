import { program } from '../../lib/cli/commands.js'
import { fail } from '../../lib/cli/failure.js'

export interface Ran {
  readonly status: number
  readonly stdout: string
  readonly stderr: string
}

/** The command line in this process: as main.ts runs it, without a start of Node for each line. It has no addon, so it looks alone. */
export const vfio = (args: readonly string[]): Promise<Ran> =>
  capturing(['vfio', ...args], async () => {
    try {
      await program().parseAsync()
    } catch (error) {
      fail(error)
    }
  })

/** What a part of the command line prints, and its status. */
export async function capturing(argv: readonly string[], work: () => Promise<void>): Promise<Ran> {
  const said = { stdout: '', stderr: '' }
  const former = { argv: process.argv, exitCode: process.exitCode }
  const write = { stdout: process.stdout.write, stderr: process.stderr.write }
  const into = (name: 'stdout' | 'stderr') => (chunk: unknown) => {
    said[name] += String(chunk)
    return true
  }
  process.argv = [process.execPath, ...argv]
  process.exitCode = 0
  process.stdout.write = into('stdout')
  process.stderr.write = into('stderr')
  try {
    await work()
    return { status: Number(process.exitCode), ...said }
  } finally {
    Object.assign(process.stdout, { write: write.stdout })
    Object.assign(process.stderr, { write: write.stderr })
    Object.assign(process, former)
  }
}
