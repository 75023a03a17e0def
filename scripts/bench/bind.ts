// Runs inside the guest: binds a group of three with assign(), and with the same writes from a C program, in turn.
// Prints JSON.
import { execFileSync } from 'node:child_process'
import { assign, Host, type Plan, planAssignment, type Snapshot } from 'vfio'
import type { Pair } from './measure.js'
import { build, type Compared } from './peers.js'

const ROUNDS = 9

/** A group of three that could be bound as a whole, with drivers of the host among them. */
function planOf(seen: Snapshot): Plan {
  const plans = seen.groups
    .filter(({ members }) => members.length === 3 && members.some((address) => seen.device(address).driver))
    .map(({ members: [first = ''] }) => planAssignment(seen, [first], { group: true, reset: 'none' }))
  const plan = plans.find(({ toBind, blockers }) => toBind.length === 3 && blockers.length === 0)
  if (!plan) throw new Error('this guest has no group of three to bind')
  return plan
}

async function timeOurs(plan: Plan): Promise<number> {
  const start = performance.now()
  const assignment = await assign(plan)
  const time = (performance.now() - start) * 1e6
  await assignment.release()
  return time
}

function write(program: string, writes: readonly (readonly [path: string, value: string])[]): number {
  return Number(execFileSync(program, writes.flat(), { encoding: 'utf8' }))
}

function timePeer(program: string, { steps, devices, paths }: Plan): number {
  const time = write(
    program,
    steps.map(({ path, value }) => [path, value]),
  )
  const bus = `${paths.sysfs}/bus/pci`
  const undo = [...devices].reverse().flatMap(({ address, former }) => {
    const device = `${bus}/devices/${address}`
    const writes: [string, string][] = [
      [`${device}/driver/unbind`, address],
      [`${device}/driver_override`, ''],
    ]
    return former.driver === null
      ? writes
      : [...writes, [`${bus}/drivers/${former.driver}/bind`, address] as const]
  })
  write(program, undo)
  return time
}

const first = new Host().snapshot()
// The drivers that the host has for them, so that there is something to unbind.
const modules = new Set(first.devices.flatMap((device) => device.modules))
for (const module of modules) execFileSync('modprobe', ['-q', module])
const plan = planOf(new Host().snapshot())
const program = build('bind')
const pairs: Pair[] = []
for (let round = 0; round <= ROUNDS; round++) {
  pairs.push({ ours: await timeOurs(plan), peer: timePeer(program, plan) })
}
// The first round warms up both.
const compared: Compared = { name: 'assign', pairs: pairs.slice(1) }
console.log(JSON.stringify([compared]))
