// A program that assigns or releases on a fixture tree: started by the tests, which kill it or let two of them race.
import { once } from 'node:events'
import { assign, type Plan, release, VfioError } from 'vfio'
import type { HostTrees } from '../fixtures/host.js'
import { using } from './assign-hosts.js'
import { SimulatedKernel } from './assign-kernel.js'

/** What the program is told on its command line, as JSON. */
export interface Task {
  readonly trees: HostTrees
  /** What to assign; without it everything is released. */
  readonly plan?: Plan
  /** After so many changes it is killed, as by a crash. */
  readonly dieAfter?: number
  /** Before this many calls of the kernel have been answered it says `waiting`, and goes on when it reads a line. */
  readonly waitAt?: number
}

const task = JSON.parse(process.argv[2] ?? '') as Task
const { trees, plan, dieAfter, waitAt } = task
let changes = 0

class Patient extends SimulatedKernel {
  override async write(path: string, text: string): Promise<void> {
    if (this.calls.length === waitAt) await go('waiting')
    await super.write(path, text)
  }
}

async function go(word: string): Promise<void> {
  process.stdout.write(`${word}\n`)
  await once(process.stdin, 'data')
}

const options = using(trees, new Patient(trees), {
  onChange: () => {
    // Nothing that this process would still do happens after this.
    if (++changes === dieAfter) process.kill(process.pid, 'SIGKILL')
  },
})

try {
  if (waitAt === undefined && dieAfter === undefined) await go('ready')
  if (plan) await assign(plan, options)
  else await release('all', options)
  process.stdout.write('done\n')
} catch (error) {
  process.stdout.write(`${error instanceof VfioError ? error.code : 'thrown'} ${String(error)}\n`)
}
process.stdin.destroy()
