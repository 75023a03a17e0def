import { program } from '../../lib/cli/commands.js'
import { fail } from '../../lib/cli/failure.js'

export interface Ran {
  readonly status: number
  readonly stdout: string
  readonly stderr: string
}

/** The command line in this process: as main.ts runs it, without a start of Node for each line. It has no addon, so it looks alone. */
export async function vfio(args: readonly string[]): Promise<Ran> {
  const said = { stdout: '', stderr: '' }
  const { argv, exitCode, stdout, stderr } = process
  const write = { stdout: stdout.write, stderr: stderr.write }
  const into = (name: 'stdout' | 'stderr') => (chunk: unknown) => {
    said[name] += String(chunk)
    return true
  }
  process.argv = [...argv.slice(0, 1), 'vfio', ...args]
  process.exitCode = 0
  stdout.write = into('stdout')
  stderr.write = into('stderr')
  try {
    await program().parseAsync()
  } catch (error) {
    fail(error)
  } finally {
    Object.assign(stdout, { write: write.stdout })
    Object.assign(stderr, { write: write.stderr })
    process.argv = argv
  }
  const status = Number(process.exitCode)
  process.exitCode = exitCode
  return { status, ...said }
}
