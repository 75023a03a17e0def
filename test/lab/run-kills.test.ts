import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { release as kernelRelease } from 'node:os'
import { setTimeout } from 'node:timers/promises'
import { recover, status } from 'vfio'
import { sized } from '../fixtures/size.js'
import { hostState, named, Program, place } from './assign-host.js'
import { asBefore, disk, HOLDS, opened } from './run-host.js'

const ROUNDS = sized(3, 50)
/** How long after a machine has the device something may still be killed, as a part of the time until it had it. */
const AFTERWARDS = 0.3

/** What is killed: the run, its command, or the run and its guard, so that nobody is left. */
const VICTIMS = ['run', 'command', 'run and guard'] as const

describe(`a run that is killed at any time on ${kernelRelease()}`, function () {
  this.timeout(3_600_000)
  let program: Program | null = null
  let next: Program | null = null
  before(() => place('host'))
  after(async () => {
    for (const left of [program, next]) await left?.end()
    place('none')
  })

  it(`loses nothing, in ${ROUNDS} rounds`, async () => {
    const plan = disk()
    const [address = ''] = plan.addresses
    const before = hostState()
    program = new Program()
    next = new Program()
    // How long it takes here, so that every moment of it comes up.
    const started = performance.now()
    await program.give({ do: 'launch', plan, command: HOLDS })
    let first: number | null = null
    while (first === null) first = await leaderOf(address)
    await opened(address)
    const longest = (performance.now() - started) * (1 + AFTERWARDS)
    process.kill(first, 'SIGKILL')
    await program.ended
    await asBefore(before)
    for (let round = 0; round < ROUNDS; round++) {
      program = next
      next = new Program()
      const victim = VICTIMS[round % VICTIMS.length] ?? 'run'
      const after = Math.floor(Math.random() * longest)
      const what = `round ${round}: ${victim} after ${after} ms`
      await program.give({ do: 'launch', plan, command: HOLDS })
      await setTimeout(after)
      const leader = await leaderOf(address)
      if (victim === 'command' && leader !== null) {
        process.kill(leader, 'SIGKILL')
        await program.ended
      } else {
        // A guard that dies is replaced, unless its run is dead by then.
        process.kill(program.pid, 'SIGSTOP')
        const guards = victim === 'run and guard' ? named('vfio-guard') : []
        process.kill(program.pid, 'SIGKILL')
        for (const pid of guards) kill(Number(pid))
        // Its command has its standard output, and goes on where nobody is left to end it.
        await program.exited
      }
      // Nobody is left to give it back: whoever comes next does.
      if (victim === 'run and guard') await recover({ kill: true, patience: 60_000 })
      await asBefore(before)
      for (const pid of leader === null ? [] : [leader]) {
        assert.equal(isRunning(pid), false, what)
      }
      while (named('vfio-guard').length > 0) await setTimeout(50)
      assert.deepEqual(hostState(), before, what)
    }
  })
})

async function leaderOf(address: string): Promise<number | null> {
  const { assignments } = await status()
  return assignments.find(({ id }) => id === address)?.run?.leader?.pid ?? null
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch {
    // It has ended already.
  }
}

function isRunning(pid: number): boolean {
  try {
    return !/^.*\) Z /s.test(readFileSync(`/proc/${pid}/stat`, 'latin1'))
  } catch {
    return false
  }
}
