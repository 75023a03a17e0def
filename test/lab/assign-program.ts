// Programs beside the one that tests: they assign or release and die on the way, or have a device open.
import { createInterface } from 'node:readline/promises'
import { assign, type Backend, launch, openDevice, type Plan, release } from 'vfio'

/** What a program is told in one line on its standard input, so that it can be started before it is needed. */
export type Task =
  | {
      readonly do: 'assign' | 'release'
      readonly plan: Plan
      /** After so many changes it is killed, as by a crash. */
      readonly dieAfter: number
    }
  | {
      readonly do: 'hold'
      readonly address: string
      readonly backend: Backend
    }
  | {
      readonly do: 'launch'
      readonly plan: Plan
      readonly command: readonly string[]
    }

/** Kept in sight: what is dropped gets closed. */
let held: unknown

async function perform(task: Task): Promise<void> {
  if (task.do === 'hold') {
    held = await openDevice(task.address, { backend: task.backend })
    return
  }
  if (task.do === 'launch') {
    const onEvent = (event: unknown) => process.stdout.write(`${JSON.stringify(event)}\n`)
    const run = await launch(task.plan, { command: task.command, onEvent })
    await run.released
    return
  }
  let changes = 0
  const onChange = () => {
    // Nothing that this process would still do happens after this.
    if (++changes === task.dieAfter) process.kill(process.pid, 'SIGKILL')
  }
  if (task.do === 'assign') await assign(task.plan, { onChange })
  else await release([task.plan.addresses[0] ?? ''], { onChange })
}

process.on('exit', () => held)
const lines = createInterface({ input: process.stdin })
process.stdout.write('ready\n')
lines.once('line', async (line) => {
  const task = JSON.parse(line) as Task
  const said = await perform(task).then(() => 'done', String)
  process.stdout.write(`${said}\n`)
  // It ends when nothing is left to do; a holder goes on until it is killed.
  if (task.do !== 'hold') process.stdin.destroy()
})
