import { readlinkSync } from 'node:fs'
import { listNames, readText } from '../sysfs/files.js'

/** A program, so that it can be told later whether it still runs. */
export interface Program {
  readonly pid: number
  /** Its name, as `ps` shows it. */
  readonly program: string
  /** When it was started, in hundredths of a second since the boot: a pid is used again one day. */
  readonly started?: number | undefined
  /** The PID namespace of its pid: another one has other processes of the same pid. */
  readonly pidNamespace?: string | undefined
}

/** A mark that is the same until the next boot. */
export const bootId = () => readText('/proc/sys/kernel/random/boot_id') ?? ''

/** The program that works here. */
export function thisProgram(): Program {
  const started = startIn(readText('/proc/self/stat') ?? '')
  const pidNamespace = namespace()
  return {
    pid: process.pid,
    program: readText('/proc/self/comm') ?? process.title,
    ...(started !== null && { started }),
    ...(pidNamespace !== null && { pidNamespace }),
  }
}

/** Another program of this namespace, as `/proc` tells of it; `null` where it does not. */
export function programOf(pid: number): Program | null {
  const started = startIn(readText(`/proc/${pid}/stat`) ?? '')
  const pidNamespace = namespace()
  if (started === null || pidNamespace === null) return null
  return { pid, program: readText(`/proc/${pid}/comm`) ?? 'a program', started, pidNamespace }
}

/** Is it the program that works here? */
export const isThisProgram = ({ pid, started }: Pick<Program, 'pid' | 'started'>): boolean =>
  pid === process.pid && started === thisProgram().started

/** Does it still run? `null` where that cannot be seen from here. The boot has to be the same. */
export function isAlive({ pid, started, pidNamespace }: Omit<Program, 'program'>): boolean | null {
  if (started === undefined || pidNamespace === undefined) return null
  if (pidNamespace !== namespace()) return isAliveBelow({ pid, started, pidNamespace })
  // Where processes of others are hidden, one that is not seen may still be there.
  if (readText('/proc/self/stat') === null) return null
  const stat = readText(`/proc/${pid}/stat`) ?? ''
  // One that has ended may wait for its parent to look.
  if (/^.*\) [ZX] /s.test(stat)) return false
  const now = startIn(stat)
  if (now !== null) return now === started
  try {
    process.kill(pid, 0)
    return null
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ESRCH' ? false : null
  }
}

/** The 22nd field of proc(5)'s stat; a name may have blanks and brackets in it. */
function startIn(stat: string): number | null {
  const field = /^.*\) (?:\S+ ){19}(\d+) /s.exec(stat)?.[1]
  return field === undefined ? null : Number(field)
}

type Whole = { [P in 'pid' | 'started' | 'pidNamespace']: NonNullable<Program[P]> }

/** The initial PID namespace sees the processes of all others. */
const FIRST = 'pid:[4026531836]'

function isAliveBelow({ pid, started, pidNamespace }: Whole): boolean | null {
  if (namespace() !== FIRST) return null
  const pids = listNames('/proc').filter((name) => /^\d+$/.test(name))
  const fitting = pids.filter((one) => {
    const inner = /^NSpid:.*\s(\d+)$/m.exec(readText(`/proc/${one}/status`) ?? '')?.[1]
    return Number(inner) === pid && startIn(readText(`/proc/${one}/stat`) ?? '') === started
  })
  const namespaces = fitting.map((one) => namespace(one))
  if (namespaces.includes(pidNamespace)) return true
  // Where processes are hidden (hidepid), the first one is too.
  return namespaces.includes(null) || !pids.includes('1') ? null : false
}

function namespace(pid = 'self'): string | null {
  try {
    return readlinkSync(`/proc/${pid}/ns/pid`)
  } catch {
    return null
  }
}
