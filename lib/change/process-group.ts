import { keepAlive } from '../native/alive.js'
import type { NativeProcess } from '../native/binding.js'
import { binding } from '../native/load.js'
import { call, translate } from '../native/translate.js'
import { listNames, readText } from '../sysfs/files.js'
import { type Program, programOf } from './program.js'

/** How long what is asked to end may take before it is killed, and after that, in milliseconds. */
export const GRACE_OF_GROUP = 10_000

/** A process that was taken hold of: no other is signalled in its place. */
interface Member {
  readonly pid: number
  readonly program: string
  readonly process: NativeProcess
}

/**
 * Ends the processes of a group, first by asking them (SIGTERM), then without (SIGKILL). Answers with what is left: what
 * the kernel does not let end.
 * @param leader who made the group, and gave it its number; it may have ended
 * @throws VfioSystemError where the kernel has no descriptors of processes (before Linux 5.3)
 */
export async function endGroup(leader: Program, grace = GRACE_OF_GROUP): Promise<readonly string[]> {
  for (const signal of [SIGTERM, SIGKILL]) {
    const deadline = performance.now() + grace
    // What is killed may have made others meanwhile.
    do {
      const members = membersOf(leader)
      if (members.length === 0) return []
      for (const { process } of members) {
        call(() => process.signal(signal))
        // What is stopped hears nothing else.
        call(() => process.signal(SIGCONT))
      }
      await allEnded(members, deadline - performance.now())
    } while (signal === SIGKILL && performance.now() < deadline)
  }
  const left = membersOf(leader)
  for (const { process } of left) process.closeNow()
  return left.map(({ program, pid }) => `${program} (pid ${pid})`)
}

const [SIGTERM, SIGKILL, SIGCONT] = [15, 9, 18]

function membersOf(leader: Program): Member[] {
  // Another process with its number: the group has long been gone.
  const now = programOf(leader.pid)
  if (now && (now.started !== leader.started || now.pidNamespace !== leader.pidNamespace)) return []
  const pids = listNames('/proc').filter((name) => /^\d+$/.test(name))
  return pids.flatMap((name): Member[] => {
    const pid = Number(name)
    if (!isMember(pid, leader.pid)) return []
    const process = open(pid)
    if (process === null) return []
    // Its number may have been another's until it was taken hold of.
    if (isMember(pid, leader.pid))
      return [{ pid, program: readText(`/proc/${pid}/comm`) ?? 'a program', process }]
    process.closeNow()
    return []
  })
}

/** Of the fields of proc(5)'s stat: the state, and the group; a name may have blanks and brackets in it. */
function isMember(pid: number, group: number): boolean {
  const [, state, number] = /^.*\) (\S) \S+ (\d+) /s.exec(readText(`/proc/${pid}/stat`) ?? '') ?? []
  return Number(number) === group && state !== 'Z' && state !== 'X'
}

function open(pid: number): NativeProcess | null {
  try {
    return binding().Process.open(pid)
  } catch (error) {
    // It has ended.
    if ((error as { errno?: unknown }).errno === ESRCH) return null
    throw translate(error)
  }
}

const ESRCH = 3

async function allEnded(members: readonly Member[], patience: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, Math.max(0, patience))
  })
  const ends = Promise.all(members.map(({ process }) => process.ended()))
  // One that is left behind ends by itself, and nobody hears of it.
  ends.catch(() => {})
  try {
    await keepAlive(Promise.race([ends, late]))
  } finally {
    clearTimeout(timer)
    for (const { process } of members) process.closeNow()
  }
}
