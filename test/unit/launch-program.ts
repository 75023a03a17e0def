// A run as the command line makes it, on a host of the tests: what comes from a terminal, and what kills it, comes from outside.
import { Host, launch, planAssignment } from 'vfio'
import { Forwarder } from '../../lib/cli/signals.js'
import type { HostTrees } from '../fixtures/host.js'
import { SimulatedKernel } from './assign-kernel.js'

const { trees, journal, address, command } = JSON.parse(process.argv[2] ?? '') as {
  readonly trees: HostTrees
  readonly journal: string
  readonly address: string
  readonly command: readonly string[]
}

const signals = new Forwarder()
const plan = planAssignment(new Host(trees).snapshot(), [address], { reset: 'none' })
const kernel = new SimulatedKernel(trees)
const run = await launch(plan, { ...{ kernel }, command, journal, foreground: true })
signals.to(run)
const { status, signal } = await run.exited
signals.afterwards()
await run.released
signals.stop()
process.stdout.write(`ended with ${signal ?? status}\n`)
