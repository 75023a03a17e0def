import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { appendFileSync, writeFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { findProgram } from './programs.js'

export interface BuilderOptions {
  /** Where all that is said goes, from nothing. */
  readonly log: string
  /** All of it: nothing of the caller's is handed down. */
  readonly environment: Readonly<Record<string, string | undefined>>
  /** Left out: the caller's own. */
  readonly directory?: string
  /** So that what else the machine does comes first. */
  readonly nice: number
  /** For each command, so that a hang ends. */
  readonly minutes: number
  readonly signal?: AbortSignal | undefined
}

/** Runs a program; `line` gets each line that it says. */
export type Builder = (words: readonly string[], line?: (line: string) => void) => Promise<void>

const KEPT_LINES = 30

/** Make does not hand the end of a signal down to the makes below it, so all of its group gets it: also when we end, however we end. */
const STOPPABLE = `
  trap 'trap "" TERM; kill -TERM 0; wait; exit 143' TERM
  level=$1
  shift
  nice -n "$level" "$@" &
  wait $!`

/** Runs long commands that build something: whole output in a log, the last lines in the error. */
export function builder({ log, environment, directory, nice, minutes, signal }: BuilderOptions): Builder {
  const setpriv = findProgram('setpriv', 'util-linux')
  const limit = AbortSignal.timeout(minutes * 60 * 1000)
  writeFileSync(log, '')
  return async (words, take = () => {}) => {
    const last: string[] = []
    const child = spawn(
      setpriv,
      ['--pdeathsig', 'TERM', 'sh', '-c', STOPPABLE, 'sh', String(nice), ...words],
      {
        env: environment,
        cwd: directory,
        stdio: ['ignore', 'pipe', 'pipe'],
        detached: true,
      },
    )
    const stop = () => child.kill('SIGTERM')
    const signals = [limit, ...(signal === undefined ? [] : [signal])]
    for (const each of signals) each.addEventListener('abort', stop)
    try {
      for (const input of [child.stdout, child.stderr]) {
        createInterface({ input }).on('line', (line) => {
          appendFileSync(log, `${line}\n`)
          last.push(line)
          if (last.length > KEPT_LINES) last.shift()
          take(line)
        })
      }
      const [status, by] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null]
      signal?.throwIfAborted()
      if (limit.aborted) throw new Error(`${words[0]} did not end within ${minutes} minutes`)
      if (status !== 0) {
        throw new Error(
          `${words.join(' ')} ended with ${by ?? `status ${status}`}; its whole output is in ${log}, its last lines are:\n${last.join('\n')}`,
        )
      }
    } finally {
      for (const each of signals) each.removeEventListener('abort', stop)
    }
  }
}
